"""What the trials of study.py say: tables, the frontier, and what the learned temperature reads.

    python findings.py runs/study                      writes findings.md, frontier.png, efficiency.png and temperature.png there
    python findings.py runs/study --keep FILE.gz       and all trials to one small file, which it reads as well
    python findings.py docs/trials-*.gz                when.png, of several studies: when does a learned temperature pay?

Intervals are 95%.  For accuracies they are bootstrap over seeds and problems at once (frontier.py); for means of temperatures
Student's over the seeds (introspect.py).
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import plot
import tasks
import temperature_head
from study import frontier, introspect, trials
from study.results import CURVES, keep, read

LEARNED = "frozen", "head, pass@8"  # whose temperatures are looked at


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
            mean, low, high = (100 * x for x in frontier.interval(frontier.per_problem(results, "own", metric)))
            cells.append("" if greedy and metric == "Pass" else f"{mean:.1f} [{low:.1f}, {high:.1f}]")
        seeds = [[100 * frontier.per_problem([r], "own", metric).mean() for metric in ("Avg", "Pass")] for r in results]
        cells.append(", ".join(f"{avg:.1f}" if greedy else f"{avg:.1f}/{some:.1f}" for avg, some in seeds))
        cells.append(f"{np.mean([r['evaluations']['own']['temperature'] for r in results]):.2f}")
        for policy in ("0.3", "0.7", "greedy"):
            there = [r for r in results if policy in r["evaluations"]]
            metrics = ("Avg",) if policy == "greedy" else ("Avg", "Pass")
            cells.append(
                "/".join(f"{100 * frontier.per_problem(there, policy, m).mean():.1f}" for m in metrics if there)
            )
        cells.append(f"{np.mean([r['evaluations']['own']['entropy'] for r in results]):.2f}")
        signals = [np.mean([row["groups_with_signal"] for row in r["metrics"][-20:]]) for r in results if r["metrics"]]
        cells.append(f"{100 * np.mean(signals):.0f}%" if signals else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def map_table(found: dict[str, dict[str, list[dict]]]) -> str:
    """Markdown: how far above the frontier of the fixed temperatures each method lies, with intervals.

    In brackets a higher frontier where there is one: the fixed ones' tokens under other temperatures too, and those of `longer`.
    """
    regimes = {
        regime: methods for regime, methods in found.items() if any(name.startswith("fixed") for name in methods)
    }
    names = dict.fromkeys(
        name
        for methods in regimes.values()
        for name in methods
        if name not in frontier.HIDDEN and not name.startswith(("fixed", "longer, fixed"))
    )
    if not regimes:
        return ""
    lines = ["| Pass@8 above the frontier | " + " | ".join(regimes) + " |", "|---" * (len(regimes) + 1) + "|"]
    for name in names:
        cells = []
        for methods in regimes.values():
            own = [(results, "own") for other, results in methods.items() if other.startswith("fixed")]
            more = [(results, at) for results, _ in own for at in ("0.3", "0.7") if at in results[0]["evaluations"]]
            more += [(results, "own") for other, results in methods.items() if other.startswith("longer, fixed")]
            text = []
            if name in methods:
                text.append("{:+.1f} [{:+.1f}, {:+.1f}]".format(*frontier.height(methods[name], own)))
            if name in methods and more:
                text.append("({:+.1f} [{:+.1f}, {:+.1f}])".format(*frontier.height(methods[name], own + more)))
            cells.append(" ".join(text))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rivals_table(found: dict[str, dict[str, list[dict]]]) -> str:
    """Markdown: each head less the best fixed temperature and the best other rival, for either metric its own, in percent.

    Fixed temperatures count with their tokens decoded at 0.3, at 0.7 and greedily too.  The best is chosen on the same problems, which
    errs against the head.  (Rules that cut tokens away, and so no temperature alone, are in `cuts_table`.)  Those of frozen-long are held against the rivals of frozen, most of which learn nothing.
    """
    columns = [f"{metric}@8 less {of}" for metric in ("Avg", "Pass") for of in ("fixed", "others")]
    lines = ["| regime | method | " + " | ".join(columns) + " |", "|---" * 6 + "|"]
    for regime, methods in found.items():
        against = found.get("frozen", methods) if regime == "frozen-long" else methods
        for head in [name for name in methods if name.startswith("head")]:
            cells = [regime, head]
            for metric, rivals in itertools.product(("Avg", "Pass"), frontier.rivals(against)):
                if best := frontier.best(against, rivals, metric):
                    name, at = best
                    less = frontier.difference(methods[head], against[name], metric, at)
                    how = name.removeprefix("fixed ") + {"own": "", "greedy": ", decoded greedily"}.get(
                        at, f", decoded at {at}"
                    )
                    cells.append("{:+.1f} [{:+.1f}, {:+.1f}]".format(*less) + f" ({how})")
                else:
                    cells.append("")
            if any(cells[2:]):
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def less_table(heads: dict[str, list[dict]], rules: dict[str, list[dict]]) -> str:
    """Markdown: each head less each rule, problem by problem, in percent."""
    lines = ["| | less | Avg@8 | Pass@8 |", "|---" * 4 + "|"]
    for head, rule in itertools.product(heads, rules):
        less = [frontier.difference(heads[head], rules[rule], metric) for metric in ("Avg", "Pass")]
        lines.append("| " + " | ".join([head, rule, *("{:+.1f} [{:+.1f}, {:+.1f}]".format(*of) for of in less)]) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def cuts_table(found: dict[str, dict[str, list[dict]]], regimes: Sequence[str] = trials.ALL) -> str:
    """Each head less the rules that cut unlikely tokens away: of these regimes less those of frozen tokens, and of each regime
    where they learn less those that have learned there; and each head with a cut less itself without."""

    def of(regime: str, begins: str | tuple[str, ...], told: str = "") -> dict[str, list[dict]]:
        methods = found.get(regime, {}).items()
        return {name + told: results for name, results in methods if name.startswith(begins)}

    rows: list[str] = []
    for regime, methods in found.items():
        heads = of(regime, "head", f" ({regime})")
        if regime in regimes:
            rows += less_table(heads, of("frozen", frontier.CUTS)).splitlines()
        if regime in trials.TOKEN_LR:
            rows += less_table(heads, of(regime, frontier.CUTS, ", tokens trained too")).splitlines()
        for name, results in methods.items():
            alone = name.removesuffix(f", {frontier.CUTS[0]}")
            if alone != name and alone in methods:
                without = {f"the same without {frontier.CUTS[0]}": methods[alone]}
                rows += less_table({f"{name} ({regime})": results}, without).splitlines()
    head = rows[:2]
    return "\n".join(head + [row for row in rows if row not in head])


def efficiency(found: dict[str, dict[str, list[dict]]], out: Path) -> None:
    """Training reward and share of groups with signal, against completions sampled; mean over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    regimes = {regime: {m: r for m, r in methods.items() if r[0]["metrics"]} for regime, methods in found.items()}
    figure, axes = plt.subplots(
        2, len(regimes), figsize=(7.6 * len(regimes), 7.5), constrained_layout=True, squeeze=False
    )
    for column, (regime, methods) in enumerate(regimes.items()):
        for row, metric in enumerate(CURVES):
            axis = axes[row][column]
            for name, results in methods.items():
                if "tokens first" in name or name in frontier.HIDDEN:
                    continue
                shortest = min(len(r["metrics"]) for r in results)
                curves = [plot.smooth([line[metric] for line in r["metrics"][:shortest]])[0] for r in results]
                style = dict(color="0.7", linewidth=0.8) if name.startswith("fixed") else {}
                per_step = results[0]["trial"]["flags"]["prompts_per_step"] * 16
                axis.plot(per_step * np.arange(1, shortest + 1), np.mean(curves, axis=0), label=name, **style)
            axis.set(title=f"{regime}: {metric.replace('_', ' ')}", xlabel="completions sampled", ylim=(0, None))
            axis.grid(alpha=0.3)
        if axes[0][column].lines:
            axes[0][column].legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables and pictures of the trials of study.py.")
    parser.error = lambda message: parser.exit(2, f"findings.py: {message}; --help lists the flags\n")
    parser.add_argument(
        "study",
        nargs="+",
        help="the folder that study.py wrote, such as runs/study, or a file that --keep wrote; of several: when.png only",
    )
    parser.add_argument(
        "--out", default="", help="folder of the tables and pictures [the study's own, or runs/findings]"
    )
    parser.add_argument(
        "--keep", default="", help="also write the trials to this one file, such as study/kept/trials.jsonl.gz"
    )
    parser.add_argument(
        "--look",
        nargs=2,
        default=LEARNED,
        metavar=("REGIME", "METHOD"),
        help="whose temperatures: [frozen 'head, pass@8']",
    )
    parser.add_argument("--problems", type=int, default=400, help="test problems on which temperatures are looked at")
    arguments = parser.parse_args()
    if len(arguments.study) > 1 and (arguments.keep or arguments.look != LEARNED):
        parser.exit(2, "findings.py: --keep and --look are for one study\n")
    studies: dict[str, dict[str, dict[str, list[dict]]]] = {}
    try:
        for root in map(Path, arguments.study):
            name = root.name.removeprefix("trials-").partition(".")[0]
            if name in studies:
                raise ValueError("another of these has this name")
            studies[name] = found = read(root)
            if not found:
                raise ValueError("holds no result.json of study.py")
            if len(arguments.study) > 1 and not frontier.comparable(found):
                raise ValueError("holds no fixed temperatures on frozen tokens, to which others are compared")
        out = Path(arguments.out or (root if root.is_dir() and len(studies) == 1 else "runs/findings"))
        out.mkdir(parents=True, exist_ok=True)
        if arguments.keep:
            keep(found, Path(arguments.keep))
    except (OSError, ValueError) as error:
        parser.exit(2, f"findings.py: {root}: {error}\n")
    if len(studies) > 1:
        frontier.when(studies, out / "when.png")
        return print(f"wrote {out / 'when.png'}")
    regime, method = arguments.look
    folders = sorted((root / regime / method.replace(" ", "-").replace(",", "")).glob("seed-*"))
    files = (temperature_head.FILE, "result.json")
    folders = [folder for folder in folders if all((folder / name).is_file() for name in files)]
    if not folders and arguments.look != LEARNED:
        parser.exit(
            2, f"findings.py: {root}: holds no finished trial of {method!r} in {regime!r} with a head of its own\n"
        )
    text = "".join(f"## {name}\n\n{accuracy_table(methods)}\n\n" for name, methods in found.items())
    text += f"## Above the frontier of the fixed temperatures\n\n{map_table(found)}\n\n"
    text += f"## Heads against their best rivals\n\n{rivals_table(found)}\n\n"
    if table := cuts_table(found):
        text += f"## Heads against rules that cut\n\n{table}\n\n"
    frontier.picture(found, out / "study.frontier.png")
    efficiency(found, out / "efficiency.png")
    if folders:
        results = found[regime][method]
        problems = tasks.load(results[0]["trial"]["flags"]["task"], "test", arguments.problems)
        metrics = [json.loads((folder / "result.json").read_text())["metrics"] for folder in folders]
        looks = [introspect.look(folder, problems, seed) for seed, folder in enumerate(folders)]
        text += f"## Temperatures of {method} ({regime})\n\n{introspect.temperature_tables(looks, metrics, out / 'temperature.png')}\n"
    (out / "study.findings.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
