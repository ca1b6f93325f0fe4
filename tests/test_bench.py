"""bench/: every table is measured and printed, and the two ways to compute log-probs agree."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from bench import steps


def run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "bench", *flags], cwd=ROOT, capture_output=True, text=True)


def test_every_table_is_made_and_written(tmp_path):
    done = run("--quick", "--out", str(tmp_path / "bench.json"))
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "bench.json").read_text())["tables"]
    assert [row["case"] for row in tables["Rollouts"]] == ["groups of 8", "ragged", "no groups"]
    assert all(row["ours tokens/s"] > 0 and row["times generate"] > 0 for row in tables["Rollouts"])
    (step,) = tables["Training step"]
    parts = step["rollout s"] + step["token step s"] + step["temperature step s"]
    assert parts == pytest.approx(step["step s"], rel=0.5)
    for title, rows in tables.items():
        assert rows and f"## {title}" in done.stdout


def test_usage_errors_are_one_line():
    for flags in (["--device", "tpu"], ["--repeats", "0"]):
        done = run(*flags)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout


@pytest.mark.parametrize("how", ["in chunks", "logsumexp - gather"])
def test_the_ways_that_are_compared_compute_the_same_gradients(how, monkeypatch):
    monkeypatch.setitem(steps.rl.LOGITS, "cpu", 700)
    hidden, weight, tau, drawn, wanted = steps.log_prob_problem(10, 8, 100)
    steps.log_prob_gradient(how, hidden, weight, tau, drawn, wanted)
    got = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    logits = hidden.double() @ weight.double().T / tau[:, None]
    (logits.log_softmax(-1)[torch.arange(10), drawn] * wanted).sum().backward()
    torch.testing.assert_close(got, (hidden.grad, weight.grad), rtol=1e-3, atol=1e-4)


def test_log_probs_of_a_large_vocabulary_fit():
    """The peak stays below what two copies of all the logits take: 1,024 tokens by 151,936 are 0.58 GiB."""
    _, peak = steps.log_probs_of("in chunks", 1024, 32, 151_936)
    assert peak < 2 * 1024 * 151_936 * 4 / 2**30
