"""95% intervals: of one evaluation over its problems, and of trained models over their seeds and problems.

    of_problems(values)             one evaluation; the problems are the sample
    of_seeds(values)                one method, trained with several seeds, on the same problems
    of_difference(first, second)    two methods on the same problems

Percentile bootstraps are too narrow here: over three seeds they hold the truth in 85 to 90% of cases, and of a benchmark that
nothing solves they say [0, 0].  tests/test_intervals.py simulates how often these hold it.
"""

import functools
import math

import numpy as np

NORMAL = 1.959964  # the normal distribution's quantile


@functools.cache
def student(freedom: int, level: float = 0.95) -> float:
    """Student's quantile for a two-sided interval of `level`: 97.5% for 95%.  With t = sqrt(n) tan(angle) the density of the angle is in proportion to cos^(n-1).

    >>> [round(student(n), 3) for n in (1, 2, 4, 9, 99)]
    [12.706, 4.303, 2.776, 2.262, 1.984]
    """
    angle = np.linspace(0, math.pi / 2, 100_001)
    height = np.cos(angle) ** (freedom - 1)
    share = np.concatenate([[0], np.cumsum((height[1:] + height[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(np.interp(level, share / share[-1], angle))


def of_problems(values: np.ndarray) -> tuple[float, float]:
    """Bounds of the mean of `values` (P,), each in [0, 1]: a problem's share of right samples, or its Pass@k.

    Wilson's score interval, for as many coin flips as have the variance of this mean, with Student's quantile.  Where all
    values are equal the variance says nothing: then for P flips.

    >>> [round(bound, 3) for bound in of_problems(np.zeros(30))]
    [0.0, 0.114]
    """
    problems, mean = len(values), float(np.mean(values))
    variance = float(np.var(values, ddof=1)) / problems if problems > 1 else 0.0
    equal = variance < 1e-12
    flips = problems if equal else mean * (1 - mean) / variance
    quantile = NORMAL if equal else student(problems - 1)
    centre = mean + quantile**2 / (2 * flips)
    half = quantile * math.sqrt(mean * (1 - mean) / flips + (quantile / (2 * flips)) ** 2)
    low, high = ((centre + side) / (1 + quantile**2 / flips) for side in (-half, half))
    return max(low, 0.0), min(high, 1.0)


def half_width(seeds: list[np.ndarray], problems: np.ndarray) -> float:
    """Half of the interval of a mean: for each set of seeds their means (S,), and the mean of each problem (P,).

    Variances add up, each with the square of its own quantile: Student's over seeds, the normal over problems.  The draws
    within a problem are in both parts, which errs on the wide side.  One seed says nothing of others: nan.
    """
    if min(map(len, seeds)) < 2:
        return math.nan
    of_seeds = sum(student(len(means) - 1) ** 2 * means.var(ddof=1) / len(means) for means in seeds)
    return math.sqrt(of_seeds + NORMAL**2 * problems.var(ddof=1) / len(problems))


def of_seeds(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and bounds of values (seeds, problems); bounds of nan where there is one seed."""
    mean, half = float(values.mean()), half_width([values.mean(1)], values.mean(0))
    return mean, mean - half, mean + half


def of_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Mean and bounds of first - second, each (seeds, problems), of the same problems and of seeds of their own."""
    less = first.mean(0) - second.mean(0)  # (problems,)
    half = half_width([first.mean(1), second.mean(1)], less)
    return float(less.mean()), float(less.mean()) - half, float(less.mean()) + half
