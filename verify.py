r"""Is this answer right? The verifier behind every reward: extract -> normalise -> parse -> compare.

RL pays whatever the verifier pays, so a wrong verdict is a wrong gradient. Four stages, each usable alone:

1. `extract_answer` (extract.py) finds the final answer in a model's text: the last \boxed, else "####", else "the answer is ...".
2. `normalise` (spelling.py) rewrites the many spellings of one thing to one: \dfrac to \frac, \geq to >=, no units.
3. `parse` (grammar.py) reads the result into a tree of nested tuples, such as ("+", one, x). Text is never evaluated.
4. `compare` decides by shape (list, interval, equation, matrix, ...), and what is left by value (values.py).

The rules, where judgement is needed:
- A decimal equals an exact value if it is that value (0.5 = 1/2) or, where there is no finite decimal, that value
  rounded or cut to six digits or more (1.41421 = \sqrt{2}, but 0.33 is not 1/3).
- A percent sign may be left off or carried out: 28\% equals 28 and 0.28. Nothing else forgives a factor of 100.
- Units, money and degree signs may be left off and are not converted. So may a base: 52_8 equals 52, but not 42.
- Lists without brackets and sets have no order, and count repetitions. (a, b), [a, b] and matrices are ordered; a list
  without brackets equals a tuple in the same order. Brackets count: (0, 1] is not [0, 1]. 1,234 is a number.
- "x = 5" equals "5" where a mere name stands on the left. Equations are equal up to a factor, inequalities up to a
  positive one, and x > 5 equals (5, \infty).
- Expressions are equal if they agree wherever both are real; n! and (-1)^n are compared at whole numbers.
- Words are compared without case, symbols with it. Nothing equals an answer that is missing, empty or holds a NUL.
- What cannot be decided within the limits is not equal. The relation is symmetric.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import NoReturn

from answers.extract import bare, extract_answer
from answers.grammar import (
    INFINITY,
    MAX_LENGTH,
    RELATIONS,
    THOUSANDS,
    Undecided,
    combined,
    negative,
    parse,
)
from answers.spelling import PLAIN, normalise, words
from answers.values import check_time, local, proportional, same_value, walk

BATCH_SECONDS = 0.5  # after which the rest of a large batch goes to processes of its own


# Compare: the shapes around the expressions, then the values of these.
SETS = {",", "{}", "\\cup"}
SHAPES = {"()", "[]", "(]", "[)", "\\cap", "\\setminus", ":", "row", "rows"}


def is_relation(node: tuple) -> bool:
    return node[0].split(" ")[0] in RELATIONS


def is_name(node: tuple) -> bool:
    """True for what is a mere name left of "=": x, f(x), (x, y), A:B, |AB|, AB."""
    if node[0] == "*":
        return all(factor[0] == "symbol" and factor[1][0].isupper() for factor in node[1:])
    return node[0] == "symbol" or (node[0] in ("()", ":", "fabs") and all(map(is_name, node[1:])))


def value_of(node: tuple) -> tuple:
    """The right side of "name = value" and "name in set", the left one of "value = name"; of others, the whole."""
    if node[0] in ("=", "= =", "\\in") and is_name(node[1]):
        return node[-1]
    return node[1] if node[0] == "=" and is_name(node[2]) else node


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


def members(node: tuple) -> list[tuple]:
    r"""The members of a list or set, or the one that it is; each a \pm b is two of them."""
    parts = node[1:] if node[0] in SETS else [node]
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
    check_time()
    heads = {left[0], right[0]}
    if left == right:
        return True
    if is_relation(left) and left[0] == right[0]:
        return same_relation(left, right)
    if is_relation(left) or is_relation(right):
        met = value_of(left), value_of(right)
        if not (is_relation(met[0]) and is_relation(met[1])):
            met = as_interval(met[0]), as_interval(met[1])
        return met != (left, right) and same(*met)
    if heads == {",", "()"}:
        return in_order(left, right)
    if heads & SETS or has_sign(left) or has_sign(right):
        if "\\cup" in heads:
            if not heads <= {",", "\\cup"}:
                return False  # x < 1 or x > 2 is a list of two intervals
            left, right = ((",", *(as_interval(value_of(part)) for part in side[1:])) for side in (left, right))
        rest = members(right)
        for member in members(left):
            partner = next((candidate for candidate in rest if quietly(same, member, candidate)), None)
            if partner is None:
                return False
            rest.remove(partner)
        return not rest
    if "percent" in heads and left[0] != right[0]:
        inner, other = (left[1], right) if left[0] == "percent" else (right[1], left)
        return same(inner, other) or same(combined("/", inner, ("number", Fraction(100))), other)
    if heads & SHAPES:
        return left[0] == right[0] and in_order(left, right)
    if "based" in heads:
        based, other = (left, right) if left[0] == "based" else (right, left)
        return other[0] == "number" and str(other[1]) == based[1]
    return same_value(left, right)


def in_order(left: tuple, right: tuple) -> bool:
    return len(left) == len(right) and all(map(same, left[1:], right[1:]))


def quietly(question, *operands: tuple) -> bool:
    """A part that cannot be decided is not equal, but leaves the other parts to decide."""
    try:
        return question(*operands)
    except Undecided:
        check_time()
        return False


def same_relation(left: tuple, right: tuple) -> bool:
    """The same sides; else, equations up to a factor and inequalities up to a positive one."""
    if quietly(in_order, left, right):
        return True
    if left[0] not in ("=", "!=", "<", "<=") or any(child[0] in SETS | SHAPES for child in left[1:] + right[1:]):
        return False
    differences = [combined("+", node[1], negative(node[2])) for node in (left, right)]
    return proportional(*differences, positive=left[0] in ("<", "<="))


def compare(prediction: str, gold: str) -> tuple[bool, str]:
    """The verdict on two bare answers, and what decided it."""
    left, right = sorted((bare(prediction), bare(gold)))  # one order, so that the relation is symmetric
    if left != right and max(len(left), len(right)) > 4 * MAX_LENGTH:
        return False, "too long"
    is_arithmetic = PLAIN.fullmatch(left + right)  # the quick way, for the many answers that are numbers
    if not left or not right or not (is_arithmetic or (words(left) and words(right))):
        return False, "no answer"
    if left == right:
        return True, "text"
    local.begin()
    try:
        left, right = normalise(left), normalise(right)
        if not is_arithmetic and words(left) and words(left) == words(right):
            return True, "normal form"
        listed = THOUSANDS.search(left) or THOUSANDS.search(right)  # 1,234 may have been a list after all
        equal = quietly(same, parse(left), parse(right)) or (listed and same(parse(left, False), parse(right, False)))
        return bool(equal), "value"
    except (ArithmeticError, LookupError, ValueError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        return False, f"not decided: {error}"
    finally:
        local.end()


# The interface.
def is_equivalent(prediction: str, gold: str) -> bool:
    r"""True if two bare answers, which may carry $..$ or \boxed{}, mean the same. Never raises.

    >>> is_equivalent(r"\frac{1}{2}", "$0.5$"), is_equivalent("(1,2)", "(2,1)"), is_equivalent("", "")
    (True, False, False)
    """
    return compare(prediction, gold)[0]


def reward(text: str, gold: str) -> float:
    """1.0 if the answer in a model's output equals the gold answer, else 0.0."""
    answer = extract_answer(text)
    return float(answer is not None and is_equivalent(answer, gold))


def rewards(texts: list[str], golds: list[str]) -> list[float]:
    """The rewards of a batch, in order. Of a large one, what is not done in half a second goes to other processes."""
    pairs, scores, start = list(zip(texts, golds, strict=True)), [], time.perf_counter()
    while len(scores) < len(pairs) and (time.perf_counter() < start + BATCH_SECONDS or len(pairs) - len(scores) < 200):
        scores.append(reward(*pairs[len(scores)]))
    rest = pairs[len(scores) :]
    count = max(1, min(os.cpu_count() or 1, 16, len(rest) // 100))
    size = -(-len(rest) // count) or 1
    with ThreadPoolExecutor(count) as threads:  # a thread starts with its first task only
        for part in threads.map(batch, [rest[at : at + size] for at in range(0, len(rest), size)]):
            scores += part
    return scores


def batch(pairs: list[tuple[str, str]]) -> list[float]:
    try:
        command = [sys.executable, os.path.abspath(__file__), "--rewards"]
        options = {"capture_output": True, "text": True, "timeout": 10 + len(pairs), "check": True}
        return json.loads(subprocess.run(command, input=json.dumps(pairs), **options).stdout)
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):  # no such process can be had: do it here
        return [reward(*pair) for pair in pairs]


def fail(message: str) -> NoReturn:
    print(f"verify.py: {message}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Extract an answer, compare it with the gold one, say what decided.")
    parser.add_argument("cases", nargs="?", help="JSONL file of rows with gold, pred and, if you like, pred_kind")
    parser.add_argument("--gold", help="the gold answer")
    parser.add_argument("--text", help="a model's output")
    parser.error = fail
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a model's text may hold what no terminal can show
    if (options.cases is None) == (options.text is None) or (options.gold is None) != (options.text is None):
        fail("give either a JSONL file or both --gold and --text")
    if options.cases is None:
        show(options.text, options.gold)
    else:
        judge(options.cases)


def show(text: str, gold: str) -> None:
    """One answer, with its stages."""
    answer = extract_answer(text)
    equal, stage = compare(answer, gold)
    print(f"extracted answer: {answer}\nits normal form:  {normalise(bare(answer))}")
    print(f"that of the gold: {normalise(bare(gold))}")
    print(f"verdict:          {'equal' if equal else 'not equal'}, decided by: {stage}")


def judge(path: str) -> None:
    """A file of answers, one JSON verdict a row."""
    number = 0
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                number += 1
                row = json.loads(line)
                gold, prediction = str(row["gold"]), str(row["pred"])
                answer = extract_answer(prediction) if row.get("pred_kind") == "output" else prediction
                equal, stage = compare(answer, gold)
                print(json.dumps({"gold": gold, "answer": answer, "equal": equal, "stage": stage}))
    except BrokenPipeError:  # whoever read the verdicts has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as problem:
        fail(f"cannot read {path}: {problem.strerror}")
    except (ValueError, LookupError, TypeError, AttributeError):
        fail(f"{path}, line {max(number, 1)}: not an object with gold and pred")


if __name__ == "__main__":
    if sys.argv[1:] == ["--rewards"]:
        print(json.dumps([reward(*pair) for pair in json.load(sys.stdin)]))
    else:
        main()
