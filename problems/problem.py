"""A problem, and what a generated task is.

A new generated task is a file with a subclass of `Task`, and its line in `tasks.GENERATED`.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SPLITS = {"test": range(0, 25), "tuning": range(25, 37), "train": range(37, 100)}  # percent of all problems


@dataclass(frozen=True)
class Problem:
    problem: str
    answer: str
    kind: str = "math"  # or the name of a generated task


class Task:
    """What the rest of the code asks of a generated task.  Override what differs; `problems` and `reward` always do."""

    name: str  # as in `--task name` or `--task name:variant`; its problems have it as their kind
    stops: tuple[str, ...] = ()  # texts that end a completion, beside the end-of-text tokens

    def problems(self, split: str, count: int, variant: str = "") -> list[Problem]:
        """`count` distinct problems of a split (fewer if there are no more), always the same ones.

        `variant` is the text after the colon of `--task name:variant`.  Raises ValueError for one that does not exist.
        """
        raise NotImplementedError

    def reward(self, problem: Problem, text: str) -> float:
        """R(x, y) in [0, 1] of a finished completion: its text up to the stop."""
        raise NotImplementedError

    def recognises(self, text: str) -> bool:
        """True if `text` is a problem of this task, so that `sample.py --prompt` asks it as training does."""
        return False

    def prompt(self, problem: str) -> str:
        """The prompt as text, where no template is asked for: the problem alone, or few-shot examples in front of it."""
        return problem

    def longest(self, problem: Problem) -> int:
        """Tokens that a right completion may need, its end included."""
        return 1024

    def classes(self, text: str) -> list[str]:
        """The class of each character of a completion (choice, computation, ...), by which temperatures are averaged."""
        return ["text"] * len(text)

    def steps(self, problem: Problem, text: str) -> Iterator[tuple]:
        """(match, right result) of each step of computation in a completion; `match[4]` is the result as written."""
        return iter(())


def distinct(one: Callable, split: str, count: int, seed: str) -> list[Problem]:
    """`count` problems of a split with different keys.

    `one(draw)` returns (key, problem).  The hash of the key decides the split, so that no two splits share a key.
    """
    if split not in SPLITS:
        raise ValueError(f"generated problems have the splits {', '.join(SPLITS)}, and not {split!r}")
    draw, found, misses = random.Random(seed), {}, 0
    while len(found) < count and misses < 5000:  # after so many draws without a new one the split is exhausted
        key, problem = one(draw)
        if int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100 in SPLITS[split] and key not in found:
            found[key], misses = problem, 0
        misses += 1
    return list(found.values())
