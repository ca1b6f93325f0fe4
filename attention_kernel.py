"""Attention of a decode step as one Triton kernel, for CUDA: what `Cache.attend` computes, each byte read once.

A program has one key/value head of a few samples of one prompt.  Its query rows (sample, head of the group) read the prompt's
keys together, then each sample's completion for its own rows, with the running softmax of FlashAttention (arXiv 2205.14135):

    top' = max(top, max s)     total' = total e^(top - top') + sum e^(s - top')     mixed' = mixed e^(top - top') + e^(s - top') V

The newest token starts it off (its score, 1, its value), from the registers that it is written to the cache from, so that nothing
waits for that write.  Only columns that are written are read, however many there is room for.

Triton comes with torch on Linux.  tests/test_attention_kernel.py runs it on a CPU, by Triton's interpreter.
"""

import math

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def read(
    keys, values, first, count, query, scale, mine, top, total, mixed, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The rows `mine` read `count` keys and values, the first of them `first` rows of d_head from the pointers."""
    d = tl.arange(0, WIDTH)
    for start in range(0, count, BLOCK):
        column = start + tl.arange(0, BLOCK)
        there = (column < count)[:, None] & (d < D)[None, :]
        at = (first + column)[:, None] * D + d[None, :]
        key, value = tl.load(keys + at, there, 0.0), tl.load(values + at, there, 0.0)
        score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        score = tl.where(mine[:, None] & (column < count)[None, :], score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        share, shrink = tl.exp2(score - new_top[:, None]), tl.exp2(top - new_top)
        mixed = mixed * shrink[:, None] + tl.dot(share.to(value.dtype), value, input_precision="ieee")
        total, top = total * shrink + tl.sum(share, 1), new_top
    return top, total, mixed


@triton.jit
def attend_kernel(
    query, key, value, query_stride, key_stride, value_stride, prompt_keys, prompt_values, keys, values,
    lengths, row_of_slot, column, out, scale, samples, kv_heads, longest, room,
    GROUP: tl.constexpr, TOGETHER: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program's rows are r = sample * GROUP + head of the group; scores are in bits, for exp2."""
    chunks = tl.cdiv(samples, TOGETHER)
    program, written = tl.program_id(0), tl.load(column)  # columns that are there already
    head = program // chunks  # prompt * kv_heads + kv head
    kv, prompt, chunk = head % kv_heads, head // kv_heads, program % chunks
    r, d = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    sample, of_group = chunk * TOGETHER + r // GROUP, kv * GROUP + r % GROUP  # of the prompt; of all heads
    real = (r < TOGETHER * GROUP) & (sample < samples)
    row = tl.load(row_of_slot + prompt * samples + sample, real, -1)  # -1: nobody's slot
    real = real & (row >= 0)
    both = real[:, None] & (d < D)[None, :]
    q = tl.load(query + row[:, None] * query_stride + of_group[:, None] * D + d[None, :], both, 0.0)
    new_key = tl.load(key + row[:, None] * key_stride + kv * D + d[None, :], both, 0.0).to(keys.dtype.element_ty)
    new_value = tl.load(value + row[:, None] * value_stride + kv * D + d[None, :], both, 0.0).to(keys.dtype.element_ty)
    q = q.to(keys.dtype.element_ty)
    top = tl.sum(q.to(tl.float32) * new_key.to(tl.float32), 1) * scale
    total, mixed = tl.full((ROWS,), 1.0, tl.float32), new_value.to(tl.float32)
    length = tl.max(tl.load(lengths + row, real, 0), 0)
    at = head.to(tl.int64) * longest
    top, total, mixed = read(prompt_keys, prompt_values, at, length, q, scale, real, top, total, mixed, D, WIDTH, BLOCK)
    slots = head.to(tl.int64) * samples + chunk * TOGETHER  # keys and values of a prompt's head lie slot by slot
    for i in range(TOGETHER):
        mine = real & (r // GROUP == i)
        count = tl.where(tl.max(mine.to(tl.int32), 0) > 0, written, 0)
        top, total, mixed = read(
            keys, values, (slots + i) * room, count, q, scale, mine, top, total, mixed, D, WIDTH, BLOCK
        )
    tl.store(out + (row * kv_heads * GROUP + of_group)[:, None] * D + d[None, :], mixed / total[:, None], both)
    to = ((slots + r // GROUP) * room + written)[:, None] * D + d[None, :]
    once = both & (r % GROUP == 0)[:, None]
    tl.store(keys + to, new_key, once)
    tl.store(values + to, new_value, once)


def tile(row_bytes: int) -> tuple[int, int]:
    """Keys that a program reads at once, and how many reads are under way: both in a multiprocessor's shared memory, which on
    most cards has 99 KiB for a program.

    >>> tile(2 * 128), tile(4 * 128), tile(4 * 256)
    ((64, 3), (32, 3), (32, 2))
    """
    return 64 if row_bytes <= 256 else 32, 3 if row_bytes <= 512 else 2


def attend(
    query: Tensor, key: Tensor, value: Tensor, prompt_keys: Tensor, prompt_values: Tensor, keys: Tensor, values: Tensor,
    lengths: Tensor, row_of_slot: Tensor, column: Tensor, together: int = 0,
) -> Tensor:  # fmt: skip
    """query (n, head, d_head), key and value (n, kv head, d_head) of the newest tokens, which stand in `column` (1,).

    prompt_keys (P * kv head, L, d_head), keys (P * kv head * G, room, d_head), and the same of values; `lengths` (n,) of the
    rows' prompts; `row_of_slot` (P * G,), -1 where nobody is.  `together`: samples of a prompt in a program.  Writes the newest
    keys and values, and gives what each row has read, (n, head * d_head).
    """
    (rows, heads, d_head), kv_heads = query.shape, key.shape[1]
    group, prompts = heads // kv_heads, len(prompt_keys) // kv_heads
    samples, width = len(row_of_slot) // prompts, max(16, triton.next_power_of_2(d_head))
    together = min(samples, together or max(1, 16 // group))
    block, stages = tile(keys.element_size() * width)
    out = query.new_empty(rows, heads * d_head, dtype=keys.dtype)
    attend_kernel[(prompts * kv_heads * triton.cdiv(samples, together),)](
        query, key, value, query.stride(0), key.stride(0), value.stride(0), prompt_keys, prompt_values, keys, values,
        lengths, row_of_slot, column, out, d_head**-0.5 / math.log(2), samples, kv_heads, prompt_keys.shape[1],
        keys.shape[1], group, together, max(16, triton.next_power_of_2(together * group)), d_head, width, block,
        num_stages=stages,
    )  # fmt: skip
    return out
