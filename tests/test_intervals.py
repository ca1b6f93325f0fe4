"""display/intervals.py: how often the intervals hold the truth, by simulation with a fixed seed."""

import math

import numpy as np
import pytest

from display import intervals


@pytest.mark.parametrize("problems", [10, 30, 100, 500])
@pytest.mark.parametrize("a, b", [(0.1, 2.0), (0.2, 1.8), (0.5, 0.5), (2.0, 1.0), (0.3, 0.1)])
@pytest.mark.parametrize("metric", ["Avg@8", "Pass@8"])
def test_the_interval_of_one_evaluation_holds_the_truth(problems, a, b, metric):
    """Problems are as hard as a Beta says: most never solved, most always, anything between."""
    draw = np.random.default_rng(0)

    def of(right: np.ndarray) -> np.ndarray:
        return right / 8 if metric == "Avg@8" else (right > 0).astype(float)

    truth = of(draw.binomial(8, draw.beta(a, b, size=1_000_000))).mean()
    values = of(draw.binomial(8, draw.beta(a, b, size=(1000, problems))))
    bounds = np.array([intervals.of_problems(row) for row in values])
    covered = ((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean()
    assert covered >= (0.93 if problems >= 100 else 0.90 if problems == 30 else 0.87), covered
    assert covered <= 0.995, "an interval that always holds it says nothing"


def test_a_benchmark_that_nothing_or_everything_solves():
    """Wilson's interval of as many coin flips: the bounds move off 0 and 1, the less the more problems."""
    for problems in (1, 10, 30):
        none, every, half = (intervals.of_problems(np.full(problems, value)) for value in (0.0, 1.0, 0.5))
        upper = 1.959964**2 / (problems + 1.959964**2)
        assert none == (0.0, pytest.approx(upper)) and every == pytest.approx((1 - upper, 1.0))
        assert half[0] < 0.5 < half[1] and half[0] == pytest.approx(1 - half[1])


def simulated(seeds: int, scatter: float, of_problems: float, draw) -> np.ndarray:
    """(seeds, problems) around 0: seeds scatter by `scatter`, the mean over problems alone by `of_problems`."""
    problems = 200
    own = draw.normal(0, of_problems * problems**0.5, (1, problems)) + draw.normal(0, scatter, (seeds, 1))
    return own + draw.normal(0, of_problems * problems**0.5 / 2, (seeds, problems))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("scatter", [0.0, 0.3, 1.0, 2.0])
def test_the_interval_over_seeds_and_problems_holds_the_truth(seeds, scatter):
    """In points of Pass@8: problems alone, 5,000 of them, scatter by 0.65; the seeds of a head by 1 to 2, of a rule by none."""
    draw = np.random.default_rng(0)
    found = [intervals.of_seeds(simulated(seeds, scatter, 0.65, draw)) for _ in range(2000)]
    covered = np.mean([low <= 0 <= high for _, low, high in found])
    assert 0.94 <= covered <= 0.995, covered


@pytest.mark.parametrize("first, second", [(2, 2), (3, 3), (5, 3), (5, 5)])
@pytest.mark.parametrize("scatter", [0.0, 1.0, 2.0])
def test_the_interval_of_a_difference_holds_the_truth(first, second, scatter):
    """A head, whose seeds scatter, less a rule, whose seeds do not; both are asked the same problems, which differ far more."""
    draw, covered, widths = np.random.default_rng(0), [], []
    for _ in range(1000):
        shared = draw.normal(0, 50, (1, 200))
        head, rule = (shared + simulated(n, of, 0.65, draw) for n, of in ((first, scatter), (second, 0.0)))
        less, low, high = intervals.of_difference(head, rule)
        covered.append(low <= 0 <= high)
        widths.append(high - low)
        assert less == pytest.approx(head.mean() - rule.mean()) == pytest.approx((low + high) / 2)
    assert 0.94 <= np.mean(covered) <= 0.999, np.mean(covered)
    assert min(first, second) < 3 or np.mean(widths) < 12, "apart, problems alone would make it 20 wide"


def test_one_seed_says_nothing_of_others():
    mean, low, high = intervals.of_seeds(np.array([[0.0, 1.0, 1.0]]))
    assert mean == pytest.approx(2 / 3) and math.isnan(low) and math.isnan(high)
    assert math.isnan(intervals.of_difference(np.ones((3, 4)), np.ones((1, 4)))[1])
