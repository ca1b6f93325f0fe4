"""The default run's task: from one number to another in three steps, modulo 100, with a choice of three operations.

    5,+7,-4,*3=32:   ->   5+7=12,12*3=36,36-4=32;

Countdown asks which numbers to join.  Here the numbers are given, and each step chooses an operation; it may choose the same
one again.  The rest of a step is computation, which is harder than Countdown's: the result is reduced modulo 100.
"""

import itertools
import random
import re

from problems.problem import Problem, distinct
from problems.traces import TraceTask, equation_holds

MODULUS, STEPS = 100, 3
OPERATIONS = {
    "+": lambda a, b: (a + b) % MODULUS,
    "-": lambda a, b: (a - b) % MODULUS,
    "*": lambda a, b: a * b % MODULUS,
}
NUMBER = "(0|[1-9][0-9]?)"
STEP = re.compile(f"{NUMBER}([-+*]){NUMBER}={NUMBER}")
PROBLEM = re.compile(f"{NUMBER},([+]){NUMBER},([-]){NUMBER},([*]){NUMBER}={NUMBER}:")
LENGTH = STEPS * len("99*12=99,") + 1  # tokens of the longest trace and its end


class Modular(TraceTask):
    name, STEP, OPERATIONS = "modular", STEP, OPERATIONS

    def problems(self, split, count, variant=""):
        if variant:
            raise ValueError("modular has no variants")

        def one(draw: random.Random) -> tuple[str, Problem]:
            text = draw_problem(draw)
            return text, Problem(text, str(read(text)[2]), self.name)

        return distinct(one, split, count, f"modular {split}")

    def reward(self, problem, text):
        """1.0 for three right steps that end at the target; the text is only the trace."""
        reached = answer(problem.problem, text)
        return float(reached is not None and equation_holds(reached, problem.answer))

    def recognises(self, text):
        return bool(PROBLEM.fullmatch(text))

    def longest(self, problem):
        return LENGTH


def draw_problem(draw: random.Random) -> str:
    """One that can be solved: its target comes from three random steps.

    >>> draw_problem(random.Random(0))
    '50,+7,-1,*6=94:'
    """
    start = draw.randint(1, MODULUS - 1)
    operations = [("+", draw.randint(1, 12)), ("-", draw.randint(1, 12)), ("*", draw.randint(2, 9))]
    target = start
    for name, operand in draw.choices(operations, k=STEPS):
        target = OPERATIONS[name](target, operand)
    return f"{start},{','.join(name + str(operand) for name, operand in operations)}={target}:"


def read(problem: str) -> tuple[int, dict[str, int], int]:
    """Start, operand of each operation, target.

    >>> read("5,+7,-4,*3=32:")
    (5, {'+': 7, '-': 4, '*': 3}, 32)
    """
    start, *middle, target = PROBLEM.fullmatch(problem).groups()
    return int(start), {name: int(operand) for name, operand in zip(middle[::2], middle[1::2])}, int(target)


def plans(problem: str):
    """Every choice of three operations, with what it ends at."""
    start, operand, _ = read(problem)
    for names in itertools.product(operand, repeat=STEPS):
        value = start
        for name in names:
            value = OPERATIONS[name](value, operand[name])
        yield value, names


def answer(problem: str, text: str) -> str | None:
    """What three steps end at, each from where the one before ended, each right; None where the text is anything else.

    >>> traces = "5+7=12,12*3=36,36-4=32;", "5+7=12,12*3=36,36-4=32", "5*3=15,15+7=22,22+7=29;", "5+7=13,13*3=39,39-4=35;"
    >>> [answer("5,+7,-4,*3=32:", trace) for trace in traces]
    ['32', None, '29', None]
    """
    now, operand, _ = read(problem)
    steps = text[:-1].split(",")
    if not text.endswith(";") or len(steps) != STEPS:
        return None
    for step in steps:
        match = STEP.fullmatch(step)
        if not match:
            return None
        left, name, right, result = match.groups()
        if (int(left), int(right), int(result)) != (now, operand[name], OPERATIONS[name](now, operand[name])):
            return None
        now = int(result)
    return str(now)
