"""The token policy pi_theta(. | h_t, tau_t): a softmax under a temperature, and a draw from it.

    log pi_theta(y | h, tau) = log softmax(logits / tau)

The temperature is part of the policy: sampling and training take every log-probability at the stored tau_t.

A cut (min-p or top-p) removes unlikely tokens before the draw.  The paper has none in training; here a policy may have one.
p is the probability at temperature 1:

    min_p     removes tokens with p < min_p * max p                               arXiv 2407.01082
    top_p     keeps the likeliest tokens that together have top_p                 arXiv 1904.09751

`cut` also returns a margin: how far below the largest logit a token may be.  Training removes the same tokens by that margin.
This file imports nothing local.  engine/draw.py draws faster.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GONE = -1e9  # the logit of a removed token
LOGITS_AT_ONCE = 2**20  # on a CPU, logits in one pass: so few that the next pass finds them in its cache


def token_policy(
    logits: Tensor, temperature: Tensor, margin: Tensor | None = None, drawn: Tensor | None = None
) -> Tensor:
    """log pi_theta(. | h_t, tau_t): logits (..., V), temperature (...) -> (..., V), always in float32.

    With `margin` (...), mask tokens beyond it, but never the `drawn` token (...), which rounding could exclude.
    """
    logits = logits.float()
    scaled = logits / temperature.clamp_min(1e-6).unsqueeze(-1)
    if margin is not None:
        removed = beyond(logits, margin)
        scaled.masked_fill_(removed if drawn is None else removed.scatter(-1, drawn.unsqueeze(-1), False), GONE)
    return torch.log_softmax(scaled, dim=-1)


def sample_token(logits: Tensor, temperature: Tensor, generator=None) -> tuple[Tensor, Tensor, Tensor]:
    """Draw y_t: logits (B, V), temperature (B,) -> token, its log_prob, and the entropy in nats at tau = 1, (B,) each.

    tau = 0 is greedy: the argmax, with probability 1.
    """
    log_probs = token_policy(logits, temperature)  # (B, V)
    token = torch.multinomial(log_probs.exp(), 1, generator=generator)[:, 0]
    greedy = temperature == 0
    token = torch.where(greedy, logits.argmax(-1), token)
    log_prob = log_probs.gather(1, token[:, None])[:, 0]
    return token, torch.where(greedy, 0.0, log_prob), entropy_of(logits)


def entropy_of(logits: Tensor) -> Tensor:
    """H_t in nats of softmax(logits), at tau = 1: (..., V) -> (...).  A logit of -inf adds nothing."""
    log_probs = logits.float().log_softmax(-1)
    return -(log_probs.exp() * log_probs).nansum(-1)


# ---- cuts -----------------------------------------------------------------------------------------------------------


def beyond(logits: Tensor, margin: Tensor) -> Tensor:
    """(..., V) True for tokens whose logit is more than `margin` (...) below the largest."""
    return logits.amax(-1, keepdim=True) - logits > margin.unsqueeze(-1)


def cut(logits: Tensor, min_p: float = 0.0, top_p: float = 1.0) -> Tensor | None:
    """Remove unlikely tokens from logits (B, V), in place -> the margins (B,) by which training removes the same tokens.

    Without a cut the result is None.  The margins are valid for one gradient per rollout: once the model has moved, the same
    margin removes other tokens.  A removed token has no gradient.
    """
    if min_p == 0 and top_p == 1:
        return None
    rows, margins = LOGITS_AT_ONCE // logits.shape[1] if logits.device.type == "cpu" else len(logits), []
    for some in logits.split(max(1, rows)):
        exact = some.float()
        margins.append(torch.minimum(margin_of_min_p(exact, min_p), margin_of_top_p(exact, top_p)))
        some.masked_fill_(beyond(exact, margins[-1]), GONE)
    return torch.cat(margins)


def margin_between(top: Tensor, last: Tensor, first: Tensor) -> Tensor:
    """The margin midway between the last token that stays and the first that goes, all (B,); inf where all stay.

    Training's logits differ by rounding: midway, the same tokens are removed.  Equally likely tokens stay or go together.
    """
    return ((top - last) + (top - first)) / 2


def margin_of_min_p(logits: Tensor, min_p: float) -> Tensor:
    """logits (B, V) -> (B,)"""
    if min_p == 0:
        return logits.new_full((len(logits),), math.inf)
    top = logits.amax(-1)
    out = logits < top[:, None] + math.log(min_p)  # p < min_p max p
    return margin_between(top, logits.masked_fill(out, math.inf).amin(-1), logits.masked_fill(~out, -math.inf).amax(-1))


def margin_of_top_p(logits: Tensor, top_p: float, among: int = 64) -> Tensor:
    """logits (B, V) -> (B,).  On a CPU sort only the likeliest `among` tokens of a row, and all where these are not enough.

    On a GPU sort all: a check whether they are enough would wait for the device.
    """
    vocabulary = logits.shape[1]
    if top_p == 1:
        return logits.new_full((len(logits),), math.inf)
    if logits.device.type != "cpu" or vocabulary <= 2 * among:
        among = vocabulary
    # (B, among), from the largest down
    likeliest, order = logits.topk(among) if among < vocabulary else logits.sort(descending=True)
    p = logits.softmax(-1).gather(-1, order)
    stays = p.cumsum(-1) - p < top_p  # likelier tokens have less than top_p together, so the likeliest always stays
    count = stays.sum(-1, keepdim=True).clamp_min(1)  # at least 1 also for NaN logits
    last, first = F.pad(likeliest, (0, 1), value=-math.inf).gather(1, torch.cat((count - 1, count), 1)).unbind(1)
    margin = margin_between(likeliest[:, 0], last, first)
    if among < vocabulary and (more := stays[:, -1]).any():
        margin[more] = margin_of_top_p(logits[more], top_p, vocabulary)
    return margin
