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
from study.trials import JOINT, MAP_METHODS, MAP_RATES

ORDER = sorted(MAP_RATES, key=lambda regime: float(regime.removesuffix("-long")))
PROBLEMS = 1000
METRICS = {"Avg@8": ("Avg", "own"), "Pass@8": ("Pass", "own"), "greedy accuracy": ("Avg", "greedy")}


def gathered(studies: dict[str, dict[str, Methods]]) -> dict[str, Methods]:
    """rate -> method -> results, of the map's own trials and of those kept before."""
    before = {
        method: [first(result) for result in results] for method, results in studies["modular"]["3e-6-long"].items()
    }
    found = {rate: studies["map"].get(rate, {}) for rate in ORDER}
    found["3e-6-long"] = found["3e-6-long"] | before
    return {
        rate: {m: results for m, results in methods.items() if m in MAP_METHODS + JOINT}
        for rate, methods in found.items()
    }


def first(result: dict) -> dict:
    """A result on the first PROBLEMS of its problems."""
    cut = {at: of | {"successes": of["successes"][:PROBLEMS]} for at, of in result["evaluations"].items()}
    return result | {"evaluations": cut}


def mean(results: list[dict], metric: str) -> float:
    way, at = METRICS[metric]
    return float(100 * per_problem(results, at, way).mean())


def table(found: dict[str, Methods]) -> str:
    """A row a method, a column a rate: Avg@8/Pass@8, then greedy accuracy, then the number of seeds."""
    lines = ["| trained with | " + " | ".join(rate.removesuffix("-long") for rate in found) + " |"]
    lines.append("|---" * (len(found) + 1) + "|")
    for method in MAP_METHODS + JOINT:
        cells = []
        for methods in found.values():
            results = methods.get(method, [])
            numbers = [f"{mean(results, metric):.1f}" for metric in METRICS] if results else []
            cells.append("{}/{}, {} ({})".format(*numbers, len(results)) if results else "")
        lines += [f"| {method.replace(', every step', '')} | " + " | ".join(cells) + " |"] if any(cells) else []
    return "\n".join(lines)


def choice(found: dict[str, Methods]) -> str:
    """The rule for the default run, of the map's own trials: a row a rate of the head with the paper's objective, on 1,000 tuning
    problems.  Greedy accuracy has to rise in every seed.  Of these rates the one with the highest Avg@8 + Pass@8 is chosen."""
    lines = ["| rate | greedy accuracy rises by, of each seed | Avg@8 + Pass@8 | |", "|---|---|---|---|"]
    scores, rows = {}, {}
    for rate in ORDER:
        told = [result["tuning"] for result in found.get(rate, {}).get(MAP_METHODS[0], [])]
        rises = [100 * (of["greedy"]["Avg@1"] - of["greedy, before"]["Avg@1"]) for of in told]
        if told:
            score = np.mean([100 * (of["own"]["Avg@8"] + of["own"]["Pass@8"]) for of in told])
            scores |= {rate: score} if min(rises) > 0 else {}
            rows[rate] = [", ".join(f"{rise:+.1f}" for rise in rises), f"{score:.1f}"]
    best = max(scores, key=lambda rate: scores[rate], default=None)
    for rate, cells in rows.items():
        verdict = "out" if rate not in scores else "chosen" if rate == best else "stays"
        lines.append("| " + " | ".join([rate.removesuffix("-long"), *cells, verdict]) + " |")
    return "\n".join(lines) if rows else ""


def picture(found: dict[str, Methods], out: Path) -> None:
    """A panel a metric: a line a method, over the rates.  The head is blue, with its 95% intervals; rivals are grey."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), constrained_layout=True)
    for axis, metric in zip(axes, METRICS):
        for method in MAP_METHODS:
            there = [(x, methods[method]) for x, methods in enumerate(found.values()) if method in methods]
            head = method == MAP_METHODS[0]
            ours = method.startswith("head")
            colour = COLOURS["head" if ours else "rival"]
            places, values = [x for x, _ in there], [mean(results, metric) for _, results in there]
            axis.plot(places, values, "o-" if head else "o:", color=colour, markersize=4, linewidth=1.6 if head else 1)
            for x, results in there if head else ():
                _, low, high = interval(results, *METRICS[metric])
                axis.plot([x, x], [low, high], color=colour, alpha=0.45)
            if there:
                name = method.replace(", every step", "")
                axis.annotate(
                    name, (places[-1], values[-1]), (5, 0), textcoords="offset points", fontsize=7, color=colour, va="center"
                )  # fmt: skip
        axis.set_title(f"{metric} (%)", loc="left", fontsize=10)
        axis.set_xticks(range(len(found)), [rate.removesuffix("-long") for rate in found])
        axis.set_xlabel("learning rate of the tokens")
        axis.margins(x=0.12)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    from study.tables import studies  # it imports this file

    if len(sys.argv) != 2 or not sys.argv[1].endswith(".png"):
        raise SystemExit("rates.py: give the one file to draw, OUT.png")
    picture(gathered(studies()), Path(sys.argv[1]))
