"""The temperature step with the temperatures summed out: `--temperature-estimator marginal`.

    sampled     the paper's: A_t grad log pi_phi(tau_t | h_t, tau_{t-1}) at the temperatures that were drawn
    marginal    A_t grad log m_phi(y_t | y_<t), the probability of the token under all temperatures that could have been drawn:

        m_phi(y_t | y_<t) = sum_k b_t(k) pi_theta(y_t | h_t, tau_k)                 tau_k: a grid over the range, and tau_0
        b_t(k) = (1 - P(c_t)) f_{t-1}(k) + P(c_t) Beta_k(h_t),    f_t(k) ~ b_t(k) pi_theta(y_t | h_t, tau_k)

The reward depends on the tokens alone, so the second is the conditional expectation of the first, given the tokens.  It has
the same mean and less variance (Rao-Blackwell): where a token is sure, every temperature explains it, and the drawn one gets no
credit.  This is not in the paper.  It costs a softmax for each tau_k at each sampled token, and a loop over the completion.

The grid is even.  For a Beta that is wide beside its cells, as at the start, the sum is exact to rounding.  A narrow one (a + b above
150), or one that piles up at an end of the range (a or b of 1 and less), is blurred, and its gradient has a wrong size.

`explain` puts what this needs into the rollout; `temperature_step` stands in for rl.temperature_step.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

import rl
from temperature_head import beta_log_prob
from token_policy import LOGITS_AT_ONCE, token_policy

GRID = 16  # temperatures of the sum


def grid(device) -> Tensor:
    """(GRID,) z_k: the middles of equal parts of (0, 1)."""
    return (torch.arange(GRID, device=device) + 0.5) / GRID


@torch.no_grad()
def explain(transformer, head, rollout):
    """The rollout with `likelihood`, (B, T, GRID + 1) pi_theta(y_t | h_t, tau_k), and log m_phi as its temperature_log_probs.

    The rollout has `reads`, which are h_t.  theta is the model that drew it: call this before the token step."""
    if head.layer is not None:
        raise ValueError("--temperature-estimator marginal needs a head that reads h_t, not an earlier layer")
    mask, device = rollout.mask, rollout.mask.device
    taus = head.tau_min + grid(device) * (head.tau_max - head.tau_min)
    taus = torch.cat((taus, torch.tensor([head.tau_initial], device=device)))  # the last is tau_0
    hidden, tokens = rollout.reads[mask.to(rollout.reads.device)], rollout.tokens[mask]
    margins = None if rollout.margins is None else rollout.margins[mask]
    of_tokens = torch.empty(len(tokens), GRID + 1, device=device)
    fit = max(1, LOGITS_AT_ONCE // transformer.config.vocab_size) if device.type == "cpu" else 128
    for many in torch.arange(len(tokens), device=device).split(128):  # the product reads all of the unembedding
        logits = transformer.unembed(hidden[many.to(hidden.device)].to(device)).float()
        for some, part in zip(many.split(fit), logits.split(fit)):
            drawn, margin = tokens[some], None if margins is None else margins[some]
            for k, tau in enumerate(taus):
                log_probs = token_policy(part, tau.expand(len(some)), margin, drawn)
                of_tokens[some, k] = log_probs.gather(-1, drawn[:, None])[:, 0].exp()
    likelihood = torch.ones(*mask.shape, GRID + 1, device=device).masked_scatter(mask[..., None], of_tokens)
    rollout = replace(rollout, likelihood=likelihood)
    parts = torch.arange(len(mask), device=device).split(64)  # rows: so many states on the device at a time
    old = torch.cat([log_prob(head, rollout.rows(part)) for part in parts])
    old = torch.zeros(mask.shape, device=device).masked_scatter(mask, old)
    return replace(rollout, temperature_log_probs=old)


def temperature_step(head, optimizer, rollout, advantage: Tensor, settings, engine=None) -> dict[str, float]:
    """rl.temperature_step with log m_phi for log pi_phi: advantage (B,), the rollout as `explain` gives it."""

    def loss_of(part, advantage: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, old = log_prob(head, part), part.temperature_log_probs[part.mask]
        return rl.clipped_surrogate(log_probs, old, advantage, settings), log_probs - old

    return rl.ascend(loss_of, head, optimizer, rollout, advantage, settings, engine or rl.PlainGradient())


def log_prob(head, rollout) -> Tensor:
    """(N,) log m_phi(y_t | y_<t) of the sampled tokens, in the order of the mask, differentiable in phi."""
    mask = rollout.mask
    rows, columns = mask.nonzero(as_tuple=True)
    # Places of (B, C).  All others are prompt or padding: there the gate is closed, and every tau is as likely.
    at = rows, columns - columns.min()
    shape = len(mask), int(at[1].max()) + 1
    gate, alpha, beta = head(rollout.reads[mask.to(rollout.reads.device)].to(mask.device))
    opens = gate.new_zeros(shape).index_put(at, torch.sigmoid(gate))[..., None]
    drawn = beta_log_prob(alpha[:, None], beta[:, None], grid(gate.device)).softmax(-1)  # (N, GRID)
    drawn = F.pad(drawn, (0, 1))  # tau_0 is never drawn again
    drawn = gate.new_zeros(*shape, GRID + 1).index_put(at, drawn)
    likelihood = gate.new_ones(*shape, GRID + 1).index_put(at, rollout.likelihood[mask])
    return forward(opens, drawn, likelihood)[at]


def forward(opens: Tensor, drawn: Tensor, likelihood: Tensor) -> Tensor:
    """(B, C) log m of each token by the forward algorithm.  P(c = 1) `opens` (B, C, 1), the temperatures `drawn` then (B, C, K), what
    each makes of the token `likelihood` (B, C, K).  The first temperature of all is the last of the K."""
    filtered = torch.zeros_like(drawn[:, 0])
    filtered[:, -1] = 1.0  # f_0: tau_0
    result = []
    for step in range(drawn.shape[1]):
        joint = ((1 - opens[:, step]) * filtered + opens[:, step] * drawn[:, step]) * likelihood[:, step]
        total = joint.sum(-1, keepdim=True).clamp_min(1e-30)
        filtered = joint / total
        result.append(total[:, 0].log())
    return torch.stack(result, dim=1)
