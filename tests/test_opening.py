"""What a run says before its first step, what it refuses, and what it warns of: nothing is left out, capped or idle in silence."""

import builtins
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import test_checkpoint
import torch
from test_checkpoint import go, metrics_of, words

import config
import eval as evaluation
import rl
import tasks
import train
from trainer import checkpoint, checks, faults, opening, run

REWARDS = tasks.rewards
base, in_process = test_checkpoint.base, test_checkpoint.in_process  # fixtures


@pytest.fixture
def ended(base, monkeypatch, capsys):
    """ended(out, flags...) -> (exit code, standard output, standard error) of train.py's main, in this process."""

    def call(out, *more: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *words(base, out, *more)])
        code = 0
        try:
            train.main()
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return call


# ---- what is said ---------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_is_before_its_first_step(base, tmp_path, capsys):
    go(base, tmp_path / "run", "--steps", "1", "--max-prompt-tokens", "6")
    said = capsys.readouterr().out.splitlines()[:9]
    text = "\n".join(said)
    assert said[0].startswith("model: ") and "parameters, qwen3" in said[0] and "policy own" in said[0]
    assert "problems to train on" in text and "left out, whose prompts have more than 6 tokens" in text
    assert "first prompt: '" in text and "its gold answer: " in text
    assert "4 problems x 4 samples of at most 6 tokens" in text and "GiB are free" in text
    assert (
        "evaluation before and after training: 1 problems (--final-problems), 5 completions" in text
        and f"files: {tmp_path}" in text
    )


def test_control_characters_of_a_problem_do_not_reach_the_terminal(base, tmp_path, capsys):
    file = tmp_path / "problems.jsonl"
    rows = [{"problem": f"\x1b[31m{i}\x9b?", "answer": f"{i}\x07"} for i in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    go(base, tmp_path / "run", "--steps", "1", "--task", str(file))
    printed = capsys.readouterr()
    assert not set(printed.out + printed.err) & set(map(chr, (0x1B, 0x07, 0x9B)))


def test_a_dry_run_says_how_long_and_leaves_nothing(ended, tmp_path):
    code, printed, error = ended(tmp_path / "run", "--dry-run")
    assert code == 0 and not error, error
    assert "dry run: a step takes about" in printed and "Nothing was kept." in printed
    assert not (tmp_path / "run").exists()
    code, printed, _ = ended(tmp_path / "run", "--steps", "1")
    assert code == 0 and "step 1 of 1" in printed, "the same folder can then be used"


def test_a_dry_run_of_long_steps_times_one_prompt(base, tmp_path, monkeypatch, capsys):
    timed, asked = opening.timed, []

    def slow(run, prompts):
        asked.append(prompts)
        timed(run, prompts)
        return 30.0, 10.0

    monkeypatch.setattr(opening, "timed", slow)
    opening.rehearse(train.prepare(config.parse(words(base, tmp_path / "run", "--dry-run"))))
    assert asked == [1, 1] and "a step takes about 160.0 s (by one prompt)" in capsys.readouterr().out


def test_what_is_held_out_is_at_most_a_fifth_and_at_most_what_was_asked(base, tmp_path, capsys):
    go(base, tmp_path / "run", "--steps", "1", "--final-problems", "1000")
    assert "32 problems to train on, 8 held out" in capsys.readouterr().out


def test_an_evaluation_asks_every_problem_and_says_how_many(base, tmp_path):
    rows = [{"problem": f"{i}?", "answer": "1"} for i in range(1200)]
    file = tmp_path / "many.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(evaluation.load(str(file), 0, 0)) == 1200 and len(evaluation.load("modular", 0, 0)) == 1000
    some = evaluation.load(str(file), 100, 0)
    assert len(some) == 100 and some != evaluation.load(str(file), 0, 0)[:100], "drawn, and not the first ones"
    summary = {"problems": 1200, "samples": 2, "Avg@2": 0.5, "Avg@2 95%": [0.4, 0.6]}
    summary |= {"temperature": 1.0, "tokens": 3.0, "truncated": 0.0}
    assert "| 1,200 |" in evaluation.table({"many": summary})


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--policy", "0.7", "--tau-max", "2"], "--tau-max does nothing with --policy 0.7"),
        (["--policy", "edt", "--temperature-lr", "1"], "--temperature-lr does nothing with --policy edt"),
        (["--schedule", "temperature", "--kl", "0.1"], "--kl does nothing with --schedule temperature"),
        (["--schedule", "tokens", "--temperature-lr", "1"], "--temperature-lr does nothing with --schedule tokens"),
        (
            ["--policy", "tampo", "--temperature-entropy", "0.1"],
            "--temperature-entropy does nothing with --policy tampo",
        ),
        (["--policy", "sequence", "--temperature-entropy", "0.1"], "does nothing with --policy sequence"),
        (["--policy", "edt:base=2"], "base exceeds tau_max 1.5"),
        (
            ["--token-objective", "pass@2", "--temperature-objective", "pass@2", "--advantage", "rloo"],
            "--advantage does",
        ),
        (["--tau-initial", "3"], "--tau-initial 3.0 must lie between"),
        (["--concentration", "0.1"], "--concentration 0.1 must lie between"),
        (["--reward", "nothing.py:none"], "reward 'nothing.py:none': no such file"),
        (["--template", "nothing.txt"], "template 'nothing.txt' is none of"),
    ],
)
def test_what_would_do_nothing_or_fail_later_is_refused(flags, said):
    with pytest.raises(ValueError, match="must|does|exceeds|none of|no such") as error:
        checks.validate(config.parse([*flags, "--out", "runs/none"]))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_help_says_the_defaults_of_the_chosen_task(capsys):
    for task, lr, model in (("countdown", "0.0002", "models/countdown"), ("gsm8k", "1e-06", "none: name one")):
        with pytest.raises(SystemExit):
            config.parse(["--task", task, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert f"learning rate of theta [{lr}]" in text and f"[{model}]" in text


# ---- what is warned of, and what stops ------------------------------------------------------------------------------


def test_a_run_without_a_signal_says_so(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tasks, "rewards", lambda problems, *_: [0.0] * len(problems))
    monkeypatch.setattr(run, "PATIENCE", 2)
    go(base, tmp_path / "run", "--steps", "5", "--eval-every", "0")
    printed = capsys.readouterr().out
    assert [f"no group had a signal for {n} steps" in printed for n in (2, 4, 5)] == [True, True, False]
    assert all(row["groups_with_signal"] == 0 for row in metrics_of(tmp_path / "run"))


def test_groups_without_an_advantage_have_no_signal(base, tmp_path, monkeypatch):
    """With pass@3 of 4 and two failures every subset of three succeeds: rewards differ, and nothing is to be learned."""
    monkeypatch.setattr(tasks, "rewards", lambda problems, *_: [1.0, 0.0] * (len(problems) // 2))
    assert not rl.advantages(torch.tensor([[1.0, 0.0, 1.0, 0.0]]), "pass@3").any()
    flags = ["--token-objective", "pass@3", "--temperature-objective", "pass@3", "--steps", "1", "--eval-every", "0"]
    assert metrics_of(go(base, tmp_path / "run", *flags))[0]["groups_with_signal"] == 0


def test_a_model_that_overflows_stops_the_run(ended, tmp_path, monkeypatch):
    """One clear line, whichever guard meets it first."""
    rewards = iter(range(10**6))
    monkeypatch.setattr(tasks, "rewards", lambda problems, *_: [float(next(rewards) % 3 == 0) for _ in problems])
    code, _, error = ended(tmp_path / "run", "--token-lr", "1e20", "--steps", "30", "--eval-every", "0")
    assert code == 1 and "not finite" in error.splitlines()[-1] and "Traceback" not in error


def test_a_reward_of_ones_own_trains_and_its_mistakes_are_one_line(ended, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "rewards", REWARDS)
    file = tmp_path / "own.py"
    file.write_text("def length(text, problem, answer):\n    return min(len(text) / 6, 1.0)\n")
    code, printed, error = ended(tmp_path / "run", "--reward", f"{file}:length", "--steps", "1")
    assert code == 0, error
    assert 0 < metrics_of(tmp_path / "run")[0]["reward"] < 1
    file.write_text("def length(text, problem, answer):\n    return 1 / 0\n")
    code, _, error = ended(tmp_path / "other", "--reward", f"{file}:length", "--steps", "1")
    assert code != 0 and "ZeroDivisionError" in error.strip().splitlines()[-1] and "Traceback" not in error


def test_the_cpus_allocator_is_explained_as_cudas():
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")
    assert "lower --rollout-rows" in faults.explain(error) and faults.explain(RuntimeError("ours")) is None


# ---- where it starts and ends ---------------------------------------------------------------------------------------


def test_a_folder_of_a_run_that_was_killed_early_can_be_used_again(base, tmp_path):
    c = config.parse(words(base, tmp_path / "run"))
    train.prepare(c)
    assert (tmp_path / "run" / "held_out.jsonl").exists(), "so far it came"
    os.close(checkpoint.LOCKS.pop((tmp_path / "run").resolve()))  # as a process that ends
    go(base, tmp_path / "run", "--steps", "1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "held_out.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="which train.py did not write"):
        checks.validate(config.parse(words(base, tmp_path / "mine")))


def test_a_damaged_table_is_refused_before_the_training(base, tmp_path):
    go(base, tmp_path / "run", "--steps", "2")
    (tmp_path / "run" / "before.json").write_text("{")
    with pytest.raises(ValueError, match="before.json"):
        train.prepare(config.parse(words(base, tmp_path / "run", "--steps", "4", "--resume")))


def test_the_rules_of_windows(base, tmp_path, monkeypatch):
    """Simulated: folders cannot be opened, there is no fcntl, no SIGHUP, and a file is synced only if opened for writing."""
    opened, imported, flags = os.open, builtins.__import__, {}

    def open_file(path, mode, *rest, **named):
        if os.path.isdir(path) and "dir_fd" not in named:
            raise PermissionError(13, "Permission denied", str(path))
        number = opened(path, mode, *rest, **named)
        flags[number] = mode
        return number

    def fsync(number):
        if not flags[number] & (os.O_RDWR | os.O_WRONLY):
            raise OSError(9, "Bad file descriptor")

    def find(name, *rest):
        if name in ("fcntl", "resource", "pwd"):
            raise ImportError(name)
        return imported(name, *rest)

    class Locks:
        LK_NBLCK = 2
        locking = staticmethod(lambda number, mode, count: None)

    monkeypatch.setitem(sys.modules, "msvcrt", Locks)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(builtins, "__import__", find)
    monkeypatch.setattr(faults, "SIGNALS", [signal.SIGINT, signal.SIGTERM])
    run = go(base, tmp_path / "run", "--steps", "2")
    go(base, tmp_path / "run", "--steps", "4", "--resume")
    assert len(metrics_of(run)) == 4 and checkpoint.whole_checkpoints(run)


@pytest.mark.parametrize("seconds", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("command", [["train.py"], ["eval.py"], ["sample.py", "--prompt", "5,+7,-4,*3=32:"]])
def test_ctrl_c_ends_a_command_without_a_traceback_also_while_it_imports(command, seconds, tmp_path):
    out = ["--out", str(tmp_path / "run")] if command == ["train.py"] else []
    root = Path(test_checkpoint.ROOT)
    process = subprocess.Popen(
        [sys.executable, *command, *out], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    ended = (130, 0, -signal.SIGINT)  # the last: so late that the interpreter has let go of the signal
    assert process.returncode in ended and "Traceback" not in error, error


def test_three_broken_rollouts_in_a_row_stop_a_run_that_nothing_else_would_stop():
    """Where no completion earns anything there is no update to notice it."""
    whole, broken = (
        types.SimpleNamespace(token_log_probs=torch.tensor([value]), entropies=torch.ones(1))
        for value in (-1.0, torch.nan)
    )
    guard = faults.Guard()
    for rollout in (broken, broken, whole, broken, broken):
        guard.rollout(rollout)
    with pytest.raises(faults.Stopped, match="3 rollouts in a row were not finite"):
        guard.rollout(broken)
