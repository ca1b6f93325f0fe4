"""Rollouts: tokens a second beside transformers' generate, what the head costs, and a GPU's decode step beside its limits."""

import statistics

import torch

import baselines
import sample
from bench.timing import has, head_for, in_turn, make, prompts_of, ratio, theirs


def rollouts(shape: str, device: str, repeats: int, cases: dict) -> list[dict]:
    """Sampled tokens a second, ours and those of transformers' generate.

    A case is (prompts, samples of each, prompt length, new tokens, ragged). With random weights all tokens are about equally
    likely. Ragged cases therefore take every 32nd token as end of text."""
    transformer, rows = make(shape, device), []
    head, vocabulary = head_for(transformer), transformer.config.vocab_size
    other = theirs(transformer, device) if has("transformers") else None
    for name, (count, samples, length, new, ragged) in cases.items():
        prompts = prompts_of(count, length, vocabulary, ragged)
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
    """Sampled tokens a second by number of prompts, group size and length."""
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
    """What the head adds to a decode step: rollouts with the head and with a fixed temperature, in turn.

    Timed alone in a loop the head takes a third of this on a CPU, because its code and weights then stay in the caches."""
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


# ---- a GPU ----------------------------------------------------------------------------------------------------------


def machine_limits() -> tuple[float, float]:
    """What this card reaches: bytes a second in a copy, FLOPs a second in a bfloat16 product."""
    source, size = torch.empty(2**30, dtype=torch.uint8, device="cuda"), 8192
    target, a = torch.empty_like(source), torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    times = in_turn({"copy": lambda: target.copy_(source), "product": lambda: a @ a}, "cuda", 20)
    return 2 * 2**30 / statistics.median(times["copy"]), 2 * size**3 / statistics.median(times["product"])


def decode_roofline(shape: str, count: int, samples: int, length: int, new: int, repeats: int = 3) -> list[dict]:
    """A decode step beside the least time in which this card could do its work.

    That time is the longer of two: copying the step's bytes once (weights, keys and values, logits), or computing its products."""
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
    weights = sum(p.numel() for p in transformer.parameters())  # the tied embedding once: only the unembedding reads it
    per_token = 2 * c.n_layers * c.n_kv_heads * c.d_head * 2  # bytes of keys and values
    others = per_token * (count * length + batch * new / 2) + 4 * batch * c.vocab_size
    attention = 4 * c.n_layers * c.n_heads * c.d_head * batch * (length + new / 2)
    of_bytes, of_products = (2 * weights + others) / bandwidth, (2 * weights * batch + attention) / rate
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
        }
        | {"head %": 100 * head_added / step, "copy TB/s": bandwidth / 1e12, "product TFLOP/s": rate / 1e12}
    ]
