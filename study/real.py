"""The study on real open weights, tokens frozen: question, sizes, endpoints and what was found stand in REAL.md.

    python -m study.real problems --task words:1              hashes of the problem sets
    python -m study.real tune  --model DIR --task words:1     rules on the tuning problems
    python -m study.real train --model DIR --task words:1     heads on the training problems
    python -m study.real test  --model DIR --task words:1     everything on the test problems
    python -m study.real fresh --model DIR --task words:1     the second round, on 300 test problems that nothing had seen
    python -m study.real table --model DIR --task words:1     tables of what there is

Every command adds lines to files in --out and goes on where they end.  study/subject.py says what a line of `tune.jsonl` and
`test.jsonl` is.  A line of `heads.jsonl` is one training step.
"""

import argparse
import hashlib
import itertools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

import baselines
import tasks
import temperature_head
from study.frozen import ScaledHead, Settings, train
from study.real_table import best_of, frontier, names, read, stage
from study.subject import Subject, Told, append, of_tree

FIXED = ["0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]
RULES: dict[str, list[str]] = {  # four settings each, to be chosen from on tuning problems
    "min-p": ["0.8+min_p=0.1", "1.0+min_p=0.05", "1.0+min_p=0.2", "1.5+min_p=0.2"],
    "top-p": ["0.8+top_p=0.9", "1.0+top_p=0.7", "1.0+top_p=0.9", "1.5+top_p=0.7"],
    "EDT": ["edt:base=0.8,theta=0.1", "edt:base=1.0,theta=0.1", "edt:base=1.0,theta=0.5", "edt:base=1.2,theta=0.5"],
    "EAD": [f"ead:tokens_per_unit=1,growth=0,warm_tokens=0,d_0={d},tau_max={t}" for d in (12, 25) for t in (0.7, 1.2)],
    "mixture": [f"mixture:low={low},high={high}" for low, high in ((0.2, 0.8), (0.2, 1.0), (0.4, 0.8), (0.4, 1.0))],
}  # fmt: skip
TOLD = [(hot, cold) for hot in (0.8, 1.2) for cold in (0.2, 0.4)]  # rules that are told where operators come: no rivals
RANGE = dict(tau_min=0.1, tau_max=1.5, tau_initial=0.8, concentration=20.0)
LEARNING = dict(prompts=8, samples=8, epochs=4, learning_rate=1e-3)


@dataclass(frozen=True)
class Head:
    """How a head is trained, on steps of 64 completions."""

    settings: Settings
    scale: str = "standard"
    steps: int = 24
    min_p: float = 0.0


HEADS = {
    "head, mean": Head(Settings(objective="dr_grpo", **LEARNING)),
    "head, pass@8": Head(Settings(objective="pass@4", **LEARNING)),
    "head, plain": Head(Settings(objective="pass@4", **LEARNING), scale="none"),  # that of train.py's presets
    "head, min-p": Head(Settings(objective="pass@4", **LEARNING), scale="none", min_p=0.1),
}


def folder_of(subject: Subject, name: str, seed: int) -> Path:
    return subject.out / f"{name.replace(', ', '-')}-{seed}"


def learn(subject: Subject, name: str, seed: int, steps: int = 0) -> None:
    """A head of HEADS; its folder is there when it is done, and until then it begins anew."""
    folder, how = folder_of(subject, name, seed), HEADS[name]
    steps = steps or how.steps
    if folder.is_dir():
        return
    torch.manual_seed(seed)
    head = baselines.with_cut(ScaledHead(subject.transformer.config.d_model, **RANGE, scale=how.scale), how.min_p)
    problems = tasks.load(subject.task, "train", 4000)
    asked = list(zip(problems, subject.prompts(problems)))
    started, curve = time.process_time(), []
    given = subject.transformer, head, asked, subject.rewards, subject.stop, subject.length, how.settings, seed, of_tree
    for seen, reward, tau, signal in itertools.islice(train(*given), steps):
        line = dict(head=name, seed=seed, completions=seen, reward=reward, tau=tau, signal=signal)
        curve.append(line | dict(cpu_seconds=round(time.process_time() - started, 1)))
        print(json.dumps(curve[-1]), flush=True)
    part = folder.with_suffix(".part")
    part.mkdir(parents=True, exist_ok=True)
    head.save(part)
    part.rename(folder)  # a folder with this name is a whole one
    append(subject.out / "heads.jsonl", curve)


def head_of(subject: Subject, name: str):
    """A function from the seed to the trained head, None where there is none yet."""

    def load(seed: int):
        folder = folder_of(subject, name, seed)
        if not folder.is_dir():
            return None
        return baselines.with_cut(temperature_head.load(folder, kinds={"scaled": ScaledHead}), HEADS[name].min_p)

    return load


def mean_of(subject: Subject, name: str, file: str):
    """A function from the seed to a fixed temperature: the head's mean over the tokens of the test problems."""

    def fixed(seed: int):
        rows = [row for row in read(subject.out / file) if (row["policy"], row["seed"]) == (name, seed)]
        total = sum(row["tokens"] for row in rows)
        if not total:
            return None
        fixed = baselines.Fixed(sum(row["tau"] * row["tokens"] for row in rows) / total)
        return baselines.with_cut(fixed, HEADS[name].min_p)

    return fixed


def main() -> None:
    parser = argparse.ArgumentParser(description="The study on real open weights, tokens frozen.")
    parser.error = lambda message: parser.exit(2, f"real.py: {message}; --help lists the flags\n")
    parser.add_argument(
        "what", choices=["problems", "tune", "train", "test", "fresh", "table"], help="see the top of study/real.py"
    )
    parser.add_argument("--model", default="", help="folder of the model, or its hub id")
    parser.add_argument("--task", default="words:1", help="a generated task [%(default)s]")
    parser.add_argument("--out", default="", help="folder of the results [runs/real-MODEL-TASK]")
    parser.add_argument("--problems", type=int, default=0, help="problems [tune: 40, test: 200, fresh: 300]")
    parser.add_argument("--steps", type=int, default=0, help="train: steps of 64 completions [the head's]")
    parser.add_argument("--seeds", type=int, default=3, help="train, test, fresh: seeds [%(default)s]")
    parser.add_argument(
        "--heads", nargs="+", default=list(HEADS), choices=list(HEADS), help="train, test, fresh: only these [all]"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="POLICY", help="test, fresh: only these rules now [all]"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    name = f"real-{Path(arguments.model).name.lower()}-{arguments.task.replace(':', '')}"
    out = Path(arguments.out or f"runs/{name}")
    try:
        tasks.load(arguments.task, "tuning", 1)
    except (ValueError, OSError) as error:
        parser.exit(2, f"real.py: {error}\n")
    if arguments.what == "problems":
        for split, skip, end in (("tuning", 0, 40), ("test", 0, 200), ("test", 200, 500)):
            texts = "\n".join(problem.problem for problem in tasks.load(arguments.task, split, end)[skip:])
            found = hashlib.sha256(texts.encode()).hexdigest()[:16]
            print(f"{arguments.task}, {split} problems {skip + 1} to {end}: {found}")
        return
    if arguments.what == "table":
        if not any((out / f"{name}.jsonl").is_file() for name in ("tune", "test", "fresh")):
            parser.error(f"{out} has no results yet")
        for name in ("tune", "test", "fresh"):
            if rows := read(out / f"{name}.jsonl"):
                print(f"{name}\n\n{stage(rows)}\n")
        if rows := read(out / "fresh.jsonl"):
            frontier(rows, out / "frontier.png")
        return
    if not arguments.model:
        parser.error("--model names the model")
    try:
        subject = Subject(arguments.model, arguments.task, out)
    except (ValueError, OSError) as error:
        parser.exit(2, f"real.py: {error}\n")
    rules = {setting: baselines.make(setting) for settings in RULES.values() for setting in settings}
    fixed = {name: baselines.make(name) for name in FIXED}
    told = {f"told {hot} and {cold}": Told(subject.vocabulary, hot, cold) for hot, cold in TOLD}
    if arguments.what == "tune":
        subject.sample("tune.jsonl", "tuning", arguments.problems or 40, fixed | rules | told, [0])
    elif arguments.what == "train":
        for seed in range(arguments.seeds):
            for head in arguments.heads:
                learn(subject, head, seed, arguments.steps)
    else:
        chosen = best_of(tuned := read(out / "tune.jsonl"), RULES)
        rules |= told
        if set(told) <= set(names(tuned)):
            chosen += best_of(tuned, {"told": list(told)})
        named = fixed | {"greedy": baselines.make("greedy")} | {setting: rules[setting] for setting in chosen}
        heads = {head: head_of(subject, head) for head in arguments.heads}
        if unknown := set(arguments.only) - set(named):
            parser.error(f"--only {min(unknown)!r} is none of: {', '.join(named)}")
        named = {name: policy for name, policy in named.items() if not arguments.only or name in arguments.only}
        file, skip, of_rules = "test.jsonl", 0, arguments.seeds
        if arguments.what == "fresh":
            file, skip, of_rules = "fresh.jsonl", 200, 1  # a rule does not learn: here it is sampled once
        where = dict(file=file, split="test", count=arguments.problems or (300 if skip else 200), skip=skip)
        subject.sample(named=heads | named, seeds=range(of_rules), **where)
        subject.sample(named=heads, seeds=range(arguments.seeds), **where)
        means = {f"{head}, its mean": mean_of(subject, head, file) for head in heads}
        subject.sample(named=means, seeds=range(arguments.seeds), **where)


if __name__ == "__main__":
    main()
