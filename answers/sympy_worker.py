r"""Sympy's verdict on two trees, in a worker process that is killed when its time is up.

For integrals, limits and infinite sums, which values.py cannot evaluate at a point. Sympy may take forever and knows no
limit of its own, and a signal could end it in a main thread only. So `python sympy_worker.py --worker` imports it once, is
asked by a line of JSON, and is killed if it does not answer. All of it works in any thread and process.
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

from answers.grammar import Undecided

VERDICT_SECONDS = 0.75  # by the clock, for a verdict with the worker's part
WORKER_BYTES = 512 * 2**20


class Worker(subprocess.Popen):
    is_ready = False  # until it has said that sympy is imported


idle: list[Worker] = []  # workers that wait for a question; one is taken out while it answers
os.register_at_fork(after_in_child=idle.clear)  # a forked process must not talk to its parent's workers


def start_worker() -> Worker:
    command = [sys.executable, os.path.abspath(__file__), "--worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return Worker(command, **pipes, text=True, start_new_session=True)  # Ctrl-C is its parent's


@atexit.register
def stop_workers(workers: list[Worker] = idle) -> None:
    while workers:
        worker = workers.pop()
        worker.kill()
        with contextlib.suppress(OSError):
            worker.communicate()  # closes the pipes, and leaves no zombie


def ask_sympy(left: tuple, right: tuple, begun: float) -> bool:
    """Sympy's verdict, from a worker that is killed, and replaced, if it comes too late. Raises Undecided.

    `begun`: when the whole verdict was, by time.perf_counter; what is left of its time is sympy's."""
    worker, answer = idle.pop() if idle else start_worker(), ""
    with contextlib.suppress(OSError), selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        due = min(begun, time.perf_counter()) + VERDICT_SECONDS
        if not worker.is_ready:
            if not selector.select(max(0, due - time.perf_counter())):
                idle.append(worker)  # not killed: it only has to import sympy once
                raise Undecided("sympy is not imported yet")
            worker.is_ready = bool(worker.stdout.readline())
        worker.stdin.write(json.dumps([left, right], default=str) + "\n")
        worker.stdin.flush()
        if selector.select(max(0, due - time.perf_counter())):
            answer = worker.stdout.readline()
    if not answer:
        stop_workers([worker])
        worker = start_worker()
    idle.append(worker)
    if not answer:
        raise Undecided("sympy found nothing in time")
    return answer.strip() == "true"


def serve() -> None:
    """The worker: a line with two trees comes in, a verdict goes out."""
    import resource

    import sympy

    with contextlib.suppress(OSError, ValueError):  # where the system knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (WORKER_BYTES, WORKER_BYTES))
    parent = os.getppid()

    def follow_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)  # whoever asked is gone, and a hanging question must not outlive it

    threading.Thread(target=follow_parent, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            left, right = (to_sympy(node, sympy) for node in json.loads(line))
            difference = sympy.simplify((left - right).doit())
            equal = difference == 0 or (not difference.free_symbols and abs(sympy.N(difference, 30)) < 1e-25)
        except Exception:  # whatever sympy raises, it has found no equality
            equal = False
        print(json.dumps(bool(equal)), flush=True)


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
    if head == "/":
        return parts[0] / parts[1]
    names = {"+": "Add", "*": "Mul", "^": "Pow", "fabs": "Abs", "ceil": "ceiling", "max": "Max", "min": "Min"}
    return getattr(sympy, names.get(head, head))(*parts)


if __name__ == "__main__" and sys.argv[1:] == ["--worker"]:
    serve()
