"""sample.py: the cached, batched loop against a slow one that reads each row alone, and the draws against softmax."""

import contextlib
import copy
import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import baselines
import model
import rl
import sample
import temperature_head
import token_policy
from display import terminal
from engine import decoder, memory, sampling
from engine import draw as drawing
from temperature_head import TemperatureHead

VOCABULARY = 17
SAMPLED = [field for field in fields(sample.Rollout) if field.name != "likelihood"]  # engine/marginal.py adds that one
EOS = {3, 5}
PROMPTS = [[3, 7, 1], [9], [4, 5, 3, 8, 8, 2], [0, 0]]  # ragged; end-of-text ids and padding ids inside
PER_TOKEN = ("mask", "temperatures", "changed", "z", "token_log_probs", "temperature_log_probs", "entropies", "reads")


@pytest.fixture(scope="module")
def transformer() -> model.Transformer:
    torch.manual_seed(0)
    made = model.Transformer(
        model.Config(
            vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_mlp=48,
            max_length=64, qk_norm=True, tied=False,
        )
    )  # fmt: skip
    with torch.no_grad():
        made.unembedding.weight.mul_(4)
    return made


@pytest.fixture(scope="module")
def head() -> TemperatureHead:
    torch.manual_seed(1)
    made = TemperatureHead(32)
    with torch.no_grad():
        made.w2.weight.mul_(40)
    return made


@pytest.fixture(scope="module")
def cutting_head(head) -> TemperatureHead:
    """With it a Rollout has every field that there is."""
    return baselines.with_cut(copy.deepcopy(head), min_p=0.05)


def draw(transformer, policy, prompts=PROMPTS, samples=4, new=10, eos=EOS, seed=0) -> sample.Rollout:
    generator = torch.Generator().manual_seed(seed)
    return sample.generate(transformer, policy, prompts, samples, new, eos, generator, keep_reads=True)


def last_hidden(transformer, tokens: list[int]) -> torch.Tensor:
    """The slow way: the whole row again for each token, alone, without cache or padding."""
    return transformer(torch.tensor([tokens]))[0, -1]


def test_whatever_a_config_combines_sampling_and_training_agree():
    """No family has layer norms and norms of queries and keys; a fork may."""
    torch.manual_seed(0)
    switches = dict(
        norm="layer", position="learned", mlp="gelu", qkv_bias=True, out_bias=True, mlp_bias=True, qk_norm=True
    )
    sizes = dict(
        vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_mlp=48, max_length=64
    )
    made = model.Transformer(model.Config(**sizes, **switches))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    rollout = draw(made, baselines.make("1.0"))
    torch.testing.assert_close(rl.token_log_probs(made, rollout), rollout.token_log_probs, atol=1e-4, rtol=1e-4)


# ---- against a slow oracle ------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("eos", [EOS, {0}, set(), set(range(VOCABULARY))])
def test_greedy_equals_the_slow_generator(transformer, eos):
    """Ragged prompts, rows that end at different steps, padding id 0 as the end-of-text id, no end-of-text id at all."""
    rollout = draw(transformer, baselines.Fixed(0.0), samples=2, new=12, eos=eos)
    for row, prompt in enumerate(prompt for prompt in PROMPTS for _ in range(2)):
        tokens, finished = list(prompt), False
        while len(tokens) < len(prompt) + 12 and not finished:
            tokens.append(int(transformer.unembed(last_hidden(transformer, tokens)).argmax()))
            finished = tokens[-1] in eos
        end = len(tokens)
        assert rollout.tokens[row, :end].tolist() == tokens
        assert rollout.prompt_lengths[row] == len(prompt) and rollout.finished[row] == finished
        expected_mask = [len(prompt) <= t < end for t in range(rollout.tokens.shape[1])]
        assert rollout.mask[row].tolist() == expected_mask
        completion = tokens[len(prompt) : end - finished]
        assert rollout.completions()[row] == completion
        assert (rollout.temperatures[row] == 0).all() and (rollout.token_log_probs[row] == 0).all()


@torch.no_grad()
def slow_generate(
    transformer, policy, prompts, samples, new, eos, generator
) -> tuple[list[list[int]], list[list[float]]]:
    """The algorithm read aloud: whole rows again for each token, one at a time; the rows that go on draw, in order."""
    rows = [list(prompt) for prompt in prompts for _ in range(samples)]
    taus, going = [[] for _ in rows], list(range(len(rows)))
    for step in range(new):
        hidden = torch.stack([last_hidden(transformer, rows[row]) for row in going])
        logits = transformer.unembed(hidden)
        previous = torch.tensor([taus[row][-1] if taus[row] else policy.tau_initial for row in going])
        temperature = policy.act(hidden, previous, logits=logits, step=step, generator=generator).temperature
        tokens = drawing.draw_token(logits, temperature, generator)[0]
        for row, token, tau in zip(going, tokens.tolist(), temperature.tolist()):
            rows[row].append(token)
            taus[row].append(tau)
        going = [row for row in going if rows[row][-1] not in eos]
        if not going:
            break
    return [row[len(prompts[index // samples]) :] for index, row in enumerate(rows)], taus


@pytest.mark.parametrize("samples, prompts", [(1, PROMPTS), (7, PROMPTS), (16, [[1, 2, 3]]), (3, PROMPTS * 3)])
def test_the_same_random_numbers_give_the_tokens_of_the_slow_generator(transformer, head, samples, prompts):
    """Rows end at every step, and the cache is packed again and again; nobody draws another token for it."""
    new = 40
    for policy in (head, baselines.Fixed(0.7), baselines.EDT(theta=0.5)):
        rollout = draw(transformer, policy, prompts, samples, new)
        slow, taus = slow_generate(transformer, policy, prompts, samples, new, EOS, torch.Generator().manual_seed(0))
        assert [row[keep].tolist() for row, keep in zip(rollout.tokens, rollout.mask)] == slow
        for row, expected in enumerate(taus):
            got = rollout.temperatures[row][rollout.mask[row]]
            torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-3, atol=1e-4)
    assert len(set(map(len, slow))) > min(4, len(slow) // 2), "the test wants rows of many lengths"


@torch.no_grad()
def test_everything_stored_equals_the_slow_recomputation(transformer, head):
    rollout = draw(transformer, head)
    assert 0 < rollout.finished.sum() < len(rollout.finished), "the test wants finished and truncated rows"
    for row in range(len(rollout.tokens)):
        start, tau = int(rollout.prompt_lengths[row]), head.tau_initial
        tokens = rollout.tokens[row].tolist()
        for t in range(start, start + int(rollout.mask[row].sum())):
            hidden = last_hidden(transformer, tokens[:t])
            torch.testing.assert_close(rollout.reads[row, t], hidden, rtol=0, atol=1e-4)
            logits = transformer.unembed(hidden)
            gate, alpha, beta = head(hidden)
            changed, z = bool(rollout.changed[row, t]), rollout.z[row, t]
            tau = float(head.tau_min + z * (head.tau_max - head.tau_min)) if changed else tau  # kept: tau_{t-1}
            assert rollout.temperatures[row, t] == pytest.approx(tau, abs=1e-6)
            log_probs = (logits / tau).log_softmax(-1)
            assert rollout.token_log_probs[row, t] == pytest.approx(float(log_probs[tokens[t]]), abs=1e-4)
            entropy = torch.distributions.Categorical(logits=logits).entropy()  # at temperature 1, whatever tau is
            assert rollout.entropies[row, t] == pytest.approx(float(entropy), abs=1e-4)
            log_prob = torch.distributions.Bernoulli(logits=gate).log_prob(torch.tensor(float(changed)))
            if changed:
                log_prob = log_prob + torch.distributions.Beta(alpha, beta).log_prob(z)
            assert rollout.temperature_log_probs[row, t] == pytest.approx(float(log_prob), abs=1e-3)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours_or_its_padding(transformer):
    """Greedy rows in any company; and the recorded numbers of sampled rows, recomputed in other company."""
    together = draw(transformer, baselines.Fixed(0.0), samples=1, new=12)
    longer = draw(transformer, baselines.Fixed(0.0), prompts=[[1] * 30, *PROMPTS], samples=1, new=12)
    for row, prompt in enumerate(PROMPTS):
        alone = draw(transformer, baselines.Fixed(0.0), prompts=[prompt], samples=1, new=12)
        assert alone.completions()[0] == together.completions()[row] == longer.completions()[row + 1]
        kept = alone.mask[0]
        for other, index in ((together, row), (longer, row + 1)):
            for name in ("entropies", "reads"):
                mine = getattr(alone, name)[0][kept]
                torch.testing.assert_close(getattr(other, name)[index][other.mask[index]], mine, rtol=1e-4, atol=1e-5)


# ---- the mask -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos", [EOS, {0}, {0, 3, 5, 8}])
def test_the_mask_goes_by_position_and_holds_the_end_of_text_token(transformer, head, eos):
    """Also where the padding id is an end-of-text id (0), and where prompts are full of them."""
    rollout = draw(transformer, head, eos=eos)
    for row in range(len(rollout.tokens)):
        start = int(rollout.prompt_lengths[row])
        tokens, mask = rollout.tokens[row].tolist(), rollout.mask[row].tolist()
        ends = [t for t in range(start, start + 10) if t < len(tokens) and mask[t] and tokens[t] in eos]
        assert bool(ends) == bool(rollout.finished[row]) and len(ends) <= 1
        stop = ends[0] + 1 if ends else start + 10
        assert mask == [start <= t < stop for t in range(len(tokens))]
        assert tokens[:start] == PROMPTS[row // 4] and not any(tokens[stop:])
    assert rollout.finished.any() and not rollout.mask.all(1).any()


def test_nothing_is_recorded_where_nothing_was_sampled(transformer, head):
    rollout = draw(transformer, head)
    for name in PER_TOKEN:
        values = getattr(rollout, name)
        assert values.shape[:2] == rollout.tokens.shape
        assert not values[~rollout.mask].any(), name
        assert values[rollout.mask].isfinite().all(), name
    assert (rollout.token_log_probs[rollout.mask] <= 0).all() and rollout.tokens.dtype == torch.int64
    taus = rollout.temperatures[rollout.mask]
    assert (taus >= head.tau_min).all() and (taus <= head.tau_max).all()


def test_generation_stops_when_every_row_has_ended(transformer):
    seen = []
    generator = torch.Generator().manual_seed(0)
    rollout = sample.generate(
        transformer, baselines.Fixed(1.0), PROMPTS, 2, 10, set(range(VOCABULARY)), generator,
        on_token=lambda step, token, tau: seen.append((step, token.tolist(), tau.tolist())),
    )  # fmt: skip
    assert len(seen) == 1 and seen[0][0] == 0 and len(seen[0][1]) == 8 and seen[0][2] == [1.0] * 8
    assert rollout.finished.all() and rollout.completions() == [[]] * 8 and rollout.reads is None


def test_a_completion_that_ends_at_the_last_step_is_finished(transformer):
    one = draw(transformer, baselines.Fixed(1.0), new=1, eos=set(range(VOCABULARY)))
    assert one.finished.all() and (one.mask.sum(1) == 1).all()
    other = draw(transformer, baselines.Fixed(1.0), new=1, eos=set())
    assert not other.finished.any() and [len(ids) for ids in other.completions()] == [1] * 16


# ---- seeds ----------------------------------------------------------------------------------------------------------


def test_the_generator_fixes_every_draw_and_nothing_else_does(transformer, cutting_head):
    torch.manual_seed(1)
    first, state = draw(transformer, cutting_head), torch.get_rng_state()
    torch.manual_seed(2)
    again = draw(transformer, cutting_head)
    for field in SAMPLED:
        assert torch.equal(getattr(first, field.name), getattr(again, field.name)), field.name
    assert not torch.equal(first.tokens, draw(transformer, cutting_head, seed=1).tokens)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "sampling moved the global generator"


@pytest.mark.parametrize("tokens", [1, 12, 2**11])
def test_prompts_are_read_some_at_a_time_to_the_same_effect(transformer, head, tokens, monkeypatch):
    expected, parts, forward = draw(transformer, head), [], transformer.forward

    def counted(tokens, *rest):
        parts.append(len(tokens))
        return forward(tokens, *rest)

    monkeypatch.setattr(transformer, "forward", counted)
    monkeypatch.setitem(sampling.PROMPT_TOKENS_AT_ONCE, "cpu", tokens)
    got = draw(transformer, head)
    longest = int(got.prompt_lengths.max())
    assert sum(parts) == 4 and max(parts) == min(4, max(1, tokens // longest))
    assert torch.equal(got.tokens, expected.tokens)
    torch.testing.assert_close(got.token_log_probs, expected.token_log_probs, rtol=1e-4, atol=1e-4)


def test_samples_of_a_prompt_differ(transformer, head):
    rows = draw(transformer, head).completions()
    assert all(len({tuple(ids) for ids in rows[start : start + 4]}) > 1 for start in range(0, 16, 4))


# ---- one token ------------------------------------------------------------------------------------------------------


BOTH = pytest.mark.parametrize("sample_token", [token_policy.sample_token, drawing.draw_token])


@BOTH
@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
def test_tokens_are_drawn_from_softmax_of_logits_over_tau(tau, sample_token):
    logits = torch.tensor([2.0, -1.0, 0.5, 0.0, 1.2, -0.3])
    draws, generator = 40_000, torch.Generator().manual_seed(0)
    tokens, log_probs, entropies = sample_token(logits.expand(draws, 6), torch.full((draws,), tau), generator)
    torch.testing.assert_close(entropies[0], torch.distributions.Categorical(logits=logits).entropy())
    expected = (logits / tau).softmax(-1)
    counts = torch.bincount(tokens, minlength=6)
    chi_square = ((counts - draws * expected) ** 2 / (draws * expected)).sum()
    assert chi_square < 20.5, "five degrees of freedom: exceeded once in a thousand"
    torch.testing.assert_close(log_probs, expected.log()[tokens], rtol=1e-5, atol=1e-5)


@BOTH
def test_each_row_has_its_own_temperature_and_its_own_draw(sample_token):
    logits = torch.tensor([[1.0, 2.0, 0.0]]).expand(3000, 3)
    taus = torch.tensor([0.0, 0.05, 50.0]).repeat(1000)
    tokens, log_probs, _ = sample_token(logits, taus, torch.Generator().manual_seed(0))
    assert (tokens[0::3] == 1).all() and (log_probs[0::3] == 0).all()
    assert (tokens[1::3] == 1).all()
    assert torch.bincount(tokens[2::3], minlength=3).min() > 250


@pytest.fixture(params=[128, 2])
def block(request, monkeypatch) -> int:
    """In blocks of two even a small vocabulary is drawn from in two levels."""
    monkeypatch.setattr(drawing, "BLOCK", request.param)
    return request.param


def test_greedy_takes_the_first_of_equal_logits(block):
    """Of equals in a block, and of equal blocks."""
    logits = torch.full((50, 21), 1.0)
    logits[:, [7, 8, 9, 15]] = 3.0
    tokens, log_probs, _ = drawing.draw_token(logits, torch.zeros(50), torch.Generator().manual_seed(0))
    assert tokens.tolist() == [7] * 50 and not log_probs.any()


def test_tokens_of_probability_zero_are_never_drawn(block, monkeypatch):
    """Whatever the uniform draw is, its two ends included; also where a block has no others."""
    logits = torch.full((1, 21), -math.inf)
    logits[0, 1:4] = torch.tensor([0.0, -200.0, 1.0])
    for uniform in (0.0, 1e-8, 0.25, 0.5, 0.75, 1 - 2**-24):
        monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, uniform))  # noqa: B023
        token, log_prob, entropy = drawing.draw_token(logits, torch.ones(1))
        assert token.item() in (1, 3) and log_prob.isfinite().all()
        assert entropy.item() == pytest.approx(math.log(1 + math.e) - math.e / (1 + math.e), abs=1e-6)


def test_a_large_vocabulary_is_drawn_to_its_end(monkeypatch):
    """The sum of 150,000 float32 probabilities is not 1: the draw is scaled to what it is."""
    logits = torch.randn(12, 150_000, generator=torch.Generator().manual_seed(0))
    for uniform, low, high in ((1 - 2**-24, 149_900, 150_000), (0.0, 0, 100)):
        monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, uniform))  # noqa: B023
        tokens = drawing.draw_token(logits, torch.ones(12))[0]
        assert low <= tokens.min() and tokens.max() < high


@pytest.mark.parametrize("size", [128, 8])
@pytest.mark.parametrize("vocabulary", [3, 64, 65, 128, 257, 1000])
def test_two_levels_draw_as_one_would(vocabulary, size, monkeypatch):
    """Block and token together have the probability of the token, where the vocabulary is whole blocks and where not.

    A vocabulary of more than eight blocks is drawn from in two levels."""
    monkeypatch.setattr(drawing, "BLOCK", size)
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    draws, generator = 60_000, torch.Generator().manual_seed(1)
    tau = torch.full((draws,), 0.8)
    tokens, log_probs, entropies = drawing.draw_token(logits.expand(draws, -1), tau, generator)
    expected = (logits / 0.8).softmax(-1)
    often = expected * draws > 20
    counts = torch.bincount(tokens, minlength=vocabulary)
    chi_square = ((counts - draws * expected) ** 2 / (draws * expected))[often].sum()
    degrees = int(often.sum())
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees) + 8
    torch.testing.assert_close(log_probs, expected.log()[tokens], rtol=1e-4, atol=1e-4)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropies, entropy.expand(draws), rtol=1e-4, atol=1e-4)


class Warming(temperature_head.Policy):
    """A fixed temperature at some steps, the head at the others."""

    def __init__(self, head, fixed_at):
        self.head, self.fixed_at, self.seen = head, fixed_at, []

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None):
        policy = baselines.Fixed(0.8) if self.fixed_at(step) else self.head
        self.seen.append(policy.act(hidden, tau_previous, logits=logits, step=step, generator=generator))
        return self.seen[-1]


@pytest.mark.parametrize("fixed_at", [lambda step: step < 3, lambda step: step >= 3, lambda step: step % 2 == 0])
def test_a_policy_may_draw_at_some_steps_only(fixed_at, transformer, head):
    policy = Warming(head, fixed_at)
    rollout = draw(transformer, policy, eos=set())
    for step, action in enumerate(policy.seen):
        columns = rollout.prompt_lengths + step
        got = rollout.temperature_log_probs.gather(1, columns[:, None])[:, 0]
        torch.testing.assert_close(got, action.log_prob)
        assert bool(got.any()) is not fixed_at(step)


class Halved(temperature_head.Action):
    """As it were of another density."""

    @property
    def log_prob(self):
        return super().log_prob / 2


def test_an_action_may_have_a_density_of_its_own(transformer, head, monkeypatch):
    expected = draw(transformer, head).temperature_log_probs / 2
    act = head.act
    monkeypatch.setattr(head, "act", lambda *given, **named: Halved(*act(*given, **named)))
    torch.testing.assert_close(draw(transformer, head).temperature_log_probs, expected)


@pytest.mark.parametrize("vocabulary", [30, 3000])
def test_a_part_of_the_rows_after_the_other_draws_the_same(vocabulary, monkeypatch):
    logits = torch.randn(11, vocabulary, generator=torch.Generator().manual_seed(0))
    tau = torch.linspace(0, 2, 11)
    whole = drawing.draw_token(logits, tau, torch.Generator().manual_seed(1))
    calls, invert = [], drawing.invert
    monkeypatch.setattr(drawing, "invert", lambda *part: calls.append(len(part[0])) or invert(*part))
    for numbers, sizes in ((4 * vocabulary, [4, 4, 3]), (1, [1] * 11)):
        monkeypatch.setattr(drawing, "LOGITS_AT_ONCE", numbers)
        calls.clear()
        parts = drawing.draw_token(logits, tau, torch.Generator().manual_seed(1))
        assert calls == sizes and torch.equal(parts[0], whole[0])
        for got, expected in zip(parts[1:], whole[1:]):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("vocabulary", [1000, 3000, 151_936])
def test_log_probs_and_entropies_are_exact_to_float32(vocabulary):
    """Against float64, of tokens that are drawn, at every temperature; training's are close enough for a ratio of 1."""
    logits = 5 * torch.randn(40, vocabulary, generator=torch.Generator().manual_seed(0))
    tau = torch.linspace(0.05, 2, 40)
    token, log_prob, entropy = drawing.draw_token(logits, tau, torch.Generator().manual_seed(1))
    exact = (logits.double() / tau.double()[:, None]).log_softmax(-1).gather(1, token[:, None])[:, 0]
    at_one = torch.distributions.Categorical(logits=logits.double()).entropy()
    torch.testing.assert_close(log_prob.double(), exact, rtol=0, atol=4e-6)
    torch.testing.assert_close(entropy.double(), at_one, rtol=0, atol=4e-6)
    of_training = token_policy.token_policy(logits, tau).gather(1, token[:, None])[:, 0]
    torch.testing.assert_close(of_training, log_prob, rtol=0, atol=1e-4)


def test_cold_tokens_with_vanishing_weights_are_never_drawn(block):
    """Weights that underflow stand between those that do not, in every block."""
    logits = torch.full((2000, 1000), -50.0)
    logits[:, 7::93] = 0.0
    tokens, log_probs, _ = drawing.draw_token(logits, torch.full((2000,), 0.1), torch.Generator().manual_seed(0))
    assert set(tokens.tolist()) == set(range(7, 1000, 93))
    torch.testing.assert_close(log_probs, torch.full((2000,), -math.log(len(range(7, 1000, 93)))))


@pytest.mark.parametrize("tau", [0.0, 1e-4, 0.1, 1.5, 100.0])
def test_log_probs_are_finite_and_sum_to_one_at_any_temperature(tau):
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 10
    log_probs = token_policy.token_policy(logits, torch.full((4,), tau))
    assert not log_probs.isnan().any() and log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(4))
    assert torch.equal(log_probs.argmax(-1), logits.argmax(-1))


def test_token_policy_is_float32_on_bfloat16_logits():
    logits = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    tau = torch.full((8,), 0.7)
    exact = (logits.double() / tau.double()[:, None]).log_softmax(-1)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            torch.testing.assert_close(token_policy.token_policy(logits, tau).double(), exact, rtol=0, atol=1e-5)


# ---- rollouts taken apart and put together --------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", [17, 1024, 5000])
def test_logits_that_are_no_numbers_give_some_token_and_no_probability(vocabulary):
    logits = torch.zeros(2, vocabulary)
    logits[0, 3] = float("nan")
    token, log_prob, _ = drawing.draw_token(logits, torch.ones(2), torch.Generator().manual_seed(0))
    assert (token < vocabulary).all() and log_prob[0].isnan() and log_prob[1].isfinite()


def test_a_rollout_is_made_of_ordinary_tensors(transformer, cutting_head):
    """It is drawn in inference mode, whose tensors training could neither save for a backward pass nor write to."""
    rollout = sample.generate(transformer, cutting_head, [[1, 2], [3]], 4, 6, EOS, keep_reads=True)
    kept = {field.name: getattr(rollout, field.name) for field in SAMPLED}
    assert not [name for name, value in kept.items() if value.is_inference()] and len(kept) == 13


def test_rows_of_a_rollout(transformer, cutting_head):
    rollout = draw(transformer, cutting_head)
    lengths = rollout.prompt_lengths + rollout.mask.sum(1)
    for index in ([5], [0, 3, 15], list(range(15, -1, -1))):
        part = rollout.rows(torch.tensor(index))
        width = int(lengths[index].max())
        assert part.completions() == [rollout.completions()[row] for row in index]
        for field in SAMPLED:
            whole, got = getattr(rollout, field.name)[index], getattr(part, field.name)
            assert torch.equal(got, whole[:, :width] if whole.dim() > 1 else whole), field.name


def test_join_puts_rollouts_of_different_widths_together(transformer, cutting_head):
    parts = [draw(transformer, cutting_head, prompts=[prompt], new=new) for prompt, new in zip(PROMPTS, (4, 10, 7, 1))]
    joined = sample.join(parts)
    assert joined.completions() == [ids for part in parts for ids in part.completions()]
    assert len(joined.tokens) == 16 and joined.tokens.shape[1] == max(part.tokens.shape[1] for part in parts)
    for place, part in enumerate(parts):
        index = torch.arange(4 * place, 4 * place + 4)
        alone, back = part.rows(torch.arange(4)), joined.rows(index)
        for field in SAMPLED:
            assert torch.equal(getattr(alone, field.name), getattr(back, field.name)), field.name
    without = sample.join([sample.generate(transformer, cutting_head, [[1]], 2, 3, EOS) for _ in range(2)])
    uncut = sample.generate(transformer, baselines.Fixed(1.0), [[1]], 2, 3, EOS)
    for mixed in ([without, uncut], [uncut, without]):
        with pytest.raises(ValueError, match="cannot join rollouts with margins and rollouts without"):
            sample.join(mixed)
    assert without.reads is None and without.rows(torch.tensor([1])).reads is None


# ---- refusals, and the line that people see -------------------------------------------------------------------------


def test_prompts_that_cannot_be_sampled_are_refused(transformer):
    for prompts in ([], [[1], []]):
        with pytest.raises(ValueError, match="at least one token"):
            draw(transformer, baselines.Fixed(1.0), prompts=prompts)
    with pytest.raises(ValueError, match="more tokens than the model"):
        draw(transformer, baselines.Fixed(1.0), prompts=[[1, VOCABULARY]])
    with pytest.raises(ValueError, match="context of 64"):
        draw(transformer, baselines.Fixed(1.0), prompts=[[1] * 55], new=10)
    assert draw(transformer, baselines.Fixed(1.0), prompts=[[1] * 54], new=10, eos=set()).tokens.shape == (4, 64)


def test_rows_at_once_fit_the_memory(transformer):
    per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, numbers a head, bytes
    assert memory.bytes_per_row(transformer, 64) == 64 * per_token
    assert memory.rows_at_once(transformer, 64, budget=per_token * 64 * 10) == 8, "the power of two below"
    assert memory.rows_at_once(transformer, 64, budget=1) == 1
    assert memory.rows_at_once(transformer, 64, budget=2**40) == 512


def test_rows_at_once_are_a_share_of_what_is_free(transformer, monkeypatch):
    per_row = memory.bytes_per_row(transformer, 64)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * 33 * per_row)
    assert memory.rows_at_once(transformer, 64) == 32
    monkeypatch.undo()
    free = memory.free_bytes(torch.device("cpu"))
    assert 2**27 < free < 2**45
    for gone in ("read_text", "sysconf"):  # a system without /proc, and one without sysconf
        owner = Path if gone == "read_text" else memory.os
        monkeypatch.setattr(owner, gone, lambda *_, **__: (_ for _ in ()).throw(OSError()))
        assert memory.free_bytes(torch.device("cpu")) > 2**27
    assert memory.free_bytes(torch.device("cpu")) == 8 * 2**30


def test_colours_go_from_cold_to_hot_and_survive_any_temperature():
    shades = [terminal.colour("x", tau) for tau in (-1.0, 0.0, 0.7, 1.5, 99.0)]
    assert shades[0] == shades[1] and shades[3] == shades[4] and len(set(shades)) == 3
    assert all(shade.endswith("x\x1b[0m") for shade in shades)
    assert "\n" not in terminal.show(["a\n", "b"], [1.0, 0.5], colours=True)
    assert terminal.show(["a\n", "b"], [1.0, 0.5], colours=False).count("[") == 2


# ---- the graph of CUDA, with a stand-in ------------------------------------------------------------------------------


@pytest.fixture
def captured(monkeypatch) -> list:
    """CUDA's branch of the loop on a CPU: a graph that runs the step again at every replay, on the capture's own tensors.

    As CUDA's does, it reads the token from where it lay, writes its result over the last one, and knows nothing of Python's
    counters: they are what they were at the capture.  The list grows by one at each.
    """
    captures = []

    class Recorded:
        def replay(self):
            assert self.cache.used == int(self.cache.column) + 1, "Python's count of the columns is the device's"
            used, self.cache.used = self.cache.used, self.used
            self.hidden.copy_(self.decoder(self.token, self.cache))
            self.cache.used = used

    def capture(self, token, really=decoder.Graph.capture):
        column = self.cache.column.clone()
        really(self, token)
        self.cache.column.copy_(column)  # on CUDA a capture runs nothing
        self.graph.cache, self.graph.used, self.graph.token = self.cache, self.cache.used, self.token
        self.graph.decoder, self.graph.hidden = self.decoder, self.hidden
        captures.append(self.shape)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    current = []

    @contextlib.contextmanager
    def device(place):
        current.append(place)
        yield
        current.pop()

    def step(self, token, cache, really=decoder.Decoder.__call__):
        assert current == [token.device], "a kernel runs on the current device, wherever its tensors are"
        return really(self, token, cache)

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(decoder, "capturing", contextlib.nullcontext)
    monkeypatch.setattr(decoder.Decoder, "__call__", step)
    monkeypatch.setattr(decoder.Graph, "capture", capture)
    monkeypatch.setattr(sampling, "can_capture", lambda device: True)
    return captures


def model_and_head() -> tuple[model.Transformer, TemperatureHead]:
    torch.manual_seed(0)
    config = model.Config(
        vocab_size=300,
        d_model=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        d_head=8,
        d_mlp=48,
        max_length=900,
        qk_norm=True,
    )
    transformer, head = model.Transformer(config), TemperatureHead(32)
    with torch.no_grad():
        transformer.unembedding.weight.mul_(3)
        head.w2.weight.mul_(30)
    return transformer, head


@pytest.mark.parametrize(
    "ends, new, least", [({5, 6, 7, 8}, 300, 3), (set(), 300, 2), (set(range(0, 300, 20)), 100, 2)]
)
def test_a_captured_step_is_the_step(captured, ends, new, least):
    transformer, head = model_and_head()
    prompts = [list(range(1, 1 + length)) for length in (3, 17, 9, 5)]
    rollout = sample.generate(transformer, head, prompts, 8, new, ends, torch.Generator().manual_seed(1), True)
    assert len(captured) >= least, "again where rows have left, and every 256 tokens"
    with torch.no_grad():
        gap = (rl.token_log_probs(transformer, rollout) - rollout.token_log_probs)[rollout.mask].abs()
        hidden = transformer(rollout.tokens)[:, :-1][rollout.mask[:, 1:]]
    assert gap.max() < 1e-4
    torch.testing.assert_close(hidden, rollout.reads[rollout.mask], rtol=1e-3, atol=1e-5)
    for ids, keep, whole in zip(rollout.tokens, rollout.mask, rollout.finished.tolist()):
        drawn = ids[keep].tolist()
        assert not ends.intersection(drawn[:-1]) and whole == (drawn[-1] in ends) and (whole or len(drawn) == new)


def test_who_sees_every_step_sees_a_row_leave_at_once(captured):
    """A policy that follows each row (oracle.py) has as many as draw."""
    ends, going, rows = torch.arange(0, 300, 20), [32], []

    def see(step, token, temperature):
        rows.append(len(token))
        going.append(int((~torch.isin(token, ends)).sum()))

    generator = torch.Generator().manual_seed(1)
    sample.generate(*model_and_head(), [[1, 2, 3]] * 4, 8, 100, set(ends.tolist()), generator, on_token=see)
    told, policy = list(rows), baselines.make("1.0")
    going[1:], rows[:], policy.see = [], [], see
    sample.generate(model_and_head()[0], policy, [[1, 2, 3]] * 4, 8, 100, set(ends.tolist()), generator)
    assert rows == going[: len(rows)] and len(told) > 1
    assert rows == going[: len(rows)] and len(set(rows)) > 8 and captured
