"""Pictures of a run: what there is to see, as lines with intervals; run.png, heat_map.png and report.html drawn from it.

    python plot.py runs/modular                                     report.html, run.png, heat_map.png in its folder
    python plot.py runs/modular --frontier fixed.json               with the points of eval.py --out fixed.json

report.html is one file that needs no server and no network (report.py); the last completions are printed coloured.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from display import report
from display.terminal import show


class Line(NamedTuple):
    """One line of a figure, with a band; or, where it has `marks`, points with error bars."""

    label: str
    x: list[float]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    x_interval: list[tuple[float, float]] | None = None
    marks: bool = False


class Figure(NamedTuple):
    title: str
    x: str
    y: str
    lines: list[Line]


# ---- what a run has left --------------------------------------------------------------------------------------------


def read(file: Path) -> list[dict]:
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
    """The object in a file; empty where there is none."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{file}: not a file that a run or eval.py has written")
    return found


def smooth(values: list[float], weight: float = 0.9) -> tuple[list[float], list[float]]:
    """Exponential moving average without the bias of its start, and the half-width of its 95% interval.

    The interval is that of the mean of independent steps, with the spread that the window shows.

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


def curve(metrics: list[dict], name: str, label: str) -> list[Line]:
    """The steps that have this metric, smoothed; no line where fewer than one has it."""
    rows = [(row["step"] + 1, row[name]) for row in metrics if name in row]
    if not rows:
        return []
    y, half = smooth([value for _, value in rows])
    low, high = ([value + sign * h for value, h in zip(y, half)] for sign in (-1, 1))
    return [Line(label, [step for step, _ in rows], y, low, high)]


def held_out(metrics: list[dict], before: dict, after: dict) -> list[Line]:
    """Avg@k and the largest Pass@k of the run's own policy, before, during and after."""
    points: dict[str, list[tuple]] = {}
    for step, summaries in ((0, before), (metrics[-1]["step"] + 1, after)):
        for name, value in next(iter(summaries.values()), {}).items():
            if f"{name} 95%" in next(iter(summaries.values())):
                points.setdefault(name, []).append((step, value, *next(iter(summaries.values()))[f"{name} 95%"]))
    for row in metrics:
        for name in points:
            if f"eval/{name}" in row:
                value = row[f"eval/{name}"]
                low, high = (row.get(f"eval/{name} {end}", value) for end in ("low", "high"))
                points[name].append((row["step"] + 1, value, low, high))
    chosen = dict.fromkeys(list(points)[:1] + list(points)[-1:])
    return [Line(f"held-out {n}", *map(list, zip(*sorted(set(points[n])))), marks=True) for n in chosen]


def by_entropy(metrics: list[dict], rows: list[dict], label: str) -> list[Line]:
    """Mean temperature of the tokens in each bin of entropy, over these steps."""
    x, y, low, high = [], [], [], []
    prefix = "tau_by_entropy/"
    for name in sorted(
        {n for row in metrics for n in row if n.startswith(prefix)}, key=lambda n: float(n[len(prefix) :])
    ):
        values = [row[name] for row in rows if name in row]
        if len(values) > 1:
            mean = sum(values) / len(values)
            half = 1.96 * (sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)) ** 0.5
            for column, value in zip((x, y, low, high), (float(name[len(prefix) :]), mean, mean - half, mean + half)):
                column.append(value)
    return [Line(label, x, y, low, high, marks=True)] if x else []


def frontier(evaluations: dict[str, dict]) -> Figure:
    """Avg@k against Pass@k: the fixed temperatures as a curve, every other policy as a point."""
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
                lines.append(Line(name, *([value] for value in one), marks=True))
            else:
                fixed.setdefault(of, []).append((temperature, *one))
    for of, points in reversed(fixed.items()):
        columns = [list(column) for column in zip(*sorted(set(points)))][1:]
        label = " to ".join(dict.fromkeys(f"{end[0]:g}" for end in (min(points), max(points))))
        lines.insert(0, Line(f"{of}, fixed {label}".removeprefix(", "), *columns, marks=True))
    return Figure("Avg@k against Pass@k", avg, pass_at, lines)


def figures(run: Path, evaluations: dict[str, dict] | None = None) -> list[Figure]:
    """All that a run has to show; a figure without lines is left out."""
    metrics = read(run / "metrics.jsonl")
    if not metrics:
        raise ValueError(f"{run / 'metrics.jsonl'}: empty; the run has made no step")
    before, after = read_json(run / "before.json"), read_json(run / "after.json")
    own = {
        f"before, {name}": summary for name, summary in list(before.items())[:1]
    }  # the fixed ones are of the tokens after
    own |= {f"after, {name}": summary for name, summary in after.items()}
    kinds = sorted({name for row in metrics for name in row if name.startswith("tau/")} - {"tau/mean", "tau/std"})
    quantiles = [curve(metrics, f"tau_quantile/{q}", "") for q in (5, 25, 50, 75, 95)]
    spread = []
    if all(quantiles):
        x, (lowest, low, middle, high, highest) = quantiles[0][0].x, (lines[0].y for lines in quantiles)
        spread = [Line("90% of the tokens", x, middle, lowest, highest), Line("the middle half", x, middle, low, high)]
    few = max(1, min(20, len(metrics) // 4))
    found = [
        Figure("right answers", "step", "share", curve(metrics, "reward", "training") + held_out(metrics, before, after)),
        Figure(
            "temperature by what the token is", "step", "temperature",
            [line for kind in kinds for line in curve(metrics, kind, kind[4:])] + curve(metrics, "tau/mean", "all"),
        ),
        Figure("how temperatures spread", "step", "temperature", spread),
        Figure(
            "temperature against entropy", "entropy at tau = 1, nats (lower end of the bin)", "temperature",
            by_entropy(metrics, metrics[:few], f"first {few} steps") + by_entropy(metrics, metrics[-few:], f"last {few} steps"),
        ),
        Figure(
            "entropy and gate", "step", "nats; share",
            curve(metrics, "entropy", "token entropy at tau = 1") + curve(metrics, "changed", "steps that change tau"),
        ),
        frontier(own | (evaluations or {})),
    ]  # fmt: skip
    return [figure for figure in found if figure.lines]


# ---- PNG ------------------------------------------------------------------------------------------------------------


def picture(run: Path, shown: list[Figure]) -> Path:
    """run.png: all figures, three a row."""
    import matplotlib

    matplotlib.use("Agg")  # no screen needed
    import matplotlib.pyplot as plt

    rows = (len(shown) + 2) // 3
    canvas, axes = plt.subplots(rows, 3, figsize=(13, 3.8 * rows), constrained_layout=True, squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, figure in zip(axes.flat, shown):
        for line in figure.lines:
            if line.marks:
                bars = np.abs(np.array([line.low, line.high]) - line.y)
                across = np.abs(np.array(line.x_interval).T - line.x) if line.x_interval else None
                axis.errorbar(line.x, line.y, bars, across, marker=".", capsize=2, label=line.label)
            else:
                drawn = axis.plot(line.x, line.y, label=line.label)[0]
                axis.fill_between(line.x, line.low, line.high, color=drawn.get_color(), alpha=0.2, linewidth=0)
        axis.set(title=figure.title, xlabel=figure.x, ylabel=figure.y)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    canvas.savefig(run / "run.png", dpi=120)
    plt.close(canvas)
    return run / "run.png"


def heat_map(run: Path, samples: list[dict], most: int = 8, width: int = 96) -> Path:
    """heat_map.png: the newest completions, every character on its token's temperature; long ones are cut."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = []
    for row in samples[-most:]:
        cells = [(character, None) for character in f"{'right' if row['reward'] else 'wrong'}  {row['problem'][:40]} "]
        cells += [(c, tau) for piece, tau in zip(row["pieces"], row["taus"]) for c in piece.replace("\n", " ")]
        rows.append(cells[:width])
    columns = max([len(row) for row in rows], default=1)
    high = max([1.5] + [tau for row in samples for tau in row["taus"]])
    canvas = plt.figure(figsize=(0.105 * columns + 0.2, 0.3 * len(rows) + 0.5))
    axis = canvas.add_axes((0, 0, 1, 1), xlim=(-1, columns + 1), ylim=(len(rows) + 1.2, -0.3))
    axis.axis("off")
    rows.append([(c, high * (i // 6) / 6) for i, c in enumerate("".join(f" {high * i / 6:.2f} " for i in range(7)))])
    for place, row in enumerate(rows):
        place += 0.5 * (place + 1 == len(rows))  # the scale, under a gap
        for column, (character, tau) in enumerate(row):
            if tau is not None:
                *colour, opacity = report.shade(tau, high)
                axis.add_patch(plt.Rectangle((column, place), 1, 0.9, color=colour, alpha=opacity, linewidth=0))
            if character.isprintable():
                axis.text(
                    column + 0.5, place + 0.5, character, family="monospace", fontsize=9, ha="center", va="center"
                )
    with warnings.catch_warnings(action="ignore"):  # a character that the font lacks is drawn as a box
        canvas.savefig(run / "heat_map.png", dpi=150)
    plt.close(canvas)
    return run / "heat_map.png"


def draw(run: Path, evaluations: dict[str, dict] | None = None) -> list[Path]:
    """Everything, into the run's folder."""
    shown, samples = figures(run, evaluations), read(run / "samples.jsonl") if (run / "samples.jsonl").is_file() else []
    settings, table = read_json(run / "run.json"), {}
    for when in ("before", "after"):
        table |= {f"{when}, {name}": summary for name, summary in read_json(run / f"{when}.json").items()}
    page = report.page(run.name, settings, table | (evaluations or {}), shown, samples)
    (run / "report.html").write_bytes(page.encode("utf-8", "replace"))  # half of a surrogate pair is no text
    return [run / "report.html", picture(run, shown), heat_map(run, samples)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a run: report.html, run.png and heat_map.png in its folder.")
    parser.error = lambda message: parser.exit(2, f"plot.py: {message}; --help lists the flags\n")
    parser.add_argument("run", help="the folder of a run, such as runs/modular")
    parser.add_argument(
        "--frontier", nargs="+", default=[], help="files that eval.py --out wrote: more points to compare"
    )
    arguments = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")  # a problem's text may hold what no terminal can show
    run, evaluations = Path(arguments.run), {}
    try:
        for file in map(Path, arguments.frontier):
            if not isinstance(found := read_json(file).get("results"), dict):
                raise ValueError(f"{file}: not a file that eval.py --out has written")
            where = f"{file.stem}, " if len(arguments.frontier) > 1 else ""
            evaluations |= {where + name: summary for name, summary in found.items()}
        for file in draw(run, evaluations):
            print(file)
        samples = read(run / "samples.jsonl")[-4:] if (run / "samples.jsonl").is_file() else []
        for row in samples:
            completion = show(row["pieces"], row["taus"], sys.stdout.isatty())
            print(f"step {row['step']}  {row['problem'][:60]} {completion}")
    except (ValueError, OSError) as error:
        print(f"plot.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nplot.py: interrupted", file=sys.stderr)
        sys.exit(130)
    except (KeyError, TypeError, AttributeError, IndexError) as error:  # JSON, and something else than a run writes
        print(
            f"plot.py: {run}: its files are not as a run left them ({type(error).__name__}: {error})", file=sys.stderr
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
