"""How this folder times things, and the models that it times.

Two programs that are compared run in turn, A B A B ..., and their ratio is the median of the ratios of neighbours. A machine
that slows down slows both. Times are process CPU time on a CPU and CUDA events on a GPU.
"""

import importlib.util
import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

import model
from temperature_head import TemperatureHead

# fmt: off
SHAPES = {  # d_model, n_layers, n_heads, n_kv_heads, d_head, d_mlp, vocab_size; all in Qwen3's architecture
    "quick": (32, 2, 2, 1, 16, 64, 259),
    "tiny": (128, 4, 4, 2, 32, 384, 259),
    "small": (512, 8, 8, 4, 64, 1536, 32_000),
    "qwen3-0.6b": (1024, 28, 16, 8, 128, 3072, 151_936),
    "qwen3-1.7b": (2048, 28, 16, 8, 128, 6144, 151_936),
    "qwen3-4b": (2560, 36, 32, 8, 128, 9728, 151_936),
}
# fmt: on


def config_of(shape: str, tied: bool = True) -> model.Config:
    d_model, layers, heads, kv_heads, d_head, d_mlp, vocabulary = SHAPES[shape]
    return model.Config(vocabulary, d_model, layers, heads, kv_heads, d_head, d_mlp, 4096, qk_norm=True, tied=tied)


def make(shape: str, device: str) -> model.Transformer:
    """A model of this shape with random weights."""
    torch.manual_seed(0)
    config = config_of(shape, tied=device == "cuda")
    with torch.device(device):
        transformer = model.Transformer(config)
    for parameter in transformer.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    transformer.compute_dtype = torch.bfloat16 if device == "cuda" else None
    return transformer


def head_for(transformer) -> TemperatureHead:
    return TemperatureHead(transformer.config.d_model).to(transformer.device)


def prompts_of(count: int, length: int, vocabulary: int, ragged: bool = False) -> list[list[int]]:
    """`count` prompts of random tokens; ragged ones have between half of `length` and `length` tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(length // 2, length + 1, (count,), generator=generator).tolist()
    lengths = lengths if ragged else [length] * count
    return [torch.randint(1, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def seconds(function, device: str) -> float:
    """The time of one call."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    started = time.process_time()
    function()
    return time.process_time() - started


def in_turn(functions: dict, device: str, repeats: int) -> dict[str, list[float]]:
    """The times of every function. The first call of each warms up and is not counted."""
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    return times


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median of the ratios of neighbouring measurements.

    >>> ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])  # the third pair ran while the machine was busy
    2.0
    """
    return statistics.median(a / b for a, b in zip(slow, fast))


def has(package: str) -> bool:
    if importlib.util.find_spec(package):
        return True
    print(f"{package} is not installed: its column is left out", file=sys.stderr)
    return False


def theirs(transformer, device: str):
    """The same weights in transformers."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model.save(transformer, folder)
        dtype = transformer.compute_dtype or torch.float32
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
