"""faults.py and the disk side of checkpoint.py: what goes wrong in a long run, made to go wrong."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_checkpoint
import torch
from test_checkpoint import go, metrics_of, state_file, words

import config
import model
import rl
import tasks
import train
from display import log
from engine import gradient
from trainer import checkpoint, checks, faults, run

ROOT = Path(__file__).resolve().parent.parent
base, in_process = test_checkpoint.base, test_checkpoint.in_process  # fixtures
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def ended(base, monkeypatch, capsys):
    """ended(out, flags...) -> (exit code, standard error) of train.py's main, in this process."""

    def call(out: Path, *more: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *words(base, out, *more)])
        try:
            train.main()
        except SystemExit as error:
            return error.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return call


# ---- numbers that are not finite ------------------------------------------------------------------------------------


def spoil(monkeypatch, owner, name: str, at: set[int], how):
    """The calls of `owner.name` whose numbers are in `at` get `how(result)` for their result."""
    really, calls = getattr(owner, name), []

    def call(*arguments, **named):
        calls.append(1)
        result = really(*arguments, **named)
        return how(result) if len(calls) in at else result

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_moves_nothing(base, tmp_path, monkeypatch, capsys, bad):
    """The third step's token update is skipped and said; the state after it is the state before it; the run goes on."""
    a_step = config.Config.token_epochs + config.Config.temperature_epochs
    spoil(monkeypatch, rl, "clipped_surrogate", {1 + 2 * a_step}, lambda loss: loss * bad)
    run = go(base, tmp_path / "run", "--save-every", "1", "--keep-checkpoints", "9")
    assert "token update skipped: the loss is" in capsys.readouterr().err
    metrics = metrics_of(run)
    assert [step for step, row in enumerate(metrics) if "token/skipped" in row] == [2] and len(metrics) == 6
    before, after, later = (run / "checkpoints" / f"step-{step:06d}" for step in (2, 3, 4))
    assert (before / "model.safetensors").read_bytes() == (after / "model.safetensors").read_bytes()
    moments = [state_file(folder)["optimizers"]["token"]["state"][0]["exp_avg"] for folder in (before, after)]
    assert torch.equal(*moments)
    assert (after / "model.safetensors").read_bytes() != (later / "model.safetensors").read_bytes()
    assert (before / "temperature_head.safetensors").read_bytes() != (
        after / "temperature_head.safetensors"
    ).read_bytes()


def test_a_gradient_that_is_not_finite_moves_nothing(base, tmp_path, monkeypatch, capsys):
    """The loss may be finite where its gradient is not."""
    spoil(monkeypatch, rl, "clipped_surrogate", {1}, lambda loss: loss + 0 * (loss * 0).sqrt().sum())
    run = go(base, tmp_path / "run", "--steps", "1", "--eval-every", "0")
    error = capsys.readouterr().err
    assert "token update skipped: the loss is -" in error or "token update skipped: the loss is 0" in error, error
    assert "norm nan" in error and "lower the learning rate" in error
    tensors = [model.load(folder).state_dict() for folder in (base, run)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


@pytest.mark.parametrize("policy", ["own", "tampo"])
def test_rewards_that_are_not_finite_stop_the_run_with_a_diagnosis(tmp_path, monkeypatch, ended, policy):
    spoil(monkeypatch, tasks, "rewards", set(range(8, 99)), lambda rewards: [float("nan"), *rewards[1:]])
    code, error = ended(
        tmp_path / "run", "--steps", "20", "--eval-every", "0", "--final-problems", "2", "--policy", policy
    )
    assert code == 1 and error.count("update skipped") >= 3
    last = error.strip().splitlines()[-1]
    assert (
        re.match("train.py: 3 (token|temperature) updates in a row were not finite", last)
        and "a reward is not a finite number" in last
    )
    saved = checkpoint.whole_checkpoints(tmp_path / "run")[-1]
    assert f"the last checkpoint is {saved}; continue from it by --resume" in last
    assert all(p.isfinite().all() for p in model.load(saved).parameters())


def test_skips_that_are_not_in_a_row_do_not_stop_a_run(base, tmp_path, monkeypatch):
    spoil(monkeypatch, rl, "clipped_surrogate", {1, 2, 4, 5, 7, 8}, lambda loss: loss * torch.nan)
    run = go(base, tmp_path / "run", "--schedule", "tokens", "--steps", "9", "--eval-every", "0")
    assert sum("token/skipped" in row for row in metrics_of(run)) == 6


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo", "pass@2"])
def test_a_group_with_a_reward_that_is_no_number_is_not_taken_for_a_failure(kind):
    rewards = [[1.0, 0.0, torch.nan], [1.0, 0.0, 0.0], [torch.inf, torch.inf, torch.inf]]
    advantage = rl.advantages(torch.tensor(rewards), kind)
    assert advantage[::2].isnan().all() and advantage[1].isfinite().all()


# ---- memory ---------------------------------------------------------------------------------------------------------


def out_of_memory(*arguments, **named):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nDetails")


def test_out_of_memory_tries_a_smaller_micro_batch_once(base, tmp_path, monkeypatch, capsys):
    """The same gradient but for rounding, and the run keeps the smaller size."""
    whole = go(base, tmp_path / "whole", "--steps", "3", "--eval-every", "0", "--micro-batch-tokens", "100")
    sizes, really = [], gradient.micro_batches

    def full_above_60(rollout, budget):
        sizes.append(budget)
        yield from really(rollout, budget) if budget < 60 else out_of_memory()

    monkeypatch.setattr(gradient, "micro_batches", full_above_60)
    halved = go(base, tmp_path / "run", "--steps", "3", "--eval-every", "0", "--micro-batch-tokens", "100")
    epochs = config.Config.temperature_epochs
    assert sizes == [100] + [50] * (1 + epochs) * 3, "tried once more, and then kept, for both sides"
    assert capsys.readouterr().err.count("the run continues with --micro-batch-tokens 50") == 1
    for row, other in zip(metrics_of(whole), metrics_of(halved), strict=True):
        assert row["token/gradient_norm"] == pytest.approx(other["token/gradient_norm"], rel=1e-4)


def test_out_of_memory_while_loading_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch, ended):
    monkeypatch.setattr(model, "load", out_of_memory)
    code, error = ended(tmp_path / "run")
    assert (
        code == 1 and len(error.strip().splitlines()) == 1 and "a smaller model or --shard; nothing is saved" in error
    )
    assert not (tmp_path / "run").exists()


def test_out_of_memory_that_stays_names_the_flag(tmp_path, monkeypatch, ended):
    monkeypatch.setattr(gradient, "micro_batches", out_of_memory)
    code, error = ended(tmp_path / "training")
    assert code == 1 and "lower --micro-batch-tokens" in error and "--checkpointing" in error and "2.00 GiB" in error
    monkeypatch.setattr(run, "generate", out_of_memory)
    code, error = ended(tmp_path / "sampling")
    assert code == 1 and "lower --rollout-rows" in error and "nothing is saved" in error
    assert "Traceback" not in error and "Details" not in error


# ---- signals and terminals ------------------------------------------------------------------------------------------


def start(base: Path, run: Path, *more: str, **streams) -> subprocess.Popen:
    line = [sys.executable, str(ROOT / "train.py"), *words(base, run, "--print-every", "1", "--eval-every", "0", *more)]
    return subprocess.Popen(line, env=ENVIRONMENT, **streams)


def wait_for_steps(process: subprocess.Popen, run: Path, steps: int) -> int:
    """Until so many are logged; how many there are."""
    file = run / "metrics.jsonl"
    while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < steps):
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    return file.read_bytes().count(b"\n")


LONG = ("--steps", "100000", "--save-every", "100000")


def test_sigterm_saves_and_ends_well(base, tmp_path):
    run = tmp_path / "run"
    process = start(base, run, *LONG, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_steps(process, run, 1)
    process.terminate()
    printed, _ = process.communicate(timeout=60)
    assert (
        process.returncode == 0
        and "continue with the same command and --resume" in printed
        and "Traceback" not in printed
    ), printed
    assert state_file(run)["step"] == len(metrics_of(run))


def test_a_second_signal_leaves_at_once(base, tmp_path):
    """In the middle of a step that would take a minute."""
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "import rl, train, time\n"
        "rl.token_step = lambda *a: print('busy', flush=True) or time.sleep(60)\n"
        "train.main()"
    )
    line = [sys.executable, "-c", code, *words(base, tmp_path / "run", "--print-every", "0", "--eval-every", "0")]
    process = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "busy\n" in iter(process.stdout.readline, "")  # after what the run prints before its first step
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() and "once more to stop at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130 and time.monotonic() - started < 30, "not after the step"
    process.communicate()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no terminals that hang up")
def test_a_terminal_that_closes_ends_a_run_saved(base, tmp_path):
    process = start(base, tmp_path / "run", *LONG, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for_steps(process, tmp_path / "run", 1)
    process.send_signal(signal.SIGHUP)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopping after this step" in error
    assert checkpoint.whole_checkpoints(tmp_path / "run")


# ---- the disk -------------------------------------------------------------------------------------------------------


def full(*arguments, **named):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("owner, name", [(torch, "save"), (model, "save"), (os, "fsync")])
def test_a_full_disk_ends_the_run_and_spares_the_last_checkpoint(tmp_path, monkeypatch, ended, owner, name):
    run, really = tmp_path / "run", getattr(owner, name)
    calls = []

    def second_time(*arguments, **named):
        if (run / "checkpoints" / "step-000002").exists():
            calls.append(1)
            full()
        return really(*arguments, **named)

    monkeypatch.setattr(owner, name, second_time)
    code, error = ended(run, "--eval-every", "0")
    if name != "fsync":
        last = error.strip().splitlines()[-1]
        assert (
            code == 1
            and last.startswith("train.py: no room for a checkpoint of")
            and "step-000002; continue from it by --resume" in last
        )
    assert code == 1 and calls and "Traceback" not in error
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["step-000002"], "no half of one is left"
    monkeypatch.undo()
    monkeypatch.setattr(log.Log, "report", lambda self: "")
    assert ended(run, "--eval-every", "0", "--resume")[0] == 0 and state_file(run)["step"] == 6


def test_a_full_disk_is_refused_before_the_work(tmp_path, monkeypatch, ended):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    code, error = ended(tmp_path / "run")
    assert (
        code == 2 and len(error.strip().splitlines()) == 1 and "--keep-checkpoints" in error and "the disk has" in error
    )


def test_the_disk_has_room_for_all_that_is_ever_there_at_once(tmp_path, monkeypatch):
    """The last two, the best, and the one being written."""
    transformer, most = torch.nn.Linear(8, 8), 0
    for step in (1, 5, 6):
        (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    row = {"step": 0, "eval/Avg@8": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    checkpoint.drop_old(tmp_path, keep=2)
    most = len(checkpoint.whole_checkpoints(tmp_path)) + 1
    needed = most * checkpoint.checkpoint_bytes(transformer)
    for free, enough in ((needed, True), (needed - 1, False)):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        with contextlib.nullcontext() if enough else pytest.raises(ValueError, match="--keep-checkpoints"):
            checkpoint.begin(tmp_path / "new", transformer, keep=2)
    assert most == 4


def test_what_a_killed_save_left_is_removed(base, tmp_path):
    run = go(base, tmp_path / "run", "--steps", "2")
    (run / "checkpoints" / ".step-000004.12345").mkdir()
    (run / "checkpoints" / ".step-000004.12345" / "model.safetensors").write_bytes(b"half")
    (run / ".model.safetensors.12345").write_bytes(b"")
    go(base, run, "--resume", "--steps", "3")
    assert [file.name for file in run.rglob(".*")] == [checkpoint.LOCK]


def test_a_damaged_checkpoint_is_named(base, tmp_path):
    run = go(base, tmp_path / "run", "--steps", "2")
    newest = checkpoint.whole_checkpoints(run)[-1]
    for name in (checkpoint.STATE, "model.safetensors", "temperature_head.safetensors", "run.json", "config.json"):
        whole = (newest / name).read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", b"[]"):
            (newest / name).write_bytes(damaged)
            with pytest.raises(ValueError, match=f"{newest}.*{name}"):
                go(base, run, "--resume", "--steps", "3")
        (newest / name).write_bytes(whole)
    go(base, run, "--resume", "--steps", "3")


def test_two_processes_do_not_train_in_one_folder(base, tmp_path):
    run = tmp_path / "run"
    process = start(base, run, *LONG, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_steps(process, run, 1)
    with pytest.raises(ValueError, match="another process is training in this folder"):
        go(base, run)
    process.kill()
    process.wait()
    go(base, run, "--steps", "2")  # a killed process holds no lock


# ---- which checkpoints are kept -------------------------------------------------------------------------------------


def test_the_best_is_the_one_with_the_highest_evaluation(tmp_path):
    scores = {1: 0.1, 3: 0.4, 5: 0.4, 7: 0.2}
    rows = [
        {"step": s, "reward": 1.0} | ({"eval/Avg@8": scores[s], "eval/Pass@8": 1 - scores[s]} if s in scores else {})
        for s in range(9)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert checkpoint.best_step(tmp_path) == 6
    for step in range(1, 10):
        (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    checkpoint.drop_old(tmp_path, keep=2)
    assert [folder.name[-1] for folder in checkpoint.whole_checkpoints(tmp_path)] == ["6", "8", "9"]


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for step in (999_999, 1_000_000, 5):
        (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    assert [int(f.name[5:]) for f in checkpoint.whole_checkpoints(tmp_path)] == [5, 999_999, 1_000_000]
    assert checkpoint.best_step(tmp_path) == -1


def test_the_number_of_checkpoints_is_at_least_one():
    with pytest.raises(ValueError, match="--keep-checkpoints is 0 and must be at least 1"):
        checks.validate(config.Config(keep_checkpoints=0))


@pytest.fixture
def handlers():
    """The signal handlers of this process, as they were."""
    before = {number: signal.getsignal(number) for number in faults.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def wrong():
    raise ValueError("a mistake")


def test_under_torchrun_the_others_wait_for_the_process_that_says_what_was_wrong(monkeypatch, capsys, handlers):
    """torchrun ends all when one ends, by SIGTERM: the silent ones must not be the first, and end in order."""
    waited = []
    monkeypatch.setattr(
        faults.time, "sleep", lambda *seconds: waited.append((*seconds, signal.getsignal(signal.SIGTERM)))
    )
    for first in (True, False):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        monkeypatch.setattr(faults.distributed, "is_first_here", lambda first=first: first)
        with pytest.raises(SystemExit) as ended:
            faults.supervise("train.py", wrong, None)
        assert ended.value.code == 2 and capsys.readouterr().err == "train.py: a mistake\n" * first
    assert waited == [(10, signal.default_int_handler)]


def test_ctrl_c_raises_only_once_the_run_is_prepared(monkeypatch, handlers):
    """Libraries that prepare() loads abort on a KeyboardInterrupt: until then the command's own handler stays."""
    monkeypatch.setattr(faults.distributed, "stop", lambda: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    found = []
    look = lambda *_: found.append(signal.getsignal(signal.SIGINT))  # noqa: E731
    faults.supervise("train.py", look, look)
    assert found == [signal.SIG_IGN, signal.default_int_handler]
