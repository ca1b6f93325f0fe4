r"""Is this answer right? The verifier behind every reward: extract -> normalise -> parse -> compare.

RL pays whatever the verifier pays, so a wrong verdict is a wrong gradient. Four stages, each usable alone:

1. `extract_answer` (answers/extract.py) finds the final answer in a model's text: the last \boxed, else "the answer is ...".
2. `normalise` (spelling.py, units.py) rewrites the many spellings of one thing to one: \dfrac to \frac, \geq to >=.
3. `parse` (grammar.py) reads the result into a tree of nested tuples, such as ("+", one, x). Text is never evaluated.
4. `same` (compare.py) decides by shape (list, interval, equation, unit, ...), and what is left by value (values.py).

The rules in short; docs/VERIFIER.md has the whole table, with what is decided not to be equal.

- Expressions are equal if they agree wherever both are real. Infinity minus infinity, 1/0 and words have no value.
- A decimal equals an exact value if it is that value or, where there is no finite decimal, rounds it to six digits or more.
- Lists without brackets and sets have no order. Tuples, intervals, matrices and assignments x = 1, y = 2 have.
- A unit may be missing on one side. Two units must measure the same, and are converted: 60 minutes are 1 hour.
- A percent sign means its value, 75\% = 0.75. Only a prediction may leave off the sign, or the base, that the gold has.
- In training, an answer that copies the problem or leaves it to compute earns nothing (answers/copying.py).
- What cannot be decided within the limits is not equal. No verdict depends on what was asked before.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import NoReturn

from answers.compare import quietly, same
from answers.copying import is_copied
from answers.extract import bare, extract_answer
from answers.grammar import MAX_LENGTH, parse
from answers.spelling import PLAIN, normalise, words
from answers.values import STEPS, local
from display.terminal import visible

BATCH_SECONDS = 0.5  # after which the rest of a large batch goes to processes of its own
CONSTANT = re.compile(r"\+\s*[Cc]$")
INTEGER = re.compile(r"[\s,(]*(?:\\text\s*\{[^{}]*\}\s*)?([a-z])\s*\\in\s*\\mathbb\{Z\}\s*\)?$")
CHOICE = re.compile(
    r"(?:\\(?:text|math)[a-z]*\s*\{)?\s*(?:\(?([A-J])\)|([A-J])\.(?=[\s}]))\s*\}?(?:[\s~]|\\[ ,;:])*(.*)", re.DOTALL
)


def compare(prediction: str, gold: str) -> tuple[bool, str]:
    """The verdict on two bare answers, and what decided it."""
    sides = bare(prediction), bare(gold)
    if sides[0] != sides[1] and max(map(len, sides)) > 4 * MAX_LENGTH:
        return False, "too long"
    is_arithmetic = PLAIN.fullmatch("".join(sides))  # the quick way, for the many answers that are numbers
    if not all(sides) or not (is_arithmetic or all(map(words, sides))):
        return False, "no answer"
    if sides[0] == sides[1]:
        return True, "text"
    choices = [None if is_arithmetic else CHOICE.fullmatch(side) for side in sides]
    if any(choice and choice[3] for choice in choices):  # (C) 42 is C, and it is 42
        letters = [choice[1] or choice[2] if choice else words(side) for choice, side in zip(choices, sides)]
        if letters[0] == letters[1] or all(choices):
            return letters[0] == letters[1], "choice"
        sides = tuple(choice[3] if choice else side for choice, side in zip(choices, sides))
    local.steps = STEPS
    try:
        left, right = map(normalise, sides)
        if not is_arithmetic and words(left) and words(left) == words(right):
            return True, "normal form"
        if all(CONSTANT.search(side) for side in (left, right)):  # a constant of integration, by any name
            left, right = (CONSTANT.sub("+C", side) for side in (left, right))
        found = [INTEGER.search(side) for side in (left, right)]
        if all(found):  # a parameter that runs over the integers, by any name
            left, right = (
                re.sub(rf"(?<![A-Za-z\\]){one[1]}(?![A-Za-z])", "K", one.string[: one.start()]) for one in found
            )
        trees = parse(left), parse(right)
        ordered = trees if left < right else trees[::-1]  # one order, so that the relation is symmetric
        return quietly(same, *ordered) or quietly(sign_left_off, *trees), "value"
    except (ArithmeticError, LookupError, ValueError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        return False, f"not decided: {error}"


def sign_left_off(prediction: tuple, gold: tuple) -> bool:
    """What the question has asked for may be left off, but not added: 28 for 28%, and 52 for 52_8."""
    if gold[0] == "percent":
        return prediction[0] != "percent" and same(prediction, gold[1])
    return gold[0] == "based" and prediction == ("number", Fraction(gold[1]))


# The interface.
def is_equivalent(prediction: str, gold: str) -> bool:
    r"""True if two bare answers, which may carry $..$ or \boxed{}, mean the same. Never raises.

    >>> is_equivalent(r"\frac{1}{2}", "$0.5$"), is_equivalent("(1,2)", "(2,1)"), is_equivalent("", "")
    (True, False, False)
    """
    return compare(prediction, gold)[0]


def reward(text: str, gold: str, problem: str | None = None) -> float:
    """1.0 if the answer in a model's output equals the gold answer, else 0.0.

    With the problem, an answer that only copies it, or leaves it to compute, earns 0.0 too: see answers/copying.py."""
    answer = extract_answer(text)
    if answer is None or not is_equivalent(answer, gold):
        return 0.0
    return float(problem is None or not is_copied(answer, gold, problem))


def rewards(texts: list[str], golds: list[str], problems: list[str | None] | None = None) -> list[float]:
    """The rewards of a batch, in order. Of a large one, what is not done in half a second goes to other processes."""
    cases = list(zip(texts, golds, problems or [None] * len(texts), strict=True))
    scores, start = [], time.perf_counter()
    while len(scores) < len(cases) and (time.perf_counter() < start + BATCH_SECONDS or len(cases) - len(scores) < 200):
        scores.append(reward(*cases[len(scores)]))
    rest = cases[len(scores) :]
    count = max(1, min(os.cpu_count() or 1, 16, len(rest) // 100))
    size = -(-len(rest) // count) or 1
    with ThreadPoolExecutor(count) as threads:  # a thread starts with its first task only
        for part in threads.map(batch, [rest[at : at + size] for at in range(0, len(rest), size)]):
            scores += part
    return scores


def batch(cases: list[tuple]) -> list[float]:
    try:
        command = [sys.executable, os.path.abspath(__file__), "--rewards"]
        options = {"capture_output": True, "text": True, "timeout": 10 + len(cases), "check": True}
        return json.loads(subprocess.run(command, input=json.dumps(cases), **options).stdout)
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):  # no such process can be had: do it here
        return [reward(*case) for case in cases]


def fail(message: str) -> NoReturn:
    print(visible(f"verify.py: {message}"), file=sys.stderr)
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
    print(visible(f"extracted answer: {answer}\nits normal form:  {normalise(bare(answer))}"))
    print(visible(f"that of the gold: {normalise(bare(gold))}"))
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
        print(json.dumps([reward(*case) for case in json.load(sys.stdin)]))
    else:
        main()
