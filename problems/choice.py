"""Which problems of a task are trained on, which are held out, and which are left out: all of it is said."""

import random
from collections.abc import Callable
from typing import NamedTuple

from problems.problem import Problem

AT_MOST_HELD_OUT = 5  # one problem in five, of a file from which both come


Asked = tuple[Problem, list[int]]  # a problem and its prompt


class Chosen(NamedTuple):
    training: list[Asked]
    held_out: list[Asked]
    said: str  # one line for the user


def sample_of(problems: list[Problem], count: int | None, seed: int = 0) -> list[Problem]:
    """`count` of the problems in their order, drawn with a seed: the first ones of a sorted file would be one subject."""
    if not count or count >= len(problems):
        return problems
    return [problems[i] for i in sorted(random.Random(seed).sample(range(len(problems)), count))]


def hold_out(problems: list[Problem], count: int, seed: int = 0) -> list[Problem]:
    """`count` different problems to set aside from a task that has no test problems, at most one in five."""
    different = list({problem.problem: problem for problem in problems}.values())
    return sample_of(different, min(count, max(1, len(different) // AT_MOST_HELD_OUT)), seed)


def choose(name: str, training: list[Problem], held_out: list[Problem], render: Callable, longest: int) -> Chosen:
    """No problem is in both, and no prompt, `render(problem)`, has more than `longest` tokens."""
    texts = {problem.problem for problem in held_out}
    apart = [problem for problem in training if problem.problem not in texts]
    asked, aside = ([(problem, render(problem)) for problem in problems] for problems in (apart, held_out))
    fits, fits_aside = ([pair for pair in pairs if len(pair[1]) <= longest] for pairs in (asked, aside))
    parts = [f"{len(fits):,} problems to train on", f"{len(fits_aside):,} held out"]
    if left_out := len(asked) + len(aside) - len(fits) - len(fits_aside):
        parts.append(f"{left_out:,} left out, whose prompts have more than {longest:,} tokens")
    return Chosen(fits, fits_aside, f"{name}: {', '.join(parts)}")
