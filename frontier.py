"""The frontier: what fixed temperatures reach in the plane of Avg@k and Pass@k, and how far from it a method is.

A cold temperature has the higher Avg, a warmer one the higher Pass.  A learned temperature that only moved along this curve
would be worth nothing: somebody would have to choose a point of it anyway.  So the question is the height above it.

Intervals are 95%, bootstrap over seeds and problems at once: both are drawn anew, with replacement.  Where two methods are
compared the same problems are drawn for both, since they are the larger part of the noise.  A method is the list of its
seeds' results, as study.py writes them.
"""

import itertools
from pathlib import Path

import numpy as np

import eval as evaluation

HIDDEN = ("short", "tokens", "longer", "greedy")  # what others start from, or no sampling at all


def per_problem(results: list[dict], policy: str, metric: str) -> np.ndarray:
    """(seeds, problems): Avg or Pass of each problem."""
    rows = []
    for result in results:
        found = result["evaluations"][policy]
        n = found["samples"]
        rows.append([c / n if metric == "Avg" else evaluation.pass_at_k(n, c, n) for c in found["successes"]])
    return np.array(rows)


def interval(values: np.ndarray, resamples: int = 1000) -> tuple[float, float, float]:
    """Mean of (seeds, problems) and its 95% bounds, seeds and problems drawn anew."""
    draw, means = np.random.default_rng(0), []
    for _ in range(resamples):
        seeds = draw.integers(len(values), size=len(values))
        means.append(values[seeds].mean(0)[draw.integers(values.shape[1], size=values.shape[1])].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def above(point: tuple[float, float], others: list[tuple[float, float]]) -> float:
    """How far a point (Avg, Pass) lies above the frontier of the others: its Pass less theirs at the same Avg.

    The frontier runs straight between those that no other beats in both.  Right of all of them it is level.

    >>> front = [(1.0, 5.0), (3.0, 3.0), (2.0, 2.0)]
    >>> above((2.0, 4.5), front), above((4.0, 4.0), front), above((0.0, 4.0), front)
    (0.5, 1.0, -1.0)
    """
    best = [p for p in others if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in others)]
    avg, some = zip(*sorted(best))
    return point[1] - float(np.interp(point[0], avg, some))


def height(
    method: list[dict], others: list[tuple[list[dict], str]], resamples: int = 300
) -> tuple[float, float, float]:
    """How far a method's own policy lies above the frontier of others (results, policy), with its 95% bounds.

    Seeds and problems are drawn anew, the same problems for all.  A frontier is a maximum, and of noisy points one that is
    too high: the height errs on the low side.
    """
    tables = [
        np.stack([100 * per_problem(results, policy, metric) for metric in ("Avg", "Pass")])
        for results, policy in [(method, "own"), *others]
    ]  # (2, seeds, problems) each
    draw, found, count = np.random.default_rng(0), [], tables[0].shape[2]
    for resample in range(resamples + 1):  # the first as it is
        problems = draw.integers(count, size=count) if resample else np.arange(count)
        points = []
        for table in tables:
            seeds = draw.integers(table.shape[1], size=table.shape[1]) if resample else np.arange(table.shape[1])
            avg, some = table[:, seeds].mean(1)[:, problems].mean(1)
            points.append((float(avg), float(some)))
        found.append(above(points[0], points[1:]))
    low, high = np.percentile(found[1:], [2.5, 97.5])
    return found[0], float(low), float(high)


def difference(
    method: list[dict], rival: list[dict], metric: str, at: str = "own", resamples: int = 1000
) -> tuple[float, float, float]:
    """How much more of a metric ("Avg", "Pass"; in percent) a method has than a rival, decoded `at`, with its 95% bounds.

    Seeds are drawn anew for each, problems for both together.
    """
    tables = [100 * per_problem(*of, metric) for of in ((method, "own"), (rival, at))]  # (seeds, problems) each
    draw, found, count = np.random.default_rng(0), [], tables[0].shape[1]
    for _ in range(resamples):
        problems = draw.integers(count, size=count)
        first, second = (table[draw.integers(len(table), size=len(table))].mean(0)[problems].mean() for table in tables)
        found.append(first - second)
    low, high = np.percentile(found, [2.5, 97.5])
    return float(tables[0].mean() - tables[1].mean()), float(low), float(high)


def picture(found: dict[str, dict[str, list[dict]]], out: Path) -> None:
    """Avg@8 against Pass@8: the fixed temperatures as a curve, each other method as a point with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(len(found), 2)
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(7.6 * columns, 5 * rows), constrained_layout=True, squeeze=False
    )
    for axis in axes.flat[len(found) :]:
        axis.remove()
    for axis, (regime, methods) in zip(axes.flat, found.items()):
        points = {
            name: [[100 * x for x in interval(per_problem(results, "own", metric))] for metric in ("Avg", "Pass")]
            for name, results in methods.items()
            if results[0]["evaluations"]["own"]["samples"] > 1 and name not in HIDDEN
        }
        fixed = {name: point for name, point in points.items() if name.startswith("fixed")}
        longer = {name: point for name, point in points.items() if name.startswith("longer, fixed")}
        points = {name: point for name, point in points.items() if name not in longer}
        axis.plot([p[0][0] for p in fixed.values()], [p[1][0] for p in fixed.values()], color="0.6", zorder=1)
        if longer:
            curve = [[p[i][0] for p in longer.values()] for i in (0, 1)]
            axis.plot(*curve, color="0.6", linestyle=":", zorder=1, label="fixed, tokens trained longer")
        markers = itertools.cycle("osD^vP*XpdhH<>")
        for name, (avg, some) in points.items():
            error = dict(
                xerr=[[avg[0] - avg[1]], [avg[2] - avg[0]]], yerr=[[some[0] - some[1]], [some[2] - some[0]]],
                elinewidth=0.8, linestyle="none",
            )  # fmt: skip
            if name in fixed:
                axis.errorbar(avg[0], some[0], color="0.5", marker=".", **error)
                axis.annotate(
                    name.removeprefix("fixed "),
                    (avg[0], some[0]),
                    fontsize=8,
                    xytext=(4, 4),
                    textcoords="offset points",
                )
            else:
                axis.errorbar(avg[0], some[0], marker=next(markers), markersize=7, label=name, **error)
        axis.set(title=regime, xlabel="Avg@8 (%)", ylabel="Pass@8 (%)")
        axis.grid(alpha=0.3)
        if points.keys() > fixed.keys() or longer:
            axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))  # inside it would hide points
    figure.savefig(out, dpi=120)
    plt.close(figure)
