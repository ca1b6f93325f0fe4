"""Kill a run with SIGKILL at random moments, resume it, and compare it with one that was never killed.

    python tests/fault_injection.py --kills 30

Each run is a fork that is killed once: in turn while it samples, while it updates, and while it saves.  It is resumed
(started again, where there was no checkpoint yet) and must end with the same metrics, completions, weights and optimizers,
bit for bit.  test_injection.py does three kills with the other tests.
"""

import argparse
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]
import torch
import torch.utils.tensorboard  # noqa: F401
from test_checkpoint import assert_same_run, lottery, words, write_base

import model
import rl
import tasks
import train
from display import log
from trainer import checkpoint
from trainer import run as run_module

PHASES = {1: "rollout", 2: "update", 3: "save"}
TIMES = {1: 24, 2: 48, 3: 12}  # how often a run of 24 steps that saves every second one enters each, at least
phase = mmap.mmap(-1, 4)  # shared with the forks: what the run is doing, then how often it has entered each phase


def during(number: int, function):
    def call(*arguments, **named):
        phase[0] = number
        phase[number] += 1
        try:
            return function(*arguments, **named)
        finally:
            phase[0] = 0

    return call


def start(flags: list[str]) -> int:
    """A run in a fork of this process; its id."""
    phase[:] = bytes(4)
    child = os.fork()
    if child:
        return child
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    sys.argv = ["train.py", *flags]
    tasks.rewards, log.Log.report = lottery, lambda self: ""
    run_module.generate, rl.token_step = during(1, run_module.generate), during(2, rl.token_step)
    rl.temperature_step, checkpoint.save = during(2, rl.temperature_step), during(3, checkpoint.save)
    code = 1
    try:
        train.main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def inject(kills: int, seed: int, work: Path, show=lambda *text: None) -> list[str]:
    """What was not equal, one line a kill."""
    draw, failures = random.Random(seed), []
    base, unbroken = write_base(work / "base"), work / "unbroken"
    more = ("--steps", "24", "--eval-every", "5", "--print-every", "1", "--save-every", "2")
    model.load(base)  # what is imported on first use, once for all forks
    assert ended(start(words(base, unbroken, *more))) == 0
    for number in range(kills):
        run, wanted = work / f"run-{number}", 1 + number % 3
        # Counted, not timed: a moment by the clock is past the end of a run whose machine was slower a minute before.
        # The last third of the run is left, so that it does not end while this process waits for its turn.
        moment = draw.randrange(TIMES[wanted] // 6, TIMES[wanted] * 2 // 3)
        child = start(words(base, run, *more))
        while phase[wanted] <= moment and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            pass
        time.sleep(draw.uniform(0, 0.003))
        found = PHASES.get(phase[0], "between")
        os.kill(child, signal.SIGKILL)
        killed = ended(child) == -signal.SIGKILL
        done = len(checkpoint.whole_checkpoints(run))
        left = len(list((run / "checkpoints").glob(".step-*")))
        how = ["--resume"] if done else []
        code = ended(start(words(base, run, *more, *how)))
        try:
            assert killed, "the run had ended before it was killed"
            assert code == 0, f"resuming ended with exit code {code}"
            assert_same_run(unbroken, run)
            assert {file.name for file in run.rglob(".*")} <= {checkpoint.LOCK}
            verdict = "equal"
        except AssertionError:
            verdict = f"NOT EQUAL: {traceback.format_exc(limit=-2)}"
            failures.append(f"kill {number} in {found}: {verdict}")
        show(f"kill {number + 1} in {found}, {left} half-written checkpoints: {verdict}")
    show(f"{kills - len(failures)} of {kills} equal")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Kill runs, resume them, and compare them with one that was not killed."
    )
    parser.add_argument("--kills", type=int, default=30, help="how many runs")
    parser.add_argument("--seed", type=int, default=0, help="other moments")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        sys.exit(bool(inject(arguments.kills, arguments.seed, Path(work), show=print)))


if __name__ == "__main__":
    main()
