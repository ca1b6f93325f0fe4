"""The study on real weights, run end to end on the embedded model, and its tables."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import baselines
import sample
import temperature_head
import tokenizer
from study import joint, look, real, real_table, subject


def rows_of(policy: str, seeds: list[list[int]], samples: int = 8) -> list[dict]:
    """One chunk a seed."""
    shared = dict(chunk=0, samples=samples, tau=0.5, entropy=0.3, tokens=10, classes={"operand": [5.0, 10]})
    return [dict(policy=policy, seed=seed, successes=counts, **shared) for seed, counts in enumerate(seeds)]


def test_per_problem_takes_the_chunks_that_all_seeds_have():
    rows = rows_of("a", [[0, 8], [4, 0]]) + [dict(rows_of("a", [[8, 8]])[0], chunk=1)]
    assert real_table.per_problem(rows, "a", "Avg").tolist() == [[0.0, 1.0], [0.5, 0.0]]
    assert real_table.per_problem(rows, "a", "Pass").tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert real_table.per_problem(rows, "b", "Avg").size == 0


def test_the_best_setting_of_each_family_by_each_measure():
    tuned = rows_of("a1", [[8, 0, 0, 0]]) + rows_of("a2", [[2, 2, 2, 1]]) + rows_of("b1", [[1, 1, 1, 1]])
    assert real_table.best_of(tuned, {"a": ["a1", "a2"], "b": ["b1"]}) == ["a2", "a1", "b1"]


def test_the_interval_of_a_difference():
    """One seed: Student over problems.  Two: the seeds' variance is added."""
    first, second = np.array([[1.0, 0.0, 1.0, 0.5]]), np.array([[0.0, 0.0, 0.5, 0.5]])
    less = np.array([1.0, 0.0, 0.5, 0.0])
    mean, low, high = real_table.difference(first, second)
    assert mean == less.mean()
    assert high - mean == pytest.approx(3.182446 * less.std(ddof=1) / 2, rel=1e-4)
    wider = real_table.difference(first, second, 0.975)
    assert wider[0] == mean and wider[1] < low and wider[2] > high
    several = real_table.difference(np.concatenate((first, 1 - first)), np.concatenate((second, second)))
    over_seeds = 12.7062 * np.std([2.5 / 4, 1.5 / 4], ddof=1) / np.sqrt(2)
    averaged = 0.5 - second[0]
    over_problems = 3.182446 * averaged.std(ddof=1) / 2
    assert several[2] - several[0] == pytest.approx(np.hypot(over_seeds, over_problems), rel=1e-3)


def test_the_primary_rival_has_at_least_the_heads_accuracy():
    tested = (
        rows_of("head, pass@8", [[2, 2, 2, 2]]) + rows_of("0.2", [[8, 8, 0, 0]]) + rows_of("1.0", [[1, 1, 1, 1]])
    )  # 1.0 has the higher Pass@8 and the lower Avg@8
    assert real_table.primary(tested)[0].startswith("head, pass@8, Pass@8 less that of 0.2: +50.0")


def test_dealt_temperatures_are_those_of_the_completion():
    mask = torch.tensor([[False, True, True, True], [False, True, False, False]])
    taus = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.0, 0.7, 0.0, 0.0]])
    empty = torch.zeros(2, 4)
    rollout = sample.Rollout(empty.long(), torch.tensor([1, 1]), mask, taus, empty.bool(), *[empty] * 4, mask[:, 0])
    dealt = subject.Dealt(temperature_head.Policy(), rollout, 7, torch.Generator().manual_seed(0))
    for start in (0, 3):
        assert sorted(dealt.table[0, start : start + 3].tolist()) == pytest.approx([0.1, 0.2, 0.3])
    dealt.rows = torch.tensor([1, 0])
    assert dealt.act(None, torch.zeros(2), step=4).temperature.tolist() == [pytest.approx(0.7), dealt.table[0, 4]]


def test_every_stage_and_what_is_done_is_not_done_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subject, "CHUNK", 3)
    monkeypatch.setattr(real, "FIXED", ["0.3", "1.0"])
    monkeypatch.setattr(real, "RULES", {"min-p": ["1.0+min_p=0.1", "1.0+min_p=0.3"]})
    monkeypatch.setattr(
        real,
        "HEADS",
        {n: replace(h, settings=replace(h.settings, prompts=2, samples=16)) for n, h in real.HEADS.items()},
    )
    shared = ["--model", "models/modular", "--task", "modular", "--out", str(tmp_path), "--seeds", "1"]

    def run(what: str, *flags: str) -> str:
        monkeypatch.setattr("sys.argv", ["real.py", what, *shared, *flags])
        real.main()
        return capsys.readouterr().out

    run("tune", "--problems", "5")
    run("train", "--steps", "2")
    run("test", "--problems", "5")
    lines = (tmp_path / "test.jsonl").read_text()
    of_policy = {row["policy"]: row for row in map(json.loads, lines.splitlines())}
    assert {"head, mean", "head, mean, shuffled", "head, mean, its mean", "greedy", "1.0"} <= of_policy.keys()
    assert all(len(row["successes"]) in (2, 3) for row in of_policy.values())
    run("train", "--steps", "2")
    run("test", "--problems", "5")
    assert (tmp_path / "test.jsonl").read_text() == lines
    run("fresh", "--problems", "5")
    fresh = [json.loads(line) for line in (tmp_path / "fresh.jsonl").read_text().splitlines()]
    assert {row["policy"] for row in fresh} >= of_policy.keys() and any(r["policy"].startswith("told") for r in fresh)
    assert [r["successes"] for r in fresh if r["policy"] == "1.0"] != [
        r["successes"] for r in map(json.loads, lines.splitlines()) if r["policy"] == "1.0"
    ], "other problems"
    assert "majority" not in fresh[0], "there is no vote on a task whose answers are no numbers"
    printed = run("table")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    assert printed.count("| head, mean, shuffled | 1 x 5 |") == 2
    assert (
        "| head, mean, shuffled | 1 x 5 |" in printed
        and "| min-p 0.3 at 1.0 |" in printed
        and "head, pass@8, Pass@8 less that of" in printed
    )


def test_a_head_with_a_cut_is_trained_loaded_and_controlled_under_it(tmp_path, monkeypatch):
    embedded = subject.Subject("models/modular", "modular", tmp_path)
    margins = []

    def drawn(transformer, head, *how):
        rollout = subject.of_tree(transformer, head, *how)
        margins.append(rollout.margins)
        return rollout

    monkeypatch.setattr(real, "of_tree", drawn)
    for name, min_p in (("head, min-p", 0.1), ("head, plain", 0.0)):
        real.learn(embedded, name, 0, steps=1)
        head = real.head_of(embedded, name)(0)
        assert (margins.pop() is not None, head.min_p) == (min_p > 0, min_p)
        embedded.sample("test.jsonl", "test", 2, {name: real.head_of(embedded, name)}, [0])
        assert real.mean_of(embedded, name, "test.jsonl")(0).min_p == min_p
    assert real.head_of(embedded, "head, min-p")(1) is None, "a seed that is not trained"


def test_what_was_cut_off_is_done_again(tmp_path):
    """A chunk of fewer problems, and half a line, are not done."""
    file = tmp_path / "test.jsonl"
    file.write_text('{"policy": "a"}\n{"policy": "b", "succ')
    assert real_table.read(file) == [{"policy": "a"}]
    file.unlink()
    of = subject.Subject("models/modular", "modular", tmp_path)
    for count in (2, 3, 3):
        of.sample("test.jsonl", "test", count, {"1.0": baselines.make("1.0")}, [0])
    assert [len(row["successes"]) for row in real_table.read(file)] == [2, 3]


def test_a_head_and_its_own_control_are_compared_seed_by_seed():
    """Both seeds are 1/2 ahead of their control; the seeds themselves are far apart.  A rule with fewer chunks: on what both have."""
    tested = rows_of("head, mean", [[8, 4], [4, 0]]) + rows_of("head, mean, shuffled", [[4, 0], [0, 0]])
    mean, low, high = real_table.less(tested, "head, mean", "head, mean, shuffled", "Avg")
    paired = real_table.difference(np.array([[0.5, 0.5], [0.5, 0.0]]), np.zeros((1, 2)))
    assert (mean, low, high) == pytest.approx(paired)
    tested += [row | {"chunk": 1} for row in rows_of("head, mean", [[0, 0], [0, 0]])] + rows_of("0.2", [[8, 8]])
    assert real_table.less(tested, "head, mean", "0.2", "Avg")[0] == pytest.approx(0.5 - 1.0)


def test_a_mistake_ends_in_one_line(monkeypatch, capsys):
    wrong = ["tune", "--model", "models/modular", "--task", "wrods"]
    for flags in (
        ["tune"],
        ["tune", "--model", "nowhere"],
        wrong,
        ["problems", "--task", "wrods"],
        ["table", "--out", "no"],
    ):
        monkeypatch.setattr("sys.argv", ["real.py", *flags])
        with pytest.raises(SystemExit) as ended:
            real.main()
        told = capsys.readouterr().err
        assert ended.value.code == 2 and told.startswith("real.py: ") and told.count("\n") == 1


def test_the_majority_vote():
    texts = ["5. #### 7", "5. #### 7", "1. #### 3", "none", "2. #### 1", "3. #### 4", "none", "none", *["none"] * 4]
    right = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0] * 4])
    assert subject.majority(texts, right) == [1, 0, 0]  # of equals the first; no answer at all


def test_both_sides_trained_and_every_trained_model_under_every_temperature(tmp_path, monkeypatch, capsys):
    """The study of both sides, run end to end by its own command lines on the embedded model."""
    monkeypatch.setattr(joint, "RATES", ("1e-4",))
    monkeypatch.setattr(joint, "EVALUATED", ("0.5", "greedy"))
    words = ["joint.py", "--model", "models/modular", "--task", "modular", "--out", str(tmp_path), "--steps", "2"]
    monkeypatch.setattr("sys.argv", [*words, "--problems", "3"])
    joint.main()
    lines = (tmp_path / "joint.jsonl").read_text()
    found = {row["policy"] for row in map(json.loads, lines.splitlines())}
    monkeypatch.setattr("sys.argv", [*words, "--out", str(tmp_path / "none"), "--table"])
    joint.main()
    assert capsys.readouterr().out.endswith("nothing is done yet\n")
    monkeypatch.setattr("sys.argv", [*words, "--problems", "3"])
    trained = {"head, 1e-4 | own", "head, 1e-4 | own, shuffled", "head, 1e-4 | 0.5", "fixed 0.6, 1e-4 | greedy"}
    assert trained | {"before training | 0.5"} <= found and "fixed 0.6, 1e-4 | own" not in found
    metrics = (tmp_path / "joint-head-1e-4-0" / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == 2 and {"token/loss", "temperature/loss"} <= json.loads(metrics[0]).keys()
    capsys.readouterr()
    joint.main()  # nothing is done again
    assert (tmp_path / "joint.jsonl").read_text() == lines
    monkeypatch.setattr("sys.argv", [*words, "--table"])
    joint.main()
    assert "| fixed 0.6, 1e-4 | 1 | " in capsys.readouterr().out


def test_a_rule_that_is_told_where_operators_come():
    """Character by character in the embedded vocabulary: hot behind the digits of an operand, cold in a result and elsewhere."""
    vocabulary = tokenizer.load("models/modular")
    rule = subject.Told(vocabulary, 0.8, 0.2)
    text, taus = "5+7=12,12*3", []
    for step, token in enumerate(vocabulary.encode(text)):
        rule.rows = torch.tensor([0, 1])[: 2 if step == 0 else 1]  # the second completion ends at once
        taus.append(rule.act(None, torch.zeros(len(rule.rows)), step=step).temperature[0].item())
        rule.see(step, torch.tensor([token] * len(rule.rows)), None)
    expected = [0.2, 0.8, 0.2, 0.8, 0.2, 0.2, 0.2, 0.2, 0.8, 0.8, 0.2]
    assert taus == pytest.approx(expected)


@pytest.mark.parametrize("scatter", [0.0, 1.0, 2.0])
def test_the_interval_of_a_head_less_a_rule_that_is_sampled_once(scatter):
    """By simulation: three seeds of a head scatter, and one run of a rule on the same 300 problems."""
    draw, covered = np.random.default_rng(0), []
    for _ in range(1000):
        shared = draw.normal(0, 40, (1, 300))
        head = shared + draw.normal(0, 20, (3, 300)) + draw.normal(0, scatter, (3, 1))
        rule = shared + draw.normal(0, 20, (1, 300))
        _, low, high = real_table.difference(head, rule)
        covered.append(low <= 0 <= high)
    assert 0.94 <= np.mean(covered) <= 0.995, np.mean(covered)


def test_the_second_rounds_endpoints():
    tested = [
        *rows_of("head, plain", [[4, 4, 0, 0], [4, 4, 4, 0], [4, 4, 0, 0]]), *rows_of("head, plain, shuffled", [[2, 0, 0, 0]] * 3),
        *rows_of("0.2", [[8, 0, 0, 0]]), *rows_of("1.0", [[1, 1, 0, 0]]), *rows_of("told 0.8 and 0.2", [[8, 8, 8, 8]]),
    ]  # fmt: skip
    best, control, told = real_table.primary_of_sum(tested)
    assert told.startswith("told 0.8 and 0.2, the same less that of 1.0, at 95%: +143.8 [")
    assert best.startswith("head, plain, Avg@8 + Pass@8 less that of 1.0: +31.2 [") and best.endswith("3 seeds")
    assert control.startswith("head, plain, Avg@8 + Pass@8 less that of head, plain, shuffled: +56.2 [")


def test_what_a_head_learned_on_real_text(tmp_path, monkeypatch, capsys):
    """On the embedded model, as a program: both tables, and the same numbers in the kept file."""
    shutil.copytree("models/modular", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text()) | {"max_position_embeddings": 1024}  # few-shot prompts
    (tmp_path / "config.json").write_text(json.dumps(config))
    temperature_head.TemperatureHead(config["hidden_size"]).save(tmp_path)
    words = ["look.py", "--model", str(tmp_path), "--task", "words:1", "--head", str(tmp_path), "--problems", "3"]
    monkeypatch.setattr("sys.argv", [*words, "--keep", str(tmp_path / "look.json")])
    look.main()
    printed, kept = capsys.readouterr().out, json.loads((tmp_path / "look.json").read_text())
    assert "| operator | 3 |" in printed and kept["model"]["operator"]["tokens"] == 3
    assert "variance of the temperature explained by: entropy" in printed
    assert set(kept["head"]["explained"]) == {"entropy", "class", "class and entropy"}


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_small(tmp_path):
    small = (
        "--steps 1 --prompts-per-step 2 --samples-per-prompt 4 --final-problems 4 --max-new-tokens 30 --template auto"
    )
    names = {"MODEL": "models/modular", "TASK": "modular", "HELD_OUT": "modular", "PROBLEMS": "5"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    line = ["bash", "study/gsm8k.sh", str(tmp_path), *small.split()]
    ended = subprocess.run(line, capture_output=True, text=True, env={**os.environ, **names, "PATH": path})
    assert ended.returncode == 0, ended.stderr
    assert "head/evaluated.md" in ended.stdout and "| modular, own | 5 |" in ended.stdout
