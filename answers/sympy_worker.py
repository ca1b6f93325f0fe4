r"""Sympy's verdict on two trees, from a worker process that never hangs and never remembers.

For integrals, limits and infinite sums, which values.py cannot evaluate at a point. `python -m answers.sympy_worker` imports
sympy once and answers each question, a line of JSON, in a fork of itself, so that no question can change the answer to
another. The kernel ends a fork that uses too much CPU time or memory. A caller waits for the import, however long it takes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

from answers.trees import Undecided

CPU_SECONDS, BYTES = 0.4, 512 * 2**20  # of one question
lock = threading.Lock()
workers: list[subprocess.Popen] = []  # one, once there was a question


def forget_worker() -> None:
    workers.clear()  # a forked process must not talk to its parent's worker
    lock.release()


os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=forget_worker)


def start_worker() -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    home = Path(__file__).resolve().parent.parent
    return subprocess.Popen(
        [sys.executable, "-m", "answers.sympy_worker"], **pipes, cwd=home, start_new_session=True
    )  # Ctrl-C is ours


def ask_sympy(left: tuple, right: tuple) -> bool:
    """Sympy's verdict. Raises Undecided if the question takes too long, or if there is no sympy."""
    question, answer = json.dumps([left, right], default=str), ""
    with lock:
        for _ in range(2):  # a worker that was killed from outside is replaced
            worker = workers.pop() if workers else start_worker()  # out of the list, should the answer be interrupted
            with contextlib.suppress(OSError):
                worker.stdin.write(question + "\n")
                worker.stdin.flush()
                answer = worker.stdout.readline().strip()
            if answer:
                workers.append(worker)
                break
            worker.kill()
            with contextlib.suppress(OSError):
                worker.communicate()  # closes the pipes, and leaves no zombie
    if answer not in ("true", "false"):
        raise Undecided("sympy found nothing in time")
    return answer == "true"


def serve() -> None:
    """The worker: a line with two trees comes in; true, false or null goes out. It ends when its parent has gone."""
    import signal

    import sympy

    x = sympy.Symbol("x", real=True)  # what sympy imports when it is first needed is imported before the first question
    sympy.simplify(sympy.Integral(sympy.exp(-(x**2)) * x, (x, 0, sympy.oo)).doit())
    sympy.limit(sympy.sin(x) / x, x, 0), sympy.Sum(1 / x**2, (x, 1, sympy.oo)).doit()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends the process
            print(json.dumps(decide(line, sympy)), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print("null", flush=True)


def decide(line: str, sympy) -> bool:
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
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
