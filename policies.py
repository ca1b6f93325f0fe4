"""Which temperature policy a name means, on every command line.

    NAME                          own, sequence, tampo (learned); greedy, 0.7 (fixed); ead, edt, mixture (rules, baselines.py)
    NAME:setting=number,...       edt:base=0.8,theta=0.2
    ...+min_p=0.1  +top_p=0.9     and unlikely tokens cut away

A cut takes tokens out before one is drawn, p being the probability at temperature 1:

    min_p     those with p < min_p * max p                                                            arXiv 2407.01082
    top_p     all but the likeliest that together have top_p                                          arXiv 1904.09751
"""

import math
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import temperature_head
from baselines import EAD, EDT, TAMPO, Fixed, Mixture, SequenceHead
from files import weights
from temperature_head import Action, TemperatureHead
from token_policy import GONE, beyond, rows_in_cache

RULES = {"ead": EAD, "edt": EDT, "mixture": Mixture}
LEARNED = {"own": TemperatureHead, "sequence": SequenceHead, "tampo": TAMPO}
NAMES = (
    "own, sequence, tampo, greedy, a temperature such as 0.7, ead, edt, mixture (with settings: edt:base=0.8,theta=0.2); "
    "each alone or with +min_p=0.1, +top_p=0.9 or +min_p=0.1,top_p=0.9"
)
MAY_BE_0 = ("growth", "warm_tokens", "training_step", "theta", "tau_min", "low", "high", "momentum", "min_p")


def cut(policy, min_p: float = 0.0, top_p: float = 1.0):
    """The same policy, whose `act` takes unlikely tokens out of the logits that the token is then drawn from.

    pi_theta is then another distribution, softmax(logits / tau) among the tokens that are left.  Training makes the same one
    again by `Action.margin`, for the first gradient on a rollout: once the model has moved, the margin would leave others.  It
    moves probability among these tokens only: what is out has no gradient, and nothing tells the model that a token is about
    to leave or to come back.  Entropies are of what is left, for a rule that reads them (EDT) and in the Rollout.
    """
    act = policy.act

    def cut_and_act(hidden, tau_previous, *, logits, step=None, generator=None) -> Action:
        rows, margins = rows_in_cache(logits), []
        for start in range(0, len(logits), rows):
            some = logits[start : start + rows]
            exact = some.float()
            margin = torch.minimum(margin_of_min_p(exact, min_p), margin_of_top_p(exact, top_p))
            some.masked_fill_(beyond(exact, margin), GONE)
            margins.append(margin)
        action = act(hidden, tau_previous, logits=logits, step=step, generator=generator)
        return action._replace(margin=torch.cat(margins))

    policy.act = cut_and_act
    return policy


def margin_between(top: Tensor, last: Tensor, first: Tensor) -> Tensor:
    """How far below the largest logit a token may be that stays, by the last that stays and the first that is out; all (B,).

    Midway between the two, so that training, whose logits are the same but for rounding, cuts the same ones.  (Of tokens
    that are equally likely all stay where one does.)  Where all stay it is inf.
    """
    return ((top - last) + (top - first)) / 2


def margin_of_min_p(logits: Tensor, min_p: float) -> Tensor:
    """logits (B, V) -> (B,)"""
    if min_p == 0:
        return logits.new_full((len(logits),), math.inf)
    top = logits.amax(-1)
    out = logits < top[:, None] + math.log(min_p)  # p < min_p max p
    return margin_between(top, logits.masked_fill(out, math.inf).amin(-1), logits.masked_fill(~out, -math.inf).amax(-1))


def margin_of_top_p(logits: Tensor, top_p: float, among: int = 64) -> Tensor:
    """logits (B, V) -> (B,).  Of a row only the likeliest `among` are sorted; where they are not enough, all.

    (Off the CPU always all: to ask whether they are enough would wait for the device.)
    """
    vocabulary = logits.shape[1]
    if top_p == 1:
        return logits.new_full((len(logits),), math.inf)
    if logits.device.type != "cpu" or vocabulary <= 2 * among:
        among = vocabulary
    # (B, among), from the largest down
    likeliest, order = logits.topk(among) if among < vocabulary else logits.sort(descending=True)
    p = logits.softmax(-1).gather(-1, order)
    stays = p.cumsum(-1) - p < top_p  # what is likelier is not enough: the likeliest stays, whatever top_p is
    count = stays.sum(-1, keepdim=True).clamp_min(1)  # of logits that are no numbers none would
    last, first = F.pad(likeliest, (0, 1), value=-math.inf).gather(1, torch.cat((count - 1, count), 1)).unbind(1)
    margin = margin_between(likeliest[:, 0], last, first)
    if among < vocabulary and (more := stays[:, -1]).any():
        margin[more] = margin_of_top_p(logits[more], top_p, vocabulary)
    return margin


def parse(name: str) -> tuple[str, dict[str, float], dict[str, float]]:
    """A policy's name and settings, and what it cuts away.

    >>> parse("edt:base=0.8,theta=0.2+min_p=0.1")
    ('edt', {'base': 0.8, 'theta': 0.2}, {'min_p': 0.1})
    """
    before, _, after = name.partition("+")
    kind, _, rest = before.partition(":")
    known = {"tampo": set(TAMPO.SETTINGS)} | {rule: {f.name for f in fields(RULES[rule])} for rule in RULES}

    def read(pairs: str, of: str, names: set[str]) -> dict[str, float]:
        settings = {}
        for pair in pairs.split(",") if pairs else []:
            key, _, value = pair.partition("=")
            try:
                settings[key] = float(value)
            except ValueError:
                settings[key] = math.nan
            if key not in names or not (0 < settings[key] < 1e6 or settings[key] == 0 and key in MAY_BE_0):
                zero = ", ".join(sorted(names & set(MAY_BE_0)))
                takes = f"takes positive numbers for {', '.join(sorted(names))}, and 0 for {zero}"
                takes = takes if names else "takes no settings"
                raise ValueError(f"policy {name!r}: {of} {takes}, and not {pair!r}")
        return settings

    settings, cuts = read(rest, kind, known.get(kind, set())), read(after, "+", {"min_p", "top_p"})
    if max(cuts.values(), default=0) > 1 or ("+" in name and not cuts):
        raise ValueError(f"policy {name!r}: behind + stands min_p or top_p, a share of 1, as in 1.5+min_p=0.1")
    return kind, settings, cuts


def learns(name: str) -> bool:
    return parse(name)[0] in LEARNED


def begin(name: str, d_model: int, tau_min: float, tau_max: float):
    """A policy that learns, as it is before it has learned anything."""
    kind, settings, cuts = parse(name)
    policy = TAMPO(**settings) if kind == "tampo" else LEARNED[kind](d_model, tau_min, tau_max)
    return cut(policy, **cuts) if cuts else policy


def name_of(folder: str | Path) -> str:
    """The policy that a run was trained with, as it ended; of another model the one that lies there, or temperature 1."""
    folder = Path(folder)
    ran = weights.trained_with(folder)
    name = ran.get("policy", "own" if (folder / temperature_head.FILE).is_file() else "1.0")
    if not isinstance(name, str):
        raise ValueError(f"{folder / weights.RUN} is damaged; --policy names a policy")
    if parse(name)[0] == "ead" and "training_step" not in name:  # it moves with training
        at = folder.name.removeprefix("step-")  # a checkpoint's
        name += f"{',' if ':' in name else ':'}training_step={int(at) if at.isdigit() else ran.get('steps', 0)}"
    return name


def make(name: str = "", folder: str | Path = "", device="cpu"):
    """The policy that a command line names: a rule, or what was learned and lies in `folder` (own: whatever lies there).

    Without a name it is what `name_of` says.

    >>> make("0.7").temperature
    0.7
    """
    kind, settings, cuts = parse(name or name_of(folder))
    if kind in LEARNED:
        policy = temperature_head.load(folder, device, LEARNED)
        if kind not in ("own", policy.kind):
            raise ValueError(f"{folder} holds a temperature policy of the kind {policy.kind}, and not {kind}")
        if "d_model" in policy.settings and (file := Path(folder) / "config.json").is_file():
            of_model, of_head = (
                weights.read_config(weights.read_json(file), str(file))["d_model"],
                policy.settings["d_model"],
            )
            if of_model != of_head:
                raise ValueError(
                    f"{Path(folder) / temperature_head.FILE}: made for hidden states of {of_head} numbers, and those of "
                    f"this model have {of_model}"
                )
    elif kind in RULES:
        policy = RULES[kind](**settings)
    else:
        try:
            temperature = 0.0 if kind == "greedy" else float(kind)
        except ValueError:
            raise ValueError(f"policy {name!r} is none of: {NAMES}") from None
        policy = Fixed(temperature)
    return cut(policy, **cuts) if cuts else policy
