"""The token policy pi_theta(. | h_t, tau_t): a softmax under a temperature, and an exact draw from it.

    log pi_theta(y | h, tau) = log softmax(logits / tau),        where a policy cuts (policies.py) among the tokens that are left

`token_policy` is that line, for training and for reading.  `sample_token` draws, in a few passes over the logits and without
sorting or a running sum over all of them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.decoder import fused

GONE = -1e9  # the logit of a token that cannot be drawn
BLOCK = 128  # tokens of a large vocabulary that are drawn from as one, and then among
# On a CPU: so few that they are still in the cache, and their memory at hand, for the next pass over them.
LOGITS_AT_ONCE = 2**20


def token_policy(
    logits: Tensor, temperature: Tensor, margin: Tensor | None = None, drawn: Tensor | None = None
) -> Tensor:
    """log pi_theta(. | h_t, tau_t) = log softmax(logits / tau): logits (..., V), temperature (...) -> (..., V).

    `margin` (...), where a policy cuts: tokens beyond it are out, but for `drawn` (...), which was not when it was drawn, and
    may be by rounding.

    Always in float32.  Training uses this; `sample_token` gets the same in fewer passes, and closer: of 150,000 tokens
    log_softmax, whose sum is in float32, is off by some 1e-5, and it by 1e-6.
    """
    logits = logits.float()
    scaled = logits / temperature.clamp_min(1e-6).unsqueeze(-1)
    if margin is not None:
        out = beyond(logits, margin)
        scaled.masked_fill_(out if drawn is None else out.scatter(-1, drawn.unsqueeze(-1), False), GONE)
    return torch.log_softmax(scaled, dim=-1)


def beyond(logits: Tensor, margin: Tensor) -> Tensor:
    """(..., V) which tokens are out: those whose logit is more than `margin` (...) below the largest."""
    return logits.amax(-1, keepdim=True) - logits > margin.unsqueeze(-1)


def rows_in_cache(logits: Tensor) -> int:
    """How many rows of logits (B, V) are worked on together, LOGITS_AT_ONCE."""
    return max(1, LOGITS_AT_ONCE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)


def sample_token(logits: Tensor, temperature: Tensor, generator=None) -> tuple[Tensor, Tensor, Tensor]:
    """Draw y_t: logits (B, V), temperature (B,) -> token, log_prob, and the entropy in nats at tau = 1, (B,) each.

    tau = 0 takes the argmax, the first of equals, with probability 1.
    """
    drawn = logits, temperature, torch.rand(len(logits), 2, generator=generator, device=logits.device)
    large = logits.shape[1] > 8 * BLOCK  # on CUDA compiled: one pass over the logits, not fifteen
    draw = fused(invert, logits.device.type) if large else invert
    rows = rows_in_cache(logits)
    if len(logits) <= rows:
        return draw(*drawn)
    token, log_prob, entropy = zip(*(draw(*part) for part in zip(*(whole.split(rows) for whole in drawn))))
    return torch.cat(token), torch.cat(log_prob), torch.cat(entropy)


def weigh(logits: Tensor, tau: Tensor) -> tuple[Tensor, ...]:
    """What draws and what makes the entropy, of logits (..., n).  In bits, since a CPU takes exp2 in half the time of exp.

    top       the largest (...)
    scaled    bits of each below it, over tau (..., n)
    shares    2^scaled, in proportion to which is drawn (..., n)
    total     the sum of shares at tau = 1 (...)
    weighted  the sum of share times bits at tau = 1 (...)
    """
    top = logits.amax(-1, keepdim=True).clamp_min(-1e30)  # a block of nothing but -inf has shares of 0
    below = (logits - top).div_(math.log(2))
    at_one = below.exp2()
    total, weighted = at_one.sum(-1), at_one.mul_(below).nansum(-1)  # a token of logit -inf has none
    scaled = torch.div(below, tau, out=at_one)
    return top[..., 0], scaled, torch.exp2(scaled, out=below), total, weighted


def invert(logits: Tensor, temperature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `sample_token` draws at the numbers `uniform` (B, 2) in [0, 1)."""
    greedy = temperature == 0
    uniform = torch.where(greedy[:, None], 0.0, uniform)
    tau = torch.where(greedy, 1e-30, temperature.clamp_min(1e-6))[:, None]  # 1e-30: all but the largest logit vanish
    if logits.shape[1] <= 8 * BLOCK:
        _, scaled, shares, total, weighted = weigh(logits.float(), tau)
        token = pick(shares, uniform[:, :1])
        bits, shares = scaled.gather(1, token), shares.sum(-1)
    else:  # first a block, then a token of it: no running sum is over all of V
        short = -logits.shape[1] % BLOCK
        padded = F.pad(logits.float(), (0, short), value=-1e30) if short else logits.float()
        blocks = padded.unflatten(1, (-1, BLOCK))
        top, _, shares, total, weighted = weigh(blocks, tau[:, None])  # (B, V / BLOCK) and (..., BLOCK)
        rise = (top - top.amax(1, keepdim=True)) / math.log(2)  # of each block's largest below the row's, in bits
        total, weighted = (rise.exp2() * x for x in (total, weighted + rise * total))
        total, weighted = total.sum(-1), weighted.sum(-1)
        shares = shares.sum(-1) * (rise / tau).exp2()
        block = pick(shares, uniform[:, :1])
        chosen = blocks[torch.arange(len(block), device=block.device), block[:, 0]]
        _, scaled, within, _, _ = weigh(chosen, tau)
        token = pick(within, uniform[:, 1:])
        bits, shares = scaled.gather(1, token) + rise.gather(1, block) / tau, shares.sum(-1)
        token = (token + block * BLOCK).clamp_max(logits.shape[1] - 1)  # past the end only where logits are not finite
    log_prob = math.log(2) * bits[:, 0] - shares.log()
    entropy = total.log() - math.log(2) * weighted / total
    return token[:, 0], torch.where(greedy, 0.0, log_prob), entropy


def pick(shares: Tensor, uniform: Tensor) -> Tensor:
    """Index (B, 1) drawn in proportion to `shares` (B, n), by inverse CDF at `uniform` (B, 1) in [0, 1).

    The CDF is of integers: they add up to the same in any order, so that on a GPU too it never falls, and an index of
    share zero is never drawn.  Shares that are not finite give some index.
    """
    cdf = (shares * (2.0**40 / shares.sum(-1, keepdim=True))).long().cumsum(-1)
    index = torch.searchsorted(cdf, (uniform * cdf[:, -1:]).long(), right=True)
    return index.clamp_max(shares.shape[1] - 1)
