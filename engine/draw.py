"""An exact draw of a token in few passes over the logits: no sort, and no running sum over the whole vocabulary.

`draw_token` draws from the same distribution as token_policy.sample_token.  Its sums are more accurate: with 150,000 tokens in
float32, log_softmax has an error of about 1e-5, and this has 1e-6.  A large vocabulary takes two draws: a block of tokens, then a
token of that block.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import builds_kernels

BLOCK = 128  # tokens of a large vocabulary in one block
# On a CPU, logits in one pass: so few that the next pass finds them in its cache.
LOGITS_AT_ONCE = 2**20


@functools.cache
def compiled(function: Callable, device: str) -> Callable:
    """On CUDA `function` compiled to few kernels, usually one.  Elsewhere the function itself.

    It compiles at its first call, again when the number of rows first changes, and again for a single row."""
    if not builds_kernels(device):
        return function
    # Each width and dtype compiles again.  By default torch gives up after eight compilations.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function)


def rows_in_cache(logits: Tensor) -> int:
    """How many rows of logits (B, V) to process together: on a CPU LOGITS_AT_ONCE logits."""
    return max(1, LOGITS_AT_ONCE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)


def draw_token(logits: Tensor, temperature: Tensor, generator=None) -> tuple[Tensor, Tensor, Tensor]:
    """Draw y_t: logits (B, V), temperature (B,) -> token, log_prob, and the entropy in nats at tau = 1, (B,) each.

    tau = 0 is greedy: the first argmax, with probability 1.
    """
    drawn = logits, temperature, torch.rand(len(logits), 2, generator=generator, device=logits.device)
    large = logits.shape[1] > 8 * BLOCK  # on CUDA compiled: one pass over the logits, not fifteen
    draw = compiled(invert, logits.device.type) if large else invert
    rows = rows_in_cache(logits)
    if len(logits) <= rows:
        return draw(*drawn)
    token, log_prob, entropy = zip(*(draw(*part) for part in zip(*(whole.split(rows) for whole in drawn))))
    return torch.cat(token), torch.cat(log_prob), torch.cat(entropy)


def weigh(logits: Tensor, tau: Tensor) -> tuple[Tensor, ...]:
    """What the draw and the entropy need, from logits (..., n).  In bits: on a CPU exp2 takes half the time of exp.

    top       the largest logit (...)
    scaled    (logit - top) / tau in bits (..., n)
    shares    2^scaled: tokens are drawn in proportion to these (..., n)
    total     sum of the shares at tau = 1 (...)
    weighted  sum of share times bits at tau = 1 (...)
    """
    top = logits.amax(-1, keepdim=True).clamp_min(-1e30)  # a block of nothing but -inf has shares of 0
    below = (logits - top).div_(math.log(2))
    at_one = below.exp2()
    total, weighted = at_one.sum(-1), at_one.mul_(below).nansum(-1)  # a logit of -inf adds nothing
    scaled = torch.div(below, tau, out=at_one)
    return top[..., 0], scaled, torch.exp2(scaled, out=below), total, weighted


def invert(logits: Tensor, temperature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of `draw_token` at the random numbers `uniform` (B, 2) in [0, 1)."""
    greedy = temperature == 0
    uniform = torch.where(greedy[:, None], 0.0, uniform)
    tau = torch.where(greedy, 1e-30, temperature.clamp_min(1e-6))[:, None]  # 1e-30: all but the largest logit vanish
    if logits.shape[1] <= 8 * BLOCK:
        _, scaled, shares, total, weighted = weigh(logits.float(), tau)
        token = pick(shares, uniform[:, :1])
        bits, shares = scaled.gather(1, token), shares.sum(-1)
    else:  # first a block, then a token of it: no running sum covers all of V
        short = -logits.shape[1] % BLOCK
        padded = F.pad(logits.float(), (0, short), value=-1e30) if short else logits.float()
        blocks = padded.unflatten(1, (-1, BLOCK))
        top, _, shares, total, weighted = weigh(blocks, tau[:, None])  # (B, V / BLOCK) and (..., BLOCK)
        # (B, V / BLOCK) each block's largest logit minus the row's, in bits
        rise = (top - top.amax(1, keepdim=True)) / math.log(2)
        total, weighted = (rise.exp2() * x for x in (total, weighted + rise * total))
        total, weighted = total.sum(-1), weighted.sum(-1)
        shares = shares.sum(-1) * (rise / tau).exp2()
        block = pick(shares, uniform[:, :1])
        chosen = blocks[torch.arange(len(block), device=block.device), block[:, 0]]
        _, scaled, within, _, _ = weigh(chosen, tau)
        token = pick(within, uniform[:, 1:])
        bits, shares = scaled.gather(1, token) + rise.gather(1, block) / tau, shares.sum(-1)
        token = (token + block * BLOCK).clamp_max(logits.shape[1] - 1)  # beyond V only if logits are not finite
    log_prob = math.log(2) * bits[:, 0] - shares.log()
    entropy = total.log() - math.log(2) * weighted / total
    return token[:, 0], torch.where(greedy, 0.0, log_prob), entropy


def pick(shares: Tensor, uniform: Tensor) -> Tensor:
    """Index (B, 1) drawn in proportion to `shares` (B, n), by inverse CDF at `uniform` (B, 1) in [0, 1).

    The CDF is in integers, whose sum does not depend on the order: on a GPU too it never decreases, and an index with share 0 is
    never drawn.  Shares that are not finite give an arbitrary index.
    """
    cdf = (shares * (2.0**40 / shares.sum(-1, keepdim=True))).long().cumsum(-1)
    index = torch.searchsorted(cdf, (uniform * cdf[:, -1:]).long(), right=True)
    return index.clamp_max(shares.shape[1] - 1)
