"""temperature_head.py against torch.distributions: density, draws, entropy; where it starts; what its gradient reaches."""

import math

import pytest
import torch
from safetensors import safe_open

import model
import temperature_head
from temperature_head import Action, TemperatureHead, mixed_log_prob


def lively_head(tau_min=0.1, tau_max=1.5, d_model=32) -> TemperatureHead:
    torch.manual_seed(0)
    head = TemperatureHead(d_model, tau_min, tau_max)
    with torch.no_grad():
        head.w2.weight.mul_(60)
    return head


def hidden_states(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def forced(gate: float, alpha: float, beta: float, **ranges) -> TemperatureHead:
    """A head that gives these parameters for every hidden state."""
    head = TemperatureHead(4, **ranges)
    with torch.no_grad():
        head.w2.weight.zero_()
        head.w2.bias[0] = gate
        for index, value in ((1, alpha), (2, beta)):
            head.w2.bias[index] = math.log(math.expm1(max(value - head.eps, 1e-9)))
    return head


# ---- the density ----------------------------------------------------------------------------------------------------


def test_log_prob_is_that_of_a_bernoulli_and_a_beta():
    head, hidden = lively_head(), hidden_states(5, 40, 32)
    action = head.act(hidden.flatten(0, 1), torch.ones(200), generator=torch.Generator().manual_seed(0))
    action = Action(*(field.view(5, 40) for field in action if field is not None))
    gate, alpha, beta = head(hidden)
    expected = torch.distributions.Bernoulli(logits=gate).log_prob(action.changed.float())
    density = torch.distributions.Beta(alpha, beta).log_prob(action.z)
    expected = expected + torch.where(action.changed, density, 0.0)
    assert gate.std() > 0.5 and alpha.std() > 0.3 and 20 < action.changed.sum() < 180, "the test wants variety"
    torch.testing.assert_close(head.log_prob(hidden, action), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(action.log_prob, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [temperature_head.NoGateHead, temperature_head.EntropyHead])
@torch.no_grad()
def test_a_head_with_a_reading_of_its_own_draws_by_it(kind):
    """What overrides `forward` changes what is sampled too, not only what is replayed."""
    head, hidden = kind(32), hidden_states(300, 32)
    head.w2.weight.mul_(60)
    reads = head.reads(hidden, hidden[:, :7])
    action = head.act(reads, torch.ones(300), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(action.log_prob, head.log_prob(reads, action))
    assert bool(action.changed.all()) is (head.kind == "no-gate")
    assert reads.shape == ((300, 1) if head.kind == "entropy-only" else (300, 32))


@torch.no_grad()
def test_the_density_of_the_mixed_action_is_normalised():
    """P(keep) plus the integral over z of the density of changing to z is 1."""
    for gate, alpha, beta in [(0.3, 2.0, 3.0), (-1.0, 5.0, 1.5), (2.0, 1.0, 1.0)]:
        head = forced(gate, alpha, beta)
        z = (torch.arange(20_000) + 0.5) / 20_000
        hidden = torch.zeros(len(z), 4)
        log_change = head.log_prob(hidden, Action(z, torch.ones_like(z, dtype=torch.bool), z))
        log_keep = head.log_prob(hidden[:1], Action(z[:1], torch.zeros(1, dtype=torch.bool), z[:1]))
        assert float(log_change.exp().mean() + log_keep.exp()) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("changed", [True, False])
def test_what_is_kept_says_nothing_about_z(changed):
    """c = 0 contributes the gate alone: no dependence on z, no gradient to the Beta."""
    parameters = [torch.tensor(value, requires_grad=True) for value in (0.4, 2.0, 3.0)]
    values = [mixed_log_prob(*parameters, torch.tensor(changed), torch.tensor(z)) for z in (0.0, 0.2, 0.9, 1.0)]
    assert (len({float(value.detach()) for value in values}) == 1) == (not changed)
    gate, alpha, beta = torch.autograd.grad(sum(values), parameters)
    assert gate != 0 and bool(alpha != 0) == bool(beta != 0) == changed
    if not changed:
        assert float(values[0].detach()) == pytest.approx(math.log(1 - 1 / (1 + math.exp(-0.4))), abs=1e-6)


@pytest.mark.parametrize("alpha, beta", [(0.1, 0.1), (0.1, 500.0), (2.0, 2.0), (1e4, 1e4), (1e6, 0.1)])
@pytest.mark.parametrize("gate", [-80.0, 0.0, 80.0])
def test_log_prob_and_entropy_are_finite_with_finite_gradients(gate, alpha, beta):
    head = TemperatureHead(4)
    for z in (0.0, 1e-30, 1e-5, 0.5, 1 - 1e-5, 1.0):
        for changed in (True, False):
            parameters = [torch.tensor(value, requires_grad=True) for value in (gate, alpha, beta)]
            value = mixed_log_prob(*parameters, torch.tensor(changed), torch.tensor(z))
            gradients = torch.autograd.grad(value, parameters)
            assert value.isfinite() and all(g.isfinite() for g in gradients)
    head.forward = lambda hidden: parameters
    entropy = head.entropy(None)
    assert entropy.isfinite() and all(g.isfinite() for g in torch.autograd.grad(entropy, parameters))


def test_entropy_is_that_of_a_bernoulli_and_a_beta():
    head, hidden = lively_head(), hidden_states(3, 50, 32)
    gate, alpha, beta = head(hidden)
    opens = torch.sigmoid(gate)
    expected = torch.distributions.Bernoulli(logits=gate).entropy()
    expected = expected + opens * torch.distributions.Beta(alpha, beta).entropy()
    torch.testing.assert_close(head.entropy(hidden), expected, rtol=1e-4, atol=1e-4)


# ---- the draws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate, alpha, beta", [(0.0, 2.6, 1.4), (1.5, 0.5, 0.5), (-1.0, 8.0, 3.0)])
def test_act_draws_from_the_policy(gate, alpha, beta):
    """Kolmogorov-Smirnov on z, and the frequency of changes; the log-probability is that of what was drawn."""
    head, count = forced(gate, alpha, beta, tau_min=0.2, tau_max=1.8), 20_000
    hidden, previous = torch.zeros(count, 4), torch.full((count,), 0.77)
    action = head.act(hidden, previous, generator=torch.Generator().manual_seed(0))
    opens = 1 / (1 + math.exp(-gate))
    assert float(action.changed.float().mean()) == pytest.approx(opens, abs=4 * math.sqrt(opens * (1 - opens) / count))
    grid = (torch.arange(200_000, dtype=torch.double) + 0.5) / 200_000
    distribution = (torch.distributions.Beta(alpha, beta).log_prob(grid.float()).double().exp() / 200_000).cumsum(0)
    for z in (action.z[action.changed].sort().values, action.z.sort().values):
        expected = distribution[(z.double() * 200_000).long().clamp(0, 199_999)]
        observed = torch.arange(1, len(z) + 1) / len(z)
        assert (expected - observed).abs().max() < 1.95 / math.sqrt(len(z)), "exceeded once in a thousand"
    torch.testing.assert_close(action.temperature[action.changed], (0.2 + 1.6 * action.z)[action.changed])
    assert (action.temperature[~action.changed] == 0.77).all()
    torch.testing.assert_close(action.log_prob, head.log_prob(hidden, action))
    expected = opens * (0.2 + 1.6 * alpha / (alpha + beta)) + (1 - opens) * 0.77
    assert float(action.temperature.mean()) == pytest.approx(expected, abs=0.02)


def test_change_and_z_are_independent_draws():
    action = forced(0.0, 2.0, 2.0).act(
        torch.zeros(20_000, 4), torch.ones(20_000), generator=torch.Generator().manual_seed(0)
    )
    assert abs(float(action.z[action.changed].mean() - action.z[~action.changed].mean())) < 0.02


def test_draws_stay_inside_the_range_for_extreme_parameters():
    for alpha, beta in [(0.1 + 1e-6, 0.1 + 1e-6), (0.1 + 1e-6, 50.0), (50.0, 0.1 + 1e-6)]:
        head = forced(10.0, alpha, beta)
        action = head.act(torch.zeros(5000, 4), torch.ones(5000), generator=torch.Generator().manual_seed(0))
        assert (action.z > 0).all() and (action.z < 1).all() and action.log_prob.isfinite().all()
        assert (action.temperature >= 0.1).all() and (action.temperature <= 1.5).all()


def test_the_generator_fixes_the_draws_and_the_global_one_stays():
    head, hidden, state = lively_head(), hidden_states(50, 32), torch.get_rng_state()
    first, again, other = (
        head.act(hidden, torch.ones(50), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first[:4], again[:4]))
    assert not torch.equal(first.temperature, other.temperature)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(field.requires_grad for field in first[:4])


# ---- the start ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau_min, tau_max", [(0.1, 1.5), (0.5, 1.5), (0.05, 2.0), (0.3, 1.2), (0.8, 1.3)])
def test_at_the_start_the_mean_temperature_is_one_and_nothing_is_saturated(tau_min, tau_max):
    torch.manual_seed(0)
    head, hidden = TemperatureHead(64, tau_min, tau_max), hidden_states(500, 64)
    assert head.tau_initial == 1.0
    tau, generator = torch.full((500,), head.tau_initial), torch.Generator().manual_seed(0)
    for _ in range(20):
        tau = head.act(hidden, tau, generator=generator).temperature
    assert float(tau.mean()) == pytest.approx(1.0, abs=0.05)
    assert tau.std() > 0.05 * (tau_max - tau_min), "it explores"
    gate, alpha, beta = head(hidden)
    assert gate.abs().max() < 1 and alpha.min() > 0.2 and beta.min() > 0.2 and (alpha + beta).max() < 8
    loss = head.log_prob(hidden, head.act(hidden, tau)).sum() + head.entropy(hidden).sum()
    assert all(parameter.grad.abs().max() > 0 for parameter in differentiate(loss, head))


def differentiate(loss, module):
    module.zero_grad()
    loss.backward()
    return list(module.parameters())


def test_tau_zero_is_constant_and_inside_the_range():
    assert TemperatureHead(8).tau_initial == 1.0
    assert TemperatureHead(8, 0.1, 0.9).tau_initial == 0.9 and TemperatureHead(8, 1.2, 2.0).tau_initial == 1.2
    head, hidden = forced(-60.0, 2.0, 2.0), torch.zeros(10, 4)
    tau = torch.full((10,), head.tau_initial)
    for _ in range(5):  # a gate that never opens keeps tau_0 for ever
        tau = head.act(hidden, tau).temperature
    assert (tau == 1.0).all()


def test_a_range_without_one_in_it_starts_at_its_nearer_end():
    for tau_min, tau_max in ((0.1, 0.9), (1.2, 2.0)):
        head = TemperatureHead(16, tau_min, tau_max)
        action = head.act(hidden_states(2000, 16), torch.ones(2000), generator=torch.Generator().manual_seed(0))
        chosen = action.temperature[action.changed]
        assert chosen.min() >= tau_min and chosen.max() <= tau_max
        assert abs(float(chosen.mean()) - head.tau_initial) < 0.2 * (tau_max - tau_min)


@pytest.mark.parametrize("tau_min, tau_max", [(0.0, 1.0), (-0.1, 1.0), (1.0, 1.0), (1.5, 0.1), (math.nan, 1.0)])
def test_impossible_ranges_are_refused(tau_min, tau_max):
    with pytest.raises(ValueError, match="tau_min"):
        TemperatureHead(8, tau_min, tau_max)


def test_the_head_is_an_eighth_of_a_percent_of_qwen3():
    """0.122% at Qwen3-1.7B, as the paper says."""
    qwen3 = model.Config(
        vocab_size=151_936, d_model=2048, n_layers=28, n_heads=16, n_kv_heads=8, d_head=128, d_mlp=6144,
        max_length=40_960, qk_norm=True, tied=True,
    )  # fmt: skip
    with torch.device("meta"):
        of_model = sum(parameter.numel() for parameter in model.Transformer(qwen3).parameters())
    of_head = sum(parameter.numel() for parameter in TemperatureHead(2048).parameters())
    assert of_model == pytest.approx(1.72e9, rel=0.002)
    assert round(100 * of_head / of_model, 3) == 0.122
    assert [tuple(p.shape) for p in TemperatureHead(2048).parameters()] == [(1024, 2048), (1024,), (3, 1024), (3,)]


# ---- what the gradient reaches --------------------------------------------------------------------------------------


def test_no_gradient_reaches_the_language_model():
    head, hidden = lively_head(), hidden_states(6, 32).requires_grad_()
    action = head.act(hidden, torch.ones(6))
    loss = head.log_prob(hidden, action).sum() + head.entropy(hidden).sum()
    assert all(parameter.grad is not None for parameter in differentiate(loss, head))
    assert hidden.grad is None


def test_the_head_computes_in_float32_under_autocast():
    head, hidden = lively_head(), hidden_states(8, 32).bfloat16()
    expected = head(hidden.float())
    with torch.autocast("cpu", torch.bfloat16):
        got = head(hidden)
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(got, expected))


# ---- on disk --------------------------------------------------------------------------------------------------------


def test_save_and_load_give_the_same_policy(tmp_path):
    torch.manual_seed(4)
    head = TemperatureHead(16, 0.3, 1.9, tau_initial=0.8, gate_initial=0.2, concentration=6.0, eps=0.05)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter))
    head.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["temperature_head.safetensors"]
    with safe_open(tmp_path / "temperature_head.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"w1.weight", "w1.bias", "w2.weight", "w2.bias"}
    back = temperature_head.load(tmp_path)
    assert back.settings == head.settings and back.tau_initial == 0.8
    hidden = hidden_states(20, 16)
    for a, b in zip(head(hidden), back(hidden)):
        assert torch.equal(a, b)
    first, again = (h.act(hidden, torch.ones(20), generator=torch.Generator().manual_seed(0)) for h in (head, back))
    assert all(torch.equal(a, b) for a, b in zip(first[:4], again[:4]))


def test_a_folder_without_a_head_is_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no temperature policy"):
        temperature_head.load(tmp_path)


def test_what_is_not_a_head_is_refused_in_one_line(tmp_path):
    TemperatureHead(8).save(tmp_path)
    whole = (tmp_path / temperature_head.FILE).read_bytes()
    (tmp_path / temperature_head.FILE).write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=temperature_head.FILE) as caught:
        temperature_head.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_probability_is_heaped_at_the_cold_end():
    """Where a is small a Beta has much of its mass near 0: the expected score, which must be 0, tells whether it is cut off."""
    head = TemperatureHead(2)
    with torch.no_grad():
        for layer in (head.w1, head.w2):
            layer.weight.zero_()
        head.w2.bias.copy_(torch.tensor([20.0, -4.0, 2.0]))  # always change; a = 0.118, b = 2.23
    hidden = torch.zeros(100_000, 2)
    action = head.act(hidden, torch.ones(len(hidden)), generator=torch.Generator().manual_seed(0))
    assert (action.z < 1e-5).float().mean() > 0.2, "this is where a cut would be felt"
    _, a, b = head(hidden[:1])
    score = torch.log(action.z) - (torch.digamma(a) - torch.digamma(a + b)).detach()  # d log p / d a
    assert abs(float(score.mean() / score.std())) < 4 / len(hidden) ** 0.5


@pytest.mark.parametrize("alpha, beta", [(5.0, 0.1), (0.1, 5.0), (0.1, 0.1), (5.0, 0.2), (2.0, 2.0)])
def test_the_score_is_zero_on_average_at_every_corner(alpha, beta):
    """E[d log p / d parameter] = 0: the mean of a policy gradient with a constant reward.  float32 knows no z close to 1."""
    head = forced(20.0, alpha, beta)
    hidden = torch.zeros(200_000, 4)
    action = head.act(hidden, torch.ones(len(hidden)), generator=torch.Generator().manual_seed(0))
    a, b = (torch.full((len(hidden),), value, requires_grad=True) for value in (alpha, beta))
    log_prob = temperature_head.beta_log_prob(a, b, action.z, action.rest)
    for score in torch.autograd.grad(log_prob.sum(), (a, b)):
        error = score.std() / len(score) ** 0.5
        assert score.mean().abs() < 4 * error + 0.01, (float(score.mean()), float(error))
    if beta == 0.1 and alpha == 5.0:
        biased = temperature_head.beta_log_prob(a, b, action.z)
        assert torch.autograd.grad(biased.sum(), b)[0].mean() > 1, "what is stored is needed"
