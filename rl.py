"""Learning from verifiable rewards: advantages, the clipped losses of the two policies, and the coordinate ascent.

Both policies share the reward R(x, y) in {0, 1} and are updated in turn on the same rollouts, each by the PPO surrogate

    L = - 1/N  sum_t  min(r_t A, clip(r_t, 1 - e_low, 1 + e_high) A),     N = all sampled tokens of the batch

    token step         r_t = pi_theta(y_t | h_t, tau_t) / pi_old,         phi fixed, at the stored tau_t (and what was cut)
    temperature step   r_t = pi_phi(tau_t | h_t, tau_{t-1}) / pi_old,     theta fixed, at the stored (h_t, c_t, z_t)

pi_old is what the rollout recorded, so before the first optimizer step every ratio is 1 (but for rounding: 1e-4 in float32,
some percent where products are in bfloat16; the head's, whose h_t is stored, 1e-5).

Different from the paper: `pass@k` objectives are our extension (after "Pass@k Training", arXiv 2508.10751).
"""

import itertools
import math
from dataclasses import dataclass, replace
from math import comb

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from engine import distributed
from engine.attention import Packed
from engine.micro_batches import micro_batches, prompts_are_worth_sharing
from sample import Rollout
from temperature_head import Action
from token_policy import token_policy
from trainer import faults

LOGITS = {"cpu": 2**23, "cuda": 2**28}  # numbers that exist at one time: (B, T, vocabulary) of a 150k one would not fit


# ---- advantages ---------------------------------------------------------------------------------------------------


def advantages(rewards: Tensor, kind: str = "grpo") -> Tensor:
    """Group-relative advantages, rewards (P, G) -> (P, G); rows are groups of samples of one prompt.

    grpo      (R - mean) / (std + 1e-6)                     DeepSeekMath, arXiv 2402.03300
    dr_grpo   R - mean                                      Dr. GRPO, arXiv 2503.20783
    rloo      R - mean of the others                        arXiv 2402.14740
    pass@K    of the event "any of K samples is right"      arXiv 2508.10751, in closed form; rewards are 0 or 1

    A group whose rewards are all equal has nothing to say and gets exactly zero.

    >>> advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), "dr_grpo")
    tensor([[ 0.7500, -0.2500, -0.2500, -0.2500],
            [ 0.0000,  0.0000,  0.0000,  0.0000]])
    """
    rewards, size = rewards.float(), rewards.shape[1]
    if size < 2:
        raise ValueError("a group of one has no baseline: use at least 2 samples per prompt")
    centred = rewards - rewards.mean(1, keepdim=True)
    if kind == "grpo":
        result = centred / (rewards.std(1, keepdim=True, correction=0) + 1e-6)
    elif kind == "dr_grpo":
        result = centred
    elif kind == "rloo":
        result = centred * size / (size - 1)
    else:
        result = torch.stack([pass_at_k_advantages(row, parse_pass_at_k(kind, size)) for row in rewards])
    all_equal = (rewards == rewards[:, :1]).all(1, keepdim=True)
    result = torch.where(all_equal, 0.0, result)
    return torch.where(rewards.isfinite().all(1, keepdim=True), result, torch.nan)  # not silently a wrong answer


def parse_pass_at_k(kind: str, size: int) -> int:
    """The K of `pass@K`, checked against the group's size."""
    name, _, k = kind.partition("@")
    if name != "pass" or not k.isdigit():
        raise ValueError(f"objective or advantage {kind!r} is none of: grpo, dr_grpo, rloo, pass@8 (any number for 8)")
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


# ---- log-probabilities --------------------------------------------------------------------------------------------


def tokens_at_once(transformer) -> int:
    """How many tokens' logits may exist at one time."""
    return max(1, LOGITS.get(transformer.device.type, LOGITS["cpu"]) // transformer.config.vocab_size)


def drawing_states(transformer, rollout: Rollout) -> Tensor:
    """(N, d_model) the model's h_t at the sampled tokens: its output at t - 1 is h_t, which draws token t."""
    mask = rollout.mask
    with transformer.autocast():
        if prompts_are_worth_sharing(rollout):
            packed = Packed(rollout.tokens, rollout.prompt_lengths, mask)
            return transformer(packed.tokens, packed=packed)[0].index_select(0, packed.drawing)
        return transformer(rollout.tokens)[:, :-1][mask[:, 1:]]


def drawn_under(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor | None]:
    """What pi_theta is of, besides h_t: temperatures, tokens drawn, and where there was a cut its margins, (N,) each."""
    mask, margins = rollout.mask, rollout.margins
    return rollout.temperatures[mask], rollout.tokens[mask], None if margins is None else margins[mask]


def chunks(size: int, *fields: Tensor | None):
    """`size` rows of each field at a time; a field that is None has None for each."""
    return zip(*(itertools.repeat(None) if field is None else field.split(size) for field in fields))


def chunk_of_log_probs(
    transformer, hidden: Tensor, temperature: Tensor, tokens: Tensor, margin: Tensor | None, entropy: bool
):
    """(n,) log pi_theta of the tokens drawn, and the entropies: the only place in training where logits exist."""
    log_probs = token_policy(transformer.unembed(hidden), temperature, margin, tokens)  # (n, V) pi_theta
    chosen = log_probs.gather(-1, tokens[:, None])[:, 0]
    return chosen, -(log_probs.exp() * log_probs).sum(-1) if entropy else torch.zeros_like(chosen)


def log_probs_and_entropies(
    transformer, rollout: Rollout, chunk: int = 0, entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """log pi_theta(y_t | h_t, tau_t) and the entropy of pi_theta(. | h_t, tau_t), both (B, T), 0 where not sampled.

    (`Rollout.entropies` are another thing: at temperature 1.)

    Logits exist for `chunk` tokens at a time, and are computed again in the backward pass.  Without `entropy`, which only
    a bonus needs, the second is all 0.
    """
    mask, pieces = rollout.mask, []
    fields = (drawing_states(transformer, rollout), *drawn_under(rollout))
    for inputs in chunks(chunk or tokens_at_once(transformer), *fields):
        if torch.is_grad_enabled():
            pieces.append(checkpoint(chunk_of_log_probs, transformer, *inputs, entropy, use_reentrant=False))
        else:
            pieces.append(chunk_of_log_probs(transformer, *inputs, entropy))
    empty = torch.zeros(mask.shape, device=mask.device)
    log_probs, entropies = (torch.cat(part) for part in zip(*pieces))
    return empty.masked_scatter(mask, log_probs), empty.masked_scatter(mask, entropies)


def token_log_probs(transformer, rollout: Rollout, chunk: int = 0) -> Tensor:
    """(B, T) log pi_theta under the stored temperatures; 0 where the token was not sampled."""
    return log_probs_and_entropies(transformer, rollout, chunk, entropy=False)[0]


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
    micro_batch_tokens: int = 16_384
    by_temperature: bool = False  # weight each token by its tau: see token_step
    halved: bool = False  # memory has ended once: see faults.within_memory


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
    transformer, optimizer, rollout: Rollout, advantage: Tensor, settings: StepSettings, reference=None
) -> dict[str, float]:
    """Update theta with phi fixed: advantage (B,), `reference` the initial model where there is a KL penalty.

    The gradient of log softmax(l / tau) with respect to the logits l is (onehot - p_tau) / tau: under a learned temperature
    the cold tokens pull several times as hard as the hot ones, which are the choices.  With `settings.by_temperature`
    each token's surrogate is multiplied by its tau, which cancels that.  (Not in the paper.)
    """

    def loss_of(hidden: Tensor, tau: Tensor, tokens: Tensor, margin, old: Tensor, advantage: Tensor, initial: Tensor):
        log_probs, entropies = chunk_of_log_probs(transformer, hidden, tau, tokens, margin, settings.entropy_bonus != 0)
        loss = clipped_surrogate(log_probs, old, advantage, settings)
        if settings.by_temperature:
            loss = loss * tau
        if settings.entropy_bonus:
            loss = loss - settings.entropy_bonus * entropies
        if settings.kl_penalty:
            # k3, as in GRPO: its value estimates KL(pi || initial), its gradient is that of KL(initial || pi).
            log_ratio = initial - log_probs
            loss = loss + settings.kl_penalty * (log_ratio.exp() - 1 - log_ratio)
        return loss, log_probs - old

    def backward(part: Rollout, part_advantage: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a chunk of tokens are made, used and dropped before the next: down to h_t first, then below."""
        mask, told = part.mask, []
        initial = part.token_log_probs
        if settings.kl_penalty:
            with torch.no_grad():
                initial = token_log_probs(reference, part)
        states = drawing_states(transformer, part)
        hidden = states.detach().requires_grad_()
        fields = (hidden, *drawn_under(part), part.token_log_probs[mask], part_advantage, initial[mask])
        for chunk in chunks(tokens_at_once(transformer), *fields):
            loss, log_ratio = loss_of(*chunk)
            (loss.sum() / total).backward()
            told.append((loss.detach(), log_ratio.detach()))
        states.backward(hidden.grad)
        loss, log_ratio = zip(*told)
        return torch.cat(loss), torch.cat(log_ratio)

    without_hidden = replace(rollout, hidden=None)  # theta computes its own, and micro-batches would copy these
    return ascend(backward, transformer, optimizer, without_hidden, advantage, settings)


def temperature_step(head, optimizer, rollout: Rollout, advantage: Tensor, settings: StepSettings) -> dict[str, float]:
    """Update phi with theta fixed: advantage (B,); everything the head needs is in the rollout."""

    def backward(part: Rollout, part_advantage: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        mask = part.mask
        old = part.temperature_log_probs[mask]
        drawn = mask.flatten().nonzero()[:, 0].to(part.hidden.device)
        hidden = part.hidden.flatten(0, 1).index_select(0, drawn).to(old.device)  # (N, d) h_t, as stored
        log_probs = head.log_prob(hidden, Action(part.temperatures[mask], part.changed[mask], part.z[mask]))
        loss = clipped_surrogate(log_probs, old, part_advantage, settings)
        if settings.entropy_bonus:
            loss = loss - settings.entropy_bonus * head.entropy(hidden)
        (loss.sum() / total).backward()
        return loss.detach(), (log_probs - old).detach()

    return ascend(backward, head, optimizer, rollout, advantage, settings)


def ascend(
    backward, module, optimizer, rollout: Rollout, advantage: Tensor, settings: StepSettings
) -> dict[str, float]:
    """`epochs` optimizer steps on the whole rollout; the micro-batch size is about memory and changes no gradient.

    `backward` adds the gradient of a part's loss, summed over its tokens and divided by `total`, and gives the loss and the
    log-ratio of each, (N,) both.  Metrics are of the last forward pass and the samples that pull: `kl` and `clipped` show
    how far the epochs before it have moved (nothing, where there is one epoch); `clipped` counts ratios out of the range on
    either side.  Raises FloatingPointError for what is not finite, before the optimizer's step of that epoch.
    """
    total = distributed.total(rollout.mask.sum())  # of all processes, where there are several
    metrics = {"loss": 0.0, "gradient_norm": 0.0, "kl": 0.0, "clipped": 0.0}
    if not settings.entropy_bonus and not settings.kl_penalty:  # a sample without advantage has no gradient: skip it
        pulls = advantage.nonzero()[:, 0]
        if not distributed.any_of(len(pulls) > 0, total.device):
            return metrics  # nothing to learn; a step would only follow Adam's momentum
        pulls = pulls if len(pulls) else pulls.new_zeros(1)  # others learn: take part, with what does not pull
        rollout, advantage = rollout.rows(pulls), advantage[pulls]

    def gradient() -> list:
        """Accumulated over the micro-batches."""
        optimizer.zero_grad(set_to_none=True)
        told = []
        for index, counts in distributed.in_step(module, micro_batches(rollout, settings.micro_batch_tokens)):
            part = rollout.rows(index)
            per_token = advantage[index][:, None].expand(part.mask.shape)[part.mask]  # every token has its sample's
            # The denominator is the whole batch's.
            parts = backward(part, per_token, total if counts else torch.tensor(torch.inf, device=total.device))
            told += [parts] if counts else []
        return told

    for _ in range(settings.epochs):
        losses, log_ratio = (torch.cat(part) for part in zip(*faults.within_memory(gradient, settings)))
        loss = float(distributed.total(losses.sum()) / total)
        distributed.add_gradients(module)
        norm = distributed.clip(module, settings.max_grad_norm)
        if not math.isfinite(loss + norm):
            optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(f"the loss is {loss:.3g}, its gradient's norm {norm:.3g}")
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # a gradient left behind would be the fixed side's at its next turn
    ratio = log_ratio.exp()
    outside = (ratio < 1 - settings.clip_low) | (ratio > 1 + settings.clip_high)
    return {
        "loss": loss,
        "gradient_norm": norm,
        "kl": float((ratio - 1 - log_ratio).mean()),  # KL(old || new), k3
        "clipped": float(outside.float().mean()),
    }


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
