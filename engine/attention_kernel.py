"""Attention of a decode step as one Triton kernel, for CUDA.  It computes what `Cache.attend` computes, and reads each byte once.

Each program handles one key/value head of a few samples of one prompt.  Its query rows are (sample, head of the group).  All rows
read the prompt's keys together.  Then each row reads its own completion.  Both use FlashAttention's running softmax (arXiv 2205.14135):

    top' = max(top, max s)     total' = total e^(top - top') + sum e^(s - top')     mixed' = mixed e^(top - top') + e^(s - top') V

The newest token initialises (top, total, mixed) with (its score, 1, its value), from registers, so nothing waits for the write to the
cache.  The kernel norms and rotates queries and keys itself (decoder.Turn).  It reads only columns that have been written.

Triton comes with torch on Linux.  tests/test_attention_kernel.py runs the kernel on a CPU, with Triton's interpreter.
"""

import math

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def read(
    keys, values, first, count, query, scale, mine, top, total, mixed, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Rows `mine` attend to `count` keys and values, which start `first` rows of d_head after the pointers."""
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
def turned(heads, row, head, all_heads, norms, cosine, sine, floor, real, D: tl.constexpr, WIDTH: tl.constexpr):
    """One head of each row after decoder.Turn, (rows, WIDTH) in float32."""
    d = tl.arange(0, WIDTH)
    other, there = (d + D // 2) % D, real[:, None] & (d < D)[None, :]  # `other`: the partner in the rotated pair
    at = heads + (row * all_heads + head)[:, None] * D
    x, y = tl.load(at + d[None, :], there, 0.0).to(tl.float32), tl.load(at + other[None, :], there, 0.0).to(tl.float32)
    if norms is not None:
        least = tl.load(floor)
        length = tl.sqrt(tl.sum(x * x, 1) + least * least)[:, None]
        x = x / length * tl.load(norms + head[:, None] * D + d[None, :], there, 0.0)
        y = y / length * tl.load(norms + head[:, None] * D + other[None, :], there, 0.0)
    if cosine is not None:
        wave = row[:, None] * D + d[None, :]
        x = x * tl.load(cosine + wave, there, 0.0) + y * tl.load(sine + wave, there, 0.0)
    return x


@triton.jit
def attend_kernel(
    heads, norms, cosine, sine, floor, prompt_keys, prompt_values, keys, values,
    lengths, row_of_slot, column, out, scale, samples, kv_heads, longest, room,
    GROUP: tl.constexpr, TOGETHER: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program's rows are r = sample * GROUP + head of the group.  Scores are in bits, for exp2."""
    chunks = tl.cdiv(samples, TOGETHER)
    program, written = tl.program_id(0), tl.load(column)  # columns in the cache
    head = program // chunks  # prompt * kv_heads + kv head
    kv, prompt, chunk = head % kv_heads, head // kv_heads, program % chunks
    r, d = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    sample, of_group = chunk * TOGETHER + r // GROUP, kv * GROUP + r % GROUP  # within the prompt; among all heads
    real = (r < TOGETHER * GROUP) & (sample < samples)
    row = tl.load(row_of_slot + prompt * samples + sample, real, -1)  # -1: an empty slot
    real = real & (row >= 0)
    both = real[:, None] & (d < D)[None, :]
    all_heads, of_key = kv_heads * GROUP + 2 * kv_heads, tl.full((ROWS,), kv_heads * GROUP, tl.int32) + kv
    q = turned(heads, row, of_group, all_heads, norms, cosine, sine, floor, real, D, WIDTH).to(keys.dtype.element_ty)
    new_key = turned(heads, row, of_key, all_heads, norms, cosine, sine, floor, real, D, WIDTH).to(
        keys.dtype.element_ty
    )
    new_value = tl.load(heads + (row * all_heads + of_key + kv_heads)[:, None] * D + d[None, :], both, 0.0)
    new_value = new_value.to(keys.dtype.element_ty)
    top = tl.sum(q.to(tl.float32) * new_key.to(tl.float32), 1) * scale
    total, mixed = tl.full((ROWS,), 1.0, tl.float32), new_value.to(tl.float32)
    length = tl.max(tl.load(lengths + row, real, 0), 0)
    at = head.to(tl.int64) * longest
    top, total, mixed = read(prompt_keys, prompt_values, at, length, q, scale, real, top, total, mixed, D, WIDTH, BLOCK)
    slots = head.to(tl.int64) * samples + chunk * TOGETHER  # keys and values of a prompt's head are ordered by slot
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


def tile(row_bytes: int) -> tuple[int, int, int]:
    """Bytes of a key -> keys that a program reads at once, pipeline stages, warps.

    These were fastest on an H200 at 256 bytes a key.  The stages share a multiprocessor's memory: 99 KiB a program on most cards.

    >>> tile(2 * 64), tile(2 * 128), tile(4 * 128), tile(4 * 256)
    ((64, 4, 2), (32, 4, 2), (32, 3, 4), (32, 2, 4))
    """
    return (
        64 if row_bytes <= 128 else 32,
        4 if row_bytes <= 256 else 3 if row_bytes <= 512 else 2,
        2 if row_bytes <= 256 else 4,
    )


def attend(
    heads: Tensor, turn: tuple[Tensor | None, ...], prompt_keys: Tensor, prompt_values: Tensor, keys: Tensor, values: Tensor,
    lengths: Tensor, row_of_slot: Tensor, column: Tensor, together: int = 0,
) -> Tensor:  # fmt: skip
    """Write the newest keys and values to the cache; return the attention output (n, head * d_head).

    heads            (n, head + 2 kv head, d_head) queries, keys and values of the newest tokens
    turn             decoder.Turn, not yet applied to queries and keys
    prompt_keys      (P * kv head, L, d_head), and prompt_values
    keys             (P * kv head * G, room, d_head), and values
    lengths          (n,) of the rows' prompts
    row_of_slot      (P * G,), -1 for an empty slot
    column           (1,) where the newest tokens go
    together         samples of a prompt in one program; 0: chosen here
    """
    (rows, all_heads, d_head), samples = heads.shape, len(keys) // len(prompt_keys)
    prompts = len(row_of_slot) // samples
    kv_heads = len(prompt_keys) // prompts
    group, width = all_heads // kv_heads - 2, max(16, triton.next_power_of_2(d_head))
    together = min(samples, together or max(1, 16 // group))
    block, stages, warps = tile(keys.element_size() * width)
    out = heads.new_empty(rows, kv_heads * group * d_head, dtype=keys.dtype)
    attend_kernel[(prompts * kv_heads * triton.cdiv(samples, together),)](
        heads, *turn, prompt_keys, prompt_values, keys, values, lengths, row_of_slot, column, out,
        d_head**-0.5 / math.log(2), samples, kv_heads, prompt_keys.shape[1], keys.shape[1],
        group, together, max(16, triton.next_power_of_2(together * group)), d_head, width, block,
        num_stages=stages, num_warps=warps,
    )  # fmt: skip
    return out
