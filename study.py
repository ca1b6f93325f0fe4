"""The experiment: does a learned temperature beat every fixed one, and when?

    python study.py              everything that RESULTS.md reports of it; what is done already is not done again
    python study.py --quick      the same with few steps, problems and seeds: seven minutes on two cores, too short to decide anything
    python study.py --list       what there is to do, and what of it is done; then findings.py makes tables and pictures
    python study.py --base runs/base4 --numbers 4        of another base model and harder problems, see pretrain.py

A trial is one method with one seed: it trains by train.py's own loop from the base model, and is then evaluated on
test problems under its own policy, at two common temperatures and greedily (are the tokens better, or only their decoding?).

    frozen    the tokens stay as they are, only temperatures learn                                       regime (a)
    finished  the same after the tokens have learned, fast and at one fixed temperature, and are at rest
    3e-6 ... 2e-4    both learn, the tokens at this rate (2e-4 is the default run's)

Where both learn: the temperature first (b), both on every rollout (c), the tokens first, at one fixed temperature (d).  All
methods of a regime have as many rollouts; (b) and (d) have fewer token updates, as many as the method named `short`.  Where
tokens are finished, `longer` spends the head's rollouts on the tokens instead, and is decoded at every fixed temperature.
The settings of EAD, EDT, TAMPO, the sequence policy and the head were chosen on the tuning problems, each from eight:
`python study.py --tune`.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from tqdm import tqdm

import baselines
import config
import eval as evaluation
import faults
import log
import model
import tasks
import temperature_head
import tokenizer
import train

GRID = ["0.1", "0.3", "0.5", "0.7", "0.9", "1.1", "1.3", "1.5"]
# What was best of eight on the tuning problems; of the head's best two, whose difference is noise, the lower rate.
RULES = {
    "EAD": "ead:tokens_per_unit=1,growth=0,d_0=25,tau_max=0.7,warm_tokens=4",
    "EDT": "edt:base=0.8,theta=1.0",
    "mixture": "mixture:low=0.5,high=0.9",
}
TAMPO = "tampo:sharpness=0.03,momentum=0.8"
SEQUENCE = {"temperature_lr": 6e-3, "temperature_epochs": 4}
HEAD = {"temperature_lr": 3e-3, "temperature_epochs": 2}
PASS = {"temperature_objective": "pass@8"}
LEARNING = [
    {"temperature_lr": rate, "temperature_epochs": epochs} for rate in (1e-3, 3e-3, 6e-3, 1e-2) for epochs in (2, 4)
]
TUNED: dict[str, list[tuple[str, dict | None]]] = {  # eight settings each: policy, and flags where it learns
    "EAD": [
        (f"ead:tokens_per_unit=1,growth=0,d_0={d},tau_max={tau},warm_tokens={warm}", None)
        for d in (12, 25) for tau in (0.7, 1.2) for warm in (0, 4)
    ],
    "EDT": [(f"edt:base={base},theta={theta}", None) for base in (0.8, 1.2) for theta in (0.02, 0.1, 0.3, 1.0)],
    "mixture": [
        (f"mixture:low={low},high={high}", None)
        for low, high in ((0.1, 0.7), (0.1, 0.9), (0.1, 1.1), (0.3, 0.7), (0.3, 0.9), (0.3, 1.1), (0.5, 0.9), (0.5, 1.1))
    ],
    "TAMPO": [(f"tampo:sharpness={s},momentum={m}", {}) for s in (0.003, 0.01, 0.03, 0.1) for m in (0.8, 0.95)],
    "sequence": [("sequence", PASS | flags) for flags in LEARNING],
    "head": [("own", PASS | flags) for flags in LEARNING],
}  # fmt: skip
BEST_FIXED = "0.7"  # for training, on the tuning problems
TOKEN_LR = {"3e-6": 3e-6, "1e-5": 1e-5, "3e-5": 3e-5, "2e-4": 2e-4}
ALL = ["frozen", "finished", *TOKEN_LR]


class Size(NamedTuple):
    alone: int  # steps where temperatures learn alone
    steps: int  # where both learn
    prompts: int  # a step, of 16 samples each
    problems: int
    seeds: int
    base: str = "base_model"
    numbers: int = 3  # of each problem


FULL, QUICK = Size(200, 100, 32, 1000, 5), Size(20, 15, 16, 200, 1)


class NoGate(temperature_head.TemperatureHead):
    """An ablation: the temperature changes at every token, and so no longer depends on the one before."""

    kind = "no-gate"

    def forward(self, hidden):
        gate, alpha, beta = super().forward(hidden)
        return torch.full_like(gate, 30.0), alpha, beta  # P(c = 1) = 1


class EntropyHead(temperature_head.TemperatureHead):
    """An ablation: of the hidden state, the head is told the entropy of the tokens that it leads to, and nothing else."""

    kind = "entropy-only"
    unembed = None  # the token policy's, before anything is asked

    def forward(self, hidden):
        with torch.no_grad():
            log_probs = self.unembed(hidden).float().log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return super().forward(entropy[..., None].expand_as(hidden))


ABLATIONS = {kind.kind: kind for kind in (NoGate, EntropyHead)}
baselines.LEARNED |= ABLATIONS  # so that --policy knows them in this process


class Trial(NamedTuple):
    """One method of a regime with one seed.  `flags` are train.py's; None: nothing is trained."""

    regime: str
    method: str
    seed: int
    policy: str  # what it samples with, in training and in evaluation
    flags: dict | None
    after: str = ""  # the method whose tokens it starts from
    base: str = "base_model"  # where there is no such method
    numbers: int = 3


def common(size: Size) -> dict:
    """train.py's flags that all trials share."""
    return dict(
        task=f"countdown:{size.numbers}", steps=size.steps, prompts_per_step=size.prompts, tau_min=0.05, eval_every=0,
        print_every=0, final_problems=8, save_every=10**6,
    )  # fmt: skip


def trials(size: Size, regimes: list[str]) -> list[Trial]:
    """All there is to do, in an order in which `after` comes first."""
    made = []
    third = size.steps // 3

    def add(regime: str, method: str, policy: str, flags: dict | None, after: str = "") -> None:
        flags = None if flags is None else common(size) | flags
        of_size = after, size.base, size.numbers
        made.extend(Trial(regime, method, seed, policy, flags, *of_size) for seed in range(size.seeds))

    alone = {"schedule": "temperature", "steps": size.alone}
    after_tokens = alone | {"steps": size.alone // 2}
    if "finished" in regimes:
        rate = {"token_lr": TOKEN_LR["2e-4"]}
        add("finished", "tokens", BEST_FIXED, rate)
        add("finished", "longer", BEST_FIXED, after_tokens | rate | {"schedule": "tokens"}, after="tokens")
        for name in GRID:
            add("finished", f"longer, fixed {name}", name, None, after="longer")
    for regime, after, flags in (("frozen", "", alone), ("finished", "tokens", after_tokens)):
        if regime in regimes:
            for name in ["greedy", *GRID]:
                add(regime, name if name == "greedy" else f"fixed {name}", name, None, after)
            for name, policy in RULES.items():
                add(regime, name, policy, None, after)
            add(regime, "TAMPO, mean", TAMPO, flags, after)
            add(regime, "TAMPO, pass@8", TAMPO, flags | PASS, after)
            add(regime, "sequence, pass@8", "sequence", flags | PASS | SEQUENCE, after)
            add(regime, "head, mean", "own", flags | HEAD, after)
            add(regime, "head, pass@8", "own", flags | PASS | HEAD, after)
            for name in ABLATIONS if regime == "frozen" else ["no-gate"]:
                add(regime, f"head, pass@8, {name}", name, flags | PASS | HEAD, after)
    for regime in [name for name in TOKEN_LR if name in regimes]:
        rate = {"token_lr": TOKEN_LR[regime]}
        for name in GRID:
            add(regime, f"fixed {name}", name, rate)
        for name, policy in RULES.items():
            add(regime, name, policy, rate)
        add(regime, f"tokens pass@8 at {BEST_FIXED}", BEST_FIXED, rate | {"token_objective": "pass@8"})
        add(regime, "TAMPO, pass@8", TAMPO, rate | PASS)
        add(regime, "sequence, pass@8", "sequence", rate | PASS | SEQUENCE)
        add(regime, "short", BEST_FIXED, rate | {"steps": size.steps - third})
        for objective, flags in (("mean", HEAD), ("pass@8", PASS | HEAD)):
            add(regime, f"head, {objective}, temperature first", "own", rate | flags | {"temperature_first": third})
            add(regime, f"head, {objective}, every step", "own", rate | flags)
            last = flags | {"schedule": "temperature", "steps": third}
            add(regime, f"head, {objective}, tokens first", "own", last, after="short")
    return made


def folder_of(trial: Trial, root: Path, method: str = "") -> Path:
    return root / trial.regime / (method or trial.method).replace(" ", "-").replace(",", "") / f"seed-{trial.seed}"


def run_trial(trial: Trial, root: Path, split: str, problems: int) -> dict:
    """Train and evaluate; result.json in the trial's folder is written last, and a trial that has one is done."""
    folder = folder_of(trial, root)
    if (folder / "result.json").is_file():
        return json.loads((folder / "result.json").read_text())
    shutil.rmtree(folder, ignore_errors=True)
    torch.set_num_threads(1)
    started, metrics = time.process_time(), []
    source = folder_of(trial, root, trial.after) if trial.after else Path(trial.base)
    if trial.flags is not None:
        words = dict(out=folder, seed=trial.seed, device="cpu", model=source, policy=trial.policy) | trial.flags
        c = config.parse(
            [word for name, value in words.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        )
        config.validate(c)
        log.Log.report = lambda self: ""  # pictures of every trial would take longer than its evaluation
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            parts = train.prepare(c)
            parts.policy.unembed = parts.transformer.unembed  # EntropyHead reads it
            train.train(c, parts)
        source = folder
        metrics = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
        if len(metrics) < c.steps:  # at a signal train.py saves, and ends early
            raise faults.Stopped("a trial was ended before its last step")
        shutil.rmtree(folder / "checkpoints")  # the folder itself holds the last one
    folder.mkdir(parents=True, exist_ok=True)
    transformer, vocabulary = model.load(source), tokenizer.load(source)
    asked = tasks.countdown(split, problems, trial.numbers)
    policies = {"own": baselines.make(trial.policy, source)}
    if "token_lr" in (trial.flags or ()) or "tokens first" in trial.method:  # its tokens are its own
        policies |= {name: baselines.make(name) for name in ("0.3", "0.7", "greedy")}
    policies["own"].unembed = transformer.unembed
    result = {"trial": trial._asdict(), "metrics": metrics, "evaluations": {}}
    for name, policy in policies.items():
        length = tasks.completion_length(asked[0])
        of = evaluation.evaluate(transformer, vocabulary, policy, asked, 8, length, seed=trial.seed)
        successes = of.correct.sum(1).astype(int).tolist()
        result["evaluations"][name] = of.summary() | {"successes": successes}
    result["cpu_minutes"] = (time.process_time() - started) / 60
    new = folder / "result.json.new"
    new.write_text(json.dumps(result))
    os.replace(new, folder / "result.json")
    return result


def run_all(todo: list[Trial], root: Path, split: str, problems: int, jobs: int) -> list[dict]:
    """Every trial, `jobs` at a time, each on one thread; results in the order of `todo`."""
    results: dict[tuple, dict] = {}
    depth: dict[tuple, tuple[int, int]] = {}
    for trial in todo:  # seed by seed, so that what is done at any time is whole seeds; `after` comes first
        depth[trial[:3]] = trial.seed, 1 + depth.get((trial.regime, trial.after, trial.seed), (0, 0))[1]
    waves = [[trial for trial in todo if depth[trial[:3]] == level] for level in sorted(set(depth.values()))]
    progress = tqdm(total=len(todo), desc="trials", disable=None)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(jobs)) if jobs > 1 else None
        for wave in waves:
            work = [(trial, root, split, problems) for trial in wave]
            for trial, result in pool.imap(run_one, work) if pool else map(run_one, work):
                results[trial[:3]] = result
                progress.update()
        if pool:  # leaving would end the processes by a signal, of which they would complain
            pool.close()
            pool.join()
    return [results[trial[:3]] for trial in todo]


def run_one(work: tuple) -> tuple[Trial, dict]:
    return work[0], run_trial(*work)


def tune(root: Path, size: Size, jobs: int) -> None:
    """Avg@8 + Pass@8 of every setting on the tuning problems, tokens frozen: four seeds, or one where something learns,
    for a quarter of the study's steps."""
    flags = common(size) | {"schedule": "temperature", "steps": size.alone // 4}
    settings = [setting for of_method in TUNED.values() for setting in of_method] + [(name, None) for name in GRID]
    todo = []
    for policy, chosen in settings:
        rates = [f"{name}={value}" for name, value in (chosen or {}).items() if name not in PASS]
        with_flags = None if chosen is None else flags | chosen
        for seed in range(4 if chosen is None else 1):
            name = " ".join((policy, *rates))
            todo.append(Trial("tuning", name, seed, policy, with_flags, "", size.base, size.numbers))
    scores: dict[str, list[float]] = {}
    for trial, result in zip(todo, run_all(todo, root, "tuning", size.problems, jobs)):
        own = result["evaluations"]["own"]
        scores.setdefault(trial.method, []).append(100 * (own["Avg@8"] + own["Pass@8"]))
    print(f"Avg@8 + Pass@8 on {own['problems']} tuning problems, mean of the seeds (each seed)")
    for method, sums in scores.items():
        print(f"{sum(sums) / len(sums):5.1f}  ({', '.join(f'{x:.1f}' for x in sums)})  {method}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and evaluate every method with every seed.")
    parser.error = lambda message: parser.exit(2, f"study.py: {message}; --help lists the flags\n")
    parser.add_argument("--quick", action="store_true", help="few steps, problems and seeds: about ten minutes")
    parser.add_argument("--tune", action="store_true", help="eight settings of each method on the tuning problems")
    parser.add_argument(
        "--list", action="store_true", help="say what there is to do and what of it is done; do nothing"
    )
    parser.add_argument("--regimes", nargs="+", default=ALL, help=", ".join(ALL))
    parser.add_argument("--methods", nargs="+", default=[""], help="only methods whose name holds one of these")
    parser.add_argument("--seeds", type=int, default=0, help="so many seeds; 0: five, or one with --quick")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trials at a time, one thread each")
    parser.add_argument("--base", default="base_model", help="folder of the model that all trials start from")
    parser.add_argument("--numbers", type=int, default=3, help="of each problem: what that model was pretrained on")
    parser.add_argument("--out", default="", help="folder of the trials [runs/study, study-quick, study-4 ...]")
    arguments = parser.parse_args()
    if unknown := set(arguments.regimes) - set(ALL):
        parser.exit(2, f"study.py: {unknown}: regimes are {', '.join(ALL)}\n")
    if arguments.seeds < 0 or arguments.jobs < 1 or not 2 <= arguments.numbers <= 6:
        parser.exit(2, "study.py: --jobs is at least 1, --seeds at least 0, and --numbers 2 to 6\n")
    if not (Path(arguments.base) / "config.json").is_file():
        parser.exit(2, f"study.py: --base {arguments.base} is no model's folder; pretrain.py makes one\n")
    size = QUICK if arguments.quick else FULL
    size = size._replace(seeds=arguments.seeds or size.seeds, base=arguments.base, numbers=arguments.numbers)
    name = "study" + "-quick" * arguments.quick + f"-{arguments.numbers}" * (arguments.numbers != 3)
    root = Path(arguments.out or f"runs/{name}")
    if arguments.tune:
        return tune(root, size, arguments.jobs)
    todo = [t for t in trials(size, arguments.regimes) if any(name in t.method for name in arguments.methods)]
    done = [trial for trial in todo if (folder_of(trial, root) / "result.json").is_file()]
    for trial in [] if arguments.list else todo:
        first = trial._replace(method=trial.after)  # whose tokens it starts from
        planned = any(first[:3] == other[:3] for other in todo)
        if trial.after and not planned and not (folder_of(first, root) / "result.json").is_file():
            parser.exit(
                2,
                f"study.py: {trial.regime}, {trial.method} starts from the tokens of {trial.after}: --methods {trial.after} first\n",
            )
    print(f"{len(todo)} trials, {len(done)} of them done", file=sys.stderr)
    if arguments.list:
        for trial in todo:
            print("done" if trial in done else "    ", trial.regime, trial.method, trial.seed)
        return None
    try:
        run_all(todo, root, "test", size.problems, arguments.jobs)
    except (KeyboardInterrupt, faults.Stopped):
        parser.exit(130, "\nstudy.py: interrupted; the same command goes on with the trials that are not done\n")
    print(f"python findings.py {root}    makes the tables and pictures")
    return None


if __name__ == "__main__":
    main()
