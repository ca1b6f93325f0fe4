"""The engine to read and the engine that is fast give the same: in sample.generate, and for an inner layer."""

import dataclasses
import functools

import pytest
import torch

import baselines
import model
import sample
from engine.draw import draw_token
from engine.sampling import FastEngine
from temperature_head import TemperatureHead

PROMPTS = [[3, 7, 1], [9], [4, 5, 3, 8, 8, 2], [0, 0]]  # ragged; end-of-text ids and padding ids inside
FAMILIES = {
    "qwen3": dict(qk_norm=True, tied=True),
    "qwen2": dict(qkv_bias=True),
    "gpt2": dict(norm="layer", position="learned", mlp="gelu", qkv_bias=True, out_bias=True, mlp_bias=True, tied=True),
}


def transformer_of(family: str) -> model.Transformer:
    torch.manual_seed(0)
    sizes = dict(vocab_size=17, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, d_head=8, d_mlp=48, max_length=64)
    if family == "gpt2":
        sizes["n_kv_heads"] = 4
    made = model.Transformer(model.Config(**sizes, **FAMILIES[family]))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        made.embed.weight.mul_(0.3 if family == "gpt2" else 1.0)
    return made


class SameDraws(sample.PlainEngine):
    """The engine to read, with the draws of the fast one, so that both use the same random numbers."""

    draw = staticmethod(draw_token)


@pytest.mark.parametrize("policy", ["head", "inner", "entropy-only", "edt", "0.8+top_p=0.7"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engines_draw_the_same_rollout(family, policy):
    transformer = transformer_of(family)
    torch.manual_seed(1)
    learned = {
        "head": TemperatureHead,
        "inner": functools.partial(TemperatureHead, layer=2),
        "entropy-only": baselines.EntropyHead,
    }
    policy = learned[policy](32) if policy in learned else baselines.make(policy)
    if isinstance(policy, torch.nn.Module):
        with torch.no_grad():
            policy.w2.weight.mul_(40)
    plain, fast = (
        sample.generate(
            transformer,
            policy,
            PROMPTS,
            4,
            10,
            {3, 5},
            torch.Generator().manual_seed(0),
            keep_reads=True,
            engine=engine,
        )
        for engine in (SameDraws, FastEngine)
    )
    assert 0 < plain.finished.sum() < len(plain.finished), "the test wants rows that leave and rows that stay"
    for field in dataclasses.fields(sample.Rollout):
        if field.name == "changed" and not isinstance(policy, torch.nn.Module):
            continue  # a rule's temperature that is the same but for rounding
        one, other = getattr(plain, field.name), getattr(fast, field.name)
        torch.testing.assert_close(
            one, other, rtol=1e-3, atol=1e-4, msg=lambda text, name=field.name: f"{name}: {text}"
        )


@torch.no_grad()
def test_an_inner_layer_is_what_the_head_reads():
    transformer, head = transformer_of("qwen3"), TemperatureHead(32, layer=2)
    rollout = sample.generate(transformer, head, PROMPTS, 2, 6, {3}, keep_reads=True)
    inner = transformer(rollout.tokens, layers=2)[:, :-1][rollout.mask[:, 1:]]
    torch.testing.assert_close(rollout.reads[rollout.mask], inner, rtol=1e-3, atol=1e-4)
    whole = transformer(rollout.tokens)[:, :-1][rollout.mask[:, 1:]]
    assert (inner - whole).abs().max() > 0.1


def test_the_engine_to_read_is_short():
    import inspect

    assert len(inspect.getsource(sample.PlainEngine).splitlines()) <= 45


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [15, 16, 30])
def test_what_all_prompts_begin_with_is_read_once(family, shared, monkeypatch):
    """A prompt that is nothing else, one with more, a token that comes again; below 16 tokens it is not worth it."""
    transformer, begin = transformer_of(family), [1 + i % 16 for i in range(shared)]
    prompts = [[*begin, 4], [*begin, 2, 9, 9], [*begin, 1, 2], [*begin, 4, 1]]
    widths, forward = [], transformer.forward
    monkeypatch.setattr(
        transformer,
        "forward",
        lambda tokens, *rest, **named: widths.append(tokens.shape) or forward(tokens, *rest, **named),
    )
    policy = baselines.make("0.9")
    plain, fast = (
        sample.generate(transformer, policy, prompts, 3, 6, {3}, torch.Generator().manual_seed(0), True, engine=engine)
        for engine in (SameDraws, FastEngine)
    )
    of_fast = [tuple(shape) for shape in widths if shape[0] in (1, 4)]
    assert of_fast == ([(4, 18)] if shared < 16 else [(1, shared), (4, 3)])
    assert torch.equal(plain.tokens, fast.tokens)
    torch.testing.assert_close(plain.token_log_probs, fast.token_log_probs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(plain.reads, fast.reads, rtol=1e-3, atol=1e-4)
