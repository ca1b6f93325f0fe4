"""Train a temperature policy on frozen tokens: the loop of train.py with nothing but the temperature step, in memory.

    sampled     the paper's estimator: A_t grad log pi_phi(tau_t | h_t, tau_{t-1}) at the temperatures that were drawn
    marginal    A_t grad log m_phi(y_t | y_<t), the temperatures summed out:

        m_phi(y_t | y_<t) = sum_k b_t(k) pi_theta(y_t | h_t, tau_k)                 tau_k: a grid over the range
        b_t(k) = (1 - P(c_t)) f_{t-1}(k) + P(c_t) Beta_k(h_t),    f_t(k) ~ b_t(k) pi_theta(y_t | h_t, tau_k)

The reward depends on the tokens alone, so the second is the conditional expectation of the first given the tokens.  It has
the same mean and less variance (Rao-Blackwell): where a token is sure, every temperature explains it, and the drawn one gets
no credit.  Different from the paper, which credits the drawn temperature.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import rl
import sample
from temperature_head import TemperatureHead, beta_log_prob
from token_policy import token_policy

GRID = 16  # temperatures that the marginal is summed over


class ScaledHead(TemperatureHead):
    """The head, and a fixed affine map in front of it: real hidden states have a few huge dimensions.

    `scale` is none, rms (h over its root mean square) or standard (each dimension by its mean and deviation in the first rollout).
    """

    kind = "scaled"

    def __init__(self, d_model: int, *args, scale: str = "none", width: int = 0, **settings):
        super().__init__(d_model, *args, **settings)
        of_scale: dict = dict(scale=scale, width=width)
        self.settings = self.settings | of_scale
        self.scale = scale
        if width:
            outgoing = self.w2.bias.detach().clone()
            self.w1, self.w2 = torch.nn.Linear(d_model, width), torch.nn.Linear(width, 3)
            with torch.no_grad():
                self.w2.weight.mul_(0.1)
                self.w2.bias.copy_(outgoing)
        self.register_buffer("mean", torch.zeros(d_model))
        self.register_buffer("deviation", torch.ones(d_model))

    def measure(self, hidden: Tensor) -> None:
        """hidden (N, d_model) of the first rollout."""
        if self.scale == "standard":
            self.mean.copy_(hidden.float().mean(0))
            self.deviation.copy_(hidden.float().std(0).clamp_min(1e-6))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = hidden.float()
        if self.scale == "rms":
            hidden = F.rms_norm(hidden, hidden.shape[-1:])
        return super().forward((hidden - self.mean) / self.deviation)


@dataclass(frozen=True)
class Settings:
    """Of one training; a step has `prompts` x `samples` completions."""

    estimator: str = "marginal"
    objective: str = "pass@4"  # or grpo, dr_grpo, rloo
    prompts: int = 8
    samples: int = 8
    epochs: int = 2
    learning_rate: float = 3e-3
    clip: float = 0.2


def mask_of(rollout: sample.Rollout) -> tuple[Tensor, Tensor]:
    """The sampled tokens as (row, place in the completion), (N,) each."""
    rows, columns = rollout.mask.nonzero(as_tuple=True)
    return rows, columns - rollout.prompt_lengths[rows]


@torch.no_grad()
def explained(transformer, head: TemperatureHead, rollout: sample.Rollout) -> Tensor:
    """(B, C, GRID + 1) pi_theta(y_t | h_t, tau_k), the last of tau_0; 1 where no token was sampled."""
    z = (torch.arange(GRID) + 0.5) / GRID
    taus = torch.cat((head.tau_min + z * (head.tau_max - head.tau_min), torch.tensor([head.tau_initial])))
    rows, places = mask_of(rollout)
    hidden, tokens = rollout.reads[rollout.mask].float(), rollout.tokens[rollout.mask]
    # Samples of a problem that begin alike have the same states: each is worked out once.
    _, number = torch.unique(torch.cat((hidden[:, :4], tokens[:, None]), dim=1), dim=0, return_inverse=True)
    first = torch.full((int(number.max()) + 1,), len(number)).scatter_reduce(
        0, number, torch.arange(len(number)), "amin"
    )
    parts = []
    for some, drawn in zip(hidden[first].split(64), tokens[first].split(64)):
        logits = transformer.unembed(some).float()
        at = [token_policy(logits, tau.expand(len(logits))).gather(-1, drawn[:, None]) for tau in taus]
        parts.append(torch.cat(at, dim=-1).exp())
    result = torch.ones(len(rollout.mask), int(places.max()) + 1, GRID + 1)
    result[rows, places] = torch.cat(parts)[number]
    return result


def marginal_log_prob(head: TemperatureHead, hidden: Tensor, likelihood: Tensor) -> Tensor:
    """(B, C) log m_phi(y_t | y_<t): hidden (B, C, d), likelihood (B, C, GRID + 1) -> (B, C), by the forward algorithm."""
    gate, alpha, beta = head(hidden)
    z = (torch.arange(GRID) + 0.5) / GRID
    drawn = beta_log_prob(alpha[..., None], beta[..., None], z).softmax(-1)  # (B, C, GRID)
    opens = torch.sigmoid(gate)[..., None]
    drawn = F.pad(opens * drawn, (0, 1))  # tau_0 is never drawn again
    filtered = F.one_hot(torch.full((len(hidden),), GRID), GRID + 1).float()
    result = []
    for step in range(hidden.shape[1]):
        joint = ((1 - opens[:, step]) * filtered + drawn[:, step]) * likelihood[:, step]
        total = joint.sum(-1, keepdim=True).clamp_min(1e-30)
        filtered = joint / total
        result.append(total[:, 0].log())
    return torch.stack(result, dim=1)


def states(transformer, head, rollout: sample.Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """(B, C, d) h_t, (B, C, GRID + 1) what `explained` gives, and (B, C) bool where a token was sampled."""
    rows, places = mask_of(rollout)
    likelihood = explained(transformer, head, rollout)
    hidden = torch.zeros(*likelihood.shape[:2], rollout.reads.shape[-1])
    hidden[rows, places] = rollout.reads[rollout.mask].float()
    sampled = torch.zeros(likelihood.shape[:2], dtype=torch.bool)
    sampled[rows, places] = True
    return hidden, likelihood, sampled


def marginal_step(transformer, head, optimizer, rollout, advantage: Tensor, settings: Settings) -> None:
    """`epochs` clipped steps on the marginal; advantage (B,)."""
    hidden, likelihood, sampled = states(transformer, head, rollout)
    clipping = rl.StepSettings(clip_low=settings.clip, clip_high=settings.clip)
    old = None
    for _ in range(settings.epochs):
        log_prob = marginal_log_prob(head, hidden, likelihood)
        old = log_prob.detach() if old is None else old
        loss = rl.clipped_surrogate(log_prob, old, advantage[:, None].expand(sampled.shape), clipping)[sampled].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()


def plainly(transformer, head, *how) -> sample.Rollout:
    return sample.generate(transformer, head, *how, keep_reads=True)


def train(
    transformer,
    head,
    problems: list,
    reward_of,
    stop: set[int],
    length: int,
    settings: Settings,
    seed: int,
    draw=plainly,
):
    """Yields after every step: (completions seen, mean reward, mean temperature, share of groups with a signal).

    `problems` are (problem, prompt ids) and are asked in turn; reward_of(problems, rollout) -> list of rewards;
    draw(transformer, head, prompts, samples, length, stop, generator) -> Rollout.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    by_step = rl.StepSettings(epochs=settings.epochs, clip_low=settings.clip, clip_high=settings.clip)
    order: list[int] = []
    seen = 0
    while True:
        if len(order) < settings.prompts:
            order += torch.randperm(len(problems), generator=generator).tolist()
        asked, order = [problems[i] for i in order[: settings.prompts]], order[settings.prompts :]
        prompts = [ids for _, ids in asked]
        rollout = draw(transformer, head, prompts, settings.samples, length, stop, generator)
        rewards = torch.tensor(reward_of([p for p, _ in asked for _ in range(settings.samples)], rollout))
        rewards = rewards.view(settings.prompts, settings.samples)
        advantage = rl.advantages(rewards, settings.objective).flatten()
        if seen == 0 and isinstance(head, ScaledHead) and head.scale == "standard":
            head.measure(rollout.reads[rollout.mask])  # this rollout was drawn before: nothing is learned from it
        elif advantage.any() and settings.estimator == "marginal":
            marginal_step(transformer, head, optimizer, rollout, advantage, settings)
        elif advantage.any():
            rl.temperature_step(head, optimizer, rollout, advantage, by_step)
        seen += rewards.numel()
        signal = (rewards != rewards[:, :1]).any(1).float().mean()
        yield seen, float(rewards.mean()), float(rollout.temperatures[rollout.mask].mean()), float(signal)
