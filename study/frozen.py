"""Train a temperature policy on frozen tokens: the loop of train.py with nothing but the temperature step, in memory."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import rl
import sample
from engine import marginal
from temperature_head import TemperatureHead


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
        elif settings.estimator == "marginal" and advantage.any():
            pulls = advantage.nonzero()[:, 0]
            # A softmax for each tau: only of rows that count.  The loss is a mean over the tokens of the whole rollout.
            part = marginal.explain(transformer, head, rollout.rows(pulls))
            share = part.mask.sum() / rollout.mask.sum()
            marginal.temperature_step(head, optimizer, part, share * advantage[pulls], by_step)
        elif settings.estimator == "sampled":
            rl.temperature_step(head, optimizer, rollout, advantage, by_step)
        seen += rewards.numel()
        signal = (rewards != rewards[:, :1]).any(1).float().mean()
        yield seen, float(rewards.mean()), float(rollout.temperatures[rollout.mask].mean()), float(signal)
