"""Training on frozen tokens: the marginal of the temperatures is exact, and the tree draws what sample.generate draws."""

import itertools
import math

import pytest
import torch

import baselines
import model
import rl
import sample
from study import frozen, tree
from temperature_head import beta_log_prob

CONFIG = model.Config(
    vocab_size=11, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_head=4, d_mlp=24, max_length=40, tied=True
)  # fmt: skip


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    made = model.Transformer(CONFIG)
    with torch.no_grad():
        made.embed.weight.mul_(0.25)
    return made


def grid_of(head):
    z = (torch.arange(frozen.GRID) + 0.5) / frozen.GRID
    return z, head.tau_min + z * (head.tau_max - head.tau_min)


def test_the_marginal_sums_over_every_sequence_of_temperatures(monkeypatch):
    """Against enumeration: each step keeps the temperature or draws one of the grid's."""
    monkeypatch.setattr(frozen, "GRID", 3)
    torch.manual_seed(1)
    head, hidden = frozen.ScaledHead(8), torch.randn(1, 3, 8)
    likelihood = torch.rand(1, 3, 4)
    gate, alpha, beta = head(hidden)
    opens = torch.sigmoid(gate)[0]
    drawn = beta_log_prob(alpha[0, :, None], beta[0, :, None], grid_of(head)[0]).softmax(-1)  # (3, 3)
    total = torch.zeros(3)
    for length in (1, 2, 3):
        for choices in itertools.product([None, 0, 1, 2], repeat=length):
            place, weight = 3, torch.tensor(1.0)
            for step, choice in enumerate(choices):
                share = 1 - opens[step] if choice is None else opens[step] * drawn[step, choice]
                place = place if choice is None else choice
                weight = weight * share * likelihood[0, step, place]
            total[length - 1] += weight.detach()
    exact = torch.cat((total[:1], total[1:] / total[:-1])).log()
    torch.testing.assert_close(frozen.marginal_log_prob(head, hidden, likelihood)[0].detach(), exact)


def test_the_marginal_is_the_chance_of_the_tokens(transformer):
    """The share of rollouts that draw a token, and its marginal."""
    torch.manual_seed(2)
    head, prompts = frozen.ScaledHead(16, concentration=6.0), [[1, 2, 3]]
    rollout = sample.generate(
        transformer, head, prompts, 8000, 1, {99}, torch.Generator().manual_seed(0), keep_reads=True
    )
    first = rollout.tokens[:, 3]
    likelihood = frozen.explained(transformer, head, rollout)
    hidden = rollout.reads[rollout.mask].view(8000, 1, -1)
    chance = frozen.marginal_log_prob(head, hidden, likelihood)[:, 0].exp().detach()
    for token in first.unique():
        share, expected = float((first == token).float().mean()), float(chance[first == token].mean())
        assert abs(share - expected) < 4 * math.sqrt(expected / 8000) + 0.003, (int(token), share, expected)


def test_both_estimators_have_the_same_mean_and_the_marginal_less_variance(transformer):
    torch.manual_seed(3)
    head, count = frozen.ScaledHead(16, concentration=6.0), 4000
    rollout = sample.generate(
        transformer, head, [[1, 2, 3]], count, 3, {99}, torch.Generator().manual_seed(0), keep_reads=True
    )
    reward = (rollout.tokens[:, 3] % 2 == 0).float() + (rollout.tokens[:, 5] < 4).float()  # of the tokens alone
    advantage = reward - reward.mean()
    hidden = rollout.reads[rollout.mask].view(count, 3, -1)
    taus, z, changed = (x[rollout.mask].view(count, 3) for x in (rollout.temperatures, rollout.z, rollout.changed))
    gradients = {"sampled": [], "marginal": []}
    for part in torch.arange(count).split(50):
        of_drawn = head.log_prob(hidden[part], rl.Action(taus[part], changed[part], z[part]))
        rows = rollout.rows(part)
        of_marginal = frozen.marginal_log_prob(head, hidden[part], frozen.explained(transformer, head, rows))
        for name, log_prob in (("sampled", of_drawn), ("marginal", of_marginal)):
            loss = (log_prob * advantage[part, None]).sum(1).mean()
            gradients[name].append(torch.autograd.grad(loss, head.w2.bias)[0])
    means = {name: torch.stack(parts).mean(0) for name, parts in gradients.items()}
    errors = {name: torch.stack(parts).std(0) / math.sqrt(len(parts)) for name, parts in gradients.items()}
    allowed = 4 * (errors["sampled"] ** 2 + errors["marginal"] ** 2).sqrt()
    assert ((means["sampled"] - means["marginal"]).abs() < allowed).all(), (means, allowed)
    assert (errors["marginal"] < 0.5 * errors["sampled"]).all(), errors


def test_a_tree_draws_what_generate_draws(transformer):
    prompts = [[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 6, 7]]
    names = ["greedy", "0.3", "1.0+min_p=0.1", "edt:base=1.0,theta=0.3"]
    head = frozen.ScaledHead(16)
    policies = [*map(baselines.make, names), head]
    plain = [
        sample.generate(transformer, policy, prompts, 6, 9, {10}, torch.Generator().manual_seed(i), keep_reads=True)
        for i, policy in enumerate(policies)
    ]
    generators = [torch.Generator().manual_seed(i) for i in range(len(policies))]
    together = tree.generate(transformer, policies, prompts, 6, 9, {10}, generators, keep_reads=True)
    for one, other in zip(plain, together):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.finished, other.finished)
        torch.testing.assert_close(one.token_log_probs, other.token_log_probs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.temperatures, other.temperatures, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.reads, other.reads, atol=1e-4, rtol=1e-4)


def test_a_tree_computes_a_prefix_once(transformer):
    grown = tree.Tree(transformer, [[1, 2, 3, 4], [1, 2, 5]], 20, 40)
    assert (grown.begun, grown.count) == (2, 3)  # 1 2 once; 3 4; 5
    made = []
    whole = tree.Tree.extend
    tree.Tree.extend = lambda self, tokens, parents: made.append(len(tokens)) or whole(self, tokens, parents)
    try:
        tree.generate(transformer, [baselines.make("greedy")] * 3, [[1, 2, 3], [1, 2, 4]], 5, 4, {99}, [None] * 3)
    finally:
        tree.Tree.extend = whole
    assert made == [2, 2, 2, 2]  # two prompts; 30 rows, all alike within a prompt


@pytest.mark.parametrize("scale", ["none", "rms", "standard"])
def test_a_scaled_head_comes_back_from_its_file(tmp_path, scale):
    import temperature_head

    head, hidden = frozen.ScaledHead(8, scale=scale, width=3), torch.randn(5, 8) * torch.arange(1, 9)
    head.measure(hidden)
    head.save(tmp_path)
    again = temperature_head.load(tmp_path, kinds={"scaled": frozen.ScaledHead})
    for one, other in zip(head(hidden), again(hidden)):
        assert torch.equal(one, other)


@pytest.mark.parametrize("estimator", ["sampled", "marginal"])
def test_a_head_learns_which_temperature_pays(transformer, estimator):
    """A reward for the likeliest token: the temperature falls."""
    torch.manual_seed(0)
    head = frozen.ScaledHead(16, tau_min=0.1, tau_initial=1.0)
    greedy = sample.generate(transformer, baselines.make("greedy"), [[1, 2, 3]], 1, 1, {99}).tokens[0, 3]

    def reward_of(problems, rollout):
        return (rollout.tokens[:, 3] == greedy).float().tolist()

    settings = frozen.Settings(
        estimator=estimator, objective="grpo", prompts=2, samples=16, epochs=4, learning_rate=1e-2
    )
    problems = [(None, [1, 2, 3])] * 4
    steps = itertools.islice(frozen.train(transformer, head, problems, reward_of, {99}, 1, settings, 0), 30)
    taus = [tau for _, _, tau, _ in steps]
    assert sum(taus[-5:]) / 5 < sum(taus[:5]) / 5 - 0.2, taus
