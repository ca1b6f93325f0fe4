"""Which rows of a rollout are computed together: as many as fit a budget of tokens, with as little done twice as possible.

The gradient does not depend on it (rl.ascend divides by the tokens of the whole batch); memory and time do.  Two ways to
save time exclude each other: rows of like length together, so that little is padding; or the samples of a prompt together, so
that the prompt is read once (attention.Packed).
"""

import torch
from torch import Tensor


def micro_batches(rollout, token_budget: int):
    """Row indices, so that rows * longest stays within the budget (or one row alone).

    Rows of like length are together, so that little is padding; or those of a prompt, where it is worth sharing.
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
    """Neighbouring rows, so that prompts + rows * longest completion stays within the budget: a prompt counts once.

    Cut between two prompts, unless the samples of one are more than the budget.
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
    """(B,) whether a row's prompt is not that of the row before it."""
    first, longest = torch.ones_like(rollout.finished), int(rollout.prompt_lengths.max())
    prompts = rollout.tokens[:, :longest] * ~rollout.mask[:, :longest]
    first[1:] = (prompts[1:] != prompts[:-1]).any(1) | (rollout.prompt_lengths[1:] != rollout.prompt_lengths[:-1])
    return first


def prompts_are_worth_sharing(rollout) -> bool:
    """Whether prompts that are read again for each sample are a fifth of all tokens: `Packed` has its own cost."""
    again = rollout.prompt_lengths[~begins_a_prompt(rollout)].sum()
    return bool(again > 0.2 * (rollout.prompt_lengths.sum() + rollout.mask.sum()))
