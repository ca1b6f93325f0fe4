"""Pictures of a study: the fixed temperatures' curve in the plane of Avg@k and Pass@k, and when a learned one pays.

A cold temperature has the higher Avg, a warmer one the higher Pass.  A learned temperature that only moved along this curve
would be worth nothing: somebody would have to choose a point of it anyway.  compare.py has the figures and their intervals.
"""

import itertools
from pathlib import Path

from display.intervals import of_seeds as interval
from study.compare import HIDDEN, best, difference, per_problem, rivals


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
