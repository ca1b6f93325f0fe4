"""eval.py: the estimators against brute force, the intervals against what they promise, the draws against their seed."""

import itertools
import json
import random

import numpy as np
import pytest
import torch

import baselines
import eval as evaluation
import model
import tasks
import tokenizer
from temperature_head import TemperatureHead


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(transformer, vocabulary): random weights, one token a byte, and end-of-text likely enough to happen."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.byte_level_file(["<|endoftext|>"])))
    torch.manual_seed(0)
    transformer = model.Transformer(
        model.Config(
            vocab_size=257, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_head=8, d_mlp=24,
            max_length=64, qk_norm=True, tied=True,
        )
    )  # fmt: skip
    with torch.no_grad():
        transformer.embed.weight.mul_(0.3)
    vocabulary = tokenizer.load(folder)
    vocabulary.eos_ids = {256, *range(0, 256, 5)}
    return transformer, vocabulary


def lottery(problems, texts, finished, own=None) -> list[float]:
    return [float(whole and len(text) % 2) for text, whole in zip(texts, finished)]


PROBLEMS = tasks.load("countdown", "test", 12)


# ---- estimators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(n):
    for right in range(n + 1):
        samples = [1] * right + [0] * (n - right)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(samples, k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert evaluation.pass_at_k(n, right, k) == pytest.approx(expected, abs=1e-12)


def test_summary_by_hand():
    correct = np.array([[1.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
    summary = evaluation.Evaluation(correct, 0.9, 1.2, 7.0, 0.25).summary()
    assert summary["Avg@4"] == pytest.approx(7 / 16)
    assert summary["Pass@2"] == pytest.approx((1 / 2 + 1 + 0 + 5 / 6) / 4)
    assert summary["Pass@4"] == pytest.approx(3 / 4)
    assert (summary["problems"], summary["samples"], summary["truncated"]) == (4, 4, 0.25)
    for name in ("Avg@4", "Pass@2", "Pass@4"):
        low, high = summary[f"{name} 95%"]
        assert 0 <= low <= summary[name] <= high <= 1


def test_summary_names_powers_of_two_and_the_number_of_samples():
    names = {1: ["Avg@1"], 2: ["Avg@2", "Pass@2"], 6: ["Avg@6", "Pass@2", "Pass@4", "Pass@6"]}
    names[8] = ["Avg@8", "Pass@2", "Pass@4", "Pass@8"]
    for n, expected in names.items():
        summary = evaluation.Evaluation(np.zeros((3, n)), 1.0, 1.0, 1.0, 0.0).summary()
        assert [name for name in summary if "@" in name and "95%" not in name] == expected


# ---- evaluating -----------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_figures_and_another_other_ones(tiny, monkeypatch):
    monkeypatch.setattr(tasks, "rewards", lottery)
    head = TemperatureHead(16)
    first, again, other = (evaluation.evaluate(*tiny, head, PROBLEMS, 4, 6, seed=seed) for seed in (1, 1, 2))
    assert first.correct.shape == (12, 4) and 0 < first.correct.mean() < 1
    assert first.summary() == again.summary() and (first.correct == again.correct).all()
    assert (first.correct != other.correct).any()
    assert 0 < first.truncated < 1 and 0 < first.tokens <= 6 and 0.1 < first.temperature < 1.5 and first.entropy > 0


def test_evaluation_moves_no_random_state_and_no_weight(tiny):
    """Training's randomness is as if it had not happened."""
    transformer, vocabulary = tiny
    head = TemperatureHead(16)
    before = [parameter.clone() for module in (transformer, head) for parameter in module.parameters()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for policy in (head, baselines.Fixed(1.0), baselines.EDT()):
        evaluation.evaluate(transformer, vocabulary, policy, PROBLEMS, 3, 6).summary()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and np.random.get_state()[1].tolist() == states[2]
    after = [parameter for module in (transformer, head) for parameter in module.parameters()]
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, after))


def test_greedy_is_evaluated_once_and_does_not_depend_on_the_seed(tiny, monkeypatch):
    asked, really = [], evaluation.sample.generate
    monkeypatch.setattr(tasks, "rewards", lottery)
    monkeypatch.setattr(
        evaluation.sample, "generate", lambda *a, **k: asked.append((len(a[2]), a[3])) or really(*a, **k)
    )
    results = [evaluation.evaluate(*tiny, baselines.make("greedy"), PROBLEMS, 8, 6, seed=seed) for seed in (0, 1)]
    assert asked == [(12, 1)] * 2
    assert results[0].summary() == results[1].summary() and results[0].correct.shape == (12, 1)
    assert results[0].temperature == 0.0


def test_batches_change_no_order_and_keep_to_the_rows(tiny, monkeypatch):
    """Each problem's successes are its own, whatever number of completions is sampled at a time."""
    monkeypatch.setattr(tasks, "rewards", lottery)
    sizes, really = [], evaluation.sample.generate
    monkeypatch.setattr(
        evaluation.sample, "generate", lambda *a, **k: sizes.append(len(a[2]) * a[3]) or really(*a, **k)
    )
    greedy = [evaluation.evaluate(*tiny, baselines.Fixed(0.0), PROBLEMS, 1, 6, rows=rows) for rows in (1, 5, 512)]
    assert all((result.correct == greedy[0].correct).all() for result in greedy)
    assert sizes == [1] * 12 + [5, 5, 2] + [12]
    sizes.clear()
    assert evaluation.evaluate(*tiny, baselines.Fixed(1.0), PROBLEMS, 4, 6, rows=9).correct.shape == (12, 4)
    assert sizes == [8] * 6
    sizes.clear()
    evaluation.evaluate(*tiny, baselines.Fixed(1.0), PROBLEMS[:2], 4, 6, rows=1)
    assert sizes == [4, 4], "the samples of one problem stay together"


def test_successes_belong_to_their_problems(tiny, monkeypatch):
    """Only the fifth problem is ever answered rightly."""
    monkeypatch.setattr(
        tasks, "rewards", lambda problems, texts, finished, own=None: [float(p == PROBLEMS[4]) for p in problems]
    )
    result = evaluation.evaluate(*tiny, baselines.Fixed(1.0), PROBLEMS, 3, 4, rows=6)
    assert result.correct.sum(1).tolist() == [3.0 * (i == 4) for i in range(12)]


def test_truncated_completions_count_as_wrong(tiny):
    transformer, vocabulary = tiny
    unstopped = type("Unstopped", (), {"eos_ids": set(), "__getattr__": lambda self, name: getattr(vocabulary, name)})()
    result = evaluation.evaluate(transformer, unstopped, baselines.Fixed(1.0), PROBLEMS, 2, 4)
    assert result.truncated == 1.0 and result.tokens == 4.0 and not result.correct.any()


# ---- the table ------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_a_name_and_a_cell_a_figure():
    eight = evaluation.Evaluation(np.tile([1.0, 0.0], (10, 4)), 0.873, 1.0, 21.4, 0.125).summary()
    greedy = evaluation.Evaluation(np.ones((10, 1)), 0.0, 1.0, 9.0, 0.0).summary()
    lines = evaluation.table({"own": eight, "greedy": greedy}).splitlines()
    header, rule, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    assert {len(header), len(rule), len(rows[0]), len(rows[1])} == {len(header)} and set("".join(rule)) == {"-"}
    own, cold = (dict(zip(header, row)) for row in rows)
    assert own == {
        "": "own", "problems": "10", "Avg@8": "50.0 [23.7, 76.3]", "Pass@2": "78.6 [47.6, 93.7]", "Pass@4": "98.6 [70.2, 100.0]",
        "Pass@8": "100.0 [72.2, 100.0]", "tau": "0.87", "tokens": "21", "truncated": "12%",
    }  # fmt: skip
    assert cold[""] == "greedy" and cold["Avg@8"].startswith("100.0") and cold["Pass@8"] == "" and cold["tau"] == "0.00"
