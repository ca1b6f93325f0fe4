"""rl.py: replayed log-probabilities, advantages, and the two steps, against slow and obvious versions of themselves."""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch

import baselines
import model
import rl
import sample
from engine import attention, micro_batches
from engine.gradient import FastGradient
from temperature_head import Action, TemperatureHead

VOCABULARY = 17
EOS = {3, 5}
PROMPTS = [[3, 7, 1], [9], [4, 5, 3, 8, 8, 2], [0, 0]]  # ragged; end-of-text ids and padding ids inside


def tiny_transformer(seed=0) -> model.Transformer:
    torch.manual_seed(seed)
    transformer = model.Transformer(
        model.Config(
            vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_mlp=48,
            max_length=64, qk_norm=True, tied=True,
        )
    )  # fmt: skip
    with torch.no_grad():
        transformer.embed.weight.mul_(0.3)
    return transformer


def lively_head(tau_min=0.1, tau_max=1.5) -> TemperatureHead:
    """A head whose choices differ from state to state, as those of a trained one do."""
    torch.manual_seed(1)
    head = TemperatureHead(32, tau_min, tau_max)
    with torch.no_grad():
        head.w2.weight.mul_(40)
    return head


def draw(transformer, policy, samples=4, new=10, seed=0) -> sample.Rollout:
    generator = torch.Generator().manual_seed(seed)
    return sample.generate(transformer, policy, PROMPTS, samples, new, EOS, generator, keep_reads=True)


def drawn_by_head():
    transformer, head = tiny_transformer(), lively_head()
    rollout = draw(transformer, head)
    taus = rollout.temperatures[rollout.mask]
    assert taus.min() < 0.4 and taus.max() > 1.2, "the test wants varied temperatures"
    assert 0 < rollout.finished.sum() < len(rollout.finished), "the test wants finished and truncated rows"
    return transformer, head, rollout


def some_advantages(rollout) -> torch.Tensor:
    """Those of the second prompt are 0, as in a group of equal rewards: the step skips its rows, and counts its tokens."""
    advantage = torch.randn(len(rollout.tokens), generator=torch.Generator().manual_seed(5))
    samples = len(advantage) // len(PROMPTS)
    return advantage.index_fill(0, torch.arange(samples, 2 * samples), 0.0)


def sgd(module, lr=1.0):
    return torch.optim.SGD(module.parameters(), lr=lr)


def parameters_of(module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def moved(module, before) -> torch.Tensor:
    return torch.cat([(now.detach() - then).flatten() for now, then in zip(module.parameters(), before)])


def assert_same_state(a, b):
    """Bit by bit, through dicts and lists: module and optimizer states."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_state(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same_state(x, y)
    else:
        assert a == b


def state_of(*owners):
    return copy.deepcopy([owner.state_dict() for owner in owners])


NO_CLIP = rl.StepSettings(max_grad_norm=1e9)
ENGINES = [rl.PlainGradient, FastGradient]


def log_probs_and_entropies(transformer, rollout, chunk=0, engine=None) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) both, 0 where not sampled."""
    found = rl.log_probs_of_drawn(transformer, rollout, engine or FastGradient(), chunk, entropy=True)
    return tuple(torch.zeros(rollout.mask.shape).masked_scatter(rollout.mask, values) for values in found)


# ---- replay: what training recomputes is what the rollout recorded --------------------------------------------------


EVERY_POLICY = [
    lively_head(), baselines.SequenceHead(32), baselines.TAMPO(), baselines.EDT(theta=0.5), baselines.EAD(),
    baselines.Fixed(0.25), baselines.Fixed(1.5), baselines.with_cut(lively_head(), min_p=0.1),
    baselines.with_cut(baselines.Fixed(5.0), top_p=0.7), baselines.with_cut(baselines.SequenceHead(32), top_p=0.9), baselines.with_cut(baselines.EDT(), min_p=0.02, top_p=0.9),
]  # fmt: skip


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda policy: type(policy).__name__)
def test_recomputed_token_log_probs_equal_those_of_the_rollout(policy):
    transformer = tiny_transformer()
    rollout = draw(transformer, policy)
    recomputed = rl.token_log_probs(transformer, rollout)
    assert recomputed.shape == rollout.tokens.shape and recomputed.dtype == torch.float32
    torch.testing.assert_close(recomputed, rollout.token_log_probs, rtol=0, atol=1e-4)
    assert (recomputed[rollout.mask] < 0).any() and (recomputed[~rollout.mask] == 0).all()


def test_recomputed_temperature_log_probs_equal_those_of_the_rollout():
    transformer, head, rollout = drawn_by_head()
    action = Action(rollout.temperatures, rollout.changed, rollout.z)
    whole = transformer(rollout.tokens).detach()
    shifted = torch.cat((torch.zeros_like(whole[:, :1]), whole[:, :-1]), dim=1)  # h at t - 1 chose tau_t and drew y_t
    torch.testing.assert_close(shifted[rollout.mask], rollout.reads[rollout.mask], rtol=0, atol=1e-5)
    for hidden in (rollout.reads, shifted):
        log_probs = head.log_prob(hidden, action)
        torch.testing.assert_close(
            log_probs[rollout.mask], rollout.temperature_log_probs[rollout.mask], rtol=0, atol=1e-4
        )
    assert rollout.changed[rollout.mask].float().mean() not in (0, 1)


def test_a_temperature_a_completion_replays_too():
    transformer, head = tiny_transformer(), baselines.SequenceHead(32)
    rollout = draw(transformer, head)
    first = torch.zeros_like(rollout.mask).scatter(1, rollout.prompt_lengths[:, None], True)
    assert torch.equal(rollout.changed, first), "drawn once, at the first token"
    held = torch.where(rollout.mask, rollout.temperatures, rollout.temperatures.max(1, keepdim=True).values)
    assert torch.equal(held[rollout.mask], held.min(1, keepdim=True).values.expand_as(held)[rollout.mask])
    assert len(set(held.max(1).values.tolist())) == len(held), "each completion has its own"
    log_probs = head.log_prob(rollout.reads, Action(rollout.temperatures, rollout.changed, rollout.z))
    torch.testing.assert_close(log_probs[rollout.mask], rollout.temperature_log_probs[rollout.mask])
    before = parameters_of(head)
    metrics = rl.temperature_step(head, sgd(head), rollout, some_advantages(rollout), NO_CLIP)
    assert moved(head, before).norm() > 0 and abs(metrics["kl"]) < 1e-7


def test_before_the_first_step_every_ratio_is_one():
    transformer, head, rollout = drawn_by_head()
    advantage = some_advantages(rollout)
    expected = -float((advantage[:, None] * rollout.mask).sum() / rollout.mask.sum())
    tight = replace(NO_CLIP, clip_low=1e-3, clip_high=1e-3)
    for metrics in (
        rl.token_step(transformer, sgd(transformer, 1e-6), rollout, advantage, tight),
        rl.temperature_step(head, sgd(head, 1e-6), rollout, advantage, tight),
    ):
        assert abs(metrics["kl"]) < 1e-7 and metrics["clipped"] == 0
        assert metrics["loss"] == pytest.approx(expected, abs=1e-4)
        assert metrics["gradient_norm"] > 0


def test_after_a_cut_only_what_was_left_moves_and_what_was_drawn_stays_in():
    """The rows of the unembedding of tokens that were out everywhere have no gradient; a drawn token that has since become
    the least likely of all still has a probability."""
    transformer = tiny_transformer()
    transformer.unembedding = torch.nn.Linear(32, VOCABULARY, bias=False)
    rollout = draw(transformer, baselines.with_cut(baselines.Fixed(2.0), min_p=0.5))
    margins, drawn = rollout.margins[rollout.mask], rollout.tokens[rollout.mask]
    assert margins.isfinite().all() and (margins > 0).all() and rollout.margins[~rollout.mask].eq(0).all()
    logits = transformer.unembed(rollout.reads[rollout.mask]).detach()
    left = logits.max(-1, keepdim=True).values - logits <= margins[:, None]
    assert left.gather(1, drawn[:, None]).all() and 0 < left.float().mean() < 0.5
    assert torch.equal(left, logits.softmax(-1) >= 0.5 * logits.softmax(-1).amax(-1, keepdim=True))
    with torch.no_grad():
        entropies = log_probs_and_entropies(transformer, rollout)[1][rollout.mask]
    of_left = torch.distributions.Categorical(logits=(logits / 2).masked_fill(~left, -1e9))
    torch.testing.assert_close(entropies, of_left.entropy(), rtol=1e-3, atol=1e-4)
    alone = torch.zeros(len(rollout.tokens)).index_fill(0, torch.tensor([0]), 1.0)  # one completion pulls
    of_it = left[: int(rollout.mask[0].sum())]
    before = transformer.unembedding.weight.detach().clone()
    metrics = rl.token_step(transformer, sgd(transformer), rollout, alone, NO_CLIP)
    moved = (transformer.unembedding.weight != before).any(1)
    assert torch.equal(moved, of_it.any(0)) and 1 < moved.sum() < VOCABULARY and metrics["kl"] < 1e-9
    with torch.no_grad():
        transformer.unembedding.weight.neg_()  # the likeliest are the least likely now
    found = rl.token_log_probs(transformer, rollout)[rollout.mask]
    assert found.isfinite().all() and found.min() > -50 and found.mean() < -2


def test_second_epoch_sees_the_policy_that_the_first_one_left():
    for epochs, far in ((1, False), (3, True)):
        transformer, head, rollout = drawn_by_head()
        settings = replace(NO_CLIP, epochs=epochs)
        for module, step in ((transformer, rl.token_step), (head, rl.temperature_step)):
            assert (step(module, sgd(module, 0.1), rollout, some_advantages(rollout), settings)["kl"] > 1e-5) == far


@torch.no_grad()
def test_recomputed_entropy_is_that_of_the_policy_at_the_stored_temperature():
    transformer, _, rollout = drawn_by_head()
    entropies = log_probs_and_entropies(transformer, rollout)[1]
    for row, t in rollout.mask.nonzero().tolist():
        hidden = transformer(rollout.tokens[row : row + 1, :t])[0, -1]
        distribution = torch.distributions.Categorical(
            logits=transformer.unembed(hidden) / rollout.temperatures[row, t]
        )
        assert entropies[row, t] == pytest.approx(float(distribution.entropy()), abs=1e-4)


# ---- advantages -----------------------------------------------------------------------------------------------------

KINDS = ["grpo", "dr_grpo", "rloo", "pass@1", "pass@2", "pass@3"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_equal_rewards_gets_exactly_zero(kind):
    values = [0.0, 1.0] + ([] if kind.startswith("pass") else [0.1, 1 / 3, 1e-3])
    for size in (3, 7, 16, 61):
        rewards = torch.tensor(values)[:, None].repeat(1, size)
        assert torch.equal(rl.advantages(rewards, kind), torch.zeros_like(rewards))


@pytest.mark.parametrize("kind", KINDS)
def test_groups_do_not_mix_and_shape_is_kept(kind):
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    together = rl.advantages(rewards, kind)
    assert together.shape == rewards.shape and together.dtype == torch.float32
    assert torch.equal(together, torch.cat([rl.advantages(row[None], kind) for row in rewards]))


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    std = math.sqrt(0.25 * 0.75)
    for kind, right, wrong in [
        ("grpo", 0.75 / std, -0.25 / std),
        ("dr_grpo", 0.75, -0.25),
        ("rloo", 1.0, -1 / 3),
    ]:
        expected = torch.tensor([[right, wrong, wrong, wrong]])
        torch.testing.assert_close(rl.advantages(rewards, kind), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [2, 3, 5, 6])
def test_pass_at_k_advantages_equal_those_over_all_subsets(size):
    """A sample's advantage: the normalised success of the subsets of k that hold it, averaged."""
    for k in range(1, size + 1):
        for right in range(size + 1):
            rewards = [1.0] * right + [0.0] * (size - right)
            subsets = list(itertools.combinations(range(size), k))
            success = [max(rewards[i] for i in subset) for subset in subsets]
            mean = sum(success) / len(success)
            std = math.sqrt(sum((value - mean) ** 2 for value in success) / len(success))
            expected = []
            for i in range(size):
                mine = [value for subset, value in zip(subsets, success) if i in subset]
                expected.append((sum(mine) / len(mine) - mean) / std if std > 1e-12 else 0.0)
            got = rl.advantages(torch.tensor([rewards]), f"pass@{k}")[0]
            assert got.tolist() == pytest.approx(expected, abs=1e-5), (size, k, right)


def test_pass_at_1_is_grpo():
    rewards = (torch.rand(20, 8, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    torch.testing.assert_close(rl.advantages(rewards, "pass@1"), rl.advantages(rewards, "grpo"), rtol=1e-4, atol=1e-5)


def test_a_group_of_one_is_refused():
    for kind in KINDS:
        with pytest.raises(ValueError, match="at least 2 samples"):
            rl.advantages(torch.tensor([[1.0], [0.0]]), kind)


@pytest.mark.parametrize("kind", ["pass@0", "pass@5", "pass@", "pass@-1", "pass@x", "best@2", "mean", ""])
def test_unknown_advantages_are_refused(kind):
    with pytest.raises(ValueError):
        rl.advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), kind)


# ---- the surrogate --------------------------------------------------------------------------------------------------


def test_clipped_surrogate_equals_the_formula_read_aloud():
    settings = rl.StepSettings(clip_low=0.1, clip_high=0.3)
    generator = torch.Generator().manual_seed(0)
    new, old, advantage = (torch.randn(200, generator=generator) for _ in range(3))
    new = old + 0.5 * new
    got = rl.clipped_surrogate(new, old, advantage, settings)
    for value, n, o, a in zip(got.tolist(), new.tolist(), old.tolist(), advantage.tolist()):
        ratio = math.exp(n - o)
        assert value == pytest.approx(-min(ratio * a, min(max(ratio, 0.9), 1.3) * a), abs=1e-5)


def test_outside_of_the_clip_range_nothing_more_is_gained():
    log_ratio = torch.tensor([0.5, 0.5, -0.5, -0.5], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    rl.clipped_surrogate(log_ratio, torch.zeros(4), advantage, rl.StepSettings()).sum().backward()
    assert [bool(g) for g in log_ratio.grad] == [False, True, True, False]


# ---- the gradient: of the whole batch's token mean, whatever the micro-batches --------------------------------------


def slow_token_gradient(transformer, rollout, advantage, by_temperature=False) -> torch.Tensor:
    """-1/N sum_t A grad log pi, each row alone and without padding (the ratio is 1 before the first step)."""
    total, loss = int(rollout.mask.sum()), 0.0
    for row in range(len(rollout.tokens)):
        start = int(rollout.prompt_lengths[row])
        end = start + int(rollout.mask[row].sum())
        logits = transformer.unembed(transformer(rollout.tokens[row : row + 1, :end]))[0]
        for t in range(start, end):
            log_probs = (logits[t - 1] / rollout.temperatures[row, t]).log_softmax(-1)
            weight = rollout.temperatures[row, t] if by_temperature else 1.0
            loss = loss - weight * advantage[row] * log_probs[rollout.tokens[row, t]] / total
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(transformer.parameters()))])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("by_temperature", [False, True])
def test_token_gradient_is_the_batch_mean_whatever_the_micro_batches(by_temperature, engine):
    transformer, _, rollout = drawn_by_head()
    advantage, before = some_advantages(rollout), state_of(transformer)[0]
    expected = slow_token_gradient(transformer, rollout, advantage, by_temperature)
    assert expected.norm() > 0.01
    start = parameters_of(transformer)
    for tokens in (1, 33, 100_000):
        transformer.load_state_dict(before)
        settings = replace(NO_CLIP, by_temperature=by_temperature)
        metrics = rl.token_step(transformer, sgd(transformer), rollout, advantage, settings, engine=engine(tokens))
        error = (moved(transformer, start) + expected).norm() / expected.norm()
        assert error < 1e-4, (tokens, error)
        assert metrics["gradient_norm"] == pytest.approx(float(expected.norm()), rel=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("extra", [{}, {"entropy_bonus": 0.3}])
def test_temperature_gradient_is_the_batch_mean_whatever_the_micro_batches(extra, engine):
    _, head, rollout = drawn_by_head()
    advantage, before = some_advantages(rollout), state_of(head)[0]
    loss = 0.0
    for row, t in rollout.mask.nonzero().tolist():
        action = Action(rollout.temperatures[row, t], rollout.changed[row, t], rollout.z[row, t])
        loss = loss - advantage[row] * head.log_prob(rollout.reads[row, t], action)
        loss = loss - extra.get("entropy_bonus", 0.0) * head.entropy(rollout.reads[row, t])
    loss = loss / rollout.mask.sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(head.parameters()))])
    start = parameters_of(head)
    for tokens in (1, 33, 100_000):
        head.load_state_dict(before)
        settings = replace(NO_CLIP, **extra)
        rl.temperature_step(head, sgd(head), rollout, advantage, settings, engine(tokens))
        assert (moved(head, start) + expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("budget", [1, 30, 54, 60, 100, 10_000])  # 54: five rows fit, and would tear the second group
def test_samples_of_a_prompt_stay_in_one_micro_batch_where_they_fit(budget):
    """Three prompts of 10, 12 and 11 tokens, of 4, 2 and 3 samples; a prompt counts once, a completion as the longest."""
    prompts, samples, completions = [10, 12, 11], [4, 2, 3], [3, 5, 2, 4, 6, 1, 2, 2, 3]
    group = [i for i, count in enumerate(samples) for _ in range(count)]
    lengths = torch.tensor([prompts[i] for i in group])
    columns = torch.arange(20)
    mask = (columns >= lengths[:, None]) & (columns < (lengths + torch.tensor(completions))[:, None])
    tokens = (torch.tensor(group)[:, None] + 1) * torch.ones(9, 20, dtype=torch.long)
    fields = [torch.zeros(9, 20)] * 6
    rollout = sample.Rollout(tokens, lengths, mask, *fields, torch.ones(9, dtype=torch.bool))
    assert micro_batches.prompts_are_worth_sharing(rollout)
    parts = [part.tolist() for part in micro_batches.micro_batches(rollout, budget)]
    assert [row for part in parts for row in part] == list(range(9))

    def cost(rows):
        return sum(prompts[i] for i in {group[row] for row in rows}) + len(rows) * max(completions[row] for row in rows)

    for part in parts:
        assert len(part) == 1 or cost(part) <= budget
        torn = part[-1] < 8 and group[part[-1]] == group[part[-1] + 1]
        assert not torn or {group[row] for row in part} == {group[part[-1]]}, "only a group that is too large is cut"
    assert parts == {30: [[0, 1, 2, 3], [4, 5], [6, 7, 8]], 10_000: [list(range(9))]}.get(budget, parts)


def test_micro_batches_hold_each_row_once_and_keep_the_budget():
    _, _, rollout = drawn_by_head()
    lengths = rollout.prompt_lengths + rollout.mask.sum(1)
    for budget in (1, 17, 40, 10_000):
        parts = list(micro_batches.micro_batches(rollout, budget))
        assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
        assert all(len(part) == 1 or len(part) * int(lengths[part].max()) <= budget for part in parts)
    assert len(list(micro_batches.micro_batches(rollout, 10_000))) == 1


@torch.no_grad()
def test_cold_tokens_keep_their_ratios_in_bfloat16():
    """At tau = 0.1 logits rounded to bfloat16 put one ratio in a hundred out of the clip range; the products' rounding stays."""
    transformer = model.load("models/countdown")
    transformer.compute_dtype = torch.bfloat16
    prompts = [list(b"3,5,7=22:"), list(b"12,11,4=5:"), list(b"2,9,4=27:")]
    rollout = sample.generate(
        transformer, baselines.Fixed(0.1), prompts, 64, 24, {256}, torch.Generator().manual_seed(0)
    )
    gap = (rl.token_log_probs(transformer, rollout) - rollout.token_log_probs)[rollout.mask].abs()
    assert (gap > 0.18).float().mean() < 0.004, "log 1.2"


def test_the_wide_product_has_the_gradients_of_a_product():
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    wanted = torch.randn(5, 40)
    wide = model.WideProduct.apply(hidden.bfloat16(), weight.bfloat16())
    assert wide.dtype == torch.float32
    transformer = tiny_transformer()
    transformer.compute_dtype, state = torch.bfloat16, torch.randn(3, transformer.config.d_model)
    assert torch.equal(transformer.unembed(state), transformer.unembed(state.bfloat16())), "both factors are rounded"
    torch.testing.assert_close(wide, hidden.bfloat16().float() @ weight.bfloat16().float().t())
    found = torch.autograd.grad((wide * wanted).sum(), (hidden, weight))
    exact = torch.autograd.grad((hidden @ weight.t() * wanted).sum(), (hidden, weight))
    for ours, theirs in zip(found, exact):
        assert ours.dtype == torch.float32 and (ours - theirs).norm() < 0.01 * theirs.norm()


def test_the_end_of_text_token_is_learned():
    transformer, _, rollout = drawn_by_head()
    rows = rollout.finished.nonzero()[:, 0]
    rollout = rollout.rows(rows)
    end = (rollout.prompt_lengths + rollout.mask.sum(1) - 1)[:, None]
    assert all(token in EOS for token in rollout.tokens.gather(1, end)[:, 0].tolist())
    only_end = replace(rollout, mask=rollout.mask & (torch.arange(rollout.mask.shape[1]) == end))
    assert only_end.mask.sum() == len(rows)
    before = rl.token_log_probs(transformer, only_end).sum()
    rl.token_step(transformer, sgd(transformer, 1e-3), only_end, torch.ones(len(rows)), NO_CLIP)
    assert rl.token_log_probs(transformer, only_end).sum() > before


def test_gradients_are_scaled_down_to_the_largest_norm():
    transformer, head, rollout = drawn_by_head()
    for module, step in ((transformer, rl.token_step), (head, rl.temperature_step)):
        start = parameters_of(module)
        metrics = step(module, sgd(module), rollout, some_advantages(rollout), rl.StepSettings(max_grad_norm=1e-3))
        assert metrics["gradient_norm"] > 1e-2
        assert float(moved(module, start).norm()) == pytest.approx(1e-3, rel=1e-2)


# ---- one side moves, the other does not -----------------------------------------------------------------------------


def both_sides():
    transformer, head, rollout = drawn_by_head()
    token_optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-3)
    temperature_optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    return transformer, head, rollout, token_optimizer, temperature_optimizer


def test_each_step_leaves_the_other_side_bit_identical():
    transformer, head, rollout, token_optimizer, temperature_optimizer = both_sides()
    advantage = some_advantages(rollout)
    for _ in range(2):  # the second round starts with moments in both optimizers
        theta, phi = state_of(transformer, token_optimizer), state_of(head, temperature_optimizer)
        rl.token_step(transformer, token_optimizer, rollout, advantage, rl.StepSettings())
        assert_same_state(phi, state_of(head, temperature_optimizer))
        assert not torch.equal(theta[0]["embed.weight"], transformer.embed.weight)
        theta = state_of(transformer, token_optimizer)
        rl.temperature_step(head, temperature_optimizer, rollout, advantage, rl.StepSettings())
        assert_same_state(theta, state_of(transformer, token_optimizer))
        assert not torch.equal(phi[0]["w1.weight"], head.w1.weight)
        assert all(p.grad is None for module in (transformer, head) for p in module.parameters())


@pytest.mark.parametrize("rewards", [torch.zeros(4, 4), torch.ones(4, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_groups_without_signal_move_no_parameter(kind, rewards):
    """Not even by the momentum of the step before."""
    transformer, head, rollout, token_optimizer, temperature_optimizer = both_sides()
    rl.token_step(transformer, token_optimizer, rollout, some_advantages(rollout), rl.StepSettings())
    rl.temperature_step(head, temperature_optimizer, rollout, some_advantages(rollout), rl.StepSettings())
    before = state_of(transformer, token_optimizer, head, temperature_optimizer)
    advantage = rl.advantages(rewards, kind).flatten()
    settings = rl.StepSettings(epochs=2)
    assert rl.token_step(transformer, token_optimizer, rollout, advantage, settings)["gradient_norm"] == 0
    assert rl.temperature_step(head, temperature_optimizer, rollout, advantage, settings)["gradient_norm"] == 0
    assert_same_state(before, state_of(transformer, token_optimizer, head, temperature_optimizer))


# ---- numbers: master weights, float32 softmax, chunks, extreme temperatures ------------------------------------------


@pytest.mark.parametrize("compute_dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_a_step_of_a_millionth_arrives(optimizer, compute_dtype):
    transformer, head = tiny_transformer(), lively_head()
    transformer.compute_dtype = compute_dtype
    rollout = draw(transformer, head)
    advantage = some_advantages(rollout)
    for module, step in ((transformer, rl.token_step), (head, rl.temperature_step)):
        start = parameters_of(module)
        made = getattr(torch.optim, optimizer)(module.parameters(), lr=1e-6)
        metrics = step(module, made, rollout, advantage, NO_CLIP)
        change = moved(module, start).abs()
        assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
        if optimizer == "AdamW":  # its first step moves by the learning rate, whatever the gradient
            assert 0.9e-6 < change.median() < 1.1e-6 if module is transformer else change.max() > 0.9e-6
        else:
            assert float(change.double().norm()) == pytest.approx(1e-6 * metrics["gradient_norm"], rel=0.1)


def test_bfloat16_weights_would_not_move():
    """Why the master weights are float32: what the test above sees is not true of any weights."""
    transformer = tiny_transformer().bfloat16()
    rollout = draw(transformer, baselines.Fixed(1.0))
    start = parameters_of(transformer)
    made = torch.optim.AdamW(transformer.parameters(), lr=1e-6, weight_decay=0.0)
    rl.token_step(transformer, made, rollout, some_advantages(rollout), NO_CLIP)
    assert (moved(transformer, start) == 0).float().mean() > 0.9


def test_logits_and_log_softmax_are_float32_where_the_products_are_bfloat16():
    transformer = tiny_transformer()
    transformer.compute_dtype = torch.bfloat16
    rollout = draw(transformer, lively_head())
    assert rollout.token_log_probs.dtype == rollout.entropies.dtype == torch.float32
    seen, unembed = [], transformer.unembed
    transformer.unembed = lambda hidden: seen.append(unembed(hidden)) or seen[-1]
    with torch.no_grad():
        log_probs = rl.token_log_probs(transformer, rollout)[rollout.mask]
    logits = torch.cat(seen)
    assert logits.dtype == log_probs.dtype == torch.float32
    exact = (logits.double() / rollout.temperatures[rollout.mask].double()[:, None]).log_softmax(-1)
    exact = exact.gather(-1, rollout.tokens[rollout.mask][:, None])[:, 0]
    torch.testing.assert_close(log_probs.double(), exact, rtol=1e-6, atol=1e-5)


def counted_unembedding(transformer) -> list[int]:
    """Replace `unembed` by one that notes how many tokens' logits each call makes."""
    sizes, unembed = [], transformer.unembed

    def noted(hidden):
        sizes.append(hidden.numel() // hidden.shape[-1])
        return unembed(hidden)

    transformer.unembed = noted
    return sizes


@pytest.mark.parametrize("chunk", [1, 7])
def test_logits_exist_for_one_chunk_at_a_time(chunk):
    """In the forward pass, and again in the backward pass, which makes them anew: nothing keeps them in between."""
    transformer, _, rollout = drawn_by_head()
    total = int(rollout.mask.sum())
    whole = log_probs_and_entropies(transformer, rollout, total)
    expected = torch.autograd.grad((whole[0] + whole[1]).sum(), list(transformer.parameters()))
    sizes, kept = counted_unembedding(transformer), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        log_probs, entropies = log_probs_and_entropies(transformer, rollout, chunk)
    assert max(sizes) <= chunk and sum(sizes) == total
    assert not [shape for shape in kept if shape[-1:] == (VOCABULARY,)], "logits are kept for the backward pass"
    gradients = torch.autograd.grad((log_probs + entropies).sum(), list(transformer.parameters()))
    assert max(sizes) <= chunk and sum(sizes) == 2 * total
    torch.testing.assert_close((log_probs, entropies), whole, rtol=1e-5, atol=1e-5)
    for got, want in zip(gradients, expected):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_the_token_step_unembeds_in_chunks(monkeypatch):
    monkeypatch.setitem(rl.LOGITS, "cpu", 50 * VOCABULARY)
    transformer = tiny_transformer()
    rollout = draw(transformer, baselines.Fixed(1.5))
    assert rollout.mask.sum() > 100
    sizes = counted_unembedding(transformer)
    reference = tiny_transformer()
    of_reference = counted_unembedding(reference)
    settings = rl.StepSettings(kl_penalty=0.1)
    rl.token_step(transformer, sgd(transformer), rollout, some_advantages(rollout), settings, reference)
    pulling = int(rollout.mask.sum())  # a KL penalty pulls at every sample
    assert max(sizes) == 50 == max(of_reference)
    assert (sum(sizes), sum(of_reference)) == (2 * pulling, pulling), "forward and again in the backward pass"


@pytest.mark.parametrize("samples, shared", [(1, False), (8, True)])
def test_prompts_are_read_once_where_that_is_worth_it_and_nothing_changes(samples, shared):
    """Prompts that are the same, prefixes of each other, or apart; completions of one token, and cut ones."""
    transformer = tiny_transformer()
    prompts = [[7, 1, 2, 4], [7, 1, 2, 4, 6], [7, 1, 2, 4], [9, 9, 9]]
    generator = torch.Generator().manual_seed(0)
    rollout = sample.generate(transformer, lively_head(), prompts, samples, 5, {3, 5, 8, 11}, generator)
    assert micro_batches.prompts_are_worth_sharing(rollout) == shared
    mask = rollout.mask
    plain = transformer(rollout.tokens)[:, :-1][mask[:, 1:]]
    for wanted in (mask, mask & (torch.arange(mask.shape[1]) % 3 == 0)):
        packed = attention.Packed(rollout.tokens, rollout.prompt_lengths, wanted)
        states = transformer(packed.tokens, packed)[0][packed.drawing]
        torch.testing.assert_close(states, plain[wanted[mask]], rtol=1e-4, atol=1e-5)
    assert packed.tokens.shape[1] <= 4 + 5 + 3 + int(mask.sum())
    if shared:
        states = FastGradient().states(transformer, rollout)
        weight = torch.randn(states.shape, generator=generator)
        gradients = [
            torch.autograd.grad((found * weight).sum(), list(transformer.parameters())) for found in (states, plain)
        ]
        for got, expected in zip(*gradients):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tau", [1e-4, 0.1, 1.5, 100.0])
def test_token_step_is_finite_at_extreme_temperatures(tau):
    transformer = tiny_transformer()
    rollout = draw(transformer, baselines.Fixed(tau))
    assert rollout.token_log_probs.isfinite().all() and rollout.entropies.isfinite().all()
    settings = replace(NO_CLIP, entropy_bonus=0.01, kl_penalty=0.01)
    advantage = some_advantages(rollout)
    metrics = rl.token_step(transformer, sgd(transformer, 1e-3), rollout, advantage, settings, tiny_transformer())
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(parameter.isfinite().all() for parameter in transformer.parameters())


@pytest.mark.parametrize("z", [0.0, 1e-5, 1 - 1e-5, 1.0])
@pytest.mark.parametrize("bias", [-60.0, 0.0, 60.0, 1e4])
def test_temperature_step_is_finite_at_both_ends_of_the_range(z, bias):
    _, head, rollout = drawn_by_head()
    with torch.no_grad():
        head.w2.bias[1:] = bias
    rollout = replace(
        rollout, z=torch.full_like(rollout.z, z), temperatures=torch.full_like(rollout.temperatures, 0.1 + 1.4 * z),
        rest=torch.full_like(rollout.z, 1 - z),
    )  # fmt: skip
    action = Action(rollout.temperatures, rollout.changed, rollout.z, rest=rollout.rest)
    rollout.temperature_log_probs = head.log_prob(rollout.reads, action).detach()
    settings = rl.StepSettings(entropy_bonus=0.01)
    metrics = rl.temperature_step(head, sgd(head, 1e-3), rollout, some_advantages(rollout), settings)
    assert all(math.isfinite(value) for value in metrics.values()) and metrics["gradient_norm"] > 0
    assert all(parameter.isfinite().all() for parameter in head.parameters())


# ---- extras -----------------------------------------------------------------------------------------------------------


def test_kl_penalty_is_zero_at_the_start_and_then_pulls_back():
    transformer, _, rollout = drawn_by_head()
    reference, nothing = copy.deepcopy(transformer), torch.zeros(len(rollout.tokens))
    settings = replace(NO_CLIP, kl_penalty=1.0)
    metrics = rl.token_step(transformer, sgd(transformer), rollout, nothing, settings, reference)
    assert abs(metrics["loss"]) < 1e-6 and metrics["gradient_norm"] < 1e-4

    def k3() -> float:
        with torch.no_grad():
            log_ratio = rl.token_log_probs(reference, rollout) - rl.token_log_probs(transformer, rollout)
        return float((log_ratio.exp() - 1 - log_ratio)[rollout.mask].mean())

    frozen = state_of(reference)
    rl.token_step(transformer, sgd(transformer, 0.01), rollout, some_advantages(rollout), NO_CLIP)
    far = k3()
    assert far > 1e-4
    metrics = rl.token_step(transformer, sgd(transformer, 0.001), rollout, nothing, settings, reference)
    assert metrics["loss"] == pytest.approx(far, rel=1e-2)
    assert k3() < far
    assert_same_state(frozen, state_of(reference))


def test_entropy_bonus_raises_the_entropy_of_either_policy():
    transformer, head, rollout = drawn_by_head()
    nothing, settings = torch.zeros(len(rollout.tokens)), replace(NO_CLIP, entropy_bonus=1.0)

    def token_entropy() -> float:
        with torch.no_grad():
            return float(log_probs_and_entropies(transformer, rollout)[1][rollout.mask].mean())

    def temperature_entropy() -> float:
        with torch.no_grad():
            return float(head.entropy(rollout.reads)[rollout.mask].mean())

    for step, module, entropy in (
        (rl.token_step, transformer, token_entropy),
        (rl.temperature_step, head, temperature_entropy),
    ):
        before = entropy()
        metrics = step(module, sgd(module, 1e-3), rollout, nothing, settings)
        assert metrics["loss"] == pytest.approx(-before, rel=1e-3)
        assert entropy() > before


# ---- schedules --------------------------------------------------------------------------------------------------------


def test_schedules():
    def spelled(schedule, first=0, steps=8):
        names = {(True, True): "b", (True, False): "t", (False, True): "h"}
        return "".join(names[rl.sides(step, schedule, first)] for step in range(steps))

    assert spelled("every") == "bbbbbbbb"
    assert spelled("tokens") == "tttttttt" and spelled("temperature") == "hhhhhhhh"
    assert spelled("blocks:1") == "thththth" and spelled("blocks:3") == "ttthhhtt"
    assert spelled("every", first=3) == "hhhbbbbb" and spelled("tokens", first=2) == "hhtttttt"
    assert spelled("blocks:2", first=3) == "hhhtthht"


@pytest.mark.parametrize("schedule", ["blocks", "blocks:", "blocks:0", "blocks:-1", "blocks:x", "always", ""])
def test_unknown_schedules_are_refused(schedule):
    with pytest.raises(ValueError, match="schedule"):
        rl.sides(0, schedule)
