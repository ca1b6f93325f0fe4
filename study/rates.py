"""The map: how fast the tokens learn against what chooses the temperature.  Its tables, its picture, and the default run's rule.

    python -m study.rates OUT.png    the picture, of the kept trials; `python -m study tables` prints the tables

Each cell is one method trained at one learning rate of the tokens, 300 steps on the default run's task, and the first 1,000 test
problems.  The methods of 3e-6 that the map's plan leaves out are those of trials-modular.jsonl.gz, with the same flags.
"""

import sys
from pathlib import Path

import numpy as np

from display.curves import COLOURS
from study.compare import Methods, interval, per_problem
from study.trials import CONTROLS, JOINT, MAP_METHODS, MAP_RATES

ORDER = sorted(MAP_RATES, key=lambda regime: float(regime.removesuffix("-long")))
PROBLEMS, SEEDS = 1000, 3
METRICS = {
    "Avg@8": ("Avg", "own"), "Pass@8": ("Pass", "own"), "Avg@8 of the tokens at temperature 1": ("Avg", "1.0"),
    "Pass@8 of the tokens at temperature 1": ("Pass", "1.0"), "greedy accuracy of the tokens": ("Avg", "greedy"),
}  # fmt: skip


def gathered(studies: dict[str, dict[str, Methods]]) -> dict[str, Methods]:
    """rate -> method -> results, of the map's own trials and of those kept before."""
    found = {rate: studies["map"].get(rate, {}) for rate in ORDER}
    slow = studies["modular"]["3e-6-long"]
    before = {method: [first(result) for result in results] for method, results in slow.items()}
    return found | {"3e-6-long": before | found["3e-6-long"]}  # the map's own trials are evaluated at temperature 1 too


def first(result: dict) -> dict:
    """A result on the first PROBLEMS of its problems."""
    cut = {at: of | {"successes": of["successes"][:PROBLEMS]} for at, of in result["evaluations"].items()}
    return result | {"evaluations": cut}


def mean(results: list[dict], metric: str) -> float:
    """In percent, over seeds and problems; nan where it was not evaluated so."""
    way, at = METRICS[metric]
    there = [result for result in results if at in result["evaluations"]]
    return float(100 * per_problem(there, at, way).mean()) if there else float("nan")


def table(found: dict[str, Methods]) -> str:
    """A row a method, a column a rate: Avg@8/Pass@8, the tokens' at temperature 1, their greedy accuracy, the number of seeds."""
    lines = ["| trained with | " + " | ".join(rate.removesuffix("-long") for rate in found) + " |"]
    lines.append("|---" * (len(found) + 1) + "|")
    for method in (MAP_METHODS[0], *CONTROLS, *MAP_METHODS[1:], *JOINT):
        cells = []
        for methods in found.values():
            results = methods.get(method, [])
            numbers = [f"{mean(results, metric):.1f}".replace("nan", "-") for metric in METRICS] if results else []
            cells.append("{}/{}, {}/{}, {} ({})".format(*numbers, len(results)) if results else "")
        lines += [f"| {method.replace(', every step', '')} | " + " | ".join(cells) + " |"] if any(cells) else []
    return "\n".join(lines)


def choice(found: dict[str, Methods]) -> str:
    """The rule for the default run, of the map's own trials: a row a rate of the head with the paper's objective, on 1,000 tuning
    problems.  Greedy accuracy has to rise in each of three seeds.  Of these rates the one with the highest Avg@8 + Pass@8 is chosen.
    Out: it did not rise in one seed.  Open: seeds are missing."""
    lines = ["| rate | greedy accuracy rises by, of each seed | Avg@8 + Pass@8 | |", "|---|---|---|---|"]
    scores, verdicts, cells = {}, {}, {}
    for rate in ORDER:
        told = [result["tuning"] for result in found.get(rate, {}).get(MAP_METHODS[0], [])]
        rises = [100 * (of["greedy"]["Avg@1"] - of["greedy, before"]["Avg@1"]) for of in told]
        if told:
            scores[rate] = np.mean([100 * (of["own"]["Avg@8"] + of["own"]["Pass@8"]) for of in told])
            verdicts[rate] = "out" if min(rises) <= 0 else "open" if len(rises) < SEEDS else "stays"
            cells[rate] = [", ".join(f"{rise:+.1f}" for rise in rises), f"{scores[rate]:.1f}"]
    able = [rate for rate in scores if verdicts[rate] == "stays"]
    verdicts |= {max(able, key=lambda rate: scores[rate]): "chosen"} if able else {}
    lines += ["| " + " | ".join([rate.removesuffix("-long"), *cells[rate], verdicts[rate]]) + " |" for rate in scores]
    return "\n".join(lines) if scores else ""


def picture(found: dict[str, Methods], out: Path) -> None:
    """A panel a metric, over the rates, a line a method.  The head's 95% intervals are drawn where it has several seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [metric for metric in METRICS if not metric.startswith("Pass@8 of")]
    figure, axes = plt.subplots(2, 2, figsize=(12, 9), constrained_layout=True)
    for axis, metric in zip(axes.flat, shown):
        draw(axis, metric, found)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(out, dpi=120)
    plt.close(figure)


def draw(axis, metric: str, found: dict[str, Methods]) -> None:
    """One panel.  Heads are blue, the paper's in front; its temperatures in other places are dotted."""
    markers = iter("osD^vPX*<>")
    for method in (*MAP_METHODS, "shuffled head"):
        papers, ours = method == MAP_METHODS[0], method.startswith("head")
        there = [(x, methods[method]) for x, methods in enumerate(found.values()) if method in methods]
        points = [(x, mean(results, metric), results) for x, results in there]
        points = [(x, y, results) for x, y, results in points if y == y]
        style = dict(marker=next(markers), markersize=5, linewidth=2.2 if papers else 1, zorder=3 if papers else 2)
        style |= dict(color=COLOURS["head" if ours else "rival"], alpha=1 if papers else 0.6)
        style |= dict(linestyle="-" if papers or not ours else "--")
        style |= dict(color="black", linestyle=":") if method == "shuffled head" else {}
        axis.plot([x for x, *_ in points], [y for _, y, _ in points], label=method.replace(", every step", ""), **style)
        for x, _, results in points if papers else []:
            _, low, high = interval(results, *METRICS[metric])
            axis.plot([x, x], [low, high], color=COLOURS["head"], alpha=0.45)
    axis.set_title(f"{metric} (%)", loc="left", fontsize=10)
    axis.set_xticks(range(len(found)), [rate.removesuffix("-long") for rate in found])
    axis.set_xlabel("learning rate of the tokens")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    from study.tables import studies  # it imports this file

    if len(sys.argv) != 2 or not sys.argv[1].endswith(".png"):
        raise SystemExit("rates.py: give the one file to draw, OUT.png")
    picture(gathered(studies()), Path(sys.argv[1]))
