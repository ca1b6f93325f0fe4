"""Both sides trained on real weights: train.py's own loop, then the trained model under every temperature.  See REAL.md.

    python -m study.joint --model DIR --task words:1            trains and evaluates what is not done yet
    python -m study.joint --model DIR --task words:1 --table    the table of what there is

A trial is one method, one learning rate of the tokens and one seed.  It runs the command that `words_of` writes, in its own folder
under --out.  Then each evaluation policy samples the test problems (joint.jsonl, in study/subject.py's lines).
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import baselines
import temperature_head
import tokenizer
from files import weights
from study.real_table import both_trained, read
from study.subject import Subject
from trainer import checks

METHODS = {"head": "own", "fixed 0.6": "0.6"}  # the policy that it trains under
RATES = ("5e-5", "1e-5")
EVALUATED = ("0.2", "0.4", "0.6", "0.8", "1.0", "greedy")
BEFORE = "before training"


def words_of(method: str, rate: str, seed: int, asked: argparse.Namespace, folder: Path) -> list[str]:
    """The command line of a trial: a preset for real weights, with tokens that learn too."""
    flags = dict(
        preset="smollm2-135m-words", schedule="every", policy=METHODS[method], token_lr=rate, model=asked.model, task=asked.task,
        steps=asked.steps, seed=seed, print_every=0, final_problems=8, save_every=8, keep_checkpoints=1, out=folder,
    )  # fmt: skip
    return ["train.py", *(word for name, value in flags.items() for word in (checks.flag(name), str(value)))]


def train(method: str, rate: str, seed: int, asked: argparse.Namespace) -> Path:
    """The folder of the trained model; it is trained unless it is there."""
    folder = Path(asked.out) / f"joint-{method.replace(' ', '-')}-{rate}-{seed}"
    if not (folder / "after.json").is_file():
        again = ["--resume"] if list(folder.glob("checkpoints/step-*")) else []
        root = Path(__file__).resolve().parent.parent
        words = words_of(method, rate, seed, asked, folder.absolute())
        if subprocess.run([sys.executable, *words, *again], cwd=root).returncode:
            raise SystemExit(f"joint.py: train.py ended early, see above; {folder} goes on with the same command")
        shutil.rmtree(folder / "checkpoints")  # the folder itself holds the last weights
    return folder


def evaluate(name: str, folder: str | Path, seed: int, asked: argparse.Namespace) -> None:
    """`name`'s model under every temperature, and under its own policy where it has one; what is done is left out."""
    named: dict = {f"{name} | {policy}": baselines.make(policy) for policy in EVALUATED}
    if (Path(folder) / temperature_head.FILE).is_file():
        named[f"{name} | own"] = temperature_head.load(folder)
    of = {**named, **{f"{n}, shuffled": p for n, p in named.items() if n.endswith("own")}}
    rows = read(Path(asked.out) / "joint.jsonl")
    count = sum(len(row["successes"]) for row in rows if row["policy"] in of and row["seed"] == seed)
    if count < len(of) * asked.problems:
        subject = Subject(str(folder), asked.task, Path(asked.out))
        subject.sample("joint.jsonl", "test", asked.problems, named, [seed])


def main() -> None:
    parser = argparse.ArgumentParser(description="Both sides trained on real weights.")
    parser.error = lambda message: parser.exit(2, f"joint.py: {message}; --help lists the flags\n")
    parser.add_argument("--model", default="", help="folder of the model, or its hub id")
    parser.add_argument("--task", default="words:1", help="a generated task [%(default)s]")
    parser.add_argument("--out", default="runs/joint", help="folder of the trials [%(default)s]")
    parser.add_argument("--steps", type=int, default=24, help="training steps of 64 completions [%(default)s]")
    parser.add_argument("--problems", type=int, default=100, help="test problems [%(default)s]")
    parser.add_argument("--seeds", type=int, default=1, help="seeds [%(default)s]")
    parser.add_argument("--table", action="store_true", help="only print the table of what there is")
    asked = parser.parse_args()
    if asked.table:
        print(both_trained(read(Path(asked.out) / "joint.jsonl")))
        return
    if not asked.model:
        parser.error("--model names the model")
    try:
        tokenizer.load(weights.find_folder(asked.model))
    except (ValueError, OSError) as error:
        parser.exit(2, f"joint.py: {error}\n")
    for seed in range(asked.seeds):
        for rate in RATES:
            for method in METHODS:
                folder = train(method, rate, seed, asked)
                evaluate(f"{method}, {rate}", folder, seed, asked)
        evaluate(BEFORE, asked.model, seed, asked)


if __name__ == "__main__":
    main()
