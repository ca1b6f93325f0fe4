"""study/experiment.py: how trials are run: a signal, a device, several at a time."""

import multiprocessing.pool
import os
import signal
import sys
import time
import types
from pathlib import Path

import pytest

import model
import rl
from study import __main__ as command
from study import experiment, results, trials
from trainer import faults

ROOT = Path(__file__).resolve().parent.parent


def test_a_trial_that_a_signal_ended_is_not_done(tmp_path, monkeypatch):
    """train.py saves and returns at the first signal; half a trial must not be evaluated as a whole one."""
    trial = next(t for t in trials.planned(trials.Size(4, 3, 2, 4, 1), ["3e-5"]) if t.method == "fixed 0.7")
    really = rl.token_step

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return really(*arguments)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(rl, "token_step", interrupted)
    try:
        with pytest.raises(faults.Stopped):
            experiment.run_trial(trial, tmp_path, results.Asked("test", 4))
        assert not list(tmp_path.rglob("result.json"))
        monkeypatch.setattr(rl, "token_step", really)
        assert len(experiment.run_trial(trial, tmp_path, results.Asked("test", 4))["metrics"]) == 3
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("words", [["--tune"], ["--regimes", "frozen", "--methods", "greedy", "--jobs", "1"]])
@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, faults.Stopped])
def test_who_stops_a_study_sees_one_line(words, ended_by, tmp_path, monkeypatch, capsys):
    def run_trial(*of):
        raise ended_by

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(experiment, "run_trial", run_trial)
    monkeypatch.setattr(sys, "argv", ["study.py", "--quick", "--jobs", "1", "--out", str(tmp_path / "study"), *words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 130 and "the same command goes on" in capsys.readouterr().err


def test_a_trial_sets_up_its_device_wherever_it_runs(tmp_path, monkeypatch):
    """What choose_device switches is of a process, and a worker that trains nothing has not been asked to choose."""

    def choose(name):
        raise LookupError(f"chosen: {name}")

    monkeypatch.setattr(model, "choose_device", choose)
    trial = trials.Trial("frozen", "fixed 0.7", 0, "0.7", None)
    with pytest.raises(LookupError, match="chosen: cuda"):
        experiment.run_trial(trial, tmp_path, results.Asked("test", 5, device="cuda"))


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_trials_wait_for_a_free_job_and_for_what_they_start_from_alone(jobs, tmp_path, monkeypatch):
    said: list[tuple] = []

    def run_trial(trial, root, asked, again):
        said.append((trial.seed, trial.method, "begins"))
        time.sleep(0.5 if trial.method == "slow" else 0.01)
        said.append((trial.seed, trial.method, "ends"))
        return {"trial": trial}

    monkeypatch.setattr(experiment, "run_trial", run_trial)
    threads = types.SimpleNamespace(Pool=lambda jobs: multiprocessing.pool.ThreadPool(8))
    monkeypatch.setattr(experiment.multiprocessing, "get_context", lambda kind: threads)
    after = {"slow": "", "quick": "", "later": "quick"}
    todo = trials.by_seed(
        [trials.Trial("3e-6", name, seed, "own", None, after[name]) for name in after for seed in (0, 1)]
    )
    found = experiment.run_all(todo, tmp_path, results.Asked("test", 5), jobs)
    assert [result["trial"] for result in found] == todo
    at_once = [sum(1 if what == "begins" else -1 for *_, what in said[:i]) for i in range(1 + len(said))]
    assert max(at_once) == jobs and len(said) == 2 * len(todo)
    for seed in (0, 1):
        assert said.index((seed, "later", "begins")) > said.index((seed, "quick", "ends"))
    waits = said.index((1, "slow", "begins")) > said.index((0, "slow", "ends"))
    assert waits == (jobs == 1), "not for the seed before"
