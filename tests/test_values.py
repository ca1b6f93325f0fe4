"""What trees are worth: the value at a point, equality in value, and the sympy worker, whose verdicts have no history."""

import os
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from answers import sympy_worker, values
from answers.grammar import parse
from answers.spelling import normalise
from answers.trees import Undecided
from answers.values import evaluate, proportional, same_value
from verify import is_equivalent

ROOT = Path(__file__).resolve().parent.parent


def tree(text: str) -> tuple:
    return parse(normalise(text))


@pytest.fixture(autouse=True)
def fresh_steps(monkeypatch):
    monkeypatch.setattr(values.local, "steps", values.STEPS)


def test_a_value_is_exact_or_has_150_digits():
    assert evaluate(tree(r"\frac{1}{3}"), {}) == Fraction(1, 3) and evaluate(tree("2^{2000}+1"), {}) == 2**2000 + 1
    root = evaluate(tree(r"\sqrt2"), {})
    assert abs(root * root - 2) < 1e-148 and evaluate(tree(r"\sum_{k=1}^{10} k"), {}) == 55
    assert evaluate(tree(r"7^{2023} \bmod 100"), {}) == pow(7, 2023, 100)
    assert evaluate(tree(r"\binom{10}{3}+3!!+\gcd(12,18)+\lfloor -5.2 \rfloor"), {}) == 120 + 3 + 6 - 6


@pytest.mark.parametrize(
    "text", ["2^{90000}+1", "10^{10^{10}}", "3000!+1", "(1,2)", r"\infty", r"\text{left}", r"0 \text{ left}"]
)
def test_what_digits_cannot_hold_has_no_value(text):
    with pytest.raises((Undecided, LookupError)):
        evaluate(tree(text), {})


def test_a_number_and_a_decimal_that_are_the_same_need_no_digits(monkeypatch):
    monkeypatch.setattr(values, "evaluate", None)  # what would look at them
    assert same_value(tree("1859.00"), tree("1859")) and same_value(tree("1/2"), tree("0.5"))
    assert not same_value(tree("1859.00"), tree("1859.01"))
    monkeypatch.undo()
    assert same_value(tree("0.333333"), tree(r"\frac{1}{3}")) and not same_value(tree("1859.01"), tree("1859"))


def test_equality_in_value():
    assert same_value(tree("(x+1)^2"), tree("x^2+2x+1")) and not same_value(tree("(x+1)^2"), tree("x^2+2x+2"))
    assert same_value(tree("1.41421"), tree(r"\sqrt2")) and not same_value(tree("1.4142"), tree(r"\sqrt2"))
    assert proportional(tree("2x-4"), tree("2-x"), positive=False)
    assert not proportional(tree("2x-4"), tree("2-x"), positive=True)
    assert not proportional(tree("x"), tree("x+1"), False)


def test_points_lie_on_both_sides_of_every_constant():
    nodes = [("fabs", ("+", ("symbol", "x"), ("number", Fraction(-350)))), ("number", Fraction(-350))]
    drawn = [point["x"] for point in values.points(nodes, ["x"], many=True)]
    for sign in (1, -1):
        assert any(0 < sign * x < 1 for x in drawn) and any(sign * x > 350 for x in drawn)
        assert any(100 < sign * x < 350 for x in drawn)
    assert sum(x.denominator > 1 for x in drawn) > 10


def test_a_verdict_has_its_own_steps():
    values.local.steps = 0  # as after a hard one
    with pytest.raises(Undecided, match="no steps left"):
        same_value(tree("x+1"), tree("(x^2+x)/x"))
    assert is_equivalent("x+1", "(x^2+x)/x")


# ---------------------------------------------------------------------------------------------------------- the worker
HANGS = r"\int_0^1 x^{x^x} dx"
EASY = [(rf"\int_0^1 x^{n} \, dx", rf"\frac{{1}}{{{n + 1}}}") for n in range(2, 6)]


@pytest.fixture
def no_worker():
    while sympy_worker.workers:
        sympy_worker.workers.pop().kill()


def test_sympy_decides_integrals_limits_and_series(no_worker):
    assert is_equivalent(r"\int_0^1 x^2 \, dx", r"\frac{1}{3}"), "the first question waits for the import"
    assert not is_equivalent(r"\int_0^1 x^2 \, dx", r"\frac{1}{2}")
    assert is_equivalent(r"\lim_{x \to 0} \frac{\sin x}{x}", "1")
    assert is_equivalent(r"\sum_{n=1}^{\infty} \frac{1}{n^2}", r"\frac{\pi^2}{6}")
    assert not is_equivalent(r"\int_{-1}^{1}\frac{1}{x^2}\,dx", "-2")


def test_a_verdict_does_not_depend_on_what_was_asked_before(no_worker):
    asked = [(HANGS, "42"), *EASY, (HANGS, "0.5"), *EASY[::-1], (HANGS, "42")]
    assert [is_equivalent(*pair) for pair in asked] == [pair[0] != HANGS for pair in asked]
    code = f"import verify; print(verify.is_equivalent({EASY[1][0]!r}, {EASY[1][1]!r}))"
    fresh = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == "True"


def test_a_hanging_question_is_ended_and_leaves_no_process():
    assert not is_equivalent(HANGS, "42") and is_equivalent("1+1", "2") and is_equivalent(*EASY[0])
    if os.path.exists("/proc/self/stat"):
        worker = sympy_worker.workers[0].pid
        left, end = Path(f"/proc/{worker}/task/{worker}/children"), time.perf_counter() + 30
        while left.read_text().split() and time.perf_counter() < end:
            time.sleep(0.01)  # the fork that answered is on its way out
        assert not left.read_text().split()


def test_a_worker_that_died_is_replaced():
    assert is_equivalent(*EASY[0])
    for worker in sympy_worker.workers:
        worker.kill()
    assert is_equivalent(*EASY[1])


ORPHAN = r"""
import os, threading, time, verify
from answers import sympy_worker
assert verify.is_equivalent(r"\int_0^1 x dx", "1/2")
print(sympy_worker.workers[0].pid, flush=True)
threading.Thread(target=verify.is_equivalent, args=(r"\int_0^1 x^{x^x} dx", "42")).start()
time.sleep(0.1)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc to look into")
def test_a_busy_worker_does_not_outlive_its_parent():
    pid = subprocess.run([sys.executable, "-c", ORPHAN], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    end = time.perf_counter() + 30
    while time.perf_counter() < end and os.path.exists(f"/proc/{pid}"):
        time.sleep(0.1)
    assert pid and not os.path.exists(f"/proc/{pid}")


def test_threads():
    verdicts = {}

    def ask(number):
        verdicts[number] = is_equivalent(r"\int_0^1 x dx", f"{number}/2"), is_equivalent(f"x+{number}", f"{number}+x")

    threads = [threading.Thread(target=ask, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {1: (True, True), 2: (False, True), 3: (False, True)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_a_worker_of_its_own():
    assert is_equivalent(*EASY[0])
    child = os.fork()
    if child == 0:
        right = is_equivalent(*EASY[0]) and is_equivalent(*EASY[1])
        for worker in sympy_worker.workers:
            worker.kill()
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert is_equivalent(*EASY[2])
