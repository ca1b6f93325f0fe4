r"""Are two trees the same answer? The fourth stage of the verifier: shapes first, then values; see verify.py.

`same` brings the shapes around the expressions together (lists, sets, intervals, relations, units) and leaves the rest to
values.py. Sets of real numbers are compared as unions of intervals.

>>> from answers.grammar import parse
>>> same(parse("x > 5"), parse(r"(5, \infty)")), same(parse("1, 2"), parse("2, 1")), same(parse("(1, 2)"), parse("(2, 1)"))
(True, True, False)
"""

from __future__ import annotations

from fractions import Fraction

from answers import units
from answers.grammar import RELATIONS
from answers.trees import INFINITY, Undecided, negative, total, walk
from answers.values import approximate, arithmetic, close, count_steps, evaluate, proportional, same_value

LISTS = {",", "\\land", "\\lor", "{}"}
UNIONS = {"\\cup", "\\cap", "\\setminus"}
SHAPES = {"()", "[]", "(]", "[)", "<>", ":", "row", "rows", "cases", "\\pmod"}
INEQUALITIES = {"<", "<=", "!="}
EMPTY, REALS = ("symbol", "emptyset"), ("symbol", "mathbb{R}")


def is_relation(node: tuple) -> bool:
    return node[0].split(" ")[0] in RELATIONS


def is_name(node: tuple) -> bool:
    """True for what is a mere name left of "=": x, f(x), (x, y), A:B, |AB|, AB, 5 \text{ cm}."""
    if node[0] == "*":
        return all(factor[0] == "symbol" and (factor[1][0].isupper() or factor[1] in ("triangle", "angle")) for factor in node[1:])
    if node[0] == "fabs":
        return node[1][0] == "*" and is_name(node[1])
    return node[0] == "symbol" or (node[0] in ("()", ":") and all(map(is_name, node[1:])))


def value_of(node: tuple) -> tuple:
    """The value in "name = value", "name in set", "value = name" and "30 + 12 = 42"; of others, the whole."""
    heads = set(node[0].split(" "))
    if node[0] == "\\in" and is_name(node[1]):
        return node[2]
    if heads != {"="}:
        return node
    if len(node) == 3 and is_name(node[2]) and not is_name(node[1]):
        return node[1]
    chain = node[2:] if is_name(node[1]) and not is_number(node[1]) else node[1:]
    if len(chain) == 1 or (all(map(is_number, chain)) or node[1:] != chain) and all(quietly(same, chain[-1], part) for part in chain[:-1]):
        return chain[-1]
    return node


def is_number(node: tuple) -> bool:
    """True for an expression without unknowns."""
    return not any(part[0] == "symbol" and part[1] not in ("e", "pi", "i") or is_relation(part) for part in walk(node))


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
        parts = [inner for part in parts for inner in (part[1:] if part[0] == "," and assigned(part) is None else [part])]
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
    if left == right:
        return True
    heads = {left[0], right[0]}
    if "unit" in heads:
        return same_measure(left, right)
    named = assigned(left), assigned(right)
    if all(named):
        return named[0].keys() == named[1].keys() and all(same(value, named[1][name]) for name, value in named[0].items())
    if any(named) and not heads & INEQUALITIES:
        values, other = (named[0], right) if named[0] else (named[1], left)
        return other[0] in (",", "\\land", "()") and in_order(("()", *values.values()), ("()", *other[1:]))
    if is_relation(left) and left[0] == right[0] and quietly(same_relation, left, right):
        return True
    if heads & (UNIONS | {"(]", "[)"}) or REALS in (left, right) or any(map(is_condition, (left, right))):
        sets = [quietly(real_set, side) for side in (left, right)]
        if all(side not in (None, False) for side in sets) and one_variable(left, right):
            return same_sets(*sets)
    if is_relation(left) or is_relation(right):
        met = value_of(left), value_of(right)
        if {met[0][0], met[1][0]} == {"()", ","} and heads & (INEQUALITIES | {"\\in"}):
            return False  # an interval is no list of its ends
        if not (is_relation(met[0]) or is_relation(met[1])):
            return met != (left, right) and same(*met)
        met = as_interval(met[0]), as_interval(met[1])
        if "," in (met[0][0], met[1][0]):
            return False
        return met != (left, right) and not (is_relation(met[0]) and is_relation(met[1])) and same(*met)
    if heads == {",", "()"} and not has_sign(left) and not has_sign(right):
        return in_order(left, right)
    if heads & LISTS or has_sign(left) or has_sign(right) or "\\cup" in heads:
        return same_members(left, right)
    if heads & (SHAPES | UNIONS):
        return left[0] == right[0] and in_order(left, right)
    if "based" in heads:
        return False  # equal digits in equal bases were equal trees
    return same_value(left, right)


def same_members(left: tuple, right: tuple) -> bool:
    """Lists in any order, sets without repeats, unions of what is no set of numbers."""
    if "\\cup" in (left[0], right[0]):
        if not {left[0], right[0]} <= {",", "\\cup", "\\lor"}:
            return False  # x < 1 or x > 2 is a list of two intervals
        left, right = ((",", *(as_interval(value_of(part)) for part in side[1:])) for side in (left, right))
    if EMPTY in (left, right):
        return False
    inner, rest = members(left), members(right)
    if "{}" in (left[0], right[0]):  # a set does not count repetitions
        return all(any(quietly(same, one, other) for other in others) for mine, others in ((inner, rest), (rest, inner)) for one in mine)
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
    measures = [units.read(side[2]) if side[0] == "unit" else angle(side) for side in (left, right)]
    if None in measures or not measures[0][1] or not measures[1][1]:
        return same(*values)
    turn = [dict(measure[1]) for measure in measures]
    if turn in ([{"degree": 1}, {"radian": 1}], [{"radian": 1}, {"degree": 1}]):
        at = turn.index({"degree": 1})
        values[at] = total("*", [undegreed(values[at]), ("symbol", "pi"), ("number", Fraction(1, 180))])
        return same(*values)
    sizes = [total("*", [value, ("number", measure[0])]) if measure[0] != 1 else value for value, measure in zip(values, measures)]
    return measures[0][1] == measures[1][1] and same(*(values if measures[0] == measures[1] else sizes))


def angle(node: tuple) -> tuple | None:
    """The unit of what has a degree sign."""
    return units.read("degree") if any(part[0] == "degree" for part in walk(node)) else None


def undegreed(node: tuple) -> tuple:
    return undegreed(node[1]) if node[0] == "degree" else (node[0], *(undegreed(child) if isinstance(child, tuple) else child for child in node[1:]))


# Sets of real numbers, as sorted intervals (low, low is left out, high, high is left out) that do not touch.
def is_condition(node: tuple) -> bool:
    """True for x < 2, x not in {1, 2}, and lists of these."""
    if node[0] in LISTS - {"{}"}:
        return any(map(is_condition, node[1:]))
    return bool({*node[0].split(" ")} & INEQUALITIES) or node[0] == "\\notin"


def one_variable(*nodes: tuple) -> bool:
    """True if no two conditions are about different unknowns."""
    unknown = {side for node in nodes for part in walk(node) if is_relation(part) for side in part[1:] if not is_number(side)}
    return len(unknown - {INFINITY, negative(INFINITY), EMPTY, REALS}) <= 1


def as_interval(node: tuple) -> tuple:
    """5 < x as (5, infinity), -2 <= x < 7 as [-2, 7); others as they are. All inequalities point right by now."""
    first, last = node[0].split(" ")[0], node[0].split(" ")[-1]
    brackets = ("[" if first == "<=" else "(", "]" if last == "<=" else ")")
    if not {first, last} <= {"<", "<="} or len(node) > 4:
        return node
    if len(node) == 4:
        return (brackets[0] + brackets[1], node[1], node[3]) if node[2][0] == "symbol" else node
    if node[1][0] == "symbol":
        return ("(" + brackets[1], negative(INFINITY), node[2])
    return (brackets[0] + ")", node[1], INFINITY) if node[2][0] == "symbol" else node


def real_set(node: tuple) -> list | None:
    """The intervals of a set or condition; None for what is no set of real numbers with known ends."""
    infinity = arithmetic().inf
    reals = [(-infinity, True, infinity, True)]
    if node in (EMPTY, REALS):
        return reals if node == REALS else []
    if node[0] in ("\\in", "\\notin") and is_name(node[1]):
        inner = real_set(node[2])
        return inner if node[0] == "\\in" or inner is None else without(reals, inner)
    node = as_interval(node)
    if node[0] in ("()", "(]", "[)", "[]") and len(node) == 3:
        low, high = (end(side) for side in node[1:])
        return None if low is None or high is None else merged([(low, node[0][0] == "(", high, node[0][1] == ")")])
    if node[0] in ("!=", "=") and len(node) == 3 and (is_name(node[1]) or is_name(node[2])):
        value = end(node[2] if is_name(node[1]) else node[1])
        point = [(value, False, value, False)]
        return None if value is None else point if node[0] == "=" else without(reals, point)
    if node[0] == "{}":
        values = [end(side) for side in node[1:]]
        return None if None in values else merged([(value, False, value, False) for value in values])
    if node[0] not in UNIONS | {",", "\\land", "\\lor"}:
        return None
    parts = [real_set(part) for part in node[1:]]
    if None in parts:
        return None
    common = parts[0]
    for part in parts[1:]:
        common = without(common, part) if node[0] == "\\setminus" else meet(common, part)
    if node[0] in ("\\cap", "\\land", "\\setminus") or (node[0] == "," and common and all(map(is_condition, node[1:]))):
        return common  # a comma between conditions is an and, if both can be met
    return merged([interval for part in parts for interval in part])


def end(node: tuple):
    """The number at an end of an interval; None if it is unknown."""
    if node in (INFINITY, negative(INFINITY)):
        return arithmetic().inf * (1 if node == INFINITY else -1)
    if not is_number(node) or node[0] in SHAPES | LISTS:
        return None
    value = approximate(evaluate(node, {}))
    return None if value.imag else value.real


def merged(intervals: list) -> list:
    """Sorted, without what is empty, and with what touches as one."""
    result: list = []
    for low, low_open, high, high_open in sorted(intervals, key=lambda one: (one[0], one[1])):
        if low > high or (low == high and (low_open or high_open)):
            continue
        if result and (low < result[-1][2] or (low == result[-1][2] and not (low_open and result[-1][3]))):
            before = result.pop()
            top = max((before[2], not before[3]), (high, not high_open))
            low, low_open, high, high_open = before[0], before[1], top[0], not top[1]
        result.append((low, low_open, high, high_open))
    return result


def meet(left: list, right: list) -> list:
    both = [(one, other) for one in left for other in right]
    highs = [min((one[2], not one[3]), (other[2], not other[3])) for one, other in both]
    return merged([(*max(one[:2], other[:2]), high[0], not high[1]) for (one, other), high in zip(both, highs)])


def without(left: list, right: list) -> list:
    infinity = arithmetic().inf
    for low, low_open, high, high_open in right:
        left = meet(left, [(-infinity, True, low, not low_open), (high, not high_open, infinity, True)])
    return left


def same_sets(left: list, right: list) -> bool:
    return len(left) == len(right) and all(
        one[1] == other[1] and one[3] == other[3] and all(one[at] == other[at] or abs(one[at] - other[at]) < 1e-100 for at in (0, 2))
        for one, other in zip(left, right)
    )
