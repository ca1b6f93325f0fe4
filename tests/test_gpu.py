"""What only a CUDA device can show; skipped where there is none."""

import copy
import dataclasses

import pytest
import torch
from test_attention_kernel import SHAPES, one_step
from torch._dynamo.utils import counters

import baselines
import model
import rl
import sample
from baselines import Fixed
from engine import attention, decoder, draw, marginal
from engine.gradient import FastGradient
from temperature_head import Action, EntropyHead, NoGateHead, TemperatureHead

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CONFIG = model.Config(
    vocab_size=4096,
    d_model=256,
    n_layers=4,
    n_heads=8,
    n_kv_heads=2,
    d_head=32,
    d_mlp=512,
    max_length=512,
    qk_norm=True,
)
SOME_END = set(
    range(0, CONFIG.vocab_size, 20)
)  # so many that all of 24 rows end within 200 tokens, but once in a thousand times


def rollout_of(transformer, head, seed=0, new=32, ends=frozenset({7})):
    prompts = [list(range(1, 2 + length)) for length in (3, 17, 40)]
    generator = torch.Generator("cuda").manual_seed(seed)
    return sample.generate(transformer, head, prompts, 8, new, ends, generator, keep_reads=True)


@pytest.fixture
def both():
    return made(CONFIG)


def made(config: model.Config) -> tuple[model.Transformer, TemperatureHead]:
    torch.manual_seed(0)
    transformer = model.Transformer(config).cuda()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return transformer, TemperatureHead(config.d_model).cuda()


@pytest.fixture(params=["kernel", "products"])
def attends(request, monkeypatch) -> str:
    """A decode step's attention as one kernel, and as what is left where there is no Triton."""
    if request.param == "products":
        monkeypatch.setattr(attention, "step_kernel", lambda device: None)
    else:
        assert attention.step_kernel(torch.device("cuda")), "what it needs is missing: see attention.builds_kernels"
    return request.param


@pytest.mark.parametrize("new, ends", [(32, frozenset({7})), (300, frozenset()), (200, SOME_END)])
@pytest.mark.parametrize("dtype, tolerance", [(None, 1e-3), (torch.bfloat16, 0.1)])
@torch.no_grad()
def test_replayed_log_probs_equal_those_of_the_rollout(both, attends, dtype, tolerance, new, ends):
    """Short; past the 256 tokens after which a graph without the kernel is captured again; and rows that leave."""
    transformer, head = both
    transformer.compute_dtype = dtype
    rollout = rollout_of(transformer, head, new=new, ends=ends)
    gap = (rl.token_log_probs(transformer, rollout) - rollout.token_log_probs)[rollout.mask].abs()
    assert gap.mean() < tolerance / 5 and gap.max() < tolerance * 5
    assert bool(rollout.finished.all()) is (ends is SOME_END)
    for ids, keep, whole in zip(rollout.tokens, rollout.mask, rollout.finished.tolist()):
        drawn = ids[keep].tolist()
        assert not ends & set(drawn[:-1]) and whole == (drawn[-1] in ends) and (whole or len(drawn) == new)


@pytest.mark.parametrize("cuts", [{"min_p": 0.05}, {"top_p": 0.9}])
@pytest.mark.parametrize("dtype, tolerance", [(None, 1e-3), (torch.bfloat16, 0.1)])
@torch.no_grad()
def test_what_was_cut_is_cut_in_training_too(both, dtype, tolerance, cuts):
    transformer, head = both
    transformer.unembedding.weight.mul_(20)  # so that some are unlikely
    transformer.compute_dtype = dtype
    rollout = rollout_of(transformer, baselines.with_cut(head, **cuts), ends=SOME_END)
    assert rollout.margins[rollout.mask].isfinite().float().mean() > 0.9
    gap = (rl.token_log_probs(transformer, rollout) - rollout.token_log_probs)[rollout.mask].abs()
    assert gap.mean() < tolerance / 5 and gap.max() < tolerance * 5


GPT2 = dict(norm="layer", position="learned", mlp="gelu", qkv_bias=True, out_bias=True, mlp_bias=True, n_kv_heads=8)


@pytest.mark.parametrize("switches", [{}, dict(qkv_bias=True), GPT2], ids=["Llama", "Qwen2", "GPT-2"])
@pytest.mark.parametrize("dtype, tolerance", [(None, 1e-3), (torch.bfloat16, 0.1)])
@torch.no_grad()
def test_other_families_replay_too(attends, switches, dtype, tolerance):
    transformer, head = made(dataclasses.replace(CONFIG, **{"qk_norm": False} | switches))
    transformer.compute_dtype = dtype
    rollout = rollout_of(transformer, head, ends=SOME_END)
    gap = (rl.token_log_probs(transformer, rollout) - rollout.token_log_probs)[rollout.mask].abs()
    assert gap.mean() < tolerance / 5 and gap.max() < tolerance * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape",
    [*SHAPES, (3, 8, 16, 8, 128, 70, 90, 66, 0, "normed and rotated"), (2, 8, 8, 2, 256, 70, 90, 66, 0, "rotated")],
)
def test_the_kernel_reads_what_each_row_reads_alone(dtype, shape):
    torch.manual_seed(0)
    one_step(attention.step_kernel(torch.device("cuda")), dtype, "cuda", *shape)


@torch.no_grad()
def test_the_kernel_draws_the_tokens_that_products_draw(both, monkeypatch):
    """In float32 the two differ in the last digits, and no draw is as close as that."""
    assert attention.step_kernel(torch.device("cuda"))
    with_kernel = rollout_of(*both, new=64, ends=SOME_END)
    monkeypatch.setattr(attention, "step_kernel", lambda device: None)
    without = rollout_of(*both, new=64, ends=SOME_END)
    assert torch.equal(with_kernel.tokens, without.tokens)
    torch.testing.assert_close(with_kernel.reads, without.reads, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("function", [decoder.add_norm, decoder.gated])
@torch.no_grad()
def test_fused_functions_are_the_functions(function):
    """For one number of rows, then for any."""
    torch.compiler.reset()
    before = counters["frames"]["ok"]
    for rows in (16, 48, 1, 5):
        x = torch.randn(rows, 256, device="cuda")
        norm = torch.rand(256, device="cuda"), 1e-6, torch.bfloat16
        for given in {
            decoder.add_norm: [(x, x.flip(0).bfloat16(), *norm)],
            decoder.gated: [(x.bfloat16(),)],
        }[function]:
            assert draw.compiled(function, "cuda") is not function
            torch.testing.assert_close(draw.compiled(function, "cuda")(*given), function(*given), rtol=1e-2, atol=1e-2)
    assert counters["frames"]["ok"] >= before + 2


@pytest.mark.parametrize("kind", [NoGateHead, EntropyHead])
@pytest.mark.parametrize("dtype, tolerance", [(None, 1e-3), (torch.bfloat16, 1e-2)])
@torch.no_grad()
def test_heads_with_a_reading_of_their_own_are_replayed(both, dtype, tolerance, kind):
    transformer, head = both[0], kind(CONFIG.d_model).cuda()
    transformer.compute_dtype = dtype
    rollout = rollout_of(transformer, head, ends=SOME_END)
    mask = rollout.mask
    action = Action(rollout.temperatures[mask], rollout.changed[mask], rollout.z[mask])
    replayed = head.log_prob(rollout.reads[mask.cpu()].cuda(), action)
    torch.testing.assert_close(replayed, rollout.temperature_log_probs[mask], rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_one_graph_takes_over_the_memory_of_the_last(both):
    reserved = []
    for _ in range(40):
        rollout_of(*both, new=4, ends=frozenset())
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] < reserved[2] + 2**25, "each of these rollouts captures a step"


@pytest.mark.parametrize("precision", ["highest", "high"])
@torch.no_grad()
def test_the_heads_log_probs_are_replayed_too(both, precision):
    """Also where its products are of rounded factors, as on the command lines."""
    transformer, head = both
    transformer.compute_dtype = torch.bfloat16
    for parameter in head.parameters():
        parameter.mul_(3)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        rollout = rollout_of(transformer, head, new=64, ends=SOME_END)
        mask = rollout.mask
        action = Action(rollout.temperatures[mask], rollout.changed[mask], rollout.z[mask])
        replayed = head.log_prob(rollout.reads[mask.cpu()].cuda(), action)
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(replayed, rollout.temperature_log_probs[mask], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("vocabulary", [300, 151_936])
@torch.no_grad()
def test_the_sampler_draws_what_it_draws_on_a_cpu(vocabulary):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(64, vocabulary, generator=generator)
    temperature, uniform = torch.rand(64, generator=generator), torch.rand(64, 2, generator=generator)
    temperature[0] = 0.0
    expected = draw.invert(logits, temperature, uniform)
    drawing = draw.compiled(draw.invert, "cuda") if vocabulary > 8 * draw.BLOCK else draw.invert
    token, log_prob, entropy = (x.cpu() for x in drawing(*(x.cuda() for x in (logits, temperature, uniform))))
    same = token == expected[0]
    assert same.float().mean() > 0.95
    torch.testing.assert_close(log_prob[same], expected[1][same], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(entropy, expected[2], rtol=1e-4, atol=1e-4)


def test_where_memory_ends_half_the_micro_batch_has_the_same_gradient(both, capsys):
    transformer, head = both
    rollout = rollout_of(transformer, head, new=300)
    advantage = torch.linspace(-1, 1, len(rollout.tokens), device="cuda")

    def trained(room: float) -> tuple[dict, FastGradient, int]:
        """With `room` bytes more than the model: weights after a step, its engine, the bytes it took."""
        tried, engine = copy.deepcopy(transformer), FastGradient(8192)
        optimizer = torch.optim.SGD(tried.parameters(), lr=1.0)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (before + room) / total))
        try:
            rl.token_step(tried, optimizer, rollout, advantage, rl.StepSettings(), engine=engine)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return tried.state_dict(), engine, torch.cuda.max_memory_reserved() - before

    trained(2**34)  # libraries take their workspaces
    whole, engine, needed = trained(2**34)
    assert engine.retries
    halved, engine, _ = trained(0.8 * needed)
    assert not engine.retries and "out of memory" in capsys.readouterr().err
    for name, tensor in whole.items():
        torch.testing.assert_close(halved[name], tensor, rtol=1e-3, atol=1e-5)
    with pytest.raises(torch.OutOfMemoryError):
        trained(0.2 * needed)


@torch.no_grad()
def test_cold_tokens_keep_their_ratios_in_bfloat16(both):
    transformer, _ = both
    transformer.compute_dtype = torch.bfloat16
    rollout = rollout_of(transformer, Fixed(0.1))
    gap = (rl.token_log_probs(transformer, rollout) - rollout.token_log_probs)[rollout.mask].abs()
    assert (gap > 0.18).float().mean() < 0.01


def test_both_steps_move_float32_weights_under_bfloat16_compute(both):
    transformer, head = both
    transformer.compute_dtype = torch.bfloat16
    rollout = rollout_of(transformer, head)
    advantage = torch.linspace(-1, 1, len(rollout.tokens), device="cuda")
    for module, step in ((transformer, rl.token_step), (head, rl.temperature_step)):
        before = copy.deepcopy(module.state_dict())
        step(module, torch.optim.AdamW(module.parameters(), lr=1e-6), rollout, advantage, rl.StepSettings())
        after = module.state_dict()
        assert all(tensor.dtype == torch.float32 for tensor in after.values())
        assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_marginal_is_that_of_a_cpu(both):
    transformer, head = both
    rollout = rollout_of(transformer, head)
    on_device = marginal.explain(transformer, head, rollout)
    fields = {f.name: getattr(rollout, f.name) for f in dataclasses.fields(rollout)}
    there = sample.Rollout(**{name: None if value is None else value.cpu() for name, value in fields.items()})
    on_cpu = marginal.explain(transformer.cpu(), head.cpu(), there)
    torch.testing.assert_close(on_device.likelihood.cpu(), on_cpu.likelihood, atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(
        on_device.temperature_log_probs.cpu(), on_cpu.temperature_log_probs, atol=1e-3, rtol=1e-2
    )
