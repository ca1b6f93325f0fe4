"""What only a CUDA device can show; skipped where there is none."""

import copy

import pytest
import torch

import model
import rl
import sample
from baselines import Fixed
from temperature_head import TemperatureHead

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
    max_length=256,
    qk_norm=True,
)


def rollout_of(transformer, head, seed=0):
    prompts = [list(range(1, 2 + length)) for length in (3, 17, 40)]
    generator = torch.Generator("cuda").manual_seed(seed)
    return sample.generate(transformer, head, prompts, 8, 32, {7}, generator, keep_hidden=True)


@pytest.fixture
def both():
    torch.manual_seed(0)
    transformer = model.Transformer(CONFIG).cuda()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return transformer, TemperatureHead(CONFIG.d_model).cuda()


@pytest.mark.parametrize("dtype, tolerance", [(None, 1e-3), (torch.bfloat16, 0.1)])
@torch.no_grad()
def test_replayed_log_probs_equal_those_of_the_rollout(both, dtype, tolerance):
    transformer, head = both
    transformer.compute_dtype = dtype
    rollout = rollout_of(transformer, head)
    gap = (rl.token_log_probs(transformer, rollout) - rollout.token_log_probs)[rollout.mask].abs()
    assert gap.mean() < tolerance / 5 and gap.max() < tolerance * 5


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
