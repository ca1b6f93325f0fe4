"""Learning from verifiable rewards: advantages, the clipped losses of the two policies, and the coordinate ascent.

Both policies share the reward R(x, y) in {0, 1}.  Each is updated on the same rollouts, in turn, by the PPO surrogate

    L = - 1/N  sum_t  min(r_t A, clip(r_t, 1 - e_low, 1 + e_high) A),     N = all sampled tokens of the batch

    token step         r_t = pi_theta(y_t | h_t, tau_t) / pi_old,         phi fixed, at the stored tau_t
    temperature step   r_t = pi_phi(tau_t | h_t, tau_{t-1}) / pi_old,     theta fixed, at the stored (h_t, c_t, z_t)

The rollout recorded pi_old: before the first optimizer step every ratio is 1 (in float32 within 1e-4).  Different from the paper:
`pass@k` objectives are our extension, after "Pass@k Training", arXiv 2508.10751.  engine/gradient.py is the same, faster.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import comb
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from temperature_head import Action
from token_policy import token_policy

if TYPE_CHECKING:
    from sample import Rollout

# Logits that exist at one time: all of (B, T, V) would not fit at a vocabulary of 150k.  More than one chunk is computed twice.  On a
# CPU a chunk is above 32 MiB: glibc returns such blocks to the system, and smaller ones pile up (to 6.8 GiB instead of 1).
LOGITS = {"cpu": 2**26, "cuda": 2**28}


# ---- advantages ---------------------------------------------------------------------------------------------------


# Add another advantage here: a function of R - mean and R, both (P, G).  Flags, checks and help read these names.
ADVANTAGES = {
    "grpo": lambda centred, rewards: centred / (rewards.std(1, keepdim=True, correction=0) + 1e-6),  # arXiv 2402.03300
    "dr_grpo": lambda centred, rewards: centred,  # arXiv 2503.20783
    "rloo": lambda centred, rewards: centred * rewards.shape[1] / (rewards.shape[1] - 1),  # arXiv 2402.14740
}


def advantages(rewards: Tensor, kind: str = "grpo") -> Tensor:
    """Group-relative advantages, rewards (P, G) -> (P, G); a row is a group, the samples of one prompt.

    A group whose rewards are all equal has no signal: exactly zero.

    >>> advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), "dr_grpo")
    tensor([[ 0.7500, -0.2500, -0.2500, -0.2500],
            [ 0.0000,  0.0000,  0.0000,  0.0000]])
    """
    rewards, size = rewards.float(), rewards.shape[1]
    if size < 2:
        raise ValueError("a group of one has no baseline: use at least 2 samples per prompt")
    if kind in ADVANTAGES:
        result = ADVANTAGES[kind](rewards - rewards.mean(1, keepdim=True), rewards)
    else:
        result = torch.stack([pass_at_k_advantages(row, parse_pass_at_k(kind, size)) for row in rewards])
    all_equal = (rewards == rewards[:, :1]).all(1, keepdim=True)
    result = torch.where(all_equal, 0.0, result)
    return torch.where(rewards.isfinite().all(1, keepdim=True), result, torch.nan)  # not silently a wrong answer


def parse_pass_at_k(kind: str, size: int) -> int:
    """The K of `pass@K`, checked against the group's size."""
    name, _, k = kind.partition("@")
    if name != "pass" or not k.isdigit():
        raise ValueError(f"{kind!r} is none of: {', '.join(ADVANTAGES)}, pass@8 (any number for 8)")
    if not 1 <= int(k) <= size:
        raise ValueError(f"{kind} needs 1 <= k <= samples per prompt, which is {size}")
    return int(k)


def pass_at_k_advantages(rewards: Tensor, k: int) -> Tensor:
    """Average advantage of each sample over all subsets of k that hold it, rewards (N,) in {0, 1} -> (N,).

    A subset succeeds if any member does: Rbar = 1 - C(M, k) / C(N, k) with M failures.  A correct sample's subsets all
    succeed; a failed one's succeed unless the other k - 1 failed too.  With k = 1 this is `grpo`.
    """
    size, failed = len(rewards), int((rewards < 0.5).sum())
    mean = 1 - comb(failed, k) / comb(size, k)  # Rbar
    std = (mean * (1 - mean)) ** 0.5
    if std == 0:
        return torch.zeros_like(rewards)
    if_correct = (1 - mean) / std
    others_failed = comb(failed - 1, k - 1) / comb(size - 1, k - 1) if failed else 0.0
    return torch.where(rewards > 0.5, if_correct, (1 - mean - others_failed) / std)


# ---- log-probabilities and their gradient -------------------------------------------------------------------------


class PlainGradient:
    """How a step computes its gradient, plainly: one process, padded rows, one micro-batch after the other.

    engine/gradient.py reads each prompt once for its samples, adds up over processes, and retries with less memory."""

    def __init__(self, micro_batch_tokens: int = 16_384):
        self.micro_batch_tokens = micro_batch_tokens

    def states(self, transformer, rollout: "Rollout") -> Tensor:
        """(N, d_model) h_t of the sampled tokens: the model's output at t - 1 draws token t."""
        with transformer.autocast():
            return transformer(rollout.tokens)[:, :-1][rollout.mask[:, 1:]]

    def micro_batches(self, module, rollout: "Rollout") -> Iterator[tuple[Tensor, float]]:
        """(rows, weight): rows that are computed together, and 1.0, or 0.0 for rows that only keep other processes company."""
        rows = max(1, self.micro_batch_tokens // rollout.tokens.shape[1])
        for index in torch.arange(len(rollout.tokens), device=rollout.tokens.device).split(rows):
            yield index, 1.0

    def total(self, value: Tensor) -> Tensor:
        """The sum over processes."""
        return value

    def clip(self, module, max_norm: float) -> float:
        """Scale the gradient down to `max_norm`; its norm before."""
        return float(torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm))

    def attempt(self, gradient):
        return gradient()


def chunk_of_log_probs(transformer, hidden, temperature, tokens, margin, entropy: bool) -> tuple[Tensor, Tensor]:
    """log pi_theta of n drawn tokens, and H of pi_theta, (n,) both: the only place in training where logits exist."""
    log_probs = token_policy(transformer.unembed(hidden), temperature, margin, tokens)  # (n, V) pi_theta
    chosen = log_probs.gather(-1, tokens[:, None])[:, 0]
    return chosen, -(log_probs.exp() * log_probs).sum(-1) if entropy else torch.zeros_like(chosen)


def log_probs_of_drawn(transformer, rollout: "Rollout", engine, chunk=0, entropy=False) -> tuple[Tensor, Tensor]:
    """log pi_theta(y_t | h_t, tau_t) of the N sampled tokens, and H of pi_theta there (0 unless asked for), (N,) both.

    Logits exist for `chunk` tokens at a time; the backward pass computes them again.
    """
    mask = rollout.mask
    size = chunk or max(1, LOGITS.get(mask.device.type, LOGITS["cpu"]) // transformer.config.vocab_size)
    hidden, tau, tokens = engine.states(transformer, rollout), rollout.temperatures[mask], rollout.tokens[mask]
    margins = [None] * len(tokens) if rollout.margins is None else rollout.margins[mask].split(size)
    parts = list(zip(hidden.split(size), tau.split(size), tokens.split(size), margins))
    if len(parts) > 1 and torch.is_grad_enabled():
        pieces = [checkpoint(chunk_of_log_probs, transformer, *part, entropy, use_reentrant=False) for part in parts]
    else:
        pieces = [chunk_of_log_probs(transformer, *part, entropy) for part in parts]
    log_probs, entropies = zip(*pieces)
    return torch.cat(log_probs), torch.cat(entropies)


def token_log_probs(transformer, rollout: "Rollout", chunk: int = 0, engine=None) -> Tensor:
    """(B, T) log pi_theta under the stored temperatures, differentiable in theta; 0 where the token was not sampled."""
    log_probs, _ = log_probs_of_drawn(transformer, rollout, engine or PlainGradient(), chunk)
    return torch.zeros(rollout.mask.shape, device=log_probs.device).masked_scatter(rollout.mask, log_probs)


# ---- the two steps of the coordinate ascent -----------------------------------------------------------------------


@dataclass
class StepSettings:
    """How one side's surrogate is built and stepped; train.py makes one for each side."""

    epochs: int = 1  # optimizer steps on the same rollout
    clip_low: float = 0.2
    clip_high: float = 0.2  # larger than clip_low: "clip-higher", arXiv 2503.14476
    entropy_bonus: float = 0.0
    kl_penalty: float = 0.0  # to the initial token policy
    max_grad_norm: float = 1.0
    by_temperature: bool = False  # weight each token by its tau: see token_step


def clipped_surrogate(log_probs: Tensor, old: Tensor, advantage: Tensor, settings: StepSettings) -> Tensor:
    """-min(r A, clip(r) A), element by element.

    >>> ratio = torch.tensor([1.5, 0.5]).log()  # both moved out of the clip range, in the direction of the advantage
    >>> clipped_surrogate(ratio, torch.zeros(2), torch.tensor([1.0, -1.0]), StepSettings())
    tensor([-1.2000,  0.8000])
    """
    ratio = (log_probs - old).exp()
    clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def token_step(
    transformer, optimizer, rollout: "Rollout", advantage: Tensor, settings, reference=None, engine=None
) -> dict[str, float]:
    """Update theta with phi fixed: advantage (B,), `reference` the initial model where there is a KL penalty.

    The gradient of log softmax(l / tau) with respect to the logits l is (onehot - p_tau) / tau: under a learned temperature
    cold tokens pull several times as hard as hot ones, which are the choices.  `settings.by_temperature` multiplies each
    token's surrogate by its tau and so cancels this.  (Not in the paper.)
    """
    engine = engine or PlainGradient()

    def loss_of(part: "Rollout", advantage: Tensor) -> tuple[Tensor, Tensor]:
        old = part.token_log_probs[part.mask]
        log_probs, entropies = log_probs_of_drawn(transformer, part, engine, entropy=settings.entropy_bonus != 0)
        loss = clipped_surrogate(log_probs, old, advantage, settings)
        if settings.by_temperature:
            loss = loss * part.temperatures[part.mask]
        if settings.entropy_bonus:
            loss = loss - settings.entropy_bonus * entropies
        if settings.kl_penalty:
            # k3, as in GRPO: its value estimates KL(pi || initial), its gradient is that of KL(initial || pi).
            with torch.no_grad():
                initial, _ = log_probs_of_drawn(reference, part, engine)
            log_ratio = initial - log_probs
            loss = loss + settings.kl_penalty * (log_ratio.exp() - 1 - log_ratio)
        return loss, log_probs - old

    rollout = replace(rollout, reads=None, likelihood=None)  # micro-batches would copy what theta does not need
    return ascend(loss_of, transformer, optimizer, rollout, advantage, settings, engine)


def temperature_step(head, optimizer, rollout: "Rollout", advantage: Tensor, settings, engine=None) -> dict[str, float]:
    """Update phi with theta fixed: advantage (B,); the rollout holds all that the head needs."""

    def loss_of(part: "Rollout", advantage: Tensor) -> tuple[Tensor, Tensor]:
        mask = part.mask
        old = part.temperature_log_probs[mask]
        reads = part.reads[mask.to(part.reads.device)].to(old.device)  # (N, d) h_t, as stored
        rest = None if part.rest is None else part.rest[mask]
        action = Action(part.temperatures[mask], part.changed[mask], part.z[mask], rest=rest)
        log_probs = head.log_prob(reads, action)
        loss = clipped_surrogate(log_probs, old, advantage, settings)
        if settings.entropy_bonus:
            loss = loss - settings.entropy_bonus * head.entropy(reads)
        return loss, log_probs - old

    return ascend(loss_of, head, optimizer, rollout, advantage, settings, engine or PlainGradient())


def ascend(loss_of, module, optimizer, rollout: "Rollout", advantage: Tensor, settings, engine) -> dict[str, float]:
    """`epochs` optimizer steps on the whole rollout.  The size of micro-batches changes memory, and no gradient.

    loss_of(part, advantage of its N tokens) -> loss and log-ratio of each, (N,) both.  The metrics are those of the last forward
    pass, over the samples with an advantage: `kl` and `clipped` show how far the epochs before it have moved; `clipped` is the
    share of ratios outside the range.  FloatingPointError: the loss or gradient is not finite; that epoch's step is not taken.
    """
    total = engine.total(rollout.mask.sum())  # N
    if not settings.entropy_bonus and not settings.kl_penalty:  # a sample without advantage has no gradient: skip it
        pulls = advantage.nonzero()[:, 0]
        if engine.total(torch.tensor(float(len(pulls)), device=total.device)) == 0:
            return dict.fromkeys(("loss", "gradient_norm", "kl", "clipped"), 0.0)  # a step would only follow momentum
        pulls = (
            pulls if len(pulls) else torch.arange(1, device=pulls.device)
        )  # join the others with a zero-advantage row
        rollout, advantage = rollout.rows(pulls), advantage[pulls]

    def gradient() -> tuple[Tensor, Tensor]:
        """Accumulated over the micro-batches; loss and log-ratio of all tokens."""
        optimizer.zero_grad(set_to_none=True)
        told = []
        for index, weight in engine.micro_batches(module, rollout):
            part = rollout.rows(index)
            per_token = advantage[index][:, None].expand(part.mask.shape)[part.mask]  # every token has its sample's
            loss, log_ratio = loss_of(part, per_token)
            (weight * loss.sum() / total).backward()  # the denominator is the whole batch's
            told += [(loss.detach(), log_ratio.detach())] if weight else []
        losses, log_ratios = zip(*told)
        return torch.cat(losses), torch.cat(log_ratios)

    for _ in range(settings.epochs):
        losses, log_ratio = engine.attempt(gradient)
        loss = float(engine.total(losses.sum()) / total)
        norm = engine.clip(module, settings.max_grad_norm)
        if not math.isfinite(loss + norm):
            optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(f"the loss is {loss:.3g}, its gradient's norm {norm:.3g}")
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # a gradient left behind would be the fixed side's at its next turn
    ratio = log_ratio.exp()
    outside = (ratio < 1 - settings.clip_low) | (ratio > 1 + settings.clip_high)
    kl = float((ratio - 1 - log_ratio).mean())  # KL(old || new), k3
    return {"loss": loss, "gradient_norm": norm, "kl": kl, "clipped": float(outside.float().mean())}


def sides(step: int, schedule: str, temperature_first: int = 0) -> tuple[bool, bool]:
    """(update tokens?, update temperature?) at this training step.

    every         both coordinate steps on every rollout
    blocks:K      K steps of the tokens alone, then K of the temperature alone, and so on
    tokens, temperature    one side only

    The first `temperature_first` steps are the temperature's alone.

    >>> [sides(step, "blocks:1", temperature_first=2) for step in range(4)]
    [(False, True), (False, True), (True, False), (False, True)]
    """
    if step < temperature_first:
        return False, True
    if schedule in ("every", "tokens", "temperature"):
        return schedule != "temperature", schedule != "tokens"
    name, _, length = schedule.partition(":")
    if name != "blocks" or not length.isdigit() or int(length) < 1:
        raise ValueError(f"schedule {schedule!r} is none of: every, blocks:50 (any number for 50), tokens, temperature")
    tokens = (step - temperature_first) // int(length) % 2 == 0
    return tokens, not tokens
