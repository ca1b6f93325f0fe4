r"""Building trees: sums, products and quotients in one order, and matrices. grammar.py says which trees there are.

>>> one, x = ("number", Fraction(1)), ("symbol", "x")
>>> total("+", [x, one]) == total("+", [one, x]), total("+", [one, one])
(True, ('number', Fraction(2, 1)))
"""

from __future__ import annotations

import operator
import re
from fractions import Fraction
from itertools import chain

MAX_DIGITS = 100  # of a number
SMALL = {"+": operator.add, "*": operator.mul}


class Undecided(ValueError):
    """Outside of the grammar, over a limit, or without a value that can be found here."""


INFINITY, MINUS_ONE, ELLIPSIS = ("symbol", "infinity"), ("number", Fraction(-1)), ("symbol", "...")


def walk(node: tuple):
    """All subtrees."""
    yield node
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from walk(child)


def total(head: str, parts: list[tuple]) -> tuple:
    """A sum or product: its small numbers added up, the rest flat and in one order, after one sort."""
    matrices = [part for part in parts if part[0] == "rows"]
    if matrices:
        return matrix_total(head, matrices, [part for part in parts if part[0] != "rows"])
    if ELLIPSIS in parts:  # 2 + 4 + ... is not 6 + ...
        return (head, *parts)
    number, rest = Fraction(head == "*"), []
    for part in chain.from_iterable(part[1:] if part[0] == head else [part] for part in parts):
        if part[0] == "number" and abs(number) + abs(part[1]) < 10**9:
            number = SMALL[head](number, part[1])
        else:
            rest.append(part)
    if number != (head == "*") or not rest:
        rest.append(("number", number))
    return (head, *sorted(rest, key=repr)) if len(rest) > 1 else rest[0]


def quotient(top: tuple, bottom: tuple) -> tuple:
    if top[0] == bottom[0] == "number" and bottom[1] and abs(top[1]) + abs(bottom[1]) < 10**9:
        return ("number", top[1] / bottom[1])
    return ("/", top, bottom)


def negative(node: tuple) -> tuple:
    return (node[0], -node[1], *node[2:]) if node[0] in ("number", "decimal") else total("*", [MINUS_ONE, node])


def matrix_total(head: str, matrices: list[tuple], others: list[tuple]) -> tuple:
    """A sum of matrices, or a product of matrices, in their order, and scalars."""
    result = [row[1:] for row in matrices[0][1:]]
    for matrix in matrices[1:]:
        rows = [row[1:] for row in matrix[1:]]
        if head == "+" and [*map(len, result)] == [*map(len, rows)]:
            result = [[total("+", [*pair]) for pair in zip(*both)] for both in zip(result, rows)]
        elif head == "*" and len({*map(len, rows)}) == 1 and {*map(len, result)} == {len(rows)} and len(rows) < 6:
            result = [
                [total("+", [total("*", [*pair]) for pair in zip(row, column)]) for column in zip(*rows)]
                for row in result
            ]
        else:
            raise Undecided("matrices that do not fit")
    if others and head == "+":
        raise Undecided("a matrix plus a number")
    return ("rows", *(("row", *(total("*", [*others, entry]) for entry in row)) for row in result))


def determinant(rows: list[tuple]) -> tuple:
    """By the first row; up to four rows."""
    if not 0 < len(rows) < 5 or {*map(len, rows)} != {len(rows)}:
        raise Undecided("no determinant")
    if len(rows) == 1:
        return rows[0][0]
    minors = (determinant([row[:at] + row[at + 1 :] for row in rows[1:]]) for at in range(len(rows)))
    terms = (total("*", [entry, minor]) for entry, minor in zip(rows[0], minors))
    return total("+", [negative(term) if at % 2 else term for at, term in enumerate(terms)])


def number(token: str) -> tuple:
    if "_" in token:
        return ("based", *re.sub("[{}]", "", token).lstrip("0").split("_"))
    digits, _, exponent = token.lower().partition("e")
    if len(digits) > MAX_DIGITS or len(exponent) > 5 or abs(int(exponent or 0)) > MAX_DIGITS:
        raise Undecided("too many digits")
    value = Fraction(digits.removesuffix(".")) * Fraction(10) ** int(exponent or 0)
    return ("number", value) if token.isdigit() else ("decimal", value, len(digits.replace(".", "").lstrip("0")))
