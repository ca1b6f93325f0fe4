"""The curves of a run: its metrics as figures of lines with intervals, and run.png drawn from them.

svg.py draws the same figures for the page.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from display import labels, terminal

# One colour for what the model learned, grey for what it is compared with.
COLOURS = {
    "head": "#0969da", "rival": "#8b949e", "hot": "#cf222e", "warm": "#bc6c00", "cool": "#8250df", "cold": "#0969da",
}  # fmt: skip
RANKS = ("hot", "warm", "cool", "cold")
ENTROPY_BINS = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)  # nats; lower ends of the bins in which log.py averages temperatures


class Line(NamedTuple):
    """One line of a figure with its band. With `marks` it has error bars instead of the band."""

    label: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    x_interval: list[tuple[float, float]] | None = None
    marks: bool = False
    colour: str = "head"  # one of COLOURS


class Figure(NamedTuple):
    title: str
    x: str
    y: str
    lines: list[Line]
    scatter: bool = False  # labels stand beside the points, not at the ends of the lines

    def bars(self) -> list[labels.Box]:
        """The error bars, as boxes without width or height."""
        upright = [(x, low, x, high) for line in self.lines for x, low, high in zip(line.x, line.low, line.high)]
        pairs = [(pair, y) for line in self.lines for pair, y in zip(line.x_interval or [], line.y)]
        return upright + [(low, y, high, y) for (low, high), y in pairs]


# ---- what a run has written -----------------------------------------------------------------------------------------


def read(file: Path) -> list[dict]:
    """The rows of a run's JSONL file; FileNotFoundError or ValueError says what is wrong with it."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: missing; {file.parent} is not the folder of a run")
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
            rows[-1]["step"] + 1
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{file}, line {number}: not a line that a run has written") from None
    return rows


def read_json(file: Path) -> dict:
    """The object in a file; empty if there is no such file."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{file}: not a file that a run or eval.py has written")
    return found


# ---- lines ----------------------------------------------------------------------------------------------------------


def smooth(values: list[float], weight: float = 0.9) -> tuple[list[float], list[float]]:
    """Exponential moving average, corrected for its start, and the half-width of its 95% interval.

    The interval treats the steps as independent, with the variance seen in the window.

    >>> smooth([1.0, 1.0, 1.0])
    ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    """
    means, halves = [], []
    total = squares = norm = norm_of_squares = 0.0
    for value in values:
        total, squares = (weight * old + (1 - weight) * new for old, new in ((total, value), (squares, value * value)))
        norm, norm_of_squares = weight * norm + (1 - weight), weight**2 * norm_of_squares + (1 - weight) ** 2
        mean, share = total / norm, norm_of_squares / norm**2  # share: 1 / the effective number of steps
        variance = max(squares / norm - mean * mean, 0.0) / max(1 - share, 0.05)
        means.append(round(mean, 12))
        halves.append(round(1.96 * (variance * share) ** 0.5, 6))
    return means, halves


def curve(metrics: list[dict], name: str, label: str, colour: str = "head") -> list[Line]:
    """A metric over the steps that have it, smoothed; no line if no step has it."""
    rows = [(row["step"] + 1, row[name]) for row in metrics if math.isfinite(row.get(name, math.nan))]
    if not rows:
        return []
    y, half = smooth([value for _, value in rows])
    low, high = ([value + sign * h for value, h in zip(y, half)] for sign in (-1, 1))
    return [Line(label, [step for step, _ in rows], y, low, high, colour=colour)]


def held_out(metrics: list[dict], before: dict, after: dict) -> list[Line]:
    """Avg@k and the largest Pass@k of the run's own policy, before, during and after training."""
    points: dict[str, list[tuple]] = {}
    for step, summaries in ((0, before), (metrics[-1]["step"] + 1, after)):
        summary = next(iter(summaries.values()), {})
        for name, value in summary.items():
            if f"{name} 95%" in summary:
                points.setdefault(name, []).append((step, value, *summary[f"{name} 95%"]))
    for row in metrics:
        for name in points:
            if f"eval/{name}" in row:
                value = row[f"eval/{name}"]
                low, high = (row.get(f"eval/{name} {end}", value) for end in ("low", "high"))
                points[name].append((row["step"] + 1, value, low, high))
    chosen = dict.fromkeys(list(points)[:1] + list(points)[-1:])
    return [Line(f"held-out {n}", *map(list, zip(*sorted(set(points[n])))), marks=True) for n in chosen]


def by_entropy(metrics: list[dict], rows: list[dict], label: str, colour: str) -> list[Line]:
    """The mean temperature of the tokens in each bin of entropy, over these steps."""
    prefix, points = "tau_by_entropy/", []
    for name in sorted(
        {n for row in metrics for n in row if n.startswith(prefix)}, key=lambda n: float(n[len(prefix) :])
    ):
        values = [row[name] for row in rows if name in row]
        if len(values) > 1:
            mean = sum(values) / len(values)
            half = 1.96 * (sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)) ** 0.5
            points.append((float(name[len(prefix) :]), mean, mean - half, mean + half))
    return [Line(label, *map(list, zip(*points)), marks=True, colour=colour)] if points else []


def frontier(evaluations: dict[str, dict], own: str) -> Figure:
    """Avg@k against Pass@k: a curve for the fixed temperatures, a point for every other policy.

    `own` is the policy of the run. It has the head's colour, and so has every learned policy of `eval.py --out`.
    """
    named = [
        name for summary in evaluations.values() for name in summary if name.startswith("Pass@") and name[-1] != "%"
    ]
    if not named:
        return Figure("", "", "", [])
    pass_at = max(named, key=lambda name: int(name[5:]))
    avg = f"Avg@{pass_at[5:]}"
    fixed: dict[str, list] = {}
    lines = []
    for name, summary in evaluations.items():
        if pass_at in summary and avg in summary:
            one = (summary[avg], summary[pass_at], *summary[f"{pass_at} 95%"], tuple(summary[f"{avg} 95%"]))
            of, _, policy = name.rpartition(", ")  # "after, 0.7"; "modular, 0.7", as eval.py names them
            try:
                temperature = float(policy)
            except ValueError:
                colour = "head" if policy == own or policy.startswith("own") else "rival"
                lines.append(Line(name, *([value] for value in one), marks=True, colour=colour))
            else:
                fixed.setdefault(of, []).append((temperature, *one))
    for of, points in reversed(fixed.items()):
        columns = [list(column) for column in zip(*sorted(set(points)))][1:]
        label = " to ".join(dict.fromkeys(f"{end[0]:g}" for end in (min(points), max(points))))
        lines.insert(0, Line(f"{of}, fixed {label}".removeprefix(", "), *columns, marks=True, colour="rival"))
    return Figure(f"{avg} and {pass_at}: up and right is better", avg, pass_at, lines, scatter=True)


# ---- figures --------------------------------------------------------------------------------------------------------


def few(metrics: list[dict]) -> int:
    """How many of the first and of the last steps stand for the start and the end of a run."""
    return max(1, min(20, len(metrics) // 4))


def from_to(line: Line) -> str:
    return f"{line.label.removeprefix('held-out ')} from {100 * line.y[0]:.1f}% to {100 * line.y[-1]:.1f}%"


def figures(run: Path, evaluations: dict[str, dict] | None = None) -> list[Figure]:
    """Everything that a run shows. Each title says what is seen. A figure without lines is left out."""
    metrics = read(run / "metrics.jsonl")
    if not metrics:
        raise ValueError(f"{run / 'metrics.jsonl'}: empty; the run has made no step")
    before, after = read_json(run / "before.json"), read_json(run / "after.json")
    own = next(iter(after or before), "")
    # The fixed temperatures are those of the trained tokens.
    compared = {f"before, {name}": summary for name, summary in list(before.items())[:1]}
    compared |= {f"after, {name}": summary for name, summary in after.items()}
    found = []

    reward, evaluated = curve(metrics, "reward", "training reward", "rival"), held_out(metrics, before, after)
    told = [from_to(line) for line in reversed(evaluated) if len(line.y) > 1] or [from_to(line) for line in reward]
    found.append(Figure(", ".join(told), "step", "share of right answers", reward + evaluated))

    kinds = sorted({name for row in metrics for name in row if name.startswith("tau/")} - {"tau/mean", "tau/std"})
    of_kind = [line for kind in kinds for line in curve(metrics, kind, kind[4:])]
    of_kind.sort(key=lambda line: -line.y[-1])  # from hot to cold
    title = f"Mean temperature ends at {metrics[-1]['tau/mean']:.2f}" if "tau/mean" in metrics[-1] else ""
    if len(of_kind) > 1:
        title = f"Hottest: {of_kind[0].label} ({of_kind[0].y[-1]:.2f}), coldest: {of_kind[-1].label} ({of_kind[-1].y[-1]:.2f})"
    ranked = [line._replace(colour=RANKS[4 * i // len(of_kind)]) for i, line in enumerate(of_kind)]
    found.append(Figure(title, "step", "mean temperature", ranked + curve(metrics, "tau/mean", "all tokens", "rival")))

    names = {95: "95%", 75: "75%", 50: "median", 25: "25%", 5: "5%"}
    spread = [line for q, label in names.items() for line in curve(metrics, f"tau_quantile/{q}", label)]
    if len(spread) == len(names):
        title = f"Half of the tokens end between {spread[3].y[-1]:.2f} and {spread[1].y[-1]:.2f}"
        found.append(Figure(title, "step", "quantiles of temperature", spread))

    n = few(metrics)
    first, last = (
        by_entropy(metrics, rows, f"{name} {n} steps", colour)
        for name, rows, colour in (("first", metrics[:n], "rival"), ("last", metrics[-n:], "head"))
    )
    if last:
        peak = last[0].x[last[0].y.index(max(last[0].y))]
        above = min((low for low in ENTROPY_BINS if low > peak), default=None)
        title = "Hottest in the end: entropy " + (
            f"above {peak:g} nats" if above is None else f"{peak:g} to {above:g} nats"
        )
        found.append(Figure(title, "entropy at tau = 1 (nats, lower end of the bin)", "mean temperature", first + last))

    entropy, gate = curve(metrics, "entropy", "entropy (nats)", "rival"), curve(metrics, "changed", "share changed")
    if gate:
        title = f"tau changes at {gate[0].y[0]:.0%} of the tokens, then at {gate[0].y[-1]:.0%}"
        found.append(Figure(title, "step", "share; nats", entropy + gate))
    found.append(frontier(compared | (evaluations or {}), own))
    return [figure for figure in found if figure.lines]


def picture(run: Path, shown: list[Figure]) -> Path:
    """run.png: all figures, three a row."""
    import matplotlib

    matplotlib.use("Agg")  # no screen needed
    import matplotlib.pyplot as plt

    rows = (len(shown) + 2) // 3
    canvas, axes = plt.subplots(rows, 3, figsize=(14, 3.8 * rows), constrained_layout=True, squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, figure in zip(axes.flat, shown):
        for line in figure.lines:
            colour = COLOURS[line.colour]
            if line.marks:
                bars = np.abs(np.array([line.low, line.high]) - line.y)
                across = np.abs(np.array(line.x_interval).T - line.x) if line.x_interval else None
                axis.errorbar(line.x, line.y, bars, across, marker=".", capsize=2, color=colour, linewidth=1.2)
            else:
                axis.plot(line.x, line.y, color=colour)
                axis.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
        axis.set(xlabel=figure.x, ylabel=figure.y)
        axis.set_title(terminal.visible(figure.title), fontsize=10.5, loc="left", parse_math=False)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if not figure.scatter:
            told, colours = (
                [terminal.visible(line.label) for line in figure.lines],
                [COLOURS[line.colour] for line in figure.lines],
            )
            labels.at_line_ends(axis, [line.y[-1] for line in figure.lines], told, colours)
    for axis, figure in zip(axes.flat, shown):  # once the layout has settled
        if figure.scatter:
            told = [
                (terminal.visible(line.label), line.x[-1], line.y[-1], COLOURS[line.colour]) for line in figure.lines
            ]
            labels.beside_points(axis, told, figure.bars())
    canvas.savefig(run / "run.png", dpi=120)
    plt.close(canvas)
    return run / "run.png"
