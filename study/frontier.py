"""Pictures of a study: the fixed temperatures' curve in the plane of Avg@k and Pass@k, and when a learned one pays.

A cold temperature has the higher Avg, a warmer one the higher Pass.  A learned temperature that only moved along this curve
would be worth nothing: somebody would have to choose a point of it anyway.  compare.py has the figures and their intervals.
Heads are blue, everything else is grey.  Bars are 95% intervals; those of two seeds do not stretch the axes.
"""

import textwrap
from pathlib import Path

import numpy as np

from display import labels
from display.curves import COLOURS
from study.compare import HIDDEN, best, difference, interval, per_problem, rivals
from study.trials import LONG


def told(regime: str) -> str:
    """A regime in words.

    >>> told("3e-6-long"), told("2e-4-twice-long"), told("frozen")
    ('tokens trained at 3e-6, 3× the steps', 'tokens trained at 2e-4 twice a rollout, 3× the steps', 'tokens frozen')
    """
    rate = regime.removesuffix("-long")
    words = {"frozen": "tokens frozen", "finished": "tokens frozen after training"}.get(
        rate, f"tokens trained at {rate.replace('-twice', ' twice a rollout')}"
    )
    return words + (f", {LONG}× the steps" if rate != regime else "")


def picture(found: dict[str, dict[str, list[dict]]], out: Path) -> None:
    """Avg@8 against Pass@8: the fixed temperatures as a curve, each other method as a point with intervals.

    Only regimes with fixed temperatures are drawn, if there are any."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = {r: methods for r, methods in found.items() if any(n.startswith("fixed") for n in methods)} or found
    columns = min(len(found), 2)
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(7.2 * columns, 5.6 * rows), constrained_layout=True, squeeze=False
    )
    for axis in axes.flat[len(found) :]:
        axis.remove()
    texts = [draw_plane(axis, regime, methods) for axis, (regime, methods) in zip(axes.flat, found.items())]
    for axis, (of_points, bars) in zip(axes.flat, texts):  # once the layout has settled
        labels.beside_points(axis, of_points, bars)
    figure.savefig(out, dpi=120)
    plt.close(figure)


def draw_plane(axis, regime: str, methods: dict[str, list[dict]]) -> tuple[list[tuple[str, float, float, str]], list]:
    """One regime; the labels that its points need, and its error bars."""
    texts, bars = [], []
    points = {
        name: [interval(results, metric) for metric in ("Avg", "Pass")]
        for name, results in methods.items()
        if results[0]["evaluations"]["own"]["samples"] > 1 and name not in HIDDEN
    }
    for begins, style in (("fixed", "-"), ("longer, fixed", ":")):
        curve = [(avg[0], some[0]) for name, (avg, some) in points.items() if name.startswith(begins)]
        axis.plot(*zip(*curve), style, color=COLOURS["rival"], zorder=1) if curve else None
    for name, ((x, x_low, x_high), (y, y_low, y_high)) in points.items():
        head, of_curve = name.startswith("head"), name.startswith(("fixed", "longer, fixed"))
        colour = COLOURS["head" if head else "rival"]
        axis.plot(x, y, "." if of_curve else "o", color=colour, markersize=6, zorder=3)
        for box in ((x_low, y, x_high, y), (x, y_low, x, y_high)):
            bars += draw_bar(axis, box, colour, len(methods[name]))
        label = name.removeprefix("longer, ").removeprefix("fixed ").replace(", every step", "")
        texts.append((label, x, y, colour if head else "0.35"))
    highest = {
        kind: [some[0] for name, (_, some) in points.items() if name.startswith(kind)] for kind in ("fixed", "head")
    }
    title = told(regime).capitalize()
    if all(highest.values()):
        heads = " to ".join(dict.fromkeys(f"{end(highest['head']):.0f}%" for end in (min, max)))
        title += f". Pass@8: heads {heads}, fixed temperatures at most {max(highest['fixed']):.0f}%"
    axis.set_title(title, fontsize=9.5, loc="left")
    axis.set(xlabel="Avg@8 (%)", ylabel="Pass@8 (%)")
    axis.margins(0.09)
    axis.autoscale_view()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return texts, bars


def draw_bar(axis, box: labels.Box, colour: str, seeds: int) -> list[labels.Box]:
    """Draw a 95% interval; what labels must avoid.  Of two seeds it does not stretch the axes, of one there is none."""
    from matplotlib.lines import Line2D

    if seeds > 1:
        axis.add_artist(Line2D(box[::2], box[1::2], color=colour, linewidth=0.8, alpha=0.45))
    if seeds > 2:
        axis.update_datalim([box[:2], box[2:]])
    return [box] if seeds > 2 else []


def comparable(found: dict[str, dict[str, list[dict]]]) -> dict[str, float]:
    """How much tokens learn in each regime with fixed temperatures: the best Avg@8 of these, divided by that on frozen tokens.

    Empty if frozen tokens have none."""
    highest = {}
    for regime, methods in found.items():
        fixed = [per_problem(results, "own", "Avg").mean() for n, results in methods.items() if n.startswith("fixed")]
        highest |= {regime: max(fixed)} if fixed else {}
    at_rest = highest.get("frozen")
    return {regime: float(avg / at_rest) for regime, avg in highest.items()} if at_rest else {}


HEADS = {  # that `when` draws: they share every rollout with the tokens, or have frozen tokens; and how each is marked
    "head, mean": "o", "head, mean, every step": "o", "head, mean, every step, by tau": "D",
    "head, pass@8": "^", "head, pass@8, every step": "^", "head, pass@8, every step, by tau": "v",
}  # fmt: skip
SIGNS = {"o": "●", "D": "◆", "^": "▲", "v": "▼"}


def when(studies: dict[str, dict[str, dict[str, list[dict]]]], out: Path) -> None:
    """When does a learned temperature pay?  The lead of each head on its best rival; tokens learn more from left to right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = sorted((x, study, regime) for study, found in studies.items() for regime, x in comparable(found).items())
    columns = [column for column in columns if HEADS.keys() & studies[column[1]][column[2]].keys()]
    figure, axes = plt.subplots(
        2, 1, figsize=(max(6.5, 1.35 * len(columns) + 1), 7.5), constrained_layout=True, sharex=True, squeeze=False
    )
    for axis, metric in zip(axes[::-1, 0], ("Avg", "Pass")):
        leads = []
        for place, (_, study, regime) in enumerate(columns):
            methods = studies[study][regime]
            rival, at = best(methods, sum(rivals(methods), []), metric)
            heads = [name for name in HEADS if name in methods]
            for beside, name in enumerate(heads):
                lead, low, high = difference(methods[name], methods[rival], metric, at)
                x = place + 0.16 * (beside - (len(heads) - 1) / 2)
                draw_bar(axis, (x, low, x, high), COLOURS["head"], min(len(methods[name]), len(methods[rival])))
                axis.plot(x, lead, HEADS[name], color=COLOURS["head"], markersize=6)
                leads.append((place, lead))
        ends = [np.mean([lead for place, lead in leads if place == end]) for end in (0, len(columns) - 1)]
        axis.axhline(0, color=COLOURS["rival"], linewidth=1.2, zorder=0)
        axis.text(
            1.01, 0, "best rival", color=COLOURS["rival"], fontsize=8, va="center", transform=axis.get_yaxis_transform()
        )
        title = f"Lead in {metric}@8: {ends[0]:+.1f} points on the left, {ends[1]:+.1f} on the right"
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_ylabel(f"{metric}@8 less the best rival's (points)")
        axis.grid(axis="y", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.autoscale_view()
    words = [f"{study}\n{textwrap.fill(told(regime), 16)}\n×{x:.2f}" for x, study, regime in columns]
    axes[1][0].set_xticks(range(len(columns)), words, fontsize=8)
    axes[1][0].set_xlabel(
        "From left to right tokens learn more: × is the best fixed temperature's Avg@8, divided by that on frozen tokens"
    )
    names = {mark: name.replace(", every step", "") for name, mark in HEADS.items()}
    key = "    ".join(f"{SIGNS[mark]} {name}" for mark, name in names.items())
    figure.suptitle(key, fontsize=9, color=COLOURS["head"], x=0.01, ha="left")
    figure.savefig(out, dpi=120)
    plt.close(figure)
