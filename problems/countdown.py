"""Countdown: reach a target, using every number once.

    3,5,7=22:   ->   3*5=15,15+7=22;

`--task countdown` has three numbers, `--task countdown:4` has four.
"""

import itertools
import random
import re

from problems.problem import Problem, distinct
from problems.traces import TraceTask, equation_holds

LARGEST_NUMBER = 12
OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
NUMBER = "(0|[1-9][0-9]{0,6})"
STEP = re.compile(f"{NUMBER}([-+*]){NUMBER}={NUMBER}")
PROBLEM = re.compile("[0-9,]+=[0-9]+:")


class Countdown(TraceTask):
    name, STEP, OPERATIONS = "countdown", STEP, OPERATIONS

    def problems(self, split, count, variant=""):
        """Every problem can be solved: its target comes from a random sequence of steps.

        The splits share no problem, in any order of its numbers.

        >>> Countdown().problems("train", 2)
        [Problem(problem='2,3,8=30:', answer='30', kind='countdown'), Problem(problem='7,6,6=78:', answer='78', kind='countdown')]
        """
        numbers = variant or "3"
        if not numbers.isdigit() or not 2 <= int(numbers) <= 6:
            raise ValueError("countdown takes 2 to 6 numbers, as in countdown:4")

        def one(draw: random.Random) -> tuple[str, Problem]:
            drawn = [draw.randint(1, LARGEST_NUMBER) for _ in range(int(numbers))]
            target = random_target(drawn, draw)
            return f"{sorted(drawn)} {target}", Problem(
                f"{','.join(map(str, drawn))}={target}:", str(target), self.name
            )

        return distinct(one, split, count, f"countdown {split} {int(numbers)}")

    def reward(self, problem, text):
        """1.0 for a trace whose equations hold, use up the numbers, and end at the target; the text is only the trace.

        >>> problem = Problem("3,5,7=22:", "22", "countdown")
        >>> [Countdown().reward(problem, trace) for trace in ("3*5=15,15+7=22;", "3*5=15,15+7=22", "5+7=12,12+3=22;")]
        [1.0, 0.0, 0.0]
        """
        pool = problem.problem.split("=")[0].split(",")
        if not text.endswith(";"):
            return 0.0
        for step in text[:-1].split(","):
            match = STEP.fullmatch(step)
            if not match:
                return 0.0
            left, operation, right, result = match.groups()
            for operand in (left, right):
                if operand not in pool:
                    return 0.0
                pool.remove(operand)
            if not equation_holds(left + operation + right, result):
                return 0.0
            pool.append(result)
        return float(len(pool) == 1 and equation_holds(pool[0], problem.answer))

    def recognises(self, text):
        return bool(PROBLEM.fullmatch(text))

    def longest(self, problem):
        """
        >>> Countdown().longest(Problem("3,5,7=22:", "22", "countdown"))  # 12*12=144,144*12=1728; and the end of text
        24
        """
        numbers = problem.problem.count(",") + 1
        digits = [len(str(LARGEST_NUMBER**count)) for count in range(1, numbers + 1)]
        return sum(left + right + 5 for left, right in zip(digits, digits[1:])) + numbers - 1


def random_target(numbers: list[int], draw: random.Random) -> int:
    pool = list(numbers)
    while len(pool) > 1:
        a, b = (pool.pop(draw.randrange(len(pool))) for _ in range(2))
        operation = draw.choice([name for name in OPERATIONS if name != "-" or a >= b])
        pool.append(OPERATIONS[operation](a, b))
    return pool[0]


def plans(pool: tuple[int, ...]):
    """Every sequence of steps (a, operation, b, result) that uses up the pool, with the number it ends at."""
    if len(pool) == 1:
        yield pool[0], ()
        return
    for i, j in itertools.permutations(range(len(pool)), 2):
        rest = tuple(pool[k] for k in range(len(pool)) if k not in (i, j))
        for operation, apply in OPERATIONS.items():
            if operation != "-" or pool[i] >= pool[j]:
                result = apply(pool[i], pool[j])
                for end, later in plans((*rest, result)):
                    yield end, ((pool[i], operation, pool[j], result), *later)
