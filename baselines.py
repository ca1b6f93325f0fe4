"""Every temperature policy other than the head, and their names.  All have the interface temperature_head.Policy.

    NAME                          own, sequence, no-gate, entropy-only, tampo (learned); greedy, 0.7 (fixed); ead, edt, mixture (rules)
    NAME:setting=number,...       edt:base=0.8,theta=0.2
    NAME+min_p=0.1  +top_p=0.9    the same policy, with unlikely tokens removed (token_policy.cut)

    fixed      tau_t = T;  T = 0 is greedy
    EAD        tau_t = max(1 + tau_max - exp(t / d_s), tau_min), tau = 1 for the first c tokens       arXiv 2510.05251
    EDT        tau_t = T_0 * 0.8^(theta / H_t), H_t the entropy in nats at tau = 1                    arXiv 2403.14541
    mixture    half of a prompt's samples at one fixed temperature, half at another
    TAMPO      one temperature a training step, drawn from a categorical that learns                  arXiv 2602.11779
    sequence, no-gate, entropy-only: variants of the head (temperature_head.py)

To try your own rule, write a dataclass here, whose fields are its settings, and add it to `RULES`.  A policy that learns goes into
`LEARNED`.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

import temperature_head
from files import weights
from temperature_head import Action, EntropyHead, NoGateHead, Policy, SequenceHead, TemperatureHead
from token_policy import entropy_of, token_policy


def chosen(temperature: Tensor, tau_previous: Tensor) -> Action:
    """A deterministic choice as an Action: nothing was sampled, so its log-probability is 0."""
    return Action(temperature, temperature != tau_previous, torch.zeros_like(temperature))


@dataclass
class Fixed(Policy):
    """tau_t = T for every token.  T = 0 means greedy."""

    temperature: float = 1.0

    def __post_init__(self):
        if not 0 <= self.temperature <= 1e6:
            raise ValueError(f"the temperature is {self.temperature}; it must be from 0 (greedy) to 1,000,000")
        self.tau_initial = self.temperature

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        return chosen(torch.full_like(tau_previous, self.temperature), tau_previous)


@dataclass
class EAD(Policy):
    """Explore early, exploit late: the temperature falls with the position t in the completion.

    d_s = min(d_0 + growth * s, 40000) at training step s, with growth = 5.  As in the paper's code its unit is 20 tokens.  That code
    samples with exp(t / (20 d)) and corrects with exp(t / d).  Here one stored tau serves both.
    """

    tau_min: float = 0.1
    tau_max: float = 1.2
    d_0: float = 25.0
    growth: float = 5.0
    tokens_per_unit: float = 20.0
    warm_tokens: int = 10  # c
    training_step: int = 0  # s
    tau_initial: float = 1.0

    def begin_step(self, training_step: int, generator=None) -> None:
        self.training_step = training_step

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        d_s = min(self.d_0 + self.growth * self.training_step, 40_000)
        exponent = min(step / (self.tokens_per_unit * d_s), 50.0)
        tau = 1.0 if step < self.warm_tokens else max(1 + self.tau_max - math.exp(exponent), self.tau_min)
        return chosen(torch.full_like(tau_previous, tau), tau_previous)


@dataclass
class EDT(Policy):
    """Entropy-based dynamic temperature: low where the model is certain, up to T_0 where it is not.

    H_t is clamped above 0, and tau_t to the range.
    """

    base: float = 1.0  # T_0
    theta: float = 0.1
    tau_min: float = 0.05
    tau_max: float = 1.5
    tau_initial: float = 1.0

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        tau = self.base * 0.8 ** (self.theta / entropy_of(logits).clamp_min(1e-6))  # H_t (B,)
        return chosen(tau.clamp(self.tau_min, self.tau_max), tau_previous)


@dataclass
class Mixture(Policy):
    """Half of a prompt's samples at `low` and half at `high`, in turn: a baseline without a policy or learning.

    In the plane of Avg@k and Pass@k a mixture lies on the line between its two fixed temperatures, or above it.
    """

    low: float = 0.3
    high: float = 0.9
    tau_initial: float = 1.0

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        if step:  # finished rows are gone, so row numbers have changed: each row keeps its first temperature
            return chosen(tau_previous, tau_previous)
        odd = torch.arange(len(tau_previous), device=tau_previous.device) % 2 == 1
        return chosen(torch.where(odd, self.high, self.low).to(tau_previous.dtype), tau_previous)


class TAMPO(torch.nn.Module, Policy):
    """One temperature for each training step, drawn from a categorical over candidates T_k.

    l_ik = mean_t log pi_theta(y_t | h_t, T_k)     how likely completion i is at candidate k
    w_ik = softmax_k(l_ik)                         its share
    A_k  = mean_i w_ik A_i                         the candidate's advantage
    scores <- momentum scores + (1 - momentum) A   the categorical's logits are scores / sharpness

    A training step's rollout uses the temperature that `begin_step` drew.  Evaluations use the categorical's mean.
    This is our reading of the paper's text, which does not give `sharpness` and `momentum`.
    """

    kind = "tampo"
    learns = True
    SETTINGS = dict(lowest=0.1, highest=1.5, candidates=8, momentum=0.9, sharpness=0.01)

    def __init__(self, **settings):
        super().__init__()
        self.settings = self.SETTINGS | settings
        if not 1 <= self.settings["candidates"] <= 1000:
            raise ValueError(f"TAMPO's candidates is {self.settings['candidates']:g}; it must be from 1 to 1,000")
        if not 0 <= self.settings["momentum"] < 1:
            raise ValueError(f"TAMPO's momentum is {self.settings['momentum']:g}; it must be at least 0 and below 1")
        candidates = torch.linspace(self.settings["lowest"], self.settings["highest"], int(self.settings["candidates"]))
        self.register_buffer("candidates", candidates)  # T_k (K,)
        self.register_buffer("scores", torch.zeros_like(candidates))  # (K,)
        self.drawn: float | None = None  # the step's temperature, from `begin_step` to `end_step`
        self.tau_initial = 1.0

    def probabilities(self) -> Tensor:
        """(K,) of the categorical over the candidates."""
        return (self.scores / self.settings["sharpness"]).softmax(0)

    def begin_step(self, training_step: int, generator=None) -> None:
        self.drawn = float(self.candidates[torch.multinomial(self.probabilities(), 1, generator=generator)])

    def end_step(self) -> None:
        self.drawn = None

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        if self.drawn is None:
            return chosen((self.probabilities() @ self.candidates).expand_as(tau_previous), tau_previous)
        return chosen(torch.full_like(tau_previous, self.drawn), tau_previous)

    @torch.no_grad()
    def learn(self, transformer, rollout, advantage: Tensor) -> dict[str, float]:
        """Move the categorical, by a Rollout that holds `reads` and the advantages (B,) of its completions."""
        rows, columns = rollout.mask.nonzero(as_tuple=True)
        log_likelihood = torch.zeros(len(rollout.mask), len(self.candidates), device=advantage.device)
        for row, column in zip(rows.split(512), columns.split(512)):  # logits of 512 tokens at a time
            logits = transformer.unembed(rollout.reads[row.cpu(), column.cpu()].to(row.device))
            for k, temperature in enumerate(self.candidates):
                log_probs = token_policy(logits, temperature.expand(len(logits)))  # (n, V)
                of_tokens = log_probs.gather(-1, rollout.tokens[row, column][:, None])[:, 0]
                log_likelihood[:, k].index_add_(0, row, of_tokens)
        log_likelihood /= rollout.mask.sum(1, keepdim=True)  # l_ik (B, K)
        self.move(log_likelihood, advantage)
        probabilities = self.probabilities()
        return {"mean": float(probabilities @ self.candidates), "highest_probability": float(probabilities.max())}

    def move(self, log_likelihood: Tensor, advantage: Tensor) -> None:
        """One step of the moving average: log_likelihood (B, K), advantage (B,)."""
        share = log_likelihood.softmax(-1)  # w_ik
        credit = (share * advantage[:, None]).mean(0)  # A_k
        if not credit.isfinite().all():
            raise FloatingPointError("the advantage of a candidate temperature is not finite")
        momentum = self.settings["momentum"]
        self.scores.mul_(momentum).add_(credit, alpha=1 - momentum)

    def save(self, folder: str | Path) -> None:
        temperature_head.save(self, folder)


# ---- names ----------------------------------------------------------------------------------------------------------

RULES = {"ead": EAD, "edt": EDT, "mixture": Mixture}
LEARNED = {kind.kind: kind for kind in (TemperatureHead, SequenceHead, NoGateHead, EntropyHead, TAMPO)}
NAMES = (
    f"{', '.join(LEARNED)}, greedy, a temperature such as 0.7, {', '.join(RULES)} (with settings: edt:base=0.8,theta=0.2); "
    "each alone or with +min_p=0.1, +top_p=0.9 or +min_p=0.1,top_p=0.9"
)
MAY_BE_0 = ("growth", "warm_tokens", "training_step", "theta", "tau_min", "low", "high", "momentum", "min_p")


def with_cut(policy, min_p: float = 0.0, top_p: float = 1.0):
    """Let the policy remove unlikely tokens before the draw; returns the policy."""
    policy.min_p, policy.top_p = min_p, top_p
    return policy


def parse(name: str) -> tuple[str, dict[str, float], dict[str, float]]:
    """A policy's kind, its settings and its cut.

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
                takes = f"takes positive numbers for {', '.join(sorted(names))}; 0 is allowed for {zero}"
                takes = takes if names else "takes no settings"
                raise ValueError(f"policy {name!r}: {pair!r} is wrong; {of} {takes}")
        return settings

    settings, cuts = read(rest, kind, known.get(kind, set())), read(after, "+", {"min_p", "top_p"})
    if max(cuts.values(), default=0) > 1 or ("+" in name and not cuts):
        raise ValueError(f"policy {name!r}: after + write min_p or top_p with a number up to 1, as in 1.5+min_p=0.1")
    return kind, settings, cuts


def learns(name: str) -> bool:
    return parse(name)[0] in LEARNED


def begin(name: str, d_model: int, *settings_of_head, **more):
    """A new policy that learns.  The arguments after `d_model` are those of TemperatureHead."""
    kind, settings, cuts = parse(name)
    policy = TAMPO(**settings) if kind == "tampo" else LEARNED[kind](d_model, *settings_of_head, **more)
    return with_cut(policy, **cuts)


def name_of(folder: str | Path) -> str:
    """The name of the policy that a run was trained with.  For another model: own, if its folder has a policy, else 1.0."""
    folder = Path(folder)
    ran = weights.trained_with(folder)
    name = ran.get("policy", "own" if (folder / temperature_head.FILE).is_file() else "1.0")
    if not isinstance(name, str):
        raise ValueError(f"{folder / weights.RUN} is damaged; name a policy by --policy")
    if parse(name)[0] == "ead" and "training_step" not in name:  # EAD changes with the training step
        at = folder.name.removeprefix("step-")  # the folder of a checkpoint
        name += f"{',' if ':' in name else ':'}training_step={int(at) if at.isdigit() else ran.get('steps', 0)}"
    return name


def make(name: str = "", folder: str | Path = "", device="cpu"):
    """The policy of this name: a rule, or a learned policy from `folder`.  `own` accepts any learned policy.

    The default name is that of `name_of`.

    >>> make("0.7").temperature
    0.7
    """
    kind, settings, cuts = parse(name or name_of(folder))
    if kind in LEARNED:
        policy = temperature_head.load(folder, device, LEARNED)
        if kind not in ("own", policy.kind):
            raise ValueError(f"{folder} contains the temperature policy {policy.kind}, not {kind}")
        if "d_model" in policy.settings and (file := Path(folder) / "config.json").is_file():
            of_model, of_head = (
                weights.read_config(weights.read_json(file), str(file))["d_model"],
                policy.settings["d_model"],
            )
            if of_model != of_head:
                raise ValueError(
                    f"{Path(folder) / temperature_head.FILE}: made for hidden states of size {of_head}, but this "
                    f"model has {of_model}"
                )
    elif kind in RULES:
        policy = RULES[kind](**settings)
    else:
        try:
            temperature = 0.0 if kind == "greedy" else float(kind)
        except ValueError:
            raise ValueError(f"policy {name!r} is none of: {NAMES}") from None
        policy = Fixed(temperature)
    return with_cut(policy, **cuts)
