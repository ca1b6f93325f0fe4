r"""What a tree is worth, and when two trees are equal in value. The second half of the verifier; see verify.py.

Two expressions are equal if they agree at fixed points, chosen once, to 110 of 150 digits: far more than chance could
give, and no algebra is needed. A value that 150 digits cannot hold is refused rather than rounded: 2^{5000} + 1 is not
2^{5000}. Only integrals, limits and infinite sums go to sympy (sympy_worker.py). There are no signals, so all of it works
in any thread and process.

>>> from answers.grammar import parse
>>> same_value(parse("(x+1)^2"), parse("x^2+2x+1")), same_value(parse("(x+1)^2"), parse("x^2+2x"))
(True, False)
>>> same_value(parse("1.41421"), parse(r"\sqrt{2}")), same_value(parse("1.41"), parse(r"\sqrt{2}"))
(True, False)
"""

from __future__ import annotations

import gc
import random
import threading
import time

from answers.grammar import INFINITY, Undecided, negative
from answers.spelling import FUNCTIONS, TRIGONOMETRIC
from answers.sympy_worker import ask_sympy

# For what runs in this process, of its thread's own time, so that a verdict is the same on a busy machine.
IN_PROCESS_SECONDS = 0.3
AGREE, VANISH = 1e-110, 1e-135  # relative: what counts as equal, and what is left when all of 150 digits cancel
WHOLE_ONLY = {"factorial", "binomial", "sum", "prod", "\\bmod"}  # are compared at whole numbers
RANGES = ((7, 40), (20, 99), (1, 30), (-99, -7), (-99, 99), (1, 18), (40, 150), (-18, 18), (20, 130))


class NeedsSympy(Undecided):
    """The value needs an integral, a limit or a long sum."""


class Local(threading.local):
    """For each thread when its verdict was begun, by the clock, at which time of its own it is due, and its arithmetic."""

    begun, deadline, collecting, mp = float("inf"), float("inf"), 0.0, None

    def begin(self) -> None:
        self.begun, self.deadline = time.perf_counter(), time.thread_time() + IN_PROCESS_SECONDS

    def end(self) -> None:
        self.begun = self.deadline = float("inf")


local = Local()


def arithmetic():
    """This thread's mpmath. The import, once in a process, does not count as time of the verdict that needs it."""
    if local.mp is None:
        start, own, due = time.perf_counter(), time.thread_time(), local.deadline
        import mpmath  # comes with sympy; not imported before a value is needed

        local.mp = mpmath.MPContext()
        local.mp.dps = 150
        local.begun += time.perf_counter() - start
        local.deadline = due + time.thread_time() - own  # collections on the way included
    return local.mp


def collections_do_not_count(phase: str, info: dict) -> None:
    """Beside torch a full garbage collection takes some 0.2 s, and it comes in whichever thread allocates."""
    if info["generation"] < 2:
        return
    if phase == "start":
        local.collecting = time.thread_time()
    else:
        local.deadline += time.thread_time() - local.collecting


gc.callbacks.append(collections_do_not_count)


def check_time() -> None:
    if time.thread_time() > local.deadline:
        raise Undecided("no time left")


# 1. The value at a point.
def evaluate(node: tuple, values: dict):
    """The value at a point, real or complex, to 150 digits. Raises Undecided, NeedsSympy or an ArithmeticError.

    >>> from fractions import Fraction
    >>> evaluate(("^", ("symbol", "x"), ("number", Fraction(2))), {"x": 3})
    mpf('9.0')
    """
    check_time()
    mp, head = arithmetic(), node[0]
    if head in ("number", "decimal"):
        return mp.mpf(node[1].numerator) / node[1].denominator
    if head == "based":
        return mp.mpf(int(node[1], int(node[2])))
    if head == "symbol":
        return values[node[1]] if node[1] in values else {"e": mp.e, "pi": mp.pi, "i": mp.j}[node[1]] * 1
    if head in ("sum", "prod"):
        body, variable, low, high = node[1:]
        start, stop = (evaluate(bound, values) if bound != INFINITY else mp.inf for bound in (low, high))
        if not 0 <= stop - start <= 1000:
            raise NeedsSympy("an infinite or long sum")
        terms = [evaluate(body, values | {variable[1]: start + step}) for step in range(int(stop - start) + 1)]
        return add(terms) if head == "sum" else mp.fprod(terms)
    if head in ("integral", "limit"):
        raise NeedsSympy(head)
    arguments = [evaluate(child, values) for child in node[1:]]
    if head in OPERATIONS:
        return OPERATIONS[head](arguments)
    largest = 1e30 if head in TRIGONOMETRIC else 1e6  # an angle loses as many digits as it has, and 40 can be spared
    if head not in FUNCTIONS.values() or not all(abs(argument) < largest for argument in arguments):
        raise Undecided(f"no value: {head}")
    if head in TRIGONOMETRIC and node[1][0] == "degree":
        arguments = [argument * mp.pi / 180 for argument in arguments]
    if head in ("floor", "ceil") and abs(arguments[0] - mp.nint(arguments[0].real)) < AGREE:
        return mp.nint(arguments[0].real)
    value = {"max": max, "min": min}.get(head, getattr(mp, head, None))(*arguments)
    if not mp.isfinite(value):
        raise ZeroDivisionError
    return mp.mpf(0) if head != "exp" and abs(value) < AGREE else value  # sin(pi) is zero, not 1e-151


def add(terms: list):
    """A sum that knows a zero when all digits cancel and refuses to lose a term: 2^{5000}+1 is not 2^{5000}."""
    result, sizes = arithmetic().fsum(terms), [abs(term) for term in terms if term]
    if not sizes or abs(result) <= max(sizes) * VANISH:
        return arithmetic().mpf(0)
    if min(abs(result), *sizes) < max(sizes) * AGREE:
        raise Undecided("a term is lost")
    return result


def power(base, exponent):
    """base ** exponent; a negative base has its real root if the exponent's denominator is odd: (-8)^{1/3} = -2."""
    mp = arithmetic()
    if not base and exponent.real <= 0:
        raise ZeroDivisionError
    if not base or base == 1:
        return base
    if not abs(exponent * mp.log(base)) < 1e7:
        raise Undecided("too large")
    for denominator in (1, 3, 5, 7, 9) if is_real(base) and base.real < 0 and is_real(exponent) else ():
        numerator = mp.nint(exponent.real * denominator)
        if abs(exponent.real * denominator - numerator) < AGREE:
            return mp.power(-base.real, exponent.real) * (-1) ** int(numerator)
    return mp.power(base, exponent)


OPERATIONS = {
    "+": add,
    "*": lambda factors: arithmetic().fprod(factors),
    "/": lambda pair: pair[0] / pair[1],
    "^": lambda pair: power(*pair),
    "\\bmod": lambda pair: arithmetic().fmod(*pair),
    "fabs": lambda operand: abs(*operand),
    "percent": lambda operand: operand[0] / 100,
    "degree": lambda operand: operand[0],
}


def is_real(value) -> bool:
    return abs(value.imag) <= abs(value) * AGREE


def close(left, right) -> bool:
    return abs(left - right) <= max(abs(left), abs(right)) * AGREE


# 2. Two trees at many points.
def walk(node: tuple):
    """All subtrees."""
    yield node
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from walk(child)


def samples(left: tuple, right: tuple):
    """The two values at each point where both have one and both are real (or neither is): at least three points."""
    nodes, mp, found = [*walk(left), *walk(right)], arithmetic(), 0
    names = sorted({node[1] for node in nodes if node[0] == "symbol"} - {"e", "i", "pi"})
    negative_bases = (node for node in nodes if node[0] == "^" and node[1][0] == "number" and node[1][1] < 0)
    whole = any(node[0] in WHOLE_ONLY for node in nodes) or any(negative_bases)
    scale = 1 if whole else 7 if any(node[0] in ("floor", "ceil") for node in nodes) else 74
    ranges = ((1, 14),) * 14 if whole else RANGES
    generator = random.Random(2602)  # the same points every time
    for low, high in ranges if names else ((0, 0),):
        numbers = [generator.randint(low, high) for _ in names]
        point = {name: mp.mpf(n if whole else 2 * n + 1) / scale for name, n in zip(names, numbers)}
        try:
            pair = evaluate(left, point), evaluate(right, point)
        except NeedsSympy:
            raise
        except (ArithmeticError, ValueError):  # a pole, or a value that is too large: other points will do
            check_time()
            continue
        if not names or is_real(pair[0]) == is_real(pair[1]):
            found += 1
            yield pair
    if found < (3 if names else 1):
        raise Undecided("too few points")


def same_value(left: tuple, right: tuple) -> bool:
    """True if two expressions agree wherever both are real. Raises Undecided, ArithmeticError or LookupError."""
    numbers = left[0] in ("number", "decimal") and right[0] in ("number", "decimal")
    if numbers and (left[0] == right[0] or left[1] == right[1]):  # a decimal may also be a fraction's, rounded
        return left[1] == right[1]
    if INFINITY in (left, right) or negative(INFINITY) in (left, right):
        return False
    try:
        return all(close(*pair) or rounds(left, pair[1]) or rounds(right, pair[0]) for pair in samples(left, right))
    except NeedsSympy:
        return ask_sympy(left, right, local.begun)


def rounds(node: tuple, exact) -> bool:
    """True for a decimal of six digits or more to which an exact value without a finite decimal rounds, or is cut."""
    if node[0] != "decimal" or node[2] < 6:
        return False
    mp, shown = arithmetic(), evaluate(node, {})
    scaled = abs(exact) * mp.mpf(10) ** 100
    finite = abs(scaled - mp.nint(scaled)) < scaled * AGREE
    unit = mp.mpf(10) ** (mp.floor(mp.log10(abs(shown))) + 1 - node[2])
    return not finite and is_real(exact) and exact.real * shown > 0 and -unit / 2 <= abs(exact) - abs(shown) < unit


def proportional(left: tuple, right: tuple, positive: bool) -> bool:
    """True if left = c * right at all points for one constant c, which is not zero, and positive on demand."""
    pairs = [pair for pair in samples(left, right) if any(pair)]
    if not pairs or not all(map(all, pairs)) or (positive and not (pairs[0][0] / pairs[0][1]).real > 0):
        return False
    return all(close(pairs[0][0] * pair[1], pairs[0][1] * pair[0]) for pair in pairs)
