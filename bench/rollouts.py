"""The part of bench.py that measures rollouts, and how things are timed: in turn, with medians of ratios."""

import importlib.util
import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

import baselines
import model
import sample
from temperature_head import TemperatureHead

# fmt: off
SHAPES = {  # d_model, n_layers, n_heads, n_kv_heads, d_head, d_mlp, vocab_size; all as Qwen3: RMS norm, SwiGLU, q and k normed
    "quick": (32, 2, 2, 1, 16, 64, 259),
    "tiny": (128, 4, 4, 2, 32, 384, 259),
    "small": (512, 8, 8, 4, 64, 1536, 32_000),
    "qwen3-0.6b": (1024, 28, 16, 8, 128, 3072, 151_936),
    "qwen3-1.7b": (2048, 28, 16, 8, 128, 6144, 151_936),
    "qwen3-4b": (2560, 36, 32, 8, 128, 9728, 151_936),
}
# fmt: on


def make(shape: str, device: str) -> model.Transformer:
    d_model, layers, heads, kv_heads, d_head, d_mlp, vocabulary = SHAPES[shape]
    torch.manual_seed(0)
    config = model.Config(
        vocabulary, d_model, layers, heads, kv_heads, d_head, d_mlp, 4096, qk_norm=True, tied=device == "cuda"
    )
    with torch.device(device):
        transformer = model.Transformer(config)
    for parameter in transformer.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    transformer.compute_dtype = torch.bfloat16 if device == "cuda" else None
    return transformer


def head_for(transformer) -> TemperatureHead:
    return TemperatureHead(transformer.config.d_model).to(transformer.device)


def seconds(function, device: str) -> float:
    """Of one call."""
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
    """Seconds of every function, after one call of each that does not count."""
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    return times


def ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast))


def prompts_of(count: int, length: int, vocabulary: int, ragged: bool = False) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(length // 2, length + 1, (count,), generator=generator).tolist()
    lengths = lengths if ragged else [length] * count
    return [torch.randint(1, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def has(package: str) -> bool:
    if importlib.util.find_spec(package):
        return True
    print(f"{package} is not installed, so the comparison with it is left out", file=sys.stderr)
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


# ---- rollouts -----------------------------------------------------------------------------------------------------------


def rollouts(shape: str, device: str, repeats: int, cases: dict) -> list[dict]:
    """Tokens a second against transformers' generate.  A case: prompts, samples, prompt length, new tokens, ragged."""
    transformer, rows = make(shape, device), []
    head, vocabulary = head_for(transformer), transformer.config.vocab_size
    other = theirs(transformer, device) if has("transformers") else None
    for name, (count, samples, length, new, ragged) in cases.items():
        prompts = prompts_of(count, length, vocabulary, ragged)
        # Random weights draw every token about as often: a set of 1 in 32 as end of text makes lengths ragged.
        eos = set(range(0, vocabulary, 32)) if ragged else set()
        longest, made = max(map(len, prompts)), {"ours": [], "generate": []}
        left = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device).repeat_interleave(
            samples, 0
        )
        real = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
        real, generator = real.repeat_interleave(samples, 0), torch.Generator(device).manual_seed(0)

        def ours(prompts=prompts, samples=samples, new=new, eos=eos, generator=generator, made=made):
            rollout = sample.generate(transformer, head, prompts, samples, new, eos, generator)
            made["ours"].append(int(rollout.mask.sum()))

        @torch.no_grad()
        def generate(left=left, real=real, new=new, eos=eos, made=made):
            out = other.generate(
                left, attention_mask=real, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=new,
                eos_token_id=sorted(eos) or None, pad_token_id=0,
            )[:, left.shape[1] :]  # fmt: skip
            ended = torch.isin(out, torch.tensor(sorted(eos), device=out.device)).long()
            made["generate"].append(int((ended.cumsum(1) - ended == 0).sum()))  # the token that ends a row counts

        times = in_turn({"ours": ours} | ({"generate": generate} if other else {}), device, repeats)
        speed = {n: [tokens / s for tokens, s in zip(made[n][1:], t)] for n, t in times.items()}
        row = {"model": shape, "case": name, "rows": count * samples, "ours tokens/s": statistics.median(speed["ours"])}
        if other:
            row |= {"generate tokens/s": statistics.median(speed["generate"])}
            row |= {"times generate": ratio(speed["ours"], speed["generate"])}
        rows.append(row)
    return rows


def scaling(shape: str, device: str, repeats: int, cases: list) -> list[dict]:
    """Tokens a second by rows, length and group size: does anything fall off a cliff?"""
    transformer, rows = make(shape, device), []
    head, generator = head_for(transformer), torch.Generator(device).manual_seed(0)
    for count, samples, length, new in cases:
        prompts = prompts_of(count, length, transformer.config.vocab_size)

        def once(prompts=prompts, samples=samples, new=new):
            sample.generate(transformer, head, prompts, samples, new, set(), generator)

        spent = statistics.median(in_turn({"": once}, device, repeats)[""])
        rows.append(
            {"model": shape, "prompts": count, "samples": samples, "prompt tokens": length, "new tokens": new}
            | {"tokens/s": count * samples * new / spent}
        )
    return rows


def head_overhead(shape: str, device: str, repeats: int, batch: int = 64) -> list[dict]:
    """What the head adds to a decode step: rollouts with it and with a fixed temperature, in turn.

    (Called again and again by itself it takes a third of that on a CPU: in the loop its code and weights leave the caches
    between two steps.)"""
    transformer, length, new = make(shape, device), 32, 32
    head, fixed, generator = head_for(transformer), baselines.Fixed(1.0), torch.Generator(device).manual_seed(0)
    prompts = prompts_of(batch // 8, length, transformer.config.vocab_size)

    def decode(policy, new):
        sample.generate(transformer, policy, prompts, 8, new, set(), generator)

    times = in_turn(
        {"short": lambda: decode(head, 1), "head": lambda: decode(head, new + 1), "fixed": lambda: decode(fixed, new + 1)},
        device, 5 * repeats,
    )  # fmt: skip
    added = statistics.median((a - b) / new for a, b in zip(times["head"], times["fixed"]))
    step = statistics.median((a - b) / new for a, b in zip(times["head"], times["short"]))
    return [
        {"model": shape, "rows": batch, "head ms": 1000 * added, "step ms": 1000 * step, "head %": 100 * added / step}
    ]


# ---- a GPU ------------------------------------------------------------------------------------------------------------------


def machine_limits() -> tuple[float, float]:
    """Measured bytes a second of a copy, and FLOPs a second of a bfloat16 product."""
    source, size = torch.empty(2**30, dtype=torch.uint8, device="cuda"), 8192
    target, a = torch.empty_like(source), torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    times = in_turn({"copy": lambda: target.copy_(source), "product": lambda: a @ a}, "cuda", 20)
    return 2 * 2**30 / statistics.median(times["copy"]), 2 * size**3 / statistics.median(times["product"])


def decode_roofline(shape: str, count: int, samples: int, length: int, new: int, repeats: int = 3) -> list[dict]:
    """A decode step against the time in which its bytes could be copied, or its products made, whichever is longer.

    And against that of its parts one after the other, since each waits for the last: the products of the weights, by the same
    rule, and copies of keys and values and of logits."""
    bandwidth, rate = machine_limits()
    transformer = make(shape, "cuda")
    head, generator, c = head_for(transformer), torch.Generator("cuda").manual_seed(0), transformer.config
    prompts, batch = prompts_of(count, length, c.vocab_size), count * samples

    def run(policy, new):
        sample.generate(transformer, policy, prompts, samples, new, set(), generator)

    fixed = baselines.Fixed(1.0)
    times = in_turn(
        {"short": lambda: run(head, 1), "long": lambda: run(head, new + 1), "fixed": lambda: run(fixed, new + 1)},
        "cuda", repeats,
    )  # fmt: skip
    step = statistics.median((a - b) / new for a, b in zip(times["long"], times["short"]))
    weights = sum(
        p.numel() for p in transformer.parameters()
    )  # the tied embedding counts once: the unembedding reads it
    per_token = 2 * c.n_layers * c.n_kv_heads * c.d_head * 2  # bytes of keys and values
    others = per_token * (count * length + batch * new / 2) + 4 * batch * c.vocab_size
    attention = 4 * c.n_layers * c.n_heads * c.d_head * batch * (length + new / 2)
    of_bytes, of_products = (2 * weights + others) / bandwidth, (2 * weights * batch + attention) / rate
    of_parts = max(2 * weights / bandwidth, 2 * weights * batch / rate) + others / bandwidth
    head_added = statistics.median(a - b for a, b in zip(times["long"], times["fixed"])) / new
    return [
        {
            "model": shape,
            "rows": batch,
            "new tokens": new,
            "step ms": 1000 * step,
            "bytes ms": 1000 * of_bytes,
            "products ms": 1000 * of_products,
            "% of roofline": 100 * max(of_bytes, of_products) / step,
            "parts ms": 1000 * of_parts,
            "% of parts": 100 * of_parts / step,
        }
        | {"head %": 100 * head_added / step, "copy TB/s": bandwidth / 1e12, "product TFLOP/s": rate / 1e12}
    ]
