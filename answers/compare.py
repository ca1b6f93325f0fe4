r"""Are two trees the same answer? The fourth stage of the verifier: shapes first, then values; see verify.py.

>>> from answers.grammar import parse
>>> same(parse("x > 5"), parse(r"(5, \infty)")), same(parse("1, 2"), parse("2, 1")), same(parse("(1, 2)"), parse("(2, 1)"))
(True, True, False)
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from answers import units
from answers.grammar import RELATIONS
from answers.trees import INFINITY, Undecided, negative, total, walk
from answers.values import approximate, arithmetic, count_steps, evaluate, proportional, same_value

LISTS = {",", "\\land", "\\lor", "{}"}
UNIONS = {"\\cup", "\\cap", "\\setminus"}
INTERVALS = {"()", "(]", "[)", "[]"}
SHAPES = INTERVALS | {"<>", ":", "row", "rows", "cases", "\\pmod"}
EMPTY, REALS, MINUS_INFINITY = ("symbol", "emptyset"), ("symbol", "mathbb{R}"), negative(INFINITY)


def is_relation(node: tuple) -> bool:
    return node[0].split(" ")[0] in RELATIONS


def is_name(node: tuple) -> bool:
    """True for what is a mere name left of "=": x, f(x), (x, y), A:B, |AB|, AB."""
    if node[0] == "*":
        return all(factor[0] == "symbol" and (factor[1][0].isupper() or factor[1] == "triangle") for factor in node[1:])
    if node[0] == "fabs":
        return node[1][0] == "*" and is_name(node[1])
    return node[0] == "symbol" or (node[0] in ("()", ":") and all(map(is_name, node[1:])))


def is_number(node: tuple) -> bool:
    """True for an expression without unknowns."""
    return not any(part[0] == "symbol" and part[1] not in ("e", "pi", "i") or is_relation(part) for part in walk(node))


def is_unknown(node: tuple) -> bool:
    return is_name(node) and not is_number(node)


def value_of(node: tuple) -> tuple:
    """The value in "name = value", "name in set", "value = name" and "30 + 12 = 42"; of others, the whole."""
    if node[0] == "\\in" and is_name(node[1]):
        return node[2]
    if {*node[0].split(" ")} != {"="}:
        return node
    if len(node) == 3 and is_name(node[2]) and not is_name(node[1]):
        return node[1]
    is_named = is_unknown(node[1])
    values = node[1 + is_named :]
    agree = (
        len(values) == 1
        or (is_named or all(map(is_number, values)))
        and all(quietly(same, *pair) for pair in pairwise(values))
    )
    return values[-1] if agree else node


def assigned(node: tuple) -> dict | None:
    """{x: 1, y: 2} for the list x = 1, y = 2 of different names; None for anything else."""
    if node[0] not in (",", "\\land") or not all(part[0] == "=" and is_name(part[1]) for part in node[1:]):
        return None
    values = {part[1]: part[2] for part in node[1:]}
    return values if len(values) == len(node) - 1 else None


def members(node: tuple) -> list[tuple]:
    r"""The members of a list or set, or the one that it is; each a \pm b is two of them."""
    parts = node[1:] if node[0] in LISTS else [node]
    if node[0] == "\\lor":  # 16, 21 or 11 is one list, (x = 1, y = 2) or (x = 3, y = 4) is of two
        parts = [
            inner for part in parts for inner in (part[1:] if part[0] == "," and assigned(part) is None else [part])
        ]
    return [signed(part, plus) for part in parts for plus in (("\\pm", "\\mp") if has_sign(part) else ("\\pm",))]


def has_sign(node: tuple) -> bool:
    return any(part[0] in ("\\pm", "\\mp") for part in walk(node))


def signed(node: tuple, plus: str) -> tuple:
    r"""The tree with one of \pm and \mp read as plus, the other as minus."""
    if node[0] in ("\\pm", "\\mp"):
        return signed(node[1], plus) if node[0] == plus else negative(signed(node[1], plus))
    return (node[0], *(signed(child, plus) if isinstance(child, tuple) else child for child in node[1:]))


def same(left: tuple, right: tuple) -> bool:
    """Equality of two trees: bring their shapes together, then compare member by member, then by value."""
    count_steps()
    heads = {left[0], right[0]}
    if left == right:
        return True
    if "unit" in heads:
        return same_measure(left, right)
    named = [assigned(side) for side in (left, right)]
    if all(named):
        return named[0].keys() == named[1].keys() and all(
            same(value, named[1][name]) for name, value in named[0].items()
        )
    if any(named):  # x = 1, y = 2 against (1, 2)
        values, other = (named[0], value_of(right)) if named[0] else (named[1], value_of(left))
        return other[0] in (",", "\\land", "()") and in_order(("()", *values.values()), other)
    if is_relation(left) and left[0] == right[0] and quietly(same_relation, left, right):
        return True
    if any(part == REALS or part[0] in UNIONS | {"(]", "[)"} or is_condition(part) for part in (left, right)):
        verdict = quietly(same_region, left, right)
        if verdict is not None:
            return verdict
    if is_relation(left) or is_relation(right):
        met = value_of(left), value_of(right)
        if is_relation(met[0]) != is_relation(met[1]):
            met = as_interval(met[0]), as_interval(met[1])
        is_interval_and_list = {met[0][0], met[1][0]} == {"()", ","} and bool(heads & {"<", "< <", "\\in"})
        return met != (left, right) and not any(map(is_relation, met)) and not is_interval_and_list and same(*met)
    if heads == {",", "()"} and not has_sign(left) and not has_sign(right):
        return in_order(left, right)
    if heads & LISTS or has_sign(left) or has_sign(right) or "\\cup" in heads:
        return same_members(left, right)
    if heads & (SHAPES | UNIONS | {"based"}):
        return left[0] == right[0] and "based" not in heads and in_order(left, right)
    return same_value(left, right)


def same_members(left: tuple, right: tuple) -> bool:
    """Lists in any order, sets without repetitions, unions of what is no set of numbers."""
    if EMPTY in (left, right):
        return False
    if "\\cup" in (left[0], right[0]):
        if not {left[0], right[0]} <= {",", "\\cup", "\\lor"}:
            return False
        left, right = ((",", *(as_interval(value_of(part)) for part in side[1:])) for side in (left, right))
    inner, rest = members(left), members(right)
    if "{}" in (left[0], right[0]):
        both = (inner, rest), (rest, inner)
        return all(any(quietly(same, one, other) for other in others) for mine, others in both for one in mine)
    for member in inner:
        partner = next((candidate for candidate in rest if quietly(same, member, candidate)), None)
        if partner is None:
            return False
        rest.remove(partner)
    return not rest


def in_order(left: tuple, right: tuple) -> bool:
    return len(left) == len(right) and all(map(same, left[1:], right[1:]))


def quietly(question, *operands: tuple):
    """A part that cannot be decided is not equal, but leaves the other parts to decide."""
    try:
        return question(*operands)
    except Undecided:
        count_steps()
        return False


def same_relation(left: tuple, right: tuple) -> bool:
    """The same sides; else, equations up to a factor and inequalities up to a positive one."""
    if quietly(in_order, left, right):
        return True
    if left[0] not in ("=", "!=", "<", "<=") or any(child[0] in LISTS | SHAPES for child in left[1:] + right[1:]):
        return False
    differences = [total("+", [node[1], negative(node[2])]) for node in (left, right)]
    return proportional(*differences, positive=left[0] in ("<", "<="))


def same_measure(left: tuple, right: tuple) -> bool:
    """A unit may be missing on one side; two units must measure the same, and are converted."""
    values = [side[1] if side[0] == "unit" else side for side in (left, right)]
    measures = [units.read(side[2]) if side[0] == "unit" else in_degrees(side) for side in (left, right)]
    if not all(measure and measure[1] for measure in measures):
        return same(*values)
    kinds = [dict(measure[1]) for measure in measures]
    if {"degree": 1} in kinds and {"radian": 1} in kinds:
        at = kinds.index({"degree": 1})
        value = values[at][1] if values[at][0] == "degree" else values[at]
        values[at] = total("*", [value, ("symbol", "pi"), ("number", Fraction(1, 180))])
        return same(*values)
    scaled = (total("*", [value, ("number", measure[0])]) for value, measure in zip(values, measures))
    return kinds[0] == kinds[1] and same(*(values if measures[0] == measures[1] else scaled))


def in_degrees(node: tuple) -> tuple | None:
    """The unit of what has a degree sign."""
    return units.read("degree") if any(part[0] == "degree" for part in walk(node)) else None


# Sets of real numbers: two are the same if they hold the same of their ends, and of the points between these.
def is_condition(node: tuple) -> bool:
    """True for x < 2, x not in {1, 2}, and lists of these."""
    if node[0] in LISTS - {"{}"}:
        return any(map(is_condition, node[1:]))
    return not {"<", "<=", "!=", "\\notin"}.isdisjoint(node[0].split(" "))


def as_interval(node: tuple) -> tuple:
    """5 < x as (5, infinity), -2 <= x < 7 as [-2, 7); others as they are. All inequalities point right by now."""
    first, last = node[0].split(" ")[0], node[0].split(" ")[-1]
    if not {first, last} <= {"<", "<="} or len(node) > 4:
        return node
    whole = node
    if len(node) == 3:
        node = (*node, INFINITY) if is_unknown(node[2]) else (node[0], MINUS_INFINITY, *node[1:])
    _, low, name, high = node
    opening = "[" if first == "<=" and low != MINUS_INFINITY else "("
    closing = "]" if last == "<=" and high != INFINITY else ")"
    return (opening + closing, low, high) if is_unknown(name) else whole


def same_region(left: tuple, right: tuple) -> bool | None:
    """None if one is no set of numbers with known ends, or if they are about different unknowns."""
    sides = {side for node in (left, right) for part in walk(node) if is_relation(part) for side in part[1:]}
    unknowns = {side for side in sides if is_unknown(side)}
    ends = sorted({end for node in (left, right) for end in ends_of(node)})
    if len(unknowns - {INFINITY, EMPTY, REALS}) > 1:
        return None
    ends = [end for end in ends if abs(end) != float("inf")] or [Fraction(0)]
    points = [ends[0] - 1, *ends, *((low + high) / 2 for low, high in pairwise(ends)), ends[-1] + 1]
    regions = [region(side, points) for side in (left, right)]
    return None if None in regions else regions[0] == regions[1]


def ends_of(node: tuple) -> list:
    """The numbers in a set or condition."""
    if is_number(node) and node[0] not in SHAPES | LISTS | UNIONS or node in (INFINITY, MINUS_INFINITY):
        return [end(node)]
    return [value for child in node[1:] if isinstance(child, tuple) for value in ends_of(child)]


def end(node: tuple):
    """A number, to 100 digits, so that equal ends are equal."""
    if node in (INFINITY, MINUS_INFINITY):
        return float("inf") if node == INFINITY else -float("inf")
    value = approximate(evaluate(node, {}))
    if value.imag:
        raise Undecided("a complex end")
    return Fraction(int(arithmetic().nint(value.real * 10**100)), 10**100)


def region(node: tuple, points: list) -> list[bool] | None:
    """For each point, whether the set or condition holds it; None for what is neither."""
    node = as_interval(node)
    if node in (EMPTY, REALS):
        return [node == REALS] * len(points)
    if (
        node[0] in INTERVALS
        and len(node) == 3
        and all(is_number(side) or side in (INFINITY, MINUS_INFINITY) for side in node[1:])
    ):
        low, high = map(end, node[1:])
        return [
            (low < point or (low == point and node[0][0] == "["))
            and (point < high or (point == high and node[0][1] == "]"))
            for point in points
        ]
    if node[0] in ("\\in", "\\notin") and is_name(node[1]):
        inner = region(node[2], points)
        return inner if node[0] == "\\in" or inner is None else [not held for held in inner]
    if node[0] in ("=", "!=") and len(node) == 3 and (is_name(node[1]) or is_name(node[2])):
        value = node[2] if is_name(node[1]) else node[1]
        return [(point == end(value)) == (node[0] == "=") for point in points] if is_number(value) else None
    if node[0] == "{}" and all(map(is_number, node[1:])):
        return [point in [end(side) for side in node[1:]] for point in points]
    if node[0] not in UNIONS | LISTS or None in (parts := [region(part, points) for part in node[1:]]):
        return None
    either, both = ([join(held) for held in zip(*parts)] for join in (any, all))
    if node[0] == "\\setminus":
        return [held[0] and not any(held[1:]) for held in zip(*parts)]
    is_and = node[0] in ("\\cap", "\\land") or (node[0] == "," and any(both) and all(map(is_condition, node[1:])))
    return both if is_and else either  # a comma between conditions is an and, if both can be met
