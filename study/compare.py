"""Methods side by side: each problem's Avg and Pass, their intervals, differences, and who the rivals are.

A method is the list of its seeds' results, as experiment.py writes them.  Intervals are 95%, Student's over the seeds with the
problems' variance added (display/intervals.py).  Two methods are compared problem by problem.
"""

import numpy as np

import eval as evaluation
from display import intervals

Methods = dict[str, list[dict]]
Way = tuple[str, str]  # a method, and how its tokens are decoded: "own", "0.3", "0.7", "greedy"
# What others start from, no sampling at all, and the head's own temperatures in other places: no rivals.
HIDDEN = ("short", "tokens", "longer", "greedy", "shuffled head", "mean of the head")
CUTS = ("min-p", "top-p")  # rules that cut unlikely tokens away: more than a temperature


def per_problem(results: list[dict], policy: str, metric: str) -> np.ndarray:
    """(seeds, problems): Avg or Pass of each problem."""
    rows = []
    for result in results:
        found = result["evaluations"][policy]
        n = found["samples"]
        of_count = np.array([c / n if metric == "Avg" else evaluation.pass_at_k(n, c, n) for c in range(n + 1)])
        rows.append(of_count[np.array(found["successes"], dtype=int)])
    return np.array(rows)


def interval(results: list[dict], metric: str, at: str = "own") -> tuple[float, float, float]:
    """Mean and bounds in percent; bounds of nan where there is one seed."""
    mean, low, high = intervals.of_seeds(100 * per_problem(results, at, metric))
    return mean, float(np.clip(low, 0, 100)), float(np.clip(high, 0, 100))


def difference(method: list[dict], rival: list[dict], metric: str, at: str = "own") -> tuple[float, float, float]:
    """How much more of a metric (in percent) a method has than a rival whose tokens are decoded `at`, with its bounds."""
    return intervals.of_difference(100 * per_problem(method, "own", metric), 100 * per_problem(rival, at, metric))


def rivals(methods: Methods) -> tuple[list[Way], list[Way]]:
    """What a head is held against: fixed temperatures, their tokens decoded in other ways too; and the other methods."""
    ways = [(name, at) for name, results in methods.items() for at in results[0]["evaluations"]]
    fixed = [(name, at) for name, at in ways if name.startswith(("fixed", "longer, fixed", "greedy"))]
    others = [(name, at) for name, at in ways if at == "own" and not name.startswith("head")]
    return fixed, [way for way in others if way[0] not in HIDDEN and not cuts(way[0]) and way not in fixed]


def cuts(name: str) -> bool:
    """Is it a rule that cuts?  A head with a cut is none."""
    return not name.startswith("head") and any(cut in name for cut in CUTS)


def best(methods: Methods, of: list[Way], metric: str) -> Way | None:
    """The one with the highest mean; None where there is none.  Greedy completions have no Pass of several."""
    able = [(name, at) for name, at in of if metric == "Avg" or methods[name][0]["evaluations"][at]["samples"] > 1]
    return max(able, key=lambda way: per_problem(methods[way[0]], way[1], metric).mean(), default=None)
