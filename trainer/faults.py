"""What a long run meets: signals, terminals that close, numbers that are not finite, memory that ends.

Nothing of the paper is here: train.py reads as the paper's algorithm because this does not stand in it.

    Ctrl-C, SIGTERM           the step is finished and saved, exit 0; the second one leaves at once
    SIGHUP, broken pipe       the run goes on, without its output
    NaN or infinity           the update is skipped, and said; three in a row end the run, with a diagnosis
    CUDA out of memory        the update is tried once more in half as large micro-batches, then a flag is named
    memory that is freed      on a CPU it is kept for the next step

A killed process, a full disk and a half-written checkpoint are checkpoint.py's; a verifier's worker is sympy_worker.py's.
"""

import contextlib
import ctypes
import errno
import io
import os
import select
import signal
import sys
import time
from collections import Counter

import torch

PATIENCE = 3  # updates in a row that may be skipped


class Stopped(Exception):
    """The run cannot go on; the text says why, and what to do."""


class Interrupt:
    """The first Ctrl-C (or SIGTERM) ends the run after this step, saved; the second ends it at once."""

    def __init__(self):
        self.now, self.noted = False, 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
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
    """Ctrl-C and SIGTERM raise KeyboardInterrupt: what there is to save is saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def keep_freed_memory() -> None:
    """For a command that trains on a CPU: what is freed is kept for the next step.

    Given back to the system it would come again page by page, each cleared: at a vocabulary of 32,000 a tenth of a step.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # glibc has this, other C libraries have not
        ctypes.CDLL(None).mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        ctypes.CDLL(None).mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, as high as it goes


class Output(io.TextIOBase):
    """A stream whose reader may go away, or stop reading: what it does not take is dropped, and never waited for long."""

    SECONDS = 1.0  # that a full pipe is waited for, once; then what follows is dropped until it is read again

    def __init__(self, stream):
        self.stream, self.file, self.wait = stream, stream.fileno(), self.SECONDS
        stream.flush()

    def write(self, text: str) -> int:
        data = text.encode(self.stream.encoding or "utf-8", "replace")
        with contextlib.suppress(OSError):  # a closed terminal is EIO, a closed pipe EPIPE
            while data:  # a pipe that is ready takes 512 bytes (POSIX) without blocking
                if not select.select([], [self.file], [], self.wait)[1]:
                    self.wait = 0.0
                    break
                data, self.wait = data[os.write(self.file, data[:512]) :], self.SECONDS
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.file

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base class may set its own, and never does
        return self.stream.encoding


def outlive_the_terminal() -> None:
    """From here on neither a closed terminal nor a broken or full pipe ends or holds up the process."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # no real stream: in a test or a notebook
            if not isinstance(stream, Output):
                setattr(sys, name, Output(stream))


class Guard:
    """Skips an update whose loss or gradient is not finite, and ends the run where that happens again and again."""

    def __init__(self):
        self.in_a_row: Counter[str] = Counter()

    def step(self, side: str, update, *arguments) -> dict[str, float]:
        """The metrics of `update(*arguments)`; `skipped` where it raised FloatingPointError, before what is not finite moved it."""
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
    """Where the first number that is not finite came from, and which flag moves it."""
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


def within_memory(work, settings):
    """work(); where CUDA's memory ends, once more with half of `settings.micro_batch_tokens`, which the run then keeps.

    Micro-batches change no gradient, but for rounding.
    """
    while True:
        try:
            return work()
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
        # Here, and not in the except clause, whose traceback would hold the tensors that did not fit.
        if settings.halved:
            raise Stopped(
                f"out of memory while training ({reason}): lower --micro-batch-tokens "
                f"below {settings.micro_batch_tokens}, or --max-new-tokens, or add --checkpointing"
            )
        settings.halved, settings.micro_batch_tokens = True, max(1, settings.micro_batch_tokens // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"\nout of memory: from here on with --micro-batch-tokens {settings.micro_batch_tokens}", file=sys.stderr)


def explain(error: BaseException) -> str | None:
    """What ended a run, for its user; None where it is a mistake of ours, which wants its traceback."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, Stopped):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"out of memory ({first}): while sampling, lower --rollout-rows or --max-new-tokens; in the optimizer's step only "
            "a smaller model helps, or --shard"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return f"cannot write ({first})"
    return None
