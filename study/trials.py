"""What the study of study.py consists of: methods, the settings of each, the trials that compare them, and a trial's result.

A trial is one method with one seed.  A regime says what learns, and for how long:

    frozen    the tokens stay as they are, only temperatures learn                                       regime (a)
    finished  the same after the tokens have learned, fast and at one fixed temperature, and are at rest
    3e-6 ... 2e-4    both learn, the tokens at this rate (2e-4 is that of `train.py --task countdown`)
    3e-6-long ...    for three times as many steps
    frozen-long      heads alone, for as many steps as these: what of them is the head's

Where both learn: the temperature first (b), both on every rollout (c), the tokens first, at one fixed temperature (d); "by
tau": each token's surrogate is weighted by its temperature, see rl.token_step.  All methods of a regime have as many rollouts;
(b) and (d) have fewer token updates, as many as the method named `short`.  Where tokens are finished, `longer` spends the
head's rollouts on the tokens instead, and is decoded at every fixed temperature.
The settings of EAD, EDT, TAMPO, the sequence policy and the head were chosen on the tuning problems, each from eight.
"""

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

GRID = ["0.1", "0.3", "0.5", "0.7", "0.9", "1.1", "1.3", "1.5"]
PASS = {"temperature_objective": "pass@8"}
# For the heads, and for EAD as the best rule: under one temperature for all tokens it is a common factor.
BY_TAU = {"token_weight": "tau"}
LEARNING = [
    {"temperature_lr": rate, "temperature_epochs": epochs} for rate in (1e-3, 3e-3, 6e-3, 1e-2) for epochs in (2, 4)
]
Setting = tuple[str, dict | None]  # policy, and flags where it learns
TUNED: dict[str, list[Setting]] = {  # eight each
    "EAD": [
        (f"ead:tokens_per_unit=1,growth=0,d_0={d},tau_max={tau},warm_tokens={warm}", None)
        for d in (12, 25) for tau in (0.7, 1.2) for warm in (0, 4)
    ],
    "EDT": [(f"edt:base={base},theta={theta}", None) for base in (0.8, 1.2) for theta in (0.02, 0.1, 0.3, 1.0)],
    "mixture": [
        (f"mixture:low={low},high={high}", None)
        for low, high in ((0.1, 0.7), (0.1, 0.9), (0.1, 1.1), (0.3, 0.7), (0.3, 0.9), (0.3, 1.1), (0.5, 0.9), (0.5, 1.1))
    ],
    "min-p": [(f"{tau}+min_p={p}", None) for p in (0.05, 0.1, 0.2, 0.3) for tau in (2, 10)],
    "top-p": [(f"{tau}+top_p={p}", None) for p in (0.6, 0.7, 0.8, 0.9) for tau in (1, 2)],
    "TAMPO": [(f"tampo:sharpness={s},momentum={m}", {}) for s in (0.003, 0.01, 0.03, 0.1) for m in (0.8, 0.95)],
    "sequence": [("sequence", PASS | flags) for flags in LEARNING],
    "head": [("own", PASS | flags) for flags in LEARNING],
    "head, min-p": [
        (f"own+min_p={p}", PASS | {"tau_max": high, "temperature_lr": 3e-3, "temperature_epochs": 2})
        for p in (0.05, 0.1, 0.2, 0.3) for high in (1.5, 4.0)
    ],
}  # fmt: skip
# Where slips are all the same (pretrain.py --same-slip), and so a third as likely as the right result: shares above that too.
TUNED_OF: dict[str, dict[str, list[Setting]]] = {
    "same-slip": {
        "min-p": [  # and colder, as none of these will do: twice as many settings as any other method
            *((f"{tau}+min_p={p}", None) for p in (0.2, 0.3, 0.4, 0.5) for tau in (2, 10)),
            *((f"{tau}+min_p={p}", None) for p in (0.05, 0.1, 0.2, 0.4) for tau in (0.7, 1)),
        ],
        "head, min-p": [
            (f"own+min_p={p}", PASS | {"tau_max": high, "temperature_lr": 3e-3, "temperature_epochs": 2})
            for p in (0.05, 0.1, 0.2, 0.4) for high in (1.5, 4.0)
        ],
    }
}  # fmt: skip
# Of the head with a cut: is it the cut, or the wider range?
CONTROLS: list[Setting] = [("own", PASS | {"tau_max": 4.0, "temperature_lr": 3e-3, "temperature_epochs": 2})]
BEST_FIXED = "0.7"  # for training, on the tuning problems
RATES = ("3e-6", "3e-6-long", "1e-5", "1e-5-long", "3e-5", "3e-5-long", "2e-4")
TOKEN_LR = {regime: float(regime.removesuffix("-long")) for regime in RATES}
LONG = 3  # times the steps
ALL = ["frozen", "frozen-long", "finished", *TOKEN_LR]


class Chosen(NamedTuple):
    """Of each method the best of its eight settings by Avg@8 + Pass@8, on a task's tuning problems."""

    rules: dict[str, str]
    tampo: str
    sequence: dict
    head: dict
    head_and_cut: tuple[str, dict]


CHOSEN = {
    "countdown": Chosen(  # of the head's best two, whose difference is noise, the lower rate
        rules={
            "EAD": "ead:tokens_per_unit=1,growth=0,d_0=25,tau_max=0.7,warm_tokens=4",
            "EDT": "edt:base=0.8,theta=1.0",
            "mixture": "mixture:low=0.5,high=0.9",
            "min-p": "10+min_p=0.2",
            "min-p for Avg@8": "10+min_p=0.3",
            "top-p": "2+top_p=0.7",
        },
        tampo="tampo:sharpness=0.03,momentum=0.8",
        sequence={"temperature_lr": 6e-3, "temperature_epochs": 4},
        head={"temperature_lr": 3e-3, "temperature_epochs": 2},
        head_and_cut=("own+min_p=0.1", {"tau_max": 4.0, "temperature_lr": 3e-3, "temperature_epochs": 2}),
    ),
    "modular": Chosen(  # here the rules that are best for Avg@8 alone are others, so these take part too
        rules={
            "EAD": "ead:tokens_per_unit=1,growth=0,d_0=25,tau_max=1.2,warm_tokens=0",
            "EAD for Avg@8": "ead:tokens_per_unit=1,growth=0,d_0=12,tau_max=0.7,warm_tokens=4",
            "EDT": "edt:base=1.2,theta=1.0",
            "EDT for Avg@8": "edt:base=0.8,theta=1.0",
            "mixture": "mixture:low=0.5,high=0.9",
            "min-p": "10+min_p=0.2",
            "top-p": "2+top_p=0.8",
        },
        tampo="tampo:sharpness=0.003,momentum=0.8",
        sequence={"temperature_lr": 6e-3, "temperature_epochs": 4},
        head={"temperature_lr": 3e-3, "temperature_epochs": 2},
        head_and_cut=("own+min_p=0.05", {"tau_max": 4.0, "temperature_lr": 3e-3, "temperature_epochs": 2}),
    ),
}
# The second task with the other base model, of those methods that were tuned for it; of the rest the second task's.
CHOSEN["same-slip"] = CHOSEN["modular"]._replace(
    rules=CHOSEN["modular"].rules
    | {
        "EDT": "edt:base=1.2,theta=1.0",
        "EDT for Avg@8": "edt:base=0.8,theta=1.0",
        "min-p": "1+min_p=0.05",
        "min-p for Avg@8": "0.7+min_p=0.1",
        "top-p": "1+top_p=0.9",
        "top-p for Avg@8": "2+top_p=0.7",
    },
    head={"temperature_lr": 6e-3, "temperature_epochs": 4},
    head_and_cut=("own+min_p=0.1", {"tau_max": 4.0, "temperature_lr": 3e-3, "temperature_epochs": 2}),
)


class Size(NamedTuple):
    alone: int  # steps where temperatures learn alone
    steps: int  # where both learn
    prompts: int  # a step, of 16 samples each
    problems: int
    seeds: int
    base: str = "models/countdown"
    task: str = "countdown:3"
    settings: str = ""  # of CHOSEN; none: those of the task

    def chosen(self) -> Chosen:
        return CHOSEN[self.settings or self.task.partition(":")[0]]


FULL, QUICK = Size(200, 100, 32, 1000, 5), Size(20, 15, 16, 200, 1)


def named(parts: Sequence[str], names: Collection[str]) -> set[str]:
    """Of these names each that is one of the parts, and of a part that is no name those that hold it; ValueError for none."""
    found = {name for part in parts for name in ({part} & set(names) or {n for n in names if part in n})}
    if not found:
        raise ValueError(f"--methods {' '.join(parts)}: there are {', '.join(names)}")
    return found


def settings_of(size: Size, methods: Sequence[str] = ("",)) -> list[Setting]:
    """Those that `study.py --tune` tries of these methods; ValueError where none has such a name."""
    tuned = TUNED | TUNED_OF.get(size.settings, {})
    tuned |= {"control": CONTROLS, "fixed": [(name, None) for name in GRID]}
    wanted = named(methods, tuned)
    return [setting for name, settings in tuned.items() if name in wanted for setting in settings]


class Trial(NamedTuple):
    """One method of a regime with one seed.  `flags` are train.py's; None: nothing is trained."""

    regime: str
    method: str
    seed: int
    policy: str  # what it samples with, in training and in evaluation
    flags: dict | None
    after: str = ""  # the method whose tokens it starts from
    base: str = "models/countdown"  # where there is no such method
    task: str = "countdown:3"


def common(size: Size) -> dict:
    """train.py's flags that all trials share."""
    return dict(
        task=size.task, steps=size.steps, prompts_per_step=size.prompts, tau_min=0.05, eval_every=0,
        print_every=0, final_problems=8, save_every=10**6,
    )  # fmt: skip


def planned(size: Size, regimes: list[str]) -> list[Trial]:
    """All there is to do, in an order in which `after` comes first."""
    made = []
    chosen = size.chosen()

    def add(regime: str, method: str, policy: str, flags: dict | None, after: str = "") -> None:
        flags = None if flags is None else common(size) | flags
        of_size = after, size.base, size.task
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
            for name, policy in chosen.rules.items():
                add(regime, name, policy, None, after)
            add(regime, "TAMPO, mean", chosen.tampo, flags, after)
            add(regime, "TAMPO, pass@8", chosen.tampo, flags | PASS, after)
            add(regime, "sequence, pass@8", "sequence", flags | PASS | chosen.sequence, after)
            add(regime, "head, mean", "own", flags | chosen.head, after)
            add(regime, "head, pass@8", "own", flags | PASS | chosen.head, after)
            if regime == "frozen":
                policy, learning = chosen.head_and_cut
                add(regime, "head, mean, min-p", policy, flags | learning)
                add(regime, "head, pass@8, min-p", policy, flags | learning | PASS)
            for name in ("no-gate", "entropy-only") if regime == "frozen" else ["no-gate"]:
                add(regime, f"head, pass@8, {name}", name, flags | PASS | chosen.head, after)
    if "frozen-long" in regimes:
        longer = alone | chosen.head | {"steps": size.steps * LONG}
        add("frozen-long", "head, mean", "own", longer)
        add("frozen-long", "head, pass@8", "own", longer | PASS)
    for regime in [name for name in TOKEN_LR if name in regimes]:
        steps = size.steps * (LONG if regime.endswith("long") else 1)
        rate, third = {"token_lr": TOKEN_LR[regime], "steps": steps}, steps // 3
        for name in GRID:
            add(regime, f"fixed {name}", name, rate)
        for name, policy in chosen.rules.items():
            add(regime, name, policy, rate)
        add(regime, f"tokens pass@8 at {BEST_FIXED}", BEST_FIXED, rate | {"token_objective": "pass@8"})
        add(regime, "TAMPO, pass@8", chosen.tampo, rate | PASS)
        add(regime, "sequence, pass@8", "sequence", rate | PASS | chosen.sequence)
        add(regime, "EAD, by tau", chosen.rules["EAD"], rate | BY_TAU)
        add(regime, "short", BEST_FIXED, rate | {"steps": steps - third})
        for objective, flags in (("mean", chosen.head), ("pass@8", PASS | chosen.head)):
            add(regime, f"head, {objective}, temperature first", "own", rate | flags | {"temperature_first": third})
            add(regime, f"head, {objective}, every step", "own", rate | flags)
            add(regime, f"head, {objective}, every step, by tau", "own", rate | flags | BY_TAU)
            last = flags | {"schedule": "temperature", "steps": third}
            add(regime, f"head, {objective}, tokens first", "own", last, after="short")
            policy, learning = chosen.head_and_cut
            add(regime, f"head, {objective}, every step, min-p", policy, rate | flags | learning)
    return made


def folder_of(trial: Trial, root: Path, method: str = "") -> Path:
    return root / trial.regime / (method or trial.method).replace(" ", "-").replace(",", "") / f"seed-{trial.seed}"


# ---- a trial's result on disk --------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """The problems that a trial is evaluated on, and where it runs."""

    split: str
    problems: int
    skip: int = 0  # so many before these
    device: str = "cpu"

    def __str__(self) -> str:
        skipped = f" after the first {self.skip}" * (self.skip > 0)
        where = f" on {self.device}" * (self.device != "cpu")
        return f"{self.problems} {self.split} problems{skipped}{where}"


def write(result: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "result.json.new"
    new.write_text(json.dumps(result))
    os.replace(new, folder / "result.json")


def weights_of(base: str) -> str:
    """What tells a base model's weights from those of another: 16 digits of their SHA-256."""
    files = sorted(Path(base).glob("model*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def problems_of(result: dict) -> Asked:
    """What it was evaluated on; KeyError or TypeError where it is no result."""
    successes = result["evaluations"]["own"]["successes"]
    of = result.get("split", "test"), len(successes), result.get("skip", 0), result.get("device", "cpu")
    return Asked(*of)  # older results do not name all
