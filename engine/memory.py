"""How much memory is free, and how many completions fit in it at once."""

import os
from pathlib import Path

import torch

MOST_ROWS = 512


def free_bytes(device: torch.device) -> int:
    """Free memory of the device.  On a CPU: what is available without swapping, or 8 GiB where the system does not say."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # reserved by torch and unused
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 8 * 2**30


def bytes_per_row(transformer, length: int) -> int:
    """Bytes of the keys and values of one row of `length` tokens, prompt and completion."""
    c = transformer.config
    bytes_per_number = (transformer.compute_dtype or transformer.embed.weight.dtype).itemsize
    return 2 * c.n_layers * c.n_kv_heads * c.d_head * bytes_per_number * length


def rows_at_once(transformer, length: int, budget: int = 0) -> int:
    """How many rows of `length` tokens fit their keys and values in `budget` bytes; 0: half of the free memory.

    The result is a power of two from 1 to 512, so small changes of the free memory do not change it.
    """
    budget = budget or free_bytes(transformer.device) // 2
    rows = max(1, min(MOST_ROWS, budget // bytes_per_row(transformer, length)))
    return 2 ** (rows.bit_length() - 1)
