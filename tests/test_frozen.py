"""Training on frozen tokens, and the tree, which draws what sample.generate draws."""

import itertools

import pytest
import torch

import baselines
import sample
from study import frozen, tree


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
