"""baselines.py: each fixed rule against its formula worked out by hand, behind the interface of the learned policy."""

import json
import math

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import baselines
import model
import sample
import temperature_head
import token_policy
from baselines import EAD, EDT, Fixed
from engine.draw import draw_token


def temperatures(policy, *, logits=None, step=0, rows=3) -> list[float]:
    logits = torch.zeros(rows, 5) if logits is None else logits
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    action = policy.act(None, torch.full((len(logits),), 0.4), logits=logits, step=step, generator=generator)
    assert all(field.shape == (len(logits),) for field in action[:3]) and action[3:] == (None,) * 3
    assert action.temperature.dtype == torch.float32 and action.changed.dtype == torch.bool
    assert not action.log_prob.any(), "nothing is sampled, so nothing has a probability"
    assert torch.equal(generator.get_state(), state)
    return action.temperature.tolist()


# ---- fixed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 2.5])
def test_fixed_is_the_same_for_every_token(tau):
    for step in (0, 1, 500):
        assert temperatures(Fixed(tau), step=step) == pytest.approx([tau] * 3)
    assert Fixed(tau).tau_initial == tau


@pytest.mark.parametrize("tau", [-0.1, -math.inf, math.nan])
def test_impossible_temperatures_are_refused(tau):
    with pytest.raises(ValueError, match="temperature"):
        Fixed(tau)


# ---- EAD: tau_t = max(1 + tau_max - exp(t / d_s), tau_min), one unit of d_s is 20 tokens -----------------------------


@pytest.mark.parametrize(
    "step, training_step, expected",
    [
        (0, 0, 1.0),  # the first ten tokens
        (9, 0, 1.0),
        (10, 0, 1.17980),  # 2.2 - exp(10 / 500)
        (100, 0, 0.97860),  # 2.2 - exp(0.2)
        (250, 0, 0.55128),  # 2.2 - exp(0.5)
        (371, 0, 0.1),  # 2.2 - exp(0.742) = 0.0998, below the floor
        (370, 0, 0.10406),
        (10_000_000, 0, 0.1),  # no overflow
        (250, 5, 0.91597),  # d_s = 25 + 25: 2.2 - exp(250 / 1000)
        (800_000, 7_995, 0.1),  # 2.2 - e < 0
        (400_000, 7_995, 0.55128),  # d_s = 40000 exactly: 2.2 - exp(0.5)
        (400_000, 1_000_000, 0.55128),  # and it grows no further
    ],
)
def test_ead_by_hand(step, training_step, expected):
    policy = EAD()
    policy.training_step = training_step
    assert temperatures(policy, step=step) == pytest.approx([expected] * 3, abs=1e-4)


def test_ead_falls_with_the_position_and_explores_longer_as_training_goes_on():
    early, late = EAD(), EAD(training_step=50)
    falls = [[temperatures(policy, step=step)[0] for step in range(10, 600, 10)] for policy in (early, late)]
    assert falls[0] == sorted(falls[0], reverse=True) and falls[0][-1] == pytest.approx(0.1)
    assert all(b >= a for a, b in zip(*falls)) and EAD().tau_initial == 1.0


# ---- mixture --------------------------------------------------------------------------------------------------------


def test_a_mixture_keeps_each_sample_at_one_of_two_temperatures_also_when_others_have_ended():
    torch.manual_seed(0)
    config = model.Config(
        vocab_size=8, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_head=4, d_mlp=8, max_length=32
    )
    policy = baselines.make("mixture:low=0.2,high=1.1")
    rollout = sample.generate(
        model.Transformer(config), policy, [[1], [2, 3]], 4, 20, {0, 5}, torch.Generator().manual_seed(1)
    )
    ends = rollout.mask.sum(1)
    assert ends.min() < ends.max(), "some leave before others"
    of_rows = [row[keep].tolist() for row, keep in zip(rollout.temperatures, rollout.mask)]
    for taus, tau in zip(of_rows, (0.2, 1.1) * 4):
        assert taus == pytest.approx([tau] * len(taus))


# ---- EDT: tau_t = T_0 * 0.8^(theta / H_t) ----------------------------------------------------------------------------


def logits_of_entropy(entropy: float) -> torch.Tensor:
    """Two outcomes with this entropy in nats, by bisection."""
    low, high = 0.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        p = 1 / (1 + math.exp(-middle))
        found = -p * math.log(p) - (1 - p) * math.log(max(1 - p, 1e-300))
        low, high = (low, middle) if found < entropy else (middle, high)
    return torch.tensor([[low, 0.0]])


@pytest.mark.parametrize(
    "entropy, base, theta, expected",
    [
        (math.log(2), 1.0, 0.1, 0.96832),  # 0.8^(0.1 / 0.693)
        (0.5, 1.0, 0.1, 0.95635),  # 0.8^0.2
        (0.1, 1.0, 0.1, 0.8),
        (0.1, 1.2, 0.1, 0.96),
        (0.1, 1.0, 0.5, 0.32768),  # 0.8^5
        (0.01, 1.0, 0.1, 0.10737),  # 0.8^10
        (0.001, 1.0, 0.1, 0.05),  # 0.8^100, below the floor
        (math.log(2), 3.0, 0.1, 1.5),  # above the ceiling
    ],
)
def test_edt_by_hand(entropy, base, theta, expected):
    policy = EDT(base=base, theta=theta)
    assert temperatures(policy, logits=logits_of_entropy(entropy)) == pytest.approx([expected], abs=2e-3)


def test_edt_is_finite_as_the_entropy_goes_to_zero():
    certain = torch.tensor([[100.0, 0.0, 0.0], [1e4, 0.0, 0.0], [1e30, 0.0, 0.0]])
    assert temperatures(EDT(), logits=certain) == pytest.approx([0.05] * 3)


def test_edt_is_the_entropy_of_each_row_at_temperature_one():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.1], [1.0], [4.0], [9.0]])
    expected = [0.8 ** (0.1 / h) for h in torch.distributions.Categorical(logits=logits).entropy().tolist()]
    assert temperatures(EDT(), logits=logits) == pytest.approx(expected, rel=1e-3)
    assert temperatures(EDT(), logits=logits.bfloat16()) == pytest.approx(expected, rel=0.05)


# ---- TAMPO ----------------------------------------------------------------------------------------------------------


def test_tampo_moves_its_categorical_as_worked_by_hand():
    policy = baselines.TAMPO(lowest=0.5, highest=1.0, candidates=2, momentum=0.9, sharpness=0.1)
    assert policy.candidates.tolist() == [0.5, 1.0] and policy.probabilities().tolist() == [0.5, 0.5]
    # Completion 1 is likelier under 0.5: shares 1 / (1 + e^-1) = 0.73106, 0.26894; completion 2 under 1.0: 0.11920, 0.88080.
    log_likelihood, advantage = torch.tensor([[-1.0, -2.0], [-3.0, -1.0]]), torch.tensor([1.0, -1.0])
    policy.move(log_likelihood, advantage)  # credits (0.73106 - 0.11920) / 2 = 0.30593 and its negative
    assert policy.scores.tolist() == pytest.approx([0.030593, -0.030593], abs=1e-6)  # a tenth of them
    assert policy.probabilities().tolist() == pytest.approx([0.64836, 0.35164], abs=1e-5)  # 1 / (1 + e^-0.61186)
    policy.move(log_likelihood, advantage)
    assert policy.scores.tolist() == pytest.approx([0.058127, -0.058127], abs=1e-6)  # 0.9 of before, and a tenth again
    assert temperatures(policy) == pytest.approx([0.5 * 0.76181 + 0.23819] * 3, abs=1e-4)  # the mean, between steps


def test_tampo_draws_a_temperature_for_a_step_and_forgets_it_after():
    policy, generator = baselines.TAMPO(), torch.Generator().manual_seed(0)
    drawn = []
    for step in range(400):
        policy.begin_step(step, generator)
        drawn.append(temperatures(policy)[0])
    assert {round(tau, 4) for tau in drawn} == {round(float(tau), 4) for tau in policy.candidates}
    assert sum(drawn) / len(drawn) == pytest.approx(0.8, abs=0.05), "all are as probable at first"
    rollout = drawn_rollout(policy)[1]
    policy.learn(transformer_of_17(), rollout, torch.zeros(len(rollout.tokens)))
    policy.end_step()
    assert policy.drawn is None and policy.scores.tolist() == [0.0] * 8, "advantages of 0 move nothing"


def transformer_of_17() -> model.Transformer:
    torch.manual_seed(0)
    return model.Transformer(
        model.Config(vocab_size=17, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_head=8, d_mlp=24, max_length=32)
    )


def drawn_rollout(policy, seed=0):
    transformer, generator = transformer_of_17(), torch.Generator().manual_seed(seed)
    return transformer, sample.generate(transformer, policy, [[1, 2], [3]], 16, 8, {5}, generator, keep_reads=True)


def test_tampo_credits_a_candidate_by_how_well_it_explains_the_completions():
    policy = baselines.TAMPO(candidates=3, momentum=0.0)
    transformer, rollout = drawn_rollout(policy)
    advantage = torch.randn(len(rollout.tokens), generator=torch.Generator().manual_seed(1))
    credit = torch.zeros(3)
    for row in range(len(rollout.tokens)):
        means = []
        for tau in (0.1, 0.8, 1.5):
            places = rollout.mask[row].nonzero()[:, 0].tolist()
            logits = transformer.unembed(transformer(rollout.tokens[row : row + 1]))[0] / tau
            means.append(sum(logits[t - 1].log_softmax(-1)[rollout.tokens[row, t]] for t in places) / len(places))
        credit += torch.stack(means).softmax(0) * advantage[row] / len(rollout.tokens)
    policy.learn(transformer, rollout, advantage)
    torch.testing.assert_close(policy.scores, credit, rtol=1e-3, atol=1e-6)


def test_tampo_learns_from_states_in_bfloat16():
    policy, transformer = baselines.TAMPO(momentum=0.0), transformer_of_17()
    transformer.compute_dtype = torch.bfloat16
    prompts, generator = [[1, 2], [3]], torch.Generator().manual_seed(0)
    rollout = sample.generate(transformer, policy, prompts, 16, 8, {5}, generator, keep_reads=True)
    assert rollout.reads.dtype == torch.bfloat16
    policy.learn(transformer, rollout, torch.randn(32, generator=generator))
    assert policy.scores.isfinite().all() and policy.scores.abs().max() > 0


def test_tampo_finds_the_cold_where_the_likeliest_tokens_are_right():
    policy = baselines.TAMPO(sharpness=0.02)
    for step in range(20):
        policy.begin_step(step, torch.Generator().manual_seed(step))
        transformer, rollout = drawn_rollout(policy, seed=step)
        reward = (rollout.token_log_probs * rollout.mask).sum(1) / rollout.mask.sum(1)
        policy.learn(transformer, rollout, (reward - reward.mean()) / (reward.std() + 1e-6))
    assert temperatures(policy)[0] < 0.6


# ---- cutting unlikely tokens away --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cuts", [{"min_p": 0.1}, {"min_p": 1.0}, {"top_p": 0.8}, {"top_p": 1e-3}, {"min_p": 0.3, "top_p": 0.9}]
)
@pytest.mark.parametrize("vocabulary", [7, 1500])  # 1,500 are drawn in blocks
def test_cuts_are_those_of_transformers(cuts, vocabulary):
    logits = 3 * torch.randn(64, vocabulary, generator=torch.Generator().manual_seed(0))
    warped = logits.clone()
    if "top_p" in cuts:
        warped = transformers.TopPLogitsWarper(cuts["top_p"])(None, warped)
    if "min_p" in cuts:
        kept = transformers.MinPLogitsWarper(cuts["min_p"])(None, logits.clone()) > -math.inf
        warped = warped.masked_fill(~kept, -math.inf)
    given, tau = logits.clone(), torch.full((64,), 1.7)
    token_policy.cut(given, **cuts)
    assert torch.equal(given > -1e8, warped > -math.inf) and (given > -1e8).any(1).all()
    expected = (warped / 1.7).log_softmax(-1)
    for seed in range(20):
        token, log_prob, entropy = draw_token(given, tau, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(log_prob, expected.gather(1, token[:, None])[:, 0])
    left = warped.log_softmax(-1)
    torch.testing.assert_close(entropy, -(left.exp() * left).nansum(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("top_p", [0.3, 0.55, 0.9])
def test_of_tokens_that_are_equally_likely_all_stay_where_one_does(top_p):
    """Which of them a sort has first is nobody's business, and training, whose margin is all it knows, could not tell."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randint(-8, 8, (4000, 12), generator=draw) / 3 + torch.randn(4000, 1, generator=draw) * 10
    given = logits.clone()
    margin = token_policy.cut(given, top_p=top_p)
    out = given < -1e8
    lowest = given.masked_fill(out, torch.inf).amin(-1, keepdim=True)
    assert torch.equal(out, logits < lowest), "no token is out that is as likely as one that stays"
    assert (logits.softmax(-1).masked_fill(out, 0).sum(-1) >= top_p - 1e-6).all() and out.any(1).float().mean() > 0.5
    again = token_policy.token_policy(logits, torch.full((4000,), 0.7), margin).exp() == 0
    assert torch.equal(again, out)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.floats(0.01, 0.999), st.floats(0.01, 20.0), st.integers(0, 2**32))
def test_a_nucleus_is_the_same_however_few_tokens_are_sorted_first(vocabulary, top_p, scale, seed):
    logits = scale * torch.randn(5, vocabulary, generator=torch.Generator().manual_seed(seed)).double()
    expected = token_policy.margin_of_top_p(logits, top_p, vocabulary)
    p, order = logits.softmax(-1).sort(descending=True)
    out = torch.zeros_like(p).scatter(-1, order, (p.cumsum(-1) - p >= top_p).double()).bool()
    lowest = logits.masked_fill(out, torch.inf).amin(-1, keepdim=True)
    assert torch.equal(token_policy.beyond(logits, expected), logits < lowest)
    for among in (1, 2, 7, 39):
        torch.testing.assert_close(token_policy.margin_of_top_p(logits, top_p, among), expected)


@pytest.mark.parametrize("cuts", [{"min_p": 0.1}, {"top_p": 0.8}])
def test_a_part_of_the_rows_after_the_other_is_cut_the_same(cuts, monkeypatch):
    logits = 3 * torch.randn(11, 150, generator=torch.Generator().manual_seed(0))
    wholes, parts, seen, really = logits.clone(), logits.clone(), [], token_policy.beyond
    expected = token_policy.cut(wholes, **cuts)
    monkeypatch.setattr(token_policy, "beyond", lambda some, margin: seen.append(len(some)) or really(some, margin))
    monkeypatch.setattr(token_policy, "LOGITS_AT_ONCE", 4 * 150)
    assert torch.equal(token_policy.cut(parts, **cuts), expected) and seen == [4, 4, 3]
    assert torch.equal(parts, wholes) and (wholes < -1e8).any(1).all()


def test_a_nucleus_does_not_depend_on_the_size_of_the_logits():
    """GPT-2's are around -100, where float32 is coarser; a softmax is of their differences."""
    logits = torch.randint(-4000, 4000, (200, 2000), generator=torch.Generator().manual_seed(0)) / 512
    for top_p in (0.5, 0.99, 0.999):
        exact = token_policy.margin_of_top_p(logits.double(), top_p)
        near, far = (token_policy.margin_of_top_p(logits + shift, top_p) for shift in (0.0, -128.0))
        assert torch.equal(near, far) and (near.double() != exact).sum() < 10


def test_logits_that_are_no_numbers_are_cut_without_an_end():
    """Training says which step it was; a cut must not end it with something else before."""
    logits = torch.full((3, 200), torch.nan)
    token_policy.cut(logits, min_p=0.1, top_p=0.9)
    assert logits.isnan().all()


def test_any_policy_can_be_cut_and_learns_and_is_saved_as_before(tmp_path):
    policy = baselines.begin("own+min_p=0.5", transformer_of_17().config.d_model, 0.2, 1.2)
    rollout = drawn_rollout(policy)[1]
    assert rollout.margins[rollout.mask].isfinite().any()
    policy.save(tmp_path)
    alone, again = baselines.make("own", tmp_path), baselines.make("own+min_p=0.5", tmp_path)
    assert (alone.min_p, again.min_p) == (0.0, 0.5) and torch.equal(alone.w1.weight, policy.w1.weight)
    assert drawn_rollout(alone)[1].margins is None
    assert baselines.make("edt+top_p=0.9") == EDT() and baselines.parse("own+min_p=0.1") == ("own", {}, {"min_p": 0.1})


@pytest.mark.parametrize(
    "name",
    [
        "1.0+",
        "1.0+min_p=2",
        "1.0+min_p=-0.1",
        "1.0+top_p=0",
        "own+top_k=5",
        "ead:d_0=2+d_0=3",
        "1.0+min_p",
        "+min_p=0.1",
    ],
)
def test_cuts_that_are_none_are_refused_in_one_line(name):
    with pytest.raises(ValueError, match="min_p") as caught:
        baselines.make(name)
    assert "\n" not in str(caught.value)


# ---- by name --------------------------------------------------------------------------------------------------------


def test_make_names_every_policy(tmp_path):
    assert baselines.make("0.7") == Fixed(0.7) and baselines.make("greedy") == baselines.make("0") == Fixed(0.0)
    assert baselines.make("ead") == EAD() and baselines.make("edt") == EDT()
    temperature_head.TemperatureHead(8, 0.2, 1.2).save(tmp_path)
    own = baselines.make("own", str(tmp_path))
    assert type(own) is temperature_head.TemperatureHead and own.tau_min == 0.2
    assert baselines.make("edt:base=0.8,theta=0.2") == EDT(base=0.8, theta=0.2)
    assert baselines.make("ead:d_0=2,growth=0") == EAD(d_0=2, growth=0)


@pytest.mark.parametrize("name", ["sequence", "tampo", "tampo:candidates=4,sharpness=0.2"])
def test_a_policy_that_learned_is_what_it_was_saved_as(name, tmp_path):
    policy = baselines.begin(name, 8, 0.2, 1.2)
    with torch.no_grad():
        next(iter(policy.state_dict().values())).add_(0.25)
    policy.save(tmp_path)
    for again in (baselines.make("own", tmp_path), baselines.make("", tmp_path), baselines.make(policy.kind, tmp_path)):
        assert type(again) is type(policy) and again.settings == policy.settings
        assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), policy.state_dict().values()))
    other = {"tampo": "sequence", "sequence": "tampo"}[policy.kind]
    with pytest.raises(ValueError, match=f"policy {policy.kind}, not {other}"):
        baselines.make(other, tmp_path)


def test_a_head_of_another_model_or_of_no_numbers_is_refused_in_one_line(tmp_path):
    shape = model.Config(vocab_size=9, d_model=8, n_layers=1, n_heads=1, n_kv_heads=1, d_head=8, d_mlp=8, max_length=9)
    model.save(model.Transformer(shape), tmp_path)
    for width, weight, said in (
        (12, 0.0, "made for hidden states of size 12, but this model has 8"),
        (8, math.nan, "w1.bias contains numbers that are not finite"),
    ):
        head = temperature_head.TemperatureHead(width)
        torch.nn.init.constant_(head.w1.bias, weight)
        head.save(tmp_path)
        with pytest.raises(ValueError, match=said) as caught:
            baselines.make("own", tmp_path)
        assert "\n" not in str(caught.value) and temperature_head.FILE in str(caught.value)
    temperature_head.TemperatureHead(8).save(tmp_path)
    assert baselines.make("own", tmp_path).settings["d_model"] == 8


def test_a_head_without_a_kind_is_of_the_first_version(tmp_path):
    head = temperature_head.TemperatureHead(8)
    tensors = {name: tensor.contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, tmp_path / temperature_head.FILE, metadata={"settings": json.dumps(head.settings)})
    assert type(baselines.make("own", tmp_path)) is temperature_head.TemperatureHead


@pytest.mark.parametrize("name", ["warm", "EAD", "0,7", "1.0.0", "-1", "nan"])
def test_unknown_policies_are_refused_in_one_line(name):
    with pytest.raises(ValueError, match="temperature") as caught:
        baselines.make(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["edt:bases=1", "edt:base", "edt:base=warm", "edt:base=nan", "0.7:x=1", "own:x=1", "tampo:x=1", "ead:=1"]
)
def test_settings_that_a_policy_lacks_are_refused_in_one_line(name):
    with pytest.raises(ValueError, match="takes") as caught:
        baselines.learns(name)
    assert "\n" not in str(caught.value)


def test_a_run_is_named_as_it_ended_and_a_checkpoint_as_it_was(tmp_path):
    for folder, ran, name in (
        ("run", {"policy": "ead", "steps": 9}, "ead:training_step=9"),
        ("step-000004", {"policy": "ead:d_0=2", "steps": 9}, "ead:d_0=2,training_step=4"),
        ("step-000005", {"policy": "0.7", "steps": 9}, "0.7"),
        ("none", None, "1.0"),
    ):
        (tmp_path / folder).mkdir()
        if ran:
            (tmp_path / folder / "run.json").write_text(json.dumps(ran))
        assert baselines.name_of(tmp_path / folder) == name
    (tmp_path / "none" / "run.json").write_text('{"policy": null}')
    with pytest.raises(ValueError, match="run.json is damaged"):
        baselines.name_of(tmp_path / "none")


def test_a_model_without_a_head_has_no_policy_of_its_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="no temperature policy of its own"):
        baselines.make("own", str(tmp_path))


@pytest.mark.parametrize("name", ["0.7", "greedy", "ead", "edt"])
def test_a_baseline_is_a_policy_like_the_head(name):
    """The same arguments and the same fields as TemperatureHead.act."""
    head, policy, hidden = temperature_head.TemperatureHead(8), baselines.make(name), torch.randn(3, 8)
    arguments = dict(logits=torch.randn(3, 11), step=4, generator=torch.Generator().manual_seed(0))
    of_head, of_rule = (drawing.act(hidden, torch.ones(3), **arguments) for drawing in (head, policy))
    for one, other in zip((*of_head[:3], of_head.log_prob), (*of_rule[:3], of_rule.log_prob)):
        assert one.shape == other.shape and one.dtype == other.dtype
    assert isinstance(policy.tau_initial, float)
