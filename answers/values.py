r"""What a tree is worth, and when two trees are equal in value. The second half of the verifier; see verify.py.

Two expressions are equal if they agree at fixed points, chosen once. Rational numbers are exact. All others have 150
digits, of which 110 must agree, and what these cannot hold is refused. The points lie at several scales and on both sides
of every constant. Real expressions are compared where both are real. Integrals, limits and infinite sums go to sympy. A
verdict has a number of steps, not of seconds, so that it is the same on every machine.

>>> from answers.grammar import parse
>>> same_value(parse("(x+1)^2"), parse("x^2+2x+1")), same_value(parse("(x+1)^2"), parse("x^2+2x"))
(True, False)
>>> same_value(parse("1.41421"), parse(r"\sqrt{2}")), same_value(parse("1.41"), parse(r"\sqrt{2}"))
(True, False)
"""

from __future__ import annotations

import math
import random
import threading
from fractions import Fraction
from itertools import pairwise

from answers.spelling import FUNCTIONS, TRIGONOMETRIC
from answers.sympy_worker import ask_sympy
from answers.trees import INFINITY, Undecided, negative, walk

STEPS = 20_000  # of a verdict; 0.1 to 0.4 s
AGREE, VANISH = 1e-110, 1e-135  # relative: what counts as equal, and what is left when all of 150 digits cancel
MAX_BITS = 2**16  # of an exact number
WHOLE_ONLY = {"factorial", "fac2", "binomial", "sum", "prod", "\\bmod", "gcd", "lcm"}  # are compared at whole numbers
PIECEWISE = WHOLE_ONLY | {"fabs", "floor", "ceil", "max", "min", "sign"}
SCALES = "7/3 31/97 47/5 3/101 97/71 169/7 43/11 901/7 55/89 7001/9"  # from 0.03 to 800
SCALES = [sign * Fraction(scale) for scale in SCALES.split() for sign in (1, -1)]
REAL, DEGREE = "the point is real", "the value of a degree"  # settings that travel with the values of the symbols


class NeedsSympy(Undecided): ...  # the value needs an integral, a limit or a long sum


class Local(threading.local):
    """Each thread's steps that are left, and its arithmetic."""

    steps, mp = STEPS, None


local = Local()


def arithmetic():
    """This thread's mpmath, which comes with sympy and is not imported before a value is needed."""
    if local.mp is None:
        import mpmath

        local.mp = mpmath.MPContext()
        local.mp.dps = 150
    return local.mp


def count_steps(steps: float = 1) -> None:
    local.steps -= steps
    if local.steps < 0:
        raise Undecided("no steps left")


# 1. The value at a point.
def evaluate(node: tuple, values: dict):
    """The value at a point, exact or to 150 digits. Raises Undecided, NeedsSympy or an ArithmeticError.

    >>> evaluate(("^", ("symbol", "x"), ("number", Fraction(2))), {"x": Fraction(3, 2)})
    Fraction(9, 4)
    """
    count_steps()
    head = node[0]
    if head in ("number", "decimal"):
        return node[1]
    if head == "symbol":
        if node[1] in values:
            return values[node[1]]
        if node[1].startswith("text"):
            raise Undecided("a word has no value")
        mp = arithmetic()
        return {"e": mp.e, "pi": mp.pi, "i": mp.j}[node[1]] * 1
    if head in ("sum", "prod"):
        return series(node, values)
    if head in ("integral", "limit"):
        raise NeedsSympy(head)
    if head in TRIGONOMETRIC and DEGREE not in values:
        values = values | {DEGREE: arithmetic().pi / 180}
    if head == "\\bmod" and node[1][0] == "^":  # 7^{2023} mod 100, in whole numbers
        parts = [evaluate(child, values) for child in (*node[1][1:], node[2])]
        if all(isinstance(part, Fraction) and part.denominator == 1 for part in parts) and parts[1] >= 0 < parts[2]:
            return Fraction(pow(*map(int, parts)))
    arguments = [evaluate(child, values) for child in node[1:]]
    if head == "degree":
        head, arguments = "*", [*arguments, values.get(DEGREE, Fraction(1))]
    return applied(head, arguments, REAL in values)


def applied(head: str, arguments: list, real: bool = False):
    """The value of an operation: exact where its arguments and its result are, and not too long."""
    if head in EXACT and all(isinstance(argument, Fraction) for argument in arguments):
        value = EXACT[head](*arguments)
        count_steps(0 if value is None else bits(value) / 256)
        if value is not None and bits(value) < MAX_BITS:
            return value
    count_steps(5)
    arguments = [approximate(argument) for argument in arguments]
    value = OPERATIONS[head](*arguments) if head in OPERATIONS else function(head, arguments)
    if real and value.imag and not is_real(value):
        raise ArithmeticError("not real")
    return value


def series(node: tuple, values: dict):
    body, variable, low, high = node[1:]
    if INFINITY in (low, high):
        raise NeedsSympy("an infinite sum")
    start, stop = evaluate(low, values), evaluate(high, values)
    count = float(stop - start)
    if not count.is_integer():
        raise Undecided("a sum of half a term")
    if not 0 <= count <= 1000:
        raise NeedsSympy("a long sum")
    terms = [evaluate(body, values | {variable[1]: start + step}) for step in range(int(count) + 1)]
    return applied("+" if node[0] == "sum" else "*", terms)


def function(head: str, arguments: list):
    mp = arithmetic()
    largest = 1e30 if head in TRIGONOMETRIC else 1e6  # an angle loses as many digits as it has, and 40 can be spared
    if head not in KNOWN or not all(abs(argument) < largest for argument in arguments):
        raise Undecided(f"no value: {head}")
    count_steps(20)
    if head in ("floor", "ceil") and abs(arguments[0] - mp.nint(arguments[0].real)) < AGREE:
        return mp.nint(arguments[0].real)
    value = {"max": max, "min": min}.get(head, getattr(mp, head, None))(*arguments)
    if not mp.isfinite(value):
        raise ZeroDivisionError
    return mp.mpf(0) if head != "exp" and abs(value) < AGREE else value  # sin(pi) is zero, not 1e-151


def approximate(value):
    """An exact number to 150 digits."""
    return arithmetic().mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def add(*terms):
    """A sum that knows a zero when all digits cancel and refuses to lose a term: 2^{90000}+1 is not 2^{90000}."""
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
    count_steps(15)
    if not abs(exponent * mp.log(base)) < 1e7:
        raise Undecided("too large")
    for denominator in (1, 3, 5, 7, 9) if is_real(base) and base.real < 0 and is_real(exponent) else ():
        numerator = mp.nint(exponent.real * denominator)
        if abs(exponent.real * denominator - numerator) < AGREE:
            return mp.power(-base.real, exponent.real) * (-1) ** int(numerator)
    return mp.power(base, exponent)


def exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if not base and exponent <= 0:
        raise ZeroDivisionError
    return base ** int(exponent) if exponent.denominator == 1 and abs(exponent) * bits(base) < MAX_BITS else None


def bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def whole(operation):
    """The operation for whole numbers from 0 to 2,000, None for others."""
    fits = lambda numbers: all(number.denominator == 1 and 0 <= number <= 2000 for number in numbers)  # noqa: E731
    return lambda *numbers: Fraction(operation(*map(int, numbers))) if fits(numbers) else None


OPERATIONS = {
    "+": add, "*": lambda *factors: arithmetic().fprod(factors), "/": lambda top, bottom: top / bottom, "^": power, "fabs": abs,
    "percent": lambda part: part / 100,
}  # fmt: skip
EXACT = OPERATIONS | {
    "+": lambda *terms: sum(terms, Fraction(0)), "*": lambda *factors: math.prod(factors, start=Fraction(1)) if sum(map(bits, factors)) < MAX_BITS else None, "^": exact_power, "max": max, "min": min,
    "floor": lambda number: Fraction(math.floor(number)), "ceil": lambda number: Fraction(math.ceil(number)),
    "sign": lambda number: Fraction((number > 0) - (number < 0)), "\\bmod": lambda left, right: left % right,
    "factorial": whole(math.factorial), "fac2": whole(lambda number: math.prod(range(number, 0, -2))),
    "binomial": whole(math.comb), "gcd": whole(math.gcd), "lcm": whole(math.lcm),
}  # fmt: skip
KNOWN = {*FUNCTIONS.values(), "asinh", "acosh", "atanh", "acoth"} - {"gcd", "lcm", "frac", "cis"}


def is_real(value) -> bool:
    return abs(value.imag) <= abs(value) * AGREE


def close(left, right) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    left, right = approximate(left), approximate(right)
    return abs(left - right) <= max(abs(left), abs(right)) * AGREE


# 2. Two trees at many points.
def points(nodes: list[tuple], names: list[str], many: bool):
    """Values of the symbols, the same every time: at several scales and, if many, beside the constants of the trees."""
    generator, real, whole_names, integers = random.Random(2602), SCALES, set(), []
    if many:
        numbers = {abs(node[1]) for node in nodes if node[0] in ("number", "decimal") and node[1]}
        constants = sorted(number for number in numbers if number < 10**6)[-16:]
        between = [
            low + (high - low) * Fraction(generator.randint(30, 70), 101) for low, high in pairwise([0, *constants])
        ]
        beside = [number * Fraction(side, 97) for number in constants for side in (98, 140, 96)]
        real = SCALES + [sign * number for number in between + beside for sign in (1, -1)]
        near = [int(number) for number in constants if number < 400]
        steps = [number + step for number in near for step in (-1, 0, 1, number + 3)]
        integers = [Fraction(number) for number in (3, 1, 2, 5, 8, 4, 7, 12, 6, 9, 11, 14, *steps) if number > 0]
        whole_only = (node for node in nodes if node[0] in WHOLE_ONLY or is_alternating(node))
        whole_names = {inner[1] for node in whole_only for inner in walk(node) if inner[0] == "symbol"}
    pools = {name: integers + real[:4] if name in whole_names else real for name in names}
    for index in range(max(map(len, pools.values()), default=1)):
        yield {name: pool[index] if len(names) == 1 else generator.choice(pool) for name, pool in pools.items()}


def is_alternating(node: tuple) -> bool:
    """True for (-1)^n."""
    return node[0] == "^" and node[1][0] == "number" and node[1][1] < 0


def samples(left: tuple, right: tuple):
    """The two values at each point where both have one: at least three points, many where a case may change."""
    nodes, found = [*walk(left), *walk(right)], 0
    symbols = {node[1] for node in nodes if node[0] == "symbol"}
    bound = {node[2][1] for node in nodes if node[0] in ("sum", "prod", "integral", "limit")}
    names = sorted(
        name for name in symbols - {"e", "i", "pi", "infinity", "..."} - bound if not name.startswith("text")
    )
    roots = any(node[0] == "^" and node[2][0] == "number" and node[2][1].denominator > 1 for node in nodes)
    wanted = 80 if any(node[0] in PIECEWISE or is_alternating(node) for node in nodes) else 28 if roots else 6
    settings = {REAL: True} if names and "i" not in symbols else {}
    for point in points(nodes, names, wanted > 6):
        try:
            pair = evaluate(left, point | settings), evaluate(right, point | settings)
        except NeedsSympy:
            raise
        except (ArithmeticError, ValueError):  # a pole, or a value that is too large: other points will do
            count_steps()
            continue
        found += 1
        yield pair
        if found >= wanted:
            break
    if found < (3 if names else 1):
        raise Undecided("too few points")


def same_value(left: tuple, right: tuple) -> bool:
    """True if two expressions agree wherever both are real. Raises Undecided, ArithmeticError or LookupError."""
    if {left[0], right[0]} <= {"number", "decimal"} and (
        left[0] == right[0] or left[1] == right[1]
    ):  # a decimal may also be a fraction's, rounded
        return left[1] == right[1]
    if INFINITY in (left, right) or negative(INFINITY) in (left, right):
        return False
    try:
        return all(close(*pair) or rounds(left, pair[1]) or rounds(right, pair[0]) for pair in samples(left, right))
    except NeedsSympy:
        return ask_sympy(left, right)


def rounds(node: tuple, exact) -> bool:
    """True for a decimal of six digits or more to which an exact value without a finite decimal rounds, or is cut."""
    if node[0] != "decimal" or node[2] < 6:
        return False
    mp, shown, exact = arithmetic(), approximate(node[1]), approximate(exact)
    scaled = abs(exact) * mp.mpf(10) ** 100
    finite = abs(scaled - mp.nint(scaled)) < scaled * AGREE
    unit = mp.mpf(10) ** (mp.floor(mp.log10(abs(shown))) + 1 - node[2])
    return not finite and is_real(exact) and exact.real * shown > 0 and -unit / 2 <= abs(exact) - abs(shown) < unit


def proportional(left: tuple, right: tuple, positive: bool) -> bool:
    """True if left = c * right at all points for one constant c, which is not zero, and positive on demand."""
    pairs = [pair for pair in samples(left, right) if any(pair)]
    if not pairs or not all(map(all, pairs)):
        return False
    ratios = [applied("/", [*pair]) for pair in pairs]
    return not (positive and not ratios[0].real > 0) and all(close(ratios[0], ratio) for ratio in ratios)
