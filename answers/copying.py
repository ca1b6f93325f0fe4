r"""Has the problem been answered, or only copied? A rule for training; see verify.py.

Many problems ask for the value of a formula. A policy that boxes this formula gives an answer of the right value, and
earned 7% of the rewards of MATH. So where the problem is known, `is_copied` refuses a right answer that is

- unevaluated: a sum, integral, limit, function or arithmetic of bare numbers, such as 3 \cdot 4 or 5!, where the gold
  answer has none of these;
- in the problem: the text or the tree of one of its formulas, unless the gold answer is written like that too.

An integer and the wording of the gold answer are never refused. \frac{2}{4} and \sqrt{8} are refused only as copies.

>>> is_copied(r"3 \cdot 4", "12", "What is 3 times 4?"), is_copied(r"\sqrt{8}", r"2\sqrt{2}", r"Simplify $\sqrt{8}$.")
(True, True)
>>> is_copied(r"\sqrt{8}", r"2\sqrt{2}", "How long is the diagonal?"), is_copied("12", "12", "Is it 12?")
(False, False)
"""

from __future__ import annotations

import re

from answers.compare import is_number
from answers.extract import MATH, bare
from answers.grammar import parse, read
from answers.spelling import FUNCTIONS, normalise
from answers.trees import Undecided, walk

CALCULUS = {"sum", "prod", "integral", "limit"}
OPERATIONS = {*FUNCTIONS.values(), "fac2", "\\bmod"}
LONGEST = 20_000  # characters of a problem
MIXED = re.compile(r"\(\d+\+\d+/\d+\)")


def is_copied(answer: str, gold: str, problem: str) -> bool:
    """True for an answer that is right only because the problem says so."""
    answer, gold = (normalise(bare(text)) for text in (answer, gold))
    if squeezed(answer) == squeezed(gold) or re.fullmatch(r"[-+]?[\d,]+", answer):
        return False
    if contains(squeezed(normalise(problem[:LONGEST])), squeezed(answer)):
        return True
    try:
        tree, target = parse(answer), parse(gold)
    except Undecided:
        return False
    if is_unevaluated(answer) and not is_unevaluated(gold):
        return True
    formulas = (match[0] for match in MATH.finditer(problem[:LONGEST]))
    return tree != target and any(tree == quiet_parse(formula) for formula in formulas)


def is_unevaluated(text: str) -> bool:
    """True for an answer that leaves something to compute with numbers."""
    tree, is_arithmetic = read(MIXED.sub("7", text.rpartition("=")[2]))
    parts = list(walk(tree))
    return is_arithmetic or any(part[0] in CALCULUS or (part[0] in OPERATIONS and is_number(part)) for part in parts)


def quiet_parse(formula: str) -> tuple | None:
    try:
        return parse(normalise(formula))
    except (Undecided, ArithmeticError, RecursionError):
        return None


def squeezed(text: str) -> str:
    return re.sub(r"\s|(?<=\\frac)\{(\w)\}\{(\w)\}", r"\1\2", text)


def contains(problem: str, answer: str) -> bool:
    """True if the answer is in the problem, and is not a part of a longer number or word there."""
    before, after = (r"(?<![\w.])" if answer[:1].isalnum() else "", r"(?![\w])" if answer[-1:].isalnum() else "")
    return bool(answer) and bool(re.search(before + re.escape(answer) + after, problem))
