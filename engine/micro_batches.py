"""Which rows of a rollout are computed together: as many as fit a budget of tokens.

Micro-batches change memory and time.  They do not change the gradient, because rl.ascend divides by the tokens of the whole batch.
There are two ways to save time, and they exclude each other:

    rows of similar length together       little padding
    all samples of a prompt together      the prompt is read once (attention.Packed)
"""

import torch
from torch import Tensor


def micro_batches(rollout, token_budget: int):
    """Row indices of each micro-batch: rows * longest is at most the budget, or there is one row.

    Samples of a prompt stay together where its prompt is worth sharing.  Otherwise rows are sorted by length.
    """
    if prompts_are_worth_sharing(rollout):
        yield from whole_groups(rollout, token_budget)
        return
    lengths = rollout.prompt_lengths + rollout.mask.sum(1)
    start, order = 0, lengths.argsort(descending=True)
    while start < len(order):
        rows = max(1, token_budget // int(lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def whole_groups(rollout, token_budget: int):
    """Neighbouring rows: prompts + rows * longest completion is at most the budget, and each prompt counts once.

    Batches end between two prompts, unless the samples of one prompt exceed the budget.
    """
    fields = (begins_a_prompt(rollout), rollout.prompt_lengths, rollout.mask.sum(1))
    first, prompts, completions = (field.tolist() for field in fields)
    start, rows = 0, len(first)
    while start < rows:
        read, longest, end, whole = 0, 0, start, start
        while end < rows:
            read += prompts[end] if first[end] or end == start else 0
            longest = max(longest, completions[end])
            if end > start and read + (end + 1 - start) * longest > token_budget:
                break
            end += 1
            whole = end if end == rows or first[end] else whole
        stop = whole if whole > start else end
        yield torch.arange(start, stop, device=rollout.mask.device)
        start = stop


def begins_a_prompt(rollout) -> Tensor:
    """(B,) True where a row's prompt differs from that of the row before."""
    first, longest = torch.ones_like(rollout.finished), int(rollout.prompt_lengths.max())
    prompts = rollout.tokens[:, :longest] * ~rollout.mask[:, :longest]
    first[1:] = (prompts[1:] != prompts[:-1]).any(1) | (rollout.prompt_lengths[1:] != rollout.prompt_lengths[:-1])
    return first


def prompts_are_worth_sharing(rollout) -> bool:
    """Whether repeated prompts are more than a fifth of all tokens.  Below that the cost of `Packed` exceeds its gain."""
    again = rollout.prompt_lengths[~begins_a_prompt(rollout)].sum()
    return bool(again > 0.2 * (rollout.prompt_lengths.sum() + rollout.mask.sum()))
