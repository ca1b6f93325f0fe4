"""The settings of each method: those that were tried on tuning problems, and the best of them.

Each method had eight settings.  The score was Avg@8 + Pass@8 on tuning problems, tokens frozen (`python -m study --tune`).
Fixed temperatures have no best setting: all eight are in the tables.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

GRID = ["0.1", "0.3", "0.5", "0.7", "0.9", "1.1", "1.3", "1.5"]
PASS = {"temperature_objective": "pass@8"}
# For heads and EAD.  With one temperature for all tokens the weight would be a common factor.
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
    "hot top-p": [(f"{tau}+top_p={p}", None) for p in (0.5, 0.6, 0.7, 0.8) for tau in (4, 10)],
    "EAD, min-p": [
        (f"ead:tokens_per_unit=1,growth=0,d_0=25,tau_max={tau},warm_tokens={warm}+min_p={p}", None)
        for p in (0.05, 0.1, 0.2, 0.3) for tau, warm in ((0.7, 4), (1.2, 0))
    ],
    "EDT, min-p": [(f"edt:base={base},theta=1.0+min_p={p}", None) for p in (0.05, 0.1, 0.2, 0.3) for base in (0.8, 1.2)],
    "two-piece": [("two-piece", PASS | flags) for flags in LEARNING],
    "TAMPO": [(f"tampo:sharpness={s},momentum={m}", {}) for s in (0.003, 0.01, 0.03, 0.1) for m in (0.8, 0.95)],
    "sequence": [("sequence", PASS | flags) for flags in LEARNING],
    "head": [("own", PASS | flags) for flags in LEARNING],
    "head, min-p": [
        (f"own+min_p={p}", PASS | {"tau_max": high, "temperature_lr": 3e-3, "temperature_epochs": 2})
        for p in (0.05, 0.1, 0.2, 0.3) for high in (1.5, 4.0)
    ],
}  # fmt: skip
# For the base model of `models/pretrain.py --same-slip`, whose slips are a third as likely as the right result: larger shares too.
TUNED_OF: dict[str, dict[str, list[Setting]]] = {
    "same-slip": {
        "min-p": [  # none of the first eight was any good, so eight colder ones were added
            *((f"{tau}+min_p={p}", None) for p in (0.2, 0.3, 0.4, 0.5) for tau in (2, 10)),
            *((f"{tau}+min_p={p}", None) for p in (0.05, 0.1, 0.2, 0.4) for tau in (0.7, 1)),
        ],
        "head, min-p": [
            (f"own+min_p={p}", PASS | {"tau_max": high, "temperature_lr": 3e-3, "temperature_epochs": 2})
            for p in (0.05, 0.1, 0.2, 0.4) for high in (1.5, 4.0)
        ],
    }
}  # fmt: skip
# Is it the cut, or the wider range that the head has with it?
CONTROLS: list[Setting] = [("own", PASS | {"tau_max": 4.0, "temperature_lr": 3e-3, "temperature_epochs": 2})]
CLIP_HIGHER = {"clip_high": 0.28}  # DAPO's (arXiv 2503.14476), not tuned here
BEST_FIXED = "0.7"  # for training, on the tuning problems


class Chosen(NamedTuple):
    """The best of the eight settings of each method, by Avg@8 + Pass@8 on the tuning problems."""

    rules: dict[str, str]
    tampo: str
    sequence: dict
    head: dict
    head_and_cut: tuple[str, dict]
    rivals: dict[str, str] = {}  # rules that came later
    two_piece: dict = {}


CHOSEN = {
    "countdown": Chosen(  # of the two best settings of the head, whose difference is noise, the one with the lower rate
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
    "modular": Chosen(  # other settings of EAD and EDT are best for Avg@8 alone: these take part too
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
        rivals={
            "hot top-p": "10+top_p=0.8",
            "EAD, min-p": "ead:tokens_per_unit=1,growth=0,d_0=25,tau_max=1.2,warm_tokens=0+min_p=0.1",
            "EAD, min-p for Avg@8": "ead:tokens_per_unit=1,growth=0,d_0=25,tau_max=1.2,warm_tokens=0+min_p=0.2",
            "EDT, min-p": "edt:base=1.2,theta=1.0+min_p=0.1",
            "EDT, min-p for Avg@8": "edt:base=1.2,theta=1.0+min_p=0.2",
        },
        two_piece={"temperature_lr": 1e-2, "temperature_epochs": 2},
    ),
}
# Methods that were tuned for the base model with the same slips; the others have the settings of the second task.
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


def named(parts: Sequence[str], names: Collection[str]) -> set[str]:
    """Of these names each that is one of the parts, and of a part that is no name those that hold it; ValueError for none."""
    found = {name for part in parts for name in ({part} & set(names) or {n for n in names if part in n})}
    if not found:
        raise ValueError(f"--methods {' '.join(parts)}: there are {', '.join(names)}")
    return found


def tried(of: str = "", methods: Sequence[str] = ("",)) -> list[Setting]:
    """The settings that `--tune` tries of these methods; ValueError where no method has such a name."""
    tuned = TUNED | TUNED_OF.get(of, {})
    tuned |= {"control": CONTROLS, "fixed": [(name, None) for name in GRID]}
    wanted = named(methods, tuned)
    return [setting for name, settings in tuned.items() if name in wanted for setting in settings]
