"""What each of several processes sends in a training step and holds in memory: computed from a model's sizes, not measured.

    python -m bench.traffic            the tables of docs/scaling.md

P is the number of parameters of the model and W the number of processes. In a ring of W processes each sends (W - 1) / W of the
bytes that are gathered or scattered, and twice that for a sum. tests/test_distributed.py counts the bytes of two processes and
compares them with `sent`.
"""

import math

import model
from bench.tables import markdown
from bench.timing import config_of

PRESETS = {"0.6B, gsm8k": ("qwen3-0.6b", 768), "1.7B, math": ("qwen3-1.7b", 3072), "4B, math": ("qwen3-4b", 3072)}
COMPLETIONS, PROMPT, MICRO_BATCH = 512, 128, 16_384  # completions a step; tokens of a prompt; tokens of a micro-batch
LINKS = {"NVLink": 450e9, "PCIe": 32e9, "100 Gb/s": 12.5e9}  # nominal bytes a second in one direction
RATE = 400e12  # FLOPs a second of a process: 40% of an H100's bfloat16


def parameters(c: model.Config) -> tuple[int, int, int]:
    """(of the Linear layers, of the norms inside the layers, of everything else). Embedding and unembedding are tied."""
    linear = 2 * c.d_model * (c.n_heads + c.n_kv_heads) * c.d_head + 3 * c.d_model * c.d_mlp
    return c.n_layers * linear, c.n_layers * 2 * (c.d_model + c.d_head), (c.vocab_size + 1) * c.d_model


def sent(c: model.Config, processes: int, micro_batches: int, copied: int = 2) -> dict[str, float]:
    """Bytes that one process sends in a step. `copied`: bytes of a Linear weight in the copy that samples.

    By hand, for 4B on 8 processes: 7/8 of 2 x 4 bytes x 4.022e9 parameters.

    >>> c = config_of("qwen3-4b")
    >>> sum(parameters(c)), round(sent(c, 8, 13)["sum of gradients"] / 1e9, 1)
    (4022468096, 28.2)
    """
    share, (linear, norms, rest) = (processes - 1) / processes, parameters(c)
    every = linear + norms + rest
    return {
        "sum of gradients": share * 2 * 4 * every,
        "gather of weights": share * micro_batches * 4 * (2 * (linear + norms) + rest),
        "scatter of gradients": share * micro_batches * 4 * every,
        "copy": share * (copied * linear + 4 * (norms + rest)),
        "checkpoint": share * 12 * every,
    }


def memory(c: model.Config, processes: int, sharded: bool) -> tuple[float, float]:
    """(bytes while sampling, bytes in the update) of a process, without activations, keys and values."""
    linear, norms, rest = parameters(c)
    every = linear + norms + rest
    joined = c.n_layers * c.d_model * ((c.n_heads + 2 * c.n_kv_heads) * c.d_head + 2 * c.d_mlp)
    autocast = 2 * (linear + rest)  # bfloat16 copies of the weights that are multiplied
    if not sharded:
        return 12 * every + autocast, 16 * every + autocast
    copy = 2 * linear + 4 * (norms + rest)
    gathered = 8 * rest + 3 * 4 * (linear + norms) / c.n_layers  # the embedding and its gradient, and three layers
    return 12 * every / processes + copy + 2 * (joined + rest), 16 * every / processes + copy + gathered + autocast


def traffic_rows() -> list[dict]:
    rows = []
    for name, (shape, new) in PRESETS.items():
        c = config_of(shape)
        for processes in (2, 8, 16):
            micro_batches = math.ceil(COMPLETIONS / processes / (MICRO_BATCH // (PROMPT + new)))
            told = sent(c, processes, micro_batches)
            plain = told["sum of gradients"]
            sharded = told["gather of weights"] + told["scatter of gradients"] + told["copy"]
            computing = 8 * sum(parameters(c)) * COMPLETIONS * (PROMPT + new) / processes / RATE
            row = {
                "model": name,
                "W": processes,
                "plain, GB": plain / 1e9,
                "over 100 Gb/s, s": plain / LINKS["100 Gb/s"],
            }
            row |= {"`--shard`, GB": sharded / 1e9}
            row |= {f"`--shard` over {link}, s": sharded / speed for link, speed in LINKS.items()}
            rows.append(row | {"computing, s": computing})
    return rows


def memory_rows() -> list[dict]:
    rows = []
    for name, (shape, _) in PRESETS.items():
        ways = {"plain": (1, False)} | {f"`--shard`, W = {n}": (n, True) for n in (2, 8, 16)}
        found = {way: memory(config_of(shape), *how) for way, how in ways.items()}
        rows.append({"model": name} | {way: f"{a / 1e9:.1f} / {b / 1e9:.1f}" for way, (a, b) in found.items()})
    return rows


def main() -> None:
    title = "Memory of a process, GB, sampling / update"
    print(markdown({"Sent by a process in a step": traffic_rows(), title: memory_rows()}))


if __name__ == "__main__":
    main()
