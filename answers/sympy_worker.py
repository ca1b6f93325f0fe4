r"""Sympy's verdict on two trees, in a worker process that ends undecided when a question takes too long.

For integrals, limits and infinite sums, which values.py cannot evaluate at a point. `python -m answers.sympy_worker`
imports sympy once. It answers each question, a line of JSON, in a fork of itself, so that no question can change the
answer to another. The fork has a limit on its CPU time, not on the clock, and one on its memory, and the kernel ends it.
A caller waits for the import, however long it takes: only a question that is hard itself ends undecided.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

from answers.trees import Undecided

CPU_SECONDS, WORKER_BYTES = 0.5, 512 * 2**20  # of one question
LATEST = 120.0  # seconds by the clock for a question or the import: a guard against a worker that stands still


class Worker(subprocess.Popen):
    is_ready = False  # until it has said that sympy is imported


idle: list[Worker] = []  # workers that wait for a question; one is taken out while it answers
os.register_at_fork(after_in_child=idle.clear)  # a forked process must not talk to its parent's workers


def start_worker() -> Worker:
    command = [sys.executable, "-m", "answers.sympy_worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return Worker(command, **pipes, text=True, start_new_session=True, cwd=Path(__file__).resolve().parent.parent)


@atexit.register
def stop_workers(workers: list[Worker] = idle) -> None:
    while workers:
        worker = workers.pop()
        worker.kill()
        with contextlib.suppress(OSError):
            worker.communicate()  # closes the pipes, and leaves no zombie


def ask_sympy(left: tuple, right: tuple) -> bool:
    """Sympy's verdict. Raises Undecided if the question takes too long, or if there is no sympy."""
    question = json.dumps([left, right], default=str)
    for _ in range(2):  # a worker that died between two questions is replaced
        worker = idle.pop() if idle else start_worker()
        answer = ""
        with contextlib.suppress(OSError), selectors.DefaultSelector() as selector:
            selector.register(worker.stdout, selectors.EVENT_READ)
            if not worker.is_ready and selector.select(LATEST):
                worker.is_ready = bool(worker.stdout.readline())
            worker.stdin.write(question + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline() if selector.select(LATEST) else ""
        if answer:
            idle.append(worker)
            break
        stop_workers([worker])
    if answer.strip() not in ("true", "false"):
        raise Undecided("sympy found nothing in time")
    return answer.strip() == "true"


def serve() -> None:
    """The worker: a line with two trees comes in; true, false or null goes out."""
    import signal

    import sympy

    x = sympy.Symbol("x", real=True)  # what sympy imports when it is first needed, before the first question
    sympy.simplify(sympy.Integral(sympy.exp(-(x**2)) * x, (x, 0, sympy.oo)).doit()), sympy.limit(sympy.sin(x) / x, x, 0)
    sympy.Sum(1 / x**2, (x, 1, sympy.oo)).doit()
    parent = os.getppid()

    def follow_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)  # whoever asked is gone

    threading.Thread(target=follow_parent, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends the process
            print(json.dumps(answer(line, sympy)), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print("null", flush=True)


def answer(line: str, sympy) -> bool:
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_AS, (WORKER_BYTES, WORKER_BYTES))
        left, right = (to_sympy(node, sympy) for node in json.loads(line))
        difference = sympy.simplify((left - right).doit())
        return bool(difference == 0 or (not difference.free_symbols and abs(sympy.N(difference, 30)) < 1e-25))
    except Exception:  # whatever sympy raises, it has found no equality
        return False


def to_sympy(node: list, sympy):
    """The sympy expression of a tree, which has come as JSON; sympy never sees the text that it was read from."""
    head, *rest = node
    if head in ("number", "decimal"):
        return sympy.Rational(*Fraction(rest[0]).as_integer_ratio())
    if head == "symbol":
        constants = {"e": sympy.E, "pi": sympy.pi, "i": sympy.I, "infinity": sympy.oo}
        return constants.get(rest[0], sympy.Symbol(rest[0], real=True))
    parts = [to_sympy(child, sympy) for child in rest]
    if head in ("integral", "sum", "prod"):
        return {"integral": sympy.Integral, "sum": sympy.Sum, "prod": sympy.Product}[head](parts[0], tuple(parts[1:]))
    if head == "limit":  # from both sides
        return sympy.Limit(*parts, "-" if parts[2] == sympy.oo else "+" if parts[2] == -sympy.oo else "+-")
    if head == "/":
        return parts[0] / parts[1]
    names = {"+": "Add", "*": "Mul", "^": "Pow", "fabs": "Abs", "ceil": "ceiling", "max": "Max", "min": "Min"}
    return getattr(sympy, names.get(head, head))(*parts)


if __name__ == "__main__":
    serve()
