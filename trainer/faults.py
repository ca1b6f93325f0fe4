"""What can end a long run: signals, numbers that are not finite, out of memory.

    Ctrl-C, SIGTERM, SIGHUP   finish and save the step, exit 0.  The second signal ends the process at once
    NaN or infinity           skip the update, with a message.  Three in a row end the run, with a diagnosis
    CUDA out of memory        try the update once more with half the micro-batch (engine/gradient.py).  Then one line says which
                              flags need less memory

checkpoint.py covers a killed process, a full disk and a half-written checkpoint.
"""

import contextlib
import errno
import os
import signal
import sys
import time
from collections import Counter

import torch

import tasks
from display.terminal import visible
from engine import distributed

PATIENCE = 3  # so many broken updates or rollouts in a row end the run
OVERFLOW = "the weights or activations of the model overflow; lower the learning rate"
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(Exception):
    """The run cannot continue.  The text says why, and what to do."""


class Interrupt:
    """The first Ctrl-C, SIGTERM or SIGHUP saves and ends the run after this step.  The second ends the process at once."""

    def __init__(self):
        self.now, self.noted = False, 0.0
        for number in SIGNALS:
            signal.signal(number, self.note)

    def note(self, number, frame) -> None:
        # The terminal signals all processes, and torchrun signals them again: within 5 seconds these count as one signal.
        if self.now and (time.monotonic() - self.noted > 5 or "TORCHELASTIC_RUN_ID" not in os.environ):
            os._exit(130)
        if not self.now:
            self.now, self.noted = True, time.monotonic()
            with contextlib.suppress(OSError):  # print could be interrupted by this very signal
                os.write(2, b"\nstopping after this step; once more to stop at once\n")

    def done(self) -> None:
        """Restore the plain Ctrl-C."""
        at_once()


def at_once() -> None:
    """Let each of SIGNALS raise KeyboardInterrupt."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)


class Guard:
    """Skip updates whose loss or gradient is not finite.  Several in a row end the run."""

    def __init__(self):
        self.in_a_row: Counter[str] = Counter()

    def rollout(self, rollout) -> None:
        """Stop a run whose model no longer gives finite numbers."""
        broken = not (rollout.token_log_probs.isfinite().all() and rollout.entropies.isfinite().all())
        self.in_a_row["rollout"] = self.in_a_row["rollout"] + 1 if broken else 0
        if self.in_a_row["rollout"] >= PATIENCE:
            raise Stopped(f"log-probabilities of {PATIENCE} rollouts in a row were not finite: {OVERFLOW}")

    def step(self, side: str, update, *arguments) -> dict[str, float]:
        """The metrics of `update(*arguments)`, or `skipped` if it raised FloatingPointError before it changed anything."""
        try:
            told = update(*arguments)
        except FloatingPointError as error:
            self.in_a_row[side] += 1
            reason = f"{error}; {diagnosis(arguments)}"
            print(f"\n{side} update skipped: {reason}", file=sys.stderr)
            if self.in_a_row[side] >= PATIENCE:
                raise Stopped(f"{PATIENCE} {side} updates in a row were not finite ({reason})") from None
            return {"skipped": 1.0}
        self.in_a_row[side] = 0
        return told


def diagnosis(arguments) -> str:
    """The origin of the first number that is not finite, and what to change."""
    for argument in arguments:
        tensors = [getattr(p, "to_local", lambda p=p: p)() for p in getattr(argument, "parameters", tuple)()]
        if not all(tensor.isfinite().all() for tensor in tensors):
            return f"weights of the {type(argument).__name__} are not finite: the model itself is broken"
    for argument in arguments:
        if hasattr(argument, "token_log_probs") and not argument.token_log_probs.isfinite().all():
            return "log-probabilities of the rollout are not finite: the model's activations overflow"
        if isinstance(argument, torch.Tensor) and not argument.isfinite().all():
            return "a reward is not a finite number: look at the task's rewards"
    return "weights, rollout and rewards are finite: lower the learning rate or the clip range"


def explain(error: BaseException) -> str | None:
    """One line for the user about the error that ended a run; None for a bug, which needs its traceback."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, (Stopped, tasks.RewardError)):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in first:
        return (
            f"out of memory ({first}): while sampling, lower --rollout-rows or --max-new-tokens; while training, lower "
            "--micro-batch-tokens or add --checkpointing; in loading or the optimizer's step, use a smaller model or --shard"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return f"cannot write ({first})"
    return None


def supervise(name: str, prepare, work) -> None:
    """work(prepare()) as the command `name`.  Every expected end prints one line; Ctrl-C in prepare() ends in silence, as it does
    while the command imports.  A user's mistake has exit code 2."""
    from trainer import checkpoint  # it imports this file

    run = None
    try:
        try:
            # engine/environment.py still handles Ctrl-C here: a KeyboardInterrupt while C++ libraries load aborts the process.
            run = prepare()
        except (ValueError, OSError) as error:  # a user's mistake
            at_once()
            if distributed.is_first_here():
                print(visible(f"{name}: {error}"), file=sys.stderr)
            else:
                with contextlib.suppress(KeyboardInterrupt):
                    time.sleep(10)  # torchrun ends all processes when one ends, and the first has something to say
            checkpoint.remove_new_folders()
            sys.exit(2)
        at_once()
        work(run)
        checkpoint.remove_new_folders()
        distributed.stop()
    except KeyboardInterrupt:  # before the first step or after the last: nothing is left to save
        print(f"\n{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (reason := explain(error)) is None:
            raise
        saved = checkpoint.whole_checkpoints(run.folder) if run else []
        then = f"the last checkpoint is {saved[-1]}; continue from it by --resume" if saved else "nothing is saved"
        checkpoint.remove_new_folders()
        print(visible(f"\n{name}: {reason}; {then}"), file=sys.stderr)
        sys.exit(1)
