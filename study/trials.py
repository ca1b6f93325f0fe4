"""What the study consists of: trials, and the plans that say which of them to run, in which order.

A trial is one method with one seed.  A regime says what learns, and for how long:

    frozen           only temperatures learn; the tokens stay as they are
    frozen-long      the same for three times as many steps
    finished         only temperatures learn, on tokens that were trained before at one fixed temperature
    3e-6 ... 2e-4    both learn; the tokens at this rate
    3e-6-long ...    the same for three times as many steps
    2e-4-twice-long  2e-4-long with two token steps on each rollout, where clip-higher can act; few methods

Where both learn, `every step` updates both sides on each rollout.  `temperature first` spends a third of the rollouts on the
temperature alone.  `tokens first` trains the tokens at one fixed temperature, then the temperature.  `by tau` weights each
token's surrogate by its temperature (rl.token_step).  All methods of a regime have as many rollouts.  `short` has fewer
steps: it is where `tokens first` starts.  `longer` spends the head's rollouts on the tokens instead.
"""

from pathlib import Path
from typing import NamedTuple

from study.settings import BEST_FIXED, BY_TAU, CHOSEN, CLIP_HIGHER, GRID, PASS, Chosen

RATES = ("3e-6", "3e-6-long", "1e-5", "1e-5-long", "3e-5", "3e-5-long", "1e-4-long", "2e-4", "2e-4-long")
TOKEN_LR = {regime: float(regime.removesuffix("-long")) for regime in RATES}
LONG = 3  # times the steps
TWICE = "2e-4-twice-long"
CONTROLS = {"shuffled head": "shuffled", "mean of the head": "mean of own"}  # see rivals.py
ALL = ["frozen", "frozen-long", "finished", *TOKEN_LR, TWICE]


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
    """Every trial of these regimes; what another starts from comes before it."""
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
                for name, control in CONTROLS.items():
                    add(regime, name, control, None, after="head, mean")
                for name, policy in chosen.rivals.items():
                    add(regime, name, policy, None)
                if chosen.two_piece:
                    add(regime, "two-piece, mean", "two-piece", flags | chosen.two_piece)
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
        for name in [*GRID, "1.0"]:
            add(regime, f"fixed {name}", name, rate)
        for name, policy in chosen.rules.items():
            add(regime, name, policy, rate)
        add(regime, f"tokens pass@8 at {BEST_FIXED}", BEST_FIXED, rate | {"token_objective": "pass@8"})
        add(regime, "TAMPO, pass@8", chosen.tampo, rate | PASS)
        add(regime, "sequence, pass@8", "sequence", rate | PASS | chosen.sequence)
        add(regime, f"fixed {BEST_FIXED}, clip-higher", BEST_FIXED, rate | CLIP_HIGHER)
        add(regime, "head, mean, every step, clip-higher", "own", rate | chosen.head | CLIP_HIGHER)
        add(regime, "E3", f"e3:start=0.2,end=0.1,steps={steps}", rate)
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
        for name, control in CONTROLS.items():
            add(regime, name, control, None, after="head, mean, every step")
        for name, policy in chosen.rivals.items():
            add(regime, name, policy, rate)
    if TWICE in regimes:
        rate = {"token_lr": TOKEN_LR["2e-4-long"], "steps": size.steps * LONG, "token_epochs": 2}
        for method, policy, flags in ((MAP_METHODS[0], "own", chosen.head), (f"fixed {BEST_FIXED}", BEST_FIXED, {})):
            add(TWICE, method, policy, rate | flags)
            add(TWICE, f"{method}, clip-higher", policy, rate | flags | CLIP_HIGHER)
    return made


def by_seed(todo: list[Trial]) -> list[Trial]:
    """Whole seeds as soon as may be: all trials of seed 0 first."""
    return sorted(todo, key=lambda trial: trial.seed)


MAP_RATES = ("2e-4-long", "1e-4-long", "3e-5-long", "1e-5-long", "3e-6-long")
MAP_METHODS = (
    "head, mean, every step", "fixed 0.7", "min-p", "fixed 1.0", "EDT", "EAD", "fixed 0.5", "head, mean, every step, by tau",
    "head, pass@8, every step",
)  # fmt: skip
JOINT = (  # at the first rate alone
    "fixed 0.7, clip-higher", "head, mean, every step, clip-higher", "E3", "mixture", "hot top-p", "EAD, min-p", "EDT, min-p",
)  # fmt: skip
NOT_KEPT = ("fixed 1.0", "head, pass@8, every step")  # at the last rate


def map_plan() -> tuple[Size, list[Trial]]:
    """The learning rate of the tokens against the method, 300 steps, on the default run's task; see TOYS.md.

    What decides most comes first: the three seeds of the head, which choose the default run.  At 3e-6 most other methods are kept
    from before (study/rates.py): those of NOT_KEPT run here."""
    size = FULL._replace(base="models/modular", task="modular", seeds=3)
    twice = planned(size, [TWICE])
    of = {trial[:3]: trial for trial in planned(size, list(MAP_RATES))}
    seeds = range(size.seeds)
    wanted = [(rate, MAP_METHODS[0], seed) for seed in seeds for rate in MAP_RATES]
    wanted += [(rate, control, seed) for seed in seeds for control in CONTROLS for rate in MAP_RATES]
    wanted += [(MAP_RATES[0], method, seed) for seed in seeds for method in MAP_METHODS[1:] + JOINT]
    wanted += [(rate, method, seed) for seed in seeds for method in MAP_METHODS[1:] for rate in MAP_RATES[1:-1]]
    wanted += [(MAP_RATES[-1], method, seed) for seed in seeds for method in NOT_KEPT]
    return size, [of[trial] for trial in wanted] + by_seed(twice)


RIVALS = (
    "head, mean", "shuffled head", "mean of the head", "greedy", "fixed 0.5", "fixed 0.7", "EDT", "EAD for Avg@8", "min-p",
    "two-piece, mean", "hot top-p", "EAD, min-p", "EAD, min-p for Avg@8", "EDT, min-p", "EDT, min-p for Avg@8", "mixture",
    "head, mean, min-p",
)  # fmt: skip


def rivals_plan() -> tuple[Size, list[Trial]]:
    """Controls and nearest rivals on the frozen modular task; those of a joint regime are in the map."""
    size = FULL._replace(base="models/modular", task="modular", problems=5000, seeds=3)
    of = {trial[:3]: trial for trial in planned(size, ["frozen"])}
    named = [("frozen", name, seed) for seed in range(size.seeds) for name in RIVALS]
    return size, [of[trial] for trial in named]


PLANS = {"map": map_plan, "rivals": rivals_plan}


def folder_of(trial: Trial, root: Path, method: str = "") -> Path:
    return root / trial.regime / (method or trial.method).replace(" ", "-").replace(",", "") / f"seed-{trial.seed}"
