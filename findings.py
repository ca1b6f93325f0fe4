"""What the trials of study.py say: tables, the frontier, and what the learned temperature reads.

    python findings.py runs/study        writes findings.md, frontier.png, efficiency.png and temperature.png there

Intervals are 95%.  For accuracies they are bootstrap over seeds and problems at once: both are drawn anew, with replacement.
For means of temperatures they are Student's over the seeds (introspect.py).
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np

import eval as evaluation
import introspect
import plot
import tasks
import temperature_head
import trials

LEARNED = "frozen", "head, pass@8"  # whose temperatures are looked at


def read(root: Path) -> dict[str, dict[str, list[dict]]]:
    """regime -> method -> the results of its seeds."""
    found: dict[str, dict[str, list[dict]]] = {}
    for file in sorted(root.glob("*/*/seed-*/result.json")):
        result = json.loads(file.read_text())
        regime, method = result["trial"]["regime"], result["trial"]["method"]
        found.setdefault(regime, {}).setdefault(method, []).append(result)
    return {regime: found[regime] for regime in trials.ALL if regime in found}


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


def accuracy_table(methods: dict[str, list[dict]]) -> str:
    """Markdown: a row a method, its own policy with intervals and every seed, its tokens under common temperatures."""
    lines = [
        "| | seeds | Avg@8 | Pass@8 | of each seed | tau | tokens at 0.3 | at 0.7 | greedy | entropy | signal |",
        "|---" * 11 + "|",
    ]
    for name, results in methods.items():
        cells = [name, str(len(results))]
        greedy = results[0]["evaluations"]["own"]["samples"] == 1
        for metric in ("Avg", "Pass"):
            mean, low, high = (100 * x for x in interval(per_problem(results, "own", metric)))
            cells.append("" if greedy and metric == "Pass" else f"{mean:.1f} [{low:.1f}, {high:.1f}]")
        seeds = [[100 * per_problem([r], "own", metric).mean() for metric in ("Avg", "Pass")] for r in results]
        cells.append(", ".join(f"{avg:.1f}" if greedy else f"{avg:.1f}/{some:.1f}" for avg, some in seeds))
        cells.append(f"{np.mean([r['evaluations']['own']['temperature'] for r in results]):.2f}")
        for policy in ("0.3", "0.7", "greedy"):
            there = [r for r in results if policy in r["evaluations"]]
            values = [100 * per_problem(there, policy, metric).mean() for metric in ("Avg", "Pass")] if there else []
            cells.append("" if not there else f"{values[0]:.1f}" + ("" if policy == "greedy" else f"/{values[1]:.1f}"))
        cells.append(f"{np.mean([r['evaluations']['own']['entropy'] for r in results]):.2f}")
        signals = [np.mean([row["groups_with_signal"] for row in r["metrics"][-20:]]) for r in results if r["metrics"]]
        cells.append(f"{100 * np.mean(signals):.0f}%" if signals else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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


def map_table(found: dict[str, dict[str, list[dict]]]) -> str:
    """Markdown: how far above the frontier of the fixed temperatures each method lies, with intervals.

    In brackets a higher frontier where there is one: the fixed ones' tokens under other temperatures too, and those of `longer`.
    """
    regimes = {
        regime: methods for regime, methods in found.items() if any(name.startswith("fixed") for name in methods)
    }
    hidden = ("short", "tokens", "longer", "greedy")
    names = dict.fromkeys(
        name
        for methods in regimes.values()
        for name in methods
        if name not in hidden and not name.startswith(("fixed", "longer, fixed"))
    )
    lines = ["| Pass@8 above the frontier | " + " | ".join(regimes) + " |", "|---" * (len(regimes) + 1) + "|"]
    for name in names:
        cells = []
        for methods in regimes.values():
            own = [(results, "own") for other, results in methods.items() if other.startswith("fixed")]
            more = [(results, at) for results, _ in own for at in ("0.3", "0.7") if at in results[0]["evaluations"]]
            more += [(results, "own") for other, results in methods.items() if other.startswith("longer, fixed")]
            text = ["{:+.1f} [{:+.1f}, {:+.1f}]".format(*height(methods[name], own))] if name in methods else []
            if text and more:
                text.append("({:+.1f} [{:+.1f}, {:+.1f}])".format(*height(methods[name], own + more)))
            cells.append(" ".join(text))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def frontier(found: dict[str, dict[str, list[dict]]], out: Path) -> None:
    """Avg@8 against Pass@8: the fixed temperatures as a curve, each other method as a point with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(len(found), 2)
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6.4 * columns, 5 * rows), constrained_layout=True, squeeze=False
    )
    for axis in axes.flat[len(found) :]:
        axis.remove()
    for axis, (regime, methods) in zip(axes.flat, found.items()):
        points = {
            name: [[100 * x for x in interval(per_problem(results, "own", metric))] for metric in ("Avg", "Pass")]
            for name, results in methods.items()
            if results[0]["evaluations"]["own"]["samples"] > 1 and name not in ("short", "tokens", "longer")
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
            axis.legend(fontsize=7)
    figure.savefig(out, dpi=120)
    plt.close(figure)


def efficiency(found: dict[str, dict[str, list[dict]]], out: Path) -> None:
    """Training reward and share of groups with signal, against completions sampled; mean over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    regimes = {regime: {m: r for m, r in methods.items() if r[0]["metrics"]} for regime, methods in found.items()}
    figure, axes = plt.subplots(
        2, len(regimes), figsize=(6.4 * len(regimes), 7.5), constrained_layout=True, squeeze=False
    )
    for column, (regime, methods) in enumerate(regimes.items()):
        for row, metric in enumerate(("reward", "groups_with_signal")):
            axis = axes[row][column]
            for name, results in methods.items():
                if "tokens first" in name or name in ("short", "tokens", "longer"):
                    continue
                shortest = min(len(r["metrics"]) for r in results)
                curves = [plot.smooth([line[metric] for line in r["metrics"][:shortest]])[0] for r in results]
                style = dict(color="0.7", linewidth=0.8) if name.startswith("fixed") else {}
                per_step = results[0]["trial"]["flags"]["prompts_per_step"] * 16
                axis.plot(per_step * np.arange(1, shortest + 1), np.mean(curves, axis=0), label=name, **style)
            axis.set(title=f"{regime}: {metric.replace('_', ' ')}", xlabel="completions sampled", ylim=(0, None))
            axis.grid(alpha=0.3)
        axes[0][column].legend(fontsize=6)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables and pictures of the trials of study.py.")
    parser.error = lambda message: parser.exit(2, f"findings.py: {message}; --help lists the flags\n")
    parser.add_argument("study", help="the folder that study.py wrote, such as runs/study")
    parser.add_argument("--problems", type=int, default=400, help="test problems on which temperatures are looked at")
    arguments = parser.parse_args()
    root = Path(arguments.study)
    found = read(root)
    if not found:
        parser.exit(2, f"findings.py: {root} holds no result.json of study.py\n")
    text = "".join(f"## {regime}\n\n{accuracy_table(methods)}\n\n" for regime, methods in found.items())
    text += f"## Above the frontier of the fixed temperatures\n\n{map_table(found)}\n\n"
    frontier(found, root / "frontier.png")
    efficiency(found, root / "efficiency.png")
    regime, method = LEARNED
    folders = sorted((root / regime / method.replace(" ", "-").replace(",", "")).glob("seed-*"))
    folders = [folder for folder in folders if (folder / temperature_head.FILE).is_file()]
    if folders:
        results = found[regime][method]
        problems = tasks.countdown("test", arguments.problems, results[0]["trial"].get("numbers", 3))
        metrics = [result["metrics"] for result in results]
        looks = [introspect.look(folder, problems, seed) for seed, folder in enumerate(folders)]
        text += f"## Temperatures of {method} ({regime})\n\n{introspect.temperature_tables(looks, metrics, root / 'temperature.png')}\n"
    (root / "findings.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
