"""The temperature policy pi_phi: at every step the model reads its own hidden state and chooses its temperature.

    u = W2 relu(W1 h + b1) + b2,   W1 (d/2, d),  W2 (3, d/2),   u = (u_c, u_a, u_b)
    1. change or keep   c_t ~ Bernoulli(sigmoid(u_c));      c_t = 0 keeps tau_t = tau_{t-1}
    2. if c_t = 1       z_t ~ Beta(softplus(u_a) + eps, softplus(u_b) + eps),   tau_t = tau_min + z_t (tau_max - tau_min)
    log pi_phi = log P(c_t) + c_t log p(z_t)

The head reads a *detached* h: no gradient of its loss reaches theta.  The density is in z; the constant Jacobian from z to tau
cancels in every ratio.  The paper does not publish eps, the range of tau or the initialisation: ours are arguments.

Every other temperature policy (baselines.py) has the interface of `Policy`.  This file needs token_policy.py only.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from token_policy import entropy_of

FILE = "temperature_head.safetensors"


class Action(NamedTuple):
    """One decision a row; every field (B,), or (B, T) when training replays them.

    A policy with another distribution than a gate and a Beta returns a subclass with its own `log_prob`."""

    temperature: Tensor  # tau_t
    changed: Tensor  # c_t, bool
    z: Tensor  # z_t in (0, 1); meaningless where c_t = 0
    gate: Tensor | None = None  # u_c, and the Beta's parameters a and b
    alpha: Tensor | None = None
    beta: Tensor | None = None
    rest: Tensor | None = None  # 1 - z, exact also where float32 rounds z to 1; None: computed from z

    @property
    def log_prob(self) -> Tensor:
        """log pi_phi(tau_t | h_t, tau_{t-1}); 0 for a policy that does not sample."""
        if self.gate is None:
            return torch.zeros_like(self.temperature)
        return mixed_log_prob(self.gate, self.alpha, self.beta, self.changed, self.z, self.rest)


class Policy:
    """The interface of every temperature policy.  A policy of your own must define `act`; the rest has defaults.

    act(reads (B, d), tau_previous (B,), *, logits (B, V), step, generator) -> Action
    """

    tau_initial: float = 1.0  # tau_0
    learns = False  # does it learn from rewards?
    layer: int | None = None  # `reads` receives the state after so many layers; None: h_t
    min_p, top_p = 0.0, 1.0  # tokens removed before the draw: token_policy.cut
    see = None  # or a method see(step, tokens, temperatures), called after every draw

    def reads(self, hidden: Tensor, logits: Tensor) -> Tensor:
        """What the policy reads: hidden (B, d_model), logits (B, V) -> (B, d).  The rollout stores it for training."""
        return hidden

    def begin_step(self, training_step: int, generator=None) -> None:
        """Before the rollout of a training step."""

    def end_step(self) -> None:
        """After that rollout."""

    def learn(self, transformer, rollout, advantage: Tensor) -> dict[str, float]:
        """Learn without a gradient, before the token step: advantage (B,) -> metrics.  rl.temperature_step uses a gradient."""
        return {}


class TemperatureHead(nn.Module, Policy):
    """pi_phi as a two-layer network on h_t.  `sample.generate` calls its `act`, rl.temperature_step its `log_prob`."""

    kind = "own"  # its name for --policy
    learns = True

    def __init__(
        self,
        d_model: int,
        tau_min: float = 0.1,
        tau_max: float = 1.5,
        tau_initial: float = 1.0,
        gate_initial: float = 0.5,
        concentration: float = 4.0,
        eps: float = 0.1,
        layer: int | None = None,
    ):
        """At the start every hidden state gives nearly the same distribution, and nothing is saturated.  The gate opens with
        probability `gate_initial`.  The Beta has its mean at `tau_initial`, and a + b = `concentration`."""
        super().__init__()
        if not 0 < tau_min < tau_max:
            raise ValueError(f"the temperature range must be 0 < tau_min < tau_max, and is [{tau_min}, {tau_max}]")
        self.settings = dict(
            d_model=d_model, tau_min=tau_min, tau_max=tau_max, tau_initial=tau_initial, gate_initial=gate_initial,
            concentration=concentration, eps=eps, layer=layer,
        )  # fmt: skip
        self.layer = layer  # of the hidden states that it reads
        self.tau_min, self.tau_max, self.eps = tau_min, tau_max, eps
        self.tau_initial = min(max(tau_initial, tau_min), tau_max)  # tau_0
        self.w1 = nn.Linear(d_model, d_model // 2)
        self.w2 = nn.Linear(d_model // 2, 3)
        mean = (self.tau_initial - tau_min) / (tau_max - tau_min)
        mean = min(max(mean, 0.1), 0.9)
        with torch.no_grad():
            self.w2.weight.mul_(0.1)
            self.w2.bias[0] = math.log(gate_initial / (1 - gate_initial))
            for index, share in ((1, mean), (2, 1 - mean)):  # the inverse of softplus
                self.w2.bias[index] = math.log(math.expm1(max(share * concentration - eps, 0.01)))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """hidden (..., d_model) -> the gate's logit u_c and the Beta's parameters a, b, each (...), in float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            u = self.w2(F.relu(self.w1(hidden.detach().float())))
        gate, alpha, beta = u.unbind(-1)
        return gate, F.softplus(alpha) + self.eps, F.softplus(beta) + self.eps

    @torch.no_grad()
    def act(self, hidden: Tensor, tau_previous: Tensor, *, logits=None, step=None, generator=None) -> Action:
        """Sample tau_t for each row: hidden (B, d_model), tau_previous (B,).  Other policies use `logits` and `step`."""
        gate, alpha, beta = self(hidden)
        uniform = torch.rand(gate.shape, generator=generator, device=gate.device)
        # A Beta draw is Ga / (Ga + Gb); torch.distributions would do the same slower, and takes no generator.
        ga, gb = (torch._standard_gamma(shape, generator=generator) for shape in (alpha, beta))
        changed = uniform < torch.sigmoid(gate)  # c_t
        z, rest = (inside(part / (ga + gb).clamp_min(1e-30)) for part in (ga, gb))  # z_t and 1 - z_t
        tau = torch.where(changed, self.tau_min + z * (self.tau_max - self.tau_min), tau_previous)  # tau_t
        return Action(tau, changed, z, gate, alpha, beta, rest)

    def log_prob(self, hidden: Tensor, action: Action) -> Tensor:
        """log pi_phi of stored actions, hidden (..., d_model) -> (...); differentiable in phi only."""
        return mixed_log_prob(*self(hidden), action.changed, action.z, action.rest)

    def entropy(self, hidden: Tensor) -> Tensor:
        """Entropy of the mixed action, H(Bernoulli) + P(c = 1) H(Beta): hidden (..., d_model) -> (...), in nats."""
        gate, alpha, beta = self(hidden)
        opens = torch.sigmoid(gate)
        of_gate = F.softplus(gate) - opens * gate
        total = alpha + beta
        of_beta = (
            log_beta(alpha, beta)
            - (alpha - 1) * torch.digamma(alpha)
            - (beta - 1) * torch.digamma(beta)
            + (total - 2) * torch.digamma(total)
        )
        return of_gate + opens * of_beta

    def save(self, folder: str | Path) -> None:
        save(self, folder)


def save(policy: nn.Module, folder: str | Path) -> None:
    """Write a learned policy's weights, settings and kind to one safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in policy.state_dict().items()}
    settings = json.dumps({"kind": policy.kind} | policy.settings)  # one key: safetensors does not keep their order
    save_file(tensors, Path(folder) / FILE, metadata={"settings": settings})


def load(folder: str | Path, device="cpu", kinds: dict[str, type] | None = None) -> nn.Module:
    """Read the policy that `save` wrote.  `kinds` maps a kind to its class; None: the head only.  FileNotFoundError: no file."""
    file, kinds = Path(folder) / FILE, kinds or {"own": TemperatureHead}
    if not file.is_file():
        raise FileNotFoundError(f"{file}: missing; no temperature policy of its own; use --policy 0.7")
    try:
        with safe_open(file, framework="pt") as opened:
            settings = json.loads(opened.metadata()["settings"])
            policy = kinds[settings.pop("kind", "own")](**settings)
            policy.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()})
        if bad := [name for name, tensor in policy.state_dict().items() if not tensor.isfinite().all()]:
            raise ValueError(f"{bad[0]} contains numbers that are not finite")
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file}: this version cannot read this temperature policy ({reason})") from None
    return policy.to(device)


def inside(z: Tensor) -> Tensor:
    """Move z off 0 and 1, where a Beta's density can be 0 or infinite, by the least that float32 resolves."""
    return z.clamp(1e-37, 1 - 6e-8)


def log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    """log B(a, b), the Beta density's normaliser."""
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)


def mixed_log_prob(gate: Tensor, alpha: Tensor, beta: Tensor, changed: Tensor, z: Tensor, rest=None) -> Tensor:
    """log P(c) + c log p(z), the density of the mixed discrete-continuous action.

    >>> two = torch.tensor(2.0)  # Beta(2, 2) has density 1.5 at 0.5; a gate logit of 0 has probability 1/2
    >>> float(mixed_log_prob(torch.tensor(0.0), two, two, torch.tensor(True), torch.tensor(0.5)).exp())
    0.75
    """
    log_gate = F.logsigmoid(torch.where(changed, gate, -gate))
    return log_gate + torch.where(changed, beta_log_prob(alpha, beta, z, rest), 0.0)


def beta_log_prob(alpha: Tensor, beta: Tensor, z: Tensor, rest: Tensor | None = None) -> Tensor:
    """log p(z) of Beta(alpha, beta).  `rest` is 1 - z: without it the score is biased at the hot end."""
    z = inside(z)
    log_rest = torch.log1p(-z) if rest is None else torch.log(inside(rest))
    return (alpha - 1) * torch.log(z) + (beta - 1) * log_rest - log_beta(alpha, beta)


# ---- variants of the head: ablations ----------------------------------------------------------------------------------


class SequenceHead(TemperatureHead):
    """One temperature for each completion: pi_phi(tau | h_1), a Beta computed from the hidden state that draws the first token.

    There is no gate: the first token's temperature is drawn, and all others keep it.
    """

    kind = "sequence"

    @torch.no_grad()
    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        one = torch.ones_like(tau_previous)
        if step:  # gate logit -inf: closed with probability 1
            return Action(tau_previous, ~one.bool(), one / 2, -torch.inf * one, one, one)
        action = super().act(hidden, tau_previous, generator=generator)  # below: open with probability 1
        tau = self.tau_min + action.z * (self.tau_max - self.tau_min)
        return action._replace(temperature=tau, changed=one.bool(), gate=torch.inf * one)

    def log_prob(self, hidden: Tensor, action: Action) -> Tensor:
        _, alpha, beta = self(hidden)
        return torch.where(action.changed, beta_log_prob(alpha, beta, action.z, action.rest), 0.0)

    def entropy(self, hidden: Tensor) -> Tensor:
        raise ValueError("--temperature-entropy needs one temperature per token, not --policy sequence")


class NoGateHead(TemperatureHead):
    """The head without its gate: every token has a new temperature.  P(c = 1) = sigmoid(30) = 1 in float32."""

    kind = "no-gate"

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, alpha, beta = super().forward(hidden)
        return torch.full_like(gate, 30.0), alpha, beta


class EntropyHead(TemperatureHead):
    """The head that reads only the entropy H_t: a learned EDT.  Its layers have the same sizes as the head's."""

    kind = "entropy-only"

    def reads(self, hidden: Tensor, logits: Tensor) -> Tensor:
        return entropy_of(logits)[:, None]  # (B, 1)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().forward(hidden.expand(*hidden.shape[:-1], self.settings["d_model"]))
