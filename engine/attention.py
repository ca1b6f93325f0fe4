"""Attention that reads each prompt once for all its samples.  model.causal is the plain form.

    Cache      sampling: each row's new token attends to the prompt, which all its samples share, and to its own completion
    Packed     training: each prompt once, then the completions, without padding

A layer passes its queries, keys and values, and receives the attention output of each position.  On CUDA a decode step's
attention is one kernel (attention_kernel.py).  Elsewhere it is a few matrix products.
"""

import functools
import importlib.util
import itertools
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from model import causal


@functools.cache
def builds_kernels(device: str) -> bool:
    """Whether kernels can be compiled for the device.  This needs CUDA, Triton, a C compiler and Python's headers."""
    if device != "cuda":
        return False
    wanted = {
        "Triton": importlib.util.find_spec("triton"),
        "a C compiler": os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"),
        "Python.h": (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file(),
    }
    missing = [name for name, there in wanted.items() if not there]
    if missing:
        print(f"without {' and '.join(missing)} rollouts on CUDA take more than twice as long", file=sys.stderr)
    return not missing


def step_kernel(device: torch.device) -> Callable | None:
    """`attend` of attention_kernel.py, one kernel for a decode step; None where it cannot be compiled."""
    if not builds_kernels(device.type):
        return None
    from engine.attention_kernel import attend

    return attend


class Cache:
    """Keys and values while sampling: P prompts of at most L tokens, each with G slots for its completions.

    The model's forward pass over the prompts (P, L), padded on the right, fills the cache, in one call or several.  Then each
    step of decoder.py adds one token to each of the n unfinished rows.  A prompt's keys are read once for its G samples:

        softmax([q K_prompt, q K_completion]) [V_prompt, V_completion],     the queries of a prompt's samples as one matrix

    Completions occupy P * G slots.  The slots of a prompt are neighbours.  `keep` removes finished rows without copying the
    others, and packs the slots only where that saves a quarter of them.  `attend` never waits for the device.  Its shapes and
    addresses change only after `keep` (and without the kernel every `stride` tokens), so a step can be captured as a graph.
    """

    def __init__(self, lengths: Tensor, samples: int, max_new_tokens: int, dtype=torch.float32, stride: int = 1):
        """lengths (P,) of the prompts.  Without the kernel, attention reads completions rounded up to a multiple of `stride`."""
        device, prompts, longest = lengths.device, len(lengths), int(lengths.max())
        self.kernel = step_kernel(device)
        self.dtype, self.max_new_tokens, self.stride = dtype, max_new_tokens, stride
        self.prompt_keys: list[Tensor] = []  # a layer: (P * kv head, L, d_head)
        self.prompt_values: list[Tensor] = []
        self.keys: list[Tensor] = []  # a layer: (P * kv head * G, max_new_tokens, d_head)
        self.values: list[Tensor] = []
        self.shape, self.version = (prompts, samples), 0  # (P, G); how often `keep` was called
        self.longest, self.prompts_read, self.common = longest, 0, 0  # common: tokens read by `begin_with`
        self.slot_of_row = torch.arange(prompts * samples, device=device)  # (n,)
        # (P * G,), -1 for an empty slot; None: row i is in slot i.
        self.row_of_slot: Tensor | None = None if self.kernel is None else self.slot_of_row
        self.lengths = lengths.repeat_interleave(samples)  # (n,) of each row's prompt
        self.column = torch.full((1,), -1, device=device)  # the newest token's place in its completion
        self.used = 0  # columns written, counted on the host
        self.hides = stride > 1 or bool((lengths < longest).any())  # is a mask needed?
        hidden = torch.ones(prompts, longest + max_new_tokens, dtype=torch.bool, device=device)
        hidden[:, :longest] = torch.arange(longest, device=device) >= lengths[:, None]
        self.bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))  # (P, L + new)

    def extent(self, used: int) -> int:
        """Completion columns that attention reads when `used` are written.  The kernel reads that number on the device."""
        if self.kernel is not None:
            return self.max_new_tokens
        return min(-(-used // self.stride) * self.stride, self.max_new_tokens)

    def extend(self) -> Tensor:
        """Make room for one more token in each row -> the positions of these tokens (n,)."""
        self.column += 1
        self.used += 1
        self.bias.index_fill_(1, self.column + (self.bias.shape[1] - self.max_new_tokens), 0.0)
        return self.lengths + self.column

    def attend(self, layer: int, heads: Tensor, turn: Callable[[Tensor], Tensor]) -> Tensor:
        """heads (n, head + 2 kv head, d_head), queries, keys and values -> attention output (n, head * d_head).

        `turn` (decoder.Turn) first norms and rotates queries and keys."""
        if self.kernel is not None:
            held = self.prompt_keys[layer], self.prompt_values[layer], self.keys[layer], self.values[layer]
            return self.kernel(heads, turn, *held, self.lengths, self.row_of_slot, self.column)
        (prompts, samples), d_head = self.shape, heads.shape[-1]
        kv_heads = len(self.prompt_keys[layer]) // prompts
        query_key, value = heads.split((heads.shape[1] - kv_heads, kv_heads), dim=1)
        query, key = turn(query_key).split((heads.shape[1] - 2 * kv_heads, kv_heads), dim=1)

        def by_slot(x: Tensor) -> Tensor:  # (n, head, d_head) -> (P * kv head * G, head / kv head, d_head)
            x = x if self.row_of_slot is None else x[self.row_of_slot.clamp_min(0)]  # an empty slot repeats row 0
            x = x.to(self.dtype).view(prompts, samples, kv_heads, -1, d_head)
            return x.transpose(1, 2).reshape(prompts * kv_heads * samples, -1, d_head)

        self.write(self.keys[layer], by_slot(key))
        self.write(self.values[layer], by_slot(value))
        prompt_keys, prompt_values = self.prompt_keys[layer], self.prompt_values[layer]
        longest, extent = prompt_keys.shape[1], self.extent(self.used)
        keys, values = self.keys[layer][:, :extent], self.values[layer][:, :extent]
        each = by_slot(query * d_head**-0.5)
        of_prompt = dot(each.view(prompts * kv_heads, -1, d_head), prompt_keys)  # (P kv, G * head / kv, L)
        of_completion = dot(each, keys).view(*of_prompt.shape[:2], extent)
        scores = torch.cat((of_prompt, of_completion), dim=-1)
        if self.hides:
            scores.view(prompts, -1, longest + extent).add_(self.bias[:, None, : longest + extent])
        weights = scores.softmax(-1).to(self.dtype)
        mixed = torch.bmm(weights[:, :, :longest], prompt_values).view(each.shape)
        mixed = mixed.baddbmm_(weights[:, :, longest:].reshape(len(each), -1, extent), values)
        mixed = mixed.view(prompts, kv_heads, samples, -1).transpose(1, 2).reshape(prompts * samples, -1)
        return mixed if self.row_of_slot is None else mixed[self.slot_of_row]

    def write(self, held: Tensor, new: Tensor) -> None:
        """Write `new` (slots, 1, d_head) to the newest column of `held` (slots, max_new_tokens, d_head)."""
        if self.stride == 1:
            held[:, self.used - 1 : self.used] = new
        else:  # a graph replays fixed addresses, so the column must be a tensor on the device
            held.index_copy_(1, self.column, new)

    def reader(self, tokens: Tensor):
        """The next prompts (count, L) -> their positions, and the function that each layer calls for its attention.

        Attention is model.causal: no token reads padding on its right.  Keys and values are stored.  Before the first prompts,
        `begin_with` may read what all of them begin with; then `tokens` is what follows.
        """
        count, start = len(tokens), self.common
        rows = slice(self.prompts_read, self.prompts_read + count)
        self.prompts_read += count
        if self.prompts_read > self.shape[0]:
            raise ValueError(f"a cache for {self.shape[0]} prompts received {self.prompts_read}")
        return self.reading(tokens, rows, start)

    def begin_with(self, transformer, tokens: Tensor) -> None:
        """Read tokens (1, n) once, with which all prompts begin."""
        transformer(tokens, SimpleNamespace(reader=lambda tokens: self.reading(tokens, slice(None), 0)))
        self.common = tokens.shape[1]

    def reading(self, tokens: Tensor, rows: slice, start: int):
        """Positions from `start`, and attention that stores keys and values in these rows and reads them from the first."""
        layers, end, mask = itertools.count(), start + tokens.shape[1], None
        if start:
            mask = torch.ones(end - start, end, dtype=torch.bool, device=tokens.device).tril(start)[None, None]

        def read(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            layer, kv_heads = next(layers), key.shape[2]
            if layer == len(self.keys):
                self.make_room(kv_heads, key.shape[3], key.device)
            key, value = key.to(self.dtype), value.to(self.dtype)
            held = [of[layer].unflatten(0, (-1, kv_heads))[rows] for of in (self.prompt_keys, self.prompt_values)]
            for of, new in zip(held, (key, value)):
                of[:, :, start:end] = new.transpose(1, 2)
            if start:
                key, value = (of[:, :, :end].transpose(1, 2) for of in held)
            return causal(query, key, value, mask)

        return torch.arange(start, end, device=tokens.device)[None], read

    def make_room(self, kv_heads: int, d_head: int, device: torch.device) -> None:
        """Allocate keys and values of one more layer."""
        prompts, samples = self.shape
        rows = prompts * kv_heads
        for held in (self.prompt_keys, self.prompt_values):
            held.append(torch.empty(rows, self.longest, d_head, dtype=self.dtype, device=device))
        make = torch.zeros if self.kernel is None else torch.empty  # the kernel reads written columns only
        for held in (self.keys, self.values):
            held.append(make(rows * samples, self.max_new_tokens, d_head, dtype=self.dtype, device=device))

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, in ascending order."""
        self.slot_of_row, self.lengths, self.version = self.slot_of_row[rows], self.lengths[rows], self.version + 1
        prompts, samples = self.shape
        counts = torch.bincount(self.slot_of_row // samples, minlength=prompts)  # (P,) unfinished rows of each prompt
        asked, most = counts.nonzero()[:, 0], int(counts.max())
        if len(asked) * most <= 0.75 * prompts * samples:
            self.pack(asked, most, counts)
        self.row_of_slot = torch.full((self.shape[0] * self.shape[1],), -1, device=rows.device)
        self.row_of_slot[self.slot_of_row] = torch.arange(len(rows), device=rows.device)

    def pack(self, asked: Tensor, most: int, counts: Tensor) -> None:
        """Keep the prompts `asked`, with `most` slots each; counts (P,) are the unfinished rows of each old prompt."""
        prompts, samples = self.shape
        first = (counts.cumsum(0) - counts)[self.slot_of_row // samples]  # (n,) the first row of its prompt
        place = torch.arange(len(first), device=first.device) - first  # (n,) its place among the prompt's rows
        rank = (counts > 0).long().cumsum(0)[self.slot_of_row // samples] - 1  # (n,) its prompt's new number
        # (P', G') the old slot of each new one
        source = torch.zeros(len(asked), most, dtype=torch.long, device=first.device)
        source[rank, place] = self.slot_of_row % samples
        self.slot_of_row, self.shape = rank * most + place, (len(asked), most)
        self.bias = self.bias[asked]
        for layer in range(len(self.keys)):
            for held in (self.prompt_keys, self.prompt_values):
                held[layer] = held[layer].unflatten(0, (prompts, -1))[asked].flatten(0, 1)
            for held in (self.keys, self.values):
                old = held[layer].unflatten(0, (prompts, -1, samples)).transpose(1, 2)[:, :, :, : self.used]
                moved = old[asked[:, None], source].transpose(1, 2).flatten(0, 2)  # (P' kv G', used, d_head)
                held[layer] = F.pad(moved, (0, 0, 0, self.max_new_tokens - self.used))


def dot(query: Tensor, key: Tensor) -> Tensor:
    """q k^T in float32, (batch, T, d) and (batch, S, d) -> (batch, T, S).  In bfloat16 scores would be wrong by percents."""
    if query.dtype == torch.float32:
        return torch.bmm(query, key.transpose(1, 2))
    if query.is_cuda:
        return torch.bmm(query, key.transpose(1, 2), out_dtype=torch.float32)
    with torch.autocast("cpu", enabled=False):
        return torch.bmm(query.float(), key.float().transpose(1, 2))


class Packed:
    """Training: rows (B, T) of prompts and completions as one sequence of N tokens, with each distinct prompt once.

    Layers that work token by token see (1, N), without padding.  Only `attend` pads: to prompts (P, L), which attend to
    themselves, and to completions (B, C), which attend to their prompt and themselves.
    """

    def __init__(self, tokens: Tensor, lengths: Tensor, mask: Tensor):
        """tokens (B, T), lengths (B,) of the prompts, mask (B, T): True for tokens whose drawing state is needed."""
        (batch, width), device = tokens.shape, tokens.device
        columns, longest = torch.arange(width, device=device), int(lengths.max())
        padded = torch.where(columns < lengths[:, None], tokens, -1)[:, :longest]
        prompts, self.group = torch.unique(padded, dim=0, return_inverse=True)  # (P, L), (B,)
        last = (columns * mask).amax(1, keepdim=True)  # the last masked token: no masked token is drawn from it
        places = lengths[:, None] + torch.arange(max(1, int((last[:, 0] - lengths).max())), device=device)  # (B, C)
        of_prompt, of_completion = prompts >= 0, places < last
        places = places.clamp(max=width - 1)
        sequence = torch.cat((prompts[of_prompt], tokens.gather(1, places)[of_completion]))
        positions = torch.cat((columns[:longest].expand_as(prompts)[of_prompt], places[of_completion]))
        self.tokens, self.positions = sequence[None], positions[None]  # (1, N)
        # Indices from the padded places into the sequence, and back.  Padding repeats the token before it, and is masked.
        self.of_prompt, self.of_completion = (
            of_prompt.flatten().nonzero()[:, 0],
            of_completion.flatten().nonzero()[:, 0],
        )
        self.prompt_at = (of_prompt.flatten().cumsum(0) - 1).clamp_min(0).view(prompts.shape)  # (P, L)
        before = len(self.of_prompt) - 1
        self.completion_at = (before + of_completion.flatten().cumsum(0)).clamp_min(0).view(places.shape)  # (B, C)
        count = places.shape[1]
        causal_mask = torch.ones(count, count, dtype=torch.bool, device=device).tril()
        self.readable = torch.cat(
            (of_prompt[self.group][:, None].expand(-1, count, -1), causal_mask.expand(batch, -1, -1)), dim=2
        )[:, None]  # (B, 1, C, L + C)
        # A token is drawn from the state of its predecessor.  The prompt's last token draws the completion's first.
        last_of_prompt = self.prompt_at[self.group, lengths - 1][:, None]
        predecessor = torch.cat((last_of_prompt, self.completion_at), dim=1)  # (B, C + 1)
        row, column = mask.nonzero(as_tuple=True)
        self.drawing = predecessor[row, column - lengths[row]]  # (number of masked tokens,), in the order of `mask`

    def reader(self, tokens: Tensor):
        """The positions (1, N) of `self.tokens`, and the function that each layer calls for its attention."""
        return self.positions, self.attend

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query, key, value and the result: (1, N, head, d_head)."""

        def pad(x: Tensor, at: Tensor) -> Tensor:  # (1, N, head, d_head) -> (rows, places, head, d_head)
            return x[0].index_select(0, at.flatten()).view(*at.shape, *x.shape[2:])

        prompt = [pad(x, self.prompt_at) for x in (query, key, value)]
        own = [pad(x, self.completion_at) for x in (query, key, value)]
        keys, values = (torch.cat((prompt[i].index_select(0, self.group), own[i]), dim=1) for i in (1, 2))
        prompts = causal(*prompt).flatten(0, 1).index_select(0, self.of_prompt)
        completions = causal(own[0], keys, values, self.readable).flatten(0, 1).index_select(0, self.of_completion)
        return torch.cat((prompts, completions))[None]
