"""Temperature policies that are not learned per token: the same interface as the head, so each can stand in its place.

A policy is anything with

    act(hidden (B, d), tau_previous (B,), *, logits (B, V), step, generator) -> Action        (see temperature_head.py)

and a `tau_initial`.  To try an idea of your own, write such a class here and name it in `make`.

    fixed   tau_t = T;  T = 0 is greedy
    EAD     tau_t = max(1 + tau_max - exp(t / d_s), tau_min), tau = 1 for the first c tokens       arXiv 2510.05251
    EDT     tau_t = T_0 * 0.8^(theta / H_t), H_t the entropy in nats at tau = 1                    arXiv 2403.14541
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import temperature_head
from temperature_head import Action


def chosen(temperature: Tensor, tau_previous: Tensor) -> Action:
    """A deterministic choice as an Action: nothing was sampled, so its log-probability is 0."""
    zero = torch.zeros_like(temperature)
    return Action(temperature, temperature != tau_previous, zero, zero)


@dataclass
class Fixed:
    """tau_t = T for every token.  T = 0 means greedy."""

    temperature: float = 1.0

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"a temperature is a number from 0 (greedy) up, and this one is {self.temperature}")
        self.tau_initial = self.temperature

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        return chosen(torch.full_like(tau_previous, self.temperature), tau_previous)


@dataclass
class EAD:
    """Explore early, exploit late: the temperature falls with the position t in the completion.

    d_s = min(d_0 + 5 s, 40000) at training step s, in code units of 20 tokens, as in the paper's code.  That code samples
    with exp(t / (20 d)) and corrects with exp(t / d); here the stored tau serves both.
    """

    tau_min: float = 0.1
    tau_max: float = 1.2
    d_0: float = 25.0
    tokens_per_unit: float = 20.0
    warm_tokens: int = 10  # c
    training_step: int = 0  # s
    tau_initial: float = 1.0

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        d_s = min(self.d_0 + 5 * self.training_step, 40_000)
        exponent = min(step / (self.tokens_per_unit * d_s), 50.0)
        tau = 1.0 if step < self.warm_tokens else max(1 + self.tau_max - math.exp(exponent), self.tau_min)
        return chosen(torch.full_like(tau_previous, tau), tau_previous)


@dataclass
class EDT:
    """Entropy-based dynamic temperature: certain steps are sampled cold, open ones up to T_0.

    As H_t -> 0 the formula goes to 0 without dividing by zero, and is clamped to the range.
    """

    base: float = 1.0  # T_0
    theta: float = 0.1
    tau_min: float = 0.05
    tau_max: float = 1.5
    tau_initial: float = 1.0

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        log_probs = logits.float().log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)  # H_t (B,)
        tau = self.base * 0.8 ** (self.theta / entropy.clamp_min(1e-6))
        return chosen(tau.clamp(self.tau_min, self.tau_max), tau_previous)


def make(name: str = "", folder: str | Path = "", device="cpu"):
    """The policy that a command line names: `own` (the head in `folder`), `greedy`, a number, `ead` or `edt`.

    Without a name it is the model's own where it has one, and temperature 1 where it has not.

    >>> make("0.7").temperature
    0.7
    """
    if not name:
        name = "own" if (Path(folder) / temperature_head.FILE).is_file() else "1.0"
    if name == "own":
        return temperature_head.load(folder, device)
    if name == "ead":
        return EAD()
    if name == "edt":
        return EDT()
    try:
        temperature = 0.0 if name == "greedy" else float(name)
    except ValueError:
        raise ValueError(f"policy {name!r} is none of: own, greedy, a temperature such as 0.7, ead, edt") from None
    return Fixed(temperature)
