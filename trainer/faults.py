"""What a long run meets: signals, numbers that are not finite, memory that ends.

    Ctrl-C, SIGTERM, SIGHUP   the step is finished and saved, exit 0; the second one ends the process at once
    NaN or infinity           the update is skipped, with a message; three in a row end the run, with a diagnosis
    CUDA out of memory        the update is tried once more in half as large micro-batches (engine/gradient.py), then one line says
                              which flags need less

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
from engine import distributed

PATIENCE = 3  # updates, or rollouts, in a row that may be broken
OVERFLOW = "the weights or activations of the model overflow; lower the learning rate"
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(Exception):
    """The run cannot go on; the text says why, and what to do."""


class Interrupt:
    """The first Ctrl-C (or SIGTERM, SIGHUP) ends the run after this step, saved; the second ends the process at once."""

    def __init__(self):
        self.now, self.noted = False, 0.0
        for number in SIGNALS:
            signal.signal(number, self.note)

    def note(self, number, frame) -> None:
        # torchrun passes on what the terminal has sent to all its processes already: within seconds, that is one signal
        if self.now and (time.monotonic() - self.noted > 5 or "TORCHELASTIC_RUN_ID" not in os.environ):
            os._exit(130)
        if not self.now:
            self.now, self.noted = True, time.monotonic()
            with contextlib.suppress(OSError):  # not print: the signal may have come in the middle of one
                os.write(2, b"\nstopping after this step; once more to stop at once\n")

    def done(self) -> None:
        """From here on Ctrl-C is Ctrl-C again."""
        at_once()


def at_once() -> None:
    """Ctrl-C and the like raise KeyboardInterrupt."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)


class Guard:
    """Skips an update whose loss or gradient is not finite, and ends the run where that happens again and again."""

    def __init__(self):
        self.in_a_row: Counter[str] = Counter()

    def rollout(self, rollout) -> None:
        """Stop a run whose model no longer gives finite numbers, whatever it earns."""
        broken = not (rollout.token_log_probs.isfinite().all() and rollout.entropies.isfinite().all())
        self.in_a_row["rollout"] = self.in_a_row["rollout"] + 1 if broken else 0
        if self.in_a_row["rollout"] >= PATIENCE:
            raise Stopped(f"log-probabilities of {PATIENCE} rollouts in a row were not finite: {OVERFLOW}")

    def step(self, side: str, update, *arguments) -> dict[str, float]:
        """The metrics of `update(*arguments)`.  `skipped` where it raised FloatingPointError, before it changed anything."""
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
    """Where the first number that is not finite came from, and which flag changes it."""
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
    """What ended a run, for its user; None for a mistake of ours, which needs its traceback."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, (Stopped, tasks.RewardError)):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in first:
        return (
            f"out of memory ({first}): while sampling, lower --rollout-rows or --max-new-tokens; while training, lower "
            "--micro-batch-tokens or add --checkpointing; the optimizer's step needs a smaller model, or --shard"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return f"cannot write ({first})"
    return None


def supervise(name: str, prepare, work) -> None:
    """work(prepare()), as the command `name`: whatever ends it ends in one line, and a user's mistake with exit code 2."""
    from trainer import checkpoint  # which imports this file

    at_once()
    try:
        try:
            run = prepare()
        except (ValueError, OSError) as error:  # a user's mistake
            if distributed.is_first_here():
                print(f"{name}: {error}", file=sys.stderr)
            checkpoint.remove_new_folders()
            sys.exit(2)
        work(run)
        checkpoint.remove_new_folders()
        distributed.stop()
    except KeyboardInterrupt:  # before the first step or after the last: what there is to save is saved
        print(f"\n{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (reason := explain(error)) is None:
            raise
        saved = checkpoint.whole_checkpoints(run.folder)
        then = f"the last good checkpoint is {saved[-1]}, and --resume goes on from it" if saved else "nothing is saved"
        print(f"\n{name}: {reason}; {then}", file=sys.stderr)
        sys.exit(1)
