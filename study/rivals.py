"""Rivals and controls for the study alone, each a temperature_head.Policy.

    two-piece    a learned monotone two-piece map of the logits         after LogitMLP ("Beyond Temperature", 2026)
    e3           one temperature, steered to an entropy that anneals    E3, arXiv 2505.18573
    shuffled     the head's temperatures, each completion's dealt to other positions
    mean of own  one fixed temperature: the mean of the head's

The last two are controls: they have the head's temperatures without its knowledge of where they belong.  They take two passes over
the problems: the head samples once and is recorded, then the control samples anew.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import baselines
import temperature_head
from temperature_head import Action, Policy, TemperatureHead, beta_log_prob, inside
from token_policy import entropy_of

CONTROLS = ("shuffled", "mean of own")


# ---- learned by the same rewards --------------------------------------------------------------------------------------


class TwoPieces(Action):
    """Two Beta draws: one in `temperature`, the other in `z`.  `gate` carries their log-probability."""

    @property
    def log_prob(self) -> Tensor:
        assert self.gate is not None
        return self.gate


class TwoPieceHead(torch.nn.Module, Policy):
    """Two temperatures a token, without a gate: one for the likely tokens, one for the rest.

    With x = logits - max <= 0 and a knee k below the largest, pi(y) is in proportion to exp(g(x)):

        g(x) = x / tau,                          x >= -k
        g(x) = -k / tau + (x + k) / tau_rest,    x < -k

    It reads h_t and four statistics of the logits.  It differs from LogitMLP in its knee, which is fixed, and in the Betas, which
    make it trainable by rl.temperature_step.  For frozen tokens only: rl.token_step knows nothing of the second piece.
    """

    kind = "two-piece"
    learns = True
    knee, eps = 2.0, 0.1  # nats; as in TemperatureHead

    def __init__(self, d_model: int, tau_min=0.1, tau_max=1.5, tau_initial=1.0, concentration=4.0):
        """Both Betas begin with their mean at temperature `tau_initial`, so the map begins near that temperature."""
        super().__init__()
        self.settings = dict(
            d_model=d_model, tau_min=tau_min, tau_max=tau_max, tau_initial=tau_initial, concentration=concentration
        )
        self.tau_min, self.tau_max = tau_min, tau_max
        self.w1 = torch.nn.Linear(d_model + 4, d_model // 2)
        self.w2 = torch.nn.Linear(d_model // 2, 4)
        share = (tau_initial - tau_min) / (tau_max - tau_min)
        with torch.no_grad():
            self.w2.weight.mul_(0.1)
            parameters = torch.tensor([share, 1 - share] * 2) * concentration - self.eps
            self.w2.bias.copy_(parameters.expm1().log())  # the inverse of softplus

    def reads(self, hidden: Tensor, logits: Tensor) -> Tensor:
        """(B, d_model + 4): h_t, the entropy, log p of the likeliest, its margin, and the share of tokens above the knee."""
        top = logits.float().topk(2).values
        above = (logits >= top[:, :1] - self.knee).float().mean(-1)
        likeliest = top[:, 0] - logits.float().logsumexp(-1)
        statistics = entropy_of(logits), likeliest, top[:, 0] - top[:, 1], above
        return torch.cat((hidden.float(), torch.stack(statistics, -1)), -1)

    def betas(self, reads: Tensor) -> tuple[Tensor, ...]:
        """The parameters of the two Betas: (..., ) four times."""
        u = self.w2(torch.relu(self.w1(reads.detach().float())))
        return (torch.nn.functional.softplus(u) + self.eps).unbind(-1)

    @torch.no_grad()
    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        parameters = self.betas(hidden)
        gammas = [torch._standard_gamma(shape, generator=generator) for shape in parameters]
        drawn = [inside(a / (a + b).clamp_min(1e-30)) for a, b in (gammas[:2], gammas[2:])]
        tau, rest = (self.tau_min + z * (self.tau_max - self.tau_min) for z in drawn)
        logits.copy_(self.bent(logits, tau, rest))
        log_prob = beta_log_prob(*parameters[:2], drawn[0]) + beta_log_prob(*parameters[2:], drawn[1])
        return TwoPieces(tau, torch.ones_like(tau, dtype=torch.bool), drawn[1], log_prob)

    def bent(self, logits: Tensor, tau: Tensor, rest: Tensor) -> Tensor:
        """Logits (B, V) whose softmax under `tau` (B,) is the map's: the lower piece is scaled by tau / rest.

        >>> head = TwoPieceHead(8)
        >>> head.bent(torch.tensor([[0.0, -1.0, -4.0]]), torch.tensor([1.0]), torch.tensor([0.5]))
        tensor([[ 0., -1., -6.]])
        """
        below = logits - logits.amax(-1, keepdim=True)
        lower = -self.knee + (below + self.knee) * (tau / rest)[:, None]
        return torch.where(below >= -self.knee, below, lower)

    def log_prob(self, hidden: Tensor, action: Action) -> Tensor:
        a, b, a_rest, b_rest = self.betas(hidden)
        z = (action.temperature - self.tau_min) / (self.tau_max - self.tau_min)
        return beta_log_prob(a, b, z) + beta_log_prob(a_rest, b_rest, action.z)

    def save(self, folder: str | Path) -> None:
        temperature_head.save(self, folder)


# ---- a rule -------------------------------------------------------------------------------------------------------------


@dataclass
class E3(Policy):
    """One temperature T a training step, steered to a target entropy H* that anneals from `start` to `end` over `steps`:

        T <- T (1 + T ln(H* / H) / (ln V + ln ln V)),    H the mean entropy of softmax(logits / T) over the step's tokens

    On frozen tokens it ends at one fixed temperature.  Between training steps T stays as it is.
    """

    start: float = 0.3
    end: float = 0.1
    steps: float = 300.0
    temperature: float = 1.0  # T
    tau_initial: float = 1.0

    def begin_step(self, training_step: int, generator=None) -> None:
        share = min(training_step / self.steps, 1.0)
        self.target = self.start + share * (self.end - self.start)  # H*
        self.entropy, self.tokens, self.vocabulary = 0.0, 0, 2

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        if hasattr(self, "target"):  # in training
            self.entropy += float(entropy_of(logits / self.temperature).sum())
            self.tokens, self.vocabulary = self.tokens + len(logits), logits.shape[-1]
        return baselines.chosen(torch.full_like(tau_previous, self.temperature), tau_previous)

    def end_step(self) -> None:
        ratio = self.target / max(self.entropy / max(self.tokens, 1), 1e-6)
        size = math.log(self.vocabulary) + math.log(math.log(max(self.vocabulary, 3)))
        factor = 1 + self.temperature * math.log(ratio) / size
        self.temperature = min(max(self.temperature * max(factor, 0.5), 0.05), 10.0)
        del self.target


# ---- controls: the head's temperatures, elsewhere ------------------------------------------------------------------------


class ByRow(Policy):
    """A policy that knows which completion each row is, though completions that have ended leave.

    A call of sample.generate begins at step 0; `self.call` counts them."""

    def __init__(self, stop: set[int]):
        self.stop = torch.tensor(sorted(stop))
        self.call, self.rows = -1, torch.empty(0, dtype=torch.long)

    def begin(self, step: int, count: int) -> None:
        if step == 0:
            self.call, self.rows = self.call + 1, torch.arange(count)

    def see(self, step: int, token: Tensor, temperature: Tensor) -> None:  # type: ignore[override]
        self.rows = self.rows[~torch.isin(token.cpu(), self.stop)]


class Recorded(ByRow):
    """A head whose temperatures are noted: `taus[call][row]` has those of a completion, in their order."""

    def __init__(self, head: TemperatureHead, stop: set[int]):
        super().__init__(stop)
        self.head, self.tau_initial, self.layer = head, head.tau_initial, head.layer
        self.min_p, self.top_p = head.min_p, head.top_p
        self.taus: list[list[list[float]]] = []

    def reads(self, hidden: Tensor, logits: Tensor) -> Tensor:
        return self.head.reads(hidden, logits)

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        self.begin(step, len(tau_previous))
        if step == 0:
            self.taus.append([[] for _ in tau_previous])
        action = self.head.act(hidden, tau_previous, logits=logits, step=step, generator=generator)
        for row, tau in zip(self.rows.tolist(), action.temperature.tolist()):
            self.taus[self.call][row].append(tau)
        return action


class Shuffled(ByRow):
    """Each completion has the temperatures of a recorded completion of the same problem, in another order.

    One that grows longer than the recorded one begins them anew."""

    def __init__(self, recorded: Recorded, seed: int):
        super().__init__(set(recorded.stop.tolist()))
        self.min_p, self.top_p = recorded.min_p, recorded.top_p
        generator = torch.Generator().manual_seed(seed)
        self.taus = [
            [[row[i] for i in torch.randperm(len(row), generator=generator).tolist()] for row in call]
            for call in recorded.taus
        ]

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None) -> Action:
        self.begin(step, len(tau_previous))
        call = self.taus[self.call]
        tau = [call[row][step % len(call[row])] for row in self.rows.tolist()]
        return baselines.chosen(torch.tensor(tau, dtype=tau_previous.dtype), tau_previous)


def evaluated(trial, folder: Path, device: str, metrics: list[dict], stop: set[int], sample) -> Policy:
    """The policy that a trial is evaluated with, its trained parts in `folder`.  A control needs `sample`: see `control`."""
    if trial.policy in CONTROLS:
        return control(trial.policy, baselines.make("own", folder, device), stop, sample, trial.seed)
    if trial.policy.startswith("e3") and metrics:  # where its last training step stood
        return baselines.Fixed(metrics[-1]["tau/mean"])
    return baselines.make(trial.policy, folder, device)


def control(name: str, head: TemperatureHead, stop: set[int], sample, seed: int) -> Policy:
    """The control of this name, after `sample(policy)` has sampled every problem with the head recorded."""
    recorded = Recorded(head, stop)
    sample(recorded)
    if name == "shuffled":
        return Shuffled(recorded, seed)
    taus = [tau for call in recorded.taus for row in call for tau in row]
    return baselines.with_cut(baselines.Fixed(sum(taus) / len(taus)), head.min_p, head.top_p)


baselines.LEARNED[TwoPieceHead.kind] = TwoPieceHead  # so that --policy knows them in this process
baselines.RULES["e3"] = E3
