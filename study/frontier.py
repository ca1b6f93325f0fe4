"""The frontier: what fixed temperatures reach in the plane of Avg@k and Pass@k, and how far from it a method is.

A cold temperature has the higher Avg, a warmer one the higher Pass.  A learned temperature that only moved along this curve
would be worth nothing: somebody would have to choose a point of it anyway.  So the question is the height above it.

Intervals are 95%, bootstrap over seeds and problems at once: both are drawn anew, with replacement.  Where two methods are
compared the same problems are drawn for both, since they are the larger part of the noise.  A method is the list of its
seeds' results, as study.py writes them.
"""

import functools
import itertools
from pathlib import Path

import numpy as np

import eval as evaluation

HIDDEN = ("short", "tokens", "longer", "greedy")  # what others start from, or no sampling at all
CUTS = ("min-p", "top-p")  # more than a temperature: findings.cuts_table holds heads against these


def per_problem(results: list[dict], policy: str, metric: str) -> np.ndarray:
    """(seeds, problems): Avg or Pass of each problem."""
    rows = []
    for result in results:
        found = result["evaluations"][policy]
        n = found["samples"]
        of_count = np.array([c / n if metric == "Avg" else evaluation.pass_at_k(n, c, n) for c in range(n + 1)])
        rows.append(of_count[np.array(found["successes"], dtype=int)])
    return np.array(rows)


@functools.lru_cache(maxsize=8)  # methods of as many seeds share their draws
def drawn_anew(problems: int, seeds: tuple[int, ...], resamples: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """How often each problem is in each resample (problems, resamples), and of each table which seeds (seeds, resamples)."""
    draw, counts, chosen = np.random.default_rng(0), np.empty((problems, resamples), np.uint8), []
    alone = len(seeds) == 1
    for column in range(resamples):
        drawn = [draw.integers(size, size=size) for size in ((*seeds, problems) if alone else (problems, *seeds))]
        counts[:, column] = np.bincount(drawn.pop(-1 if alone else 0), minlength=problems)
        chosen.append(drawn)
    return counts, [np.stack(of, axis=1) for of in zip(*chosen)]


def resampled(tables: list[np.ndarray], resamples: int) -> list[np.ndarray]:
    """Means of tables (seeds, problems) in each resample (resamples,): seeds are drawn anew for each, problems for all together.

    Sums are of whole numbers and eighths, so that they are exact: the same digits on every machine."""
    counts, chosen = drawn_anew(tables[0].shape[1], tuple(map(len, tables)), resamples)
    parts = np.array_split(counts, 10, axis=1)  # at eight bytes a number all at once would be large
    of_seeds = [
        np.concatenate([table @ part.astype(float) for part in parts], axis=1) / len(counts) for table in tables
    ]
    return [np.take_along_axis(of, seeds, axis=0).mean(0) for of, seeds in zip(of_seeds, chosen)]


def interval(values: np.ndarray, resamples: int = 1000) -> tuple[float, float, float]:
    """Mean of (seeds, problems) and its 95% bounds, seeds and problems drawn anew."""
    (means,) = resampled([values], resamples)
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
    as_they_are = [tuple(table.mean((1, 2))) for table in tables]
    avg, some = (resampled([table[metric] for table in tables], resamples) for metric in (0, 1))
    points = zip(zip(*avg), zip(*some))  # of each resample: Avg of all, Pass of all
    found = [above(own, others) for own, *others in (list(zip(*both)) for both in points)]
    low, high = np.percentile(found, [2.5, 97.5])
    return above(as_they_are[0], as_they_are[1:]), float(low), float(high)


def difference(
    method: list[dict], rival: list[dict], metric: str, at: str = "own", resamples: int = 1000
) -> tuple[float, float, float]:
    """How much more of a metric ("Avg", "Pass"; in percent) a method has than a rival, decoded `at`, with its 95% bounds.

    Seeds are drawn anew for each, problems for both together.
    """
    tables = [100 * per_problem(*of, metric) for of in ((method, "own"), (rival, at))]  # (seeds, problems) each
    first, second = resampled(tables, resamples)
    low, high = np.percentile(first - second, [2.5, 97.5])
    return float(tables[0].mean() - tables[1].mean()), float(low), float(high)


Way = tuple[str, str]  # a method, and how its tokens are decoded: "own", "0.3", "0.7", "greedy"


def rivals(methods: dict[str, list[dict]]) -> tuple[list[Way], list[Way]]:
    """What a head is held against: fixed temperatures, their tokens decoded in other ways too; and the other methods."""
    ways = [(name, at) for name, results in methods.items() for at in results[0]["evaluations"]]
    fixed = [(name, at) for name, at in ways if name.startswith(("fixed", "longer, fixed", "greedy"))]
    others = [(name, at) for name, at in ways if at == "own" and not name.startswith("head")]
    return fixed, [way for way in others if way[0] not in HIDDEN and not way[0].startswith(CUTS) and way not in fixed]


def best(methods: dict[str, list[dict]], of: list[Way], metric: str) -> Way | None:
    """The one with the highest mean; None where there is none.  Greedy completions have no Pass of several."""
    able = [(name, at) for name, at in of if metric == "Avg" or methods[name][0]["evaluations"][at]["samples"] > 1]
    return max(able, key=lambda way: per_problem(methods[way[0]], way[1], metric).mean(), default=None)


def picture(found: dict[str, dict[str, list[dict]]], out: Path) -> None:
    """Avg@8 against Pass@8: the fixed temperatures as a curve, each other method as a point with intervals.

    Of the regimes that have fixed temperatures, where any has."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = {r: methods for r, methods in found.items() if any(n.startswith("fixed") for n in methods)} or found
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


HEADS = {  # that are drawn in `when`: those that share every rollout with the tokens, or have them frozen
    "head, mean": "tab:blue", "head, mean, every step": "tab:blue", "head, mean, every step, by tau": "tab:cyan",
    "head, pass@8": "tab:red", "head, pass@8, every step": "tab:red", "head, pass@8, every step, by tau": "tab:orange",
}  # fmt: skip


def comparable(found: dict[str, dict[str, list[dict]]]) -> dict[str, float]:
    """How much tokens learn in each regime with fixed temperatures: Avg@8 of the best of these, times that on frozen tokens.

    Empty where frozen tokens have none."""
    highest = {}
    for regime, methods in found.items():
        fixed = [per_problem(results, "own", "Avg").mean() for n, results in methods.items() if n.startswith("fixed")]
        highest |= {regime: max(fixed)} if fixed else {}
    at_rest = highest.get("frozen")
    return {regime: float(avg / at_rest) for regime, avg in highest.items()} if at_rest else {}


def when(studies: dict[str, dict[str, dict[str, list[dict]]]], out: Path) -> None:
    """When does a learned temperature pay?  Lead of each head on the best of all its rivals, against how much tokens learn."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 4.8), constrained_layout=True)
    markers = dict(zip(studies, itertools.cycle("oDs^v")))
    for axis, metric in zip(axes, ("Avg", "Pass")):
        for number, (study, found) in enumerate(studies.items()):
            for regime, x in comparable(found).items():
                methods = found[regime]
                x += 0.025 * number if regime == "frozen" else 0  # side by side
                rival, at = best(methods, sum(rivals(methods), []), metric)
                for place, name in enumerate(name for name in HEADS if name in methods):
                    lead, low, high = difference(methods[name], methods[rival], metric, at)
                    error = [[lead - low], [high - lead]]
                    axis.errorbar(
                        x + 0.01 * place, lead, error, color=HEADS[name], marker=markers[study], elinewidth=0.8
                    )
                label = regime if regime == "frozen" else f"{study}: {regime}"
                up = 0.02 + (0 if regime == "frozen" else 0.2 * number)  # so that names do not hide each other
                axis.text(
                    x - 0.005, up, label, transform=axis.get_xaxis_transform(), fontsize=7, rotation=90, color="0.4", ha="right", zorder=0,
                )  # fmt: skip
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set(
            xlabel="Avg@8 of the best fixed temperature, times that of frozen tokens",
            ylabel=f"{metric}@8 less the best rival's (points)",
        )
        axis.grid(alpha=0.3)
    for name, color in {name.replace(", every step", ""): color for name, color in HEADS.items()}.items():
        axes[1].plot([], [], "o", color=color, label=name)
    for study, marker in markers.items():
        axes[1].plot([], [], marker, color="0.5", label=study)
    axes[1].legend(fontsize=8, loc="upper right")
    figure.savefig(out, dpi=120)
    plt.close(figure)
