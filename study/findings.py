"""What the trials say, as tables: accuracy, the primary comparison, cuts, the map, and what the learned temperature reads.

    python -m study tables                       every table of the kept trials, to standard output
    python -m study.findings runs/study          findings.md, frontier.png and temperature.png, in that folder
    python -m study.findings runs/study --keep FILE.gz      and all trials in one small file, which it reads as well
    python -m study.findings study/kept/trials-*.gz         when.png, of several studies: when does a learned temperature pay?

The primary endpoint of a study, one for each regime: Pass@8 of the head with the paper's objective, less that of the rival with
the highest Pass@8.  Rivals are all that choose a temperature alone: fixed ones, their tokens decoded in other ways too, rules, and
learned single ones.  The rival is chosen on the same problems, which errs against the head.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import tasks
import temperature_head
from study import compare, frontier, introspect
from study.compare import Methods, difference, interval, per_problem
from study.results import keep, read

KEPT = Path(__file__).parent / "kept"
LEARNED = "frozen", "head, mean"  # whose temperatures are looked at
PAPER = ("head, mean", "head, mean, every step", "head, mean, every step, by tau")  # the first that a regime has
DECODED = ("0.3", "0.7", "1.0", "greedy")  # how tokens that learned are decoded too


def shown(of: tuple[float, float, float], sign: str = "") -> str:
    """Mean and interval; the mean alone where there is one seed.

    >>> shown((1.0, 0.5, 1.5), "+"), shown((2.0, float("nan"), float("nan")))
    ('+1.0 [+0.5, +1.5]', '2.0')
    """
    mean, low, high = of
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]" if low == low else f"{mean:{sign}.1f}"


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Markdown; empty where there are no rows."""
    lines = [
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
        *("| " + " | ".join(r) + " |" for r in rows),
    ]
    return "\n".join(lines) if rows else ""


def mean_of(results: list[dict], at: str, metric: str) -> float:
    return float(100 * per_problem(results, at, metric).mean())


def is_greedy(results: list[dict], at: str = "own") -> bool:
    return results[0]["evaluations"][at]["samples"] == 1


def accuracy_table(methods: Methods) -> str:
    """A row a method: its own policy with intervals and every seed; its tokens, where they learned, decoded in common ways.

    The highest mean of a column is bold, whoever has it."""
    ways = [way for way in DECODED if any(way in results[0]["evaluations"] for results in methods.values())]
    best = {metric: compare.best(methods, [(name, "own") for name in methods], metric) for metric in ("Avg", "Pass")}
    rows = []
    for name, results in methods.items():
        cells = [name, str(len(results))]
        for metric in ("Avg", "Pass"):
            text = shown(interval(results, metric))
            text = "" if metric == "Pass" and is_greedy(results) else text
            cells.append(f"**{text}**" if best[metric] == (name, "own") else text)
        seeds = [[mean_of([r], "own", metric) for metric in ("Avg", "Pass")] for r in results]
        cells.append(", ".join(f"{avg:.1f}" if is_greedy(results) else f"{avg:.1f}/{some:.1f}" for avg, some in seeds))
        cells.append(f"{np.mean([r['evaluations']['own']['temperature'] for r in results]):.2f}")
        for way in ways:
            there = [r for r in results if way in r["evaluations"]]
            metrics = ("Avg",) if way == "greedy" else ("Avg", "Pass")
            cells.append("/".join(f"{mean_of(there, way, m):.1f}" for m in metrics if there))
        signals = [np.mean([row["groups_with_signal"] for row in r["metrics"][-20:]]) for r in results if r["metrics"]]
        cells.append(f"{100 * np.mean(signals):.0f}%" if signals else "")
        rows.append(cells)
    decoded = [f"tokens {'at ' * (way != 'greedy')}{way}" for way in ways]
    return table(["", "seeds", "Avg@8", "Pass@8", "of each seed", "tau", *decoded, "signal"], rows)


def verdict(of: tuple[float, float, float]) -> str:
    """Ahead or behind where the interval excludes 0; level is all else."""
    _, low, high = of
    return "one seed" if low != low else "ahead" if low > 0 else "behind" if high < 0 else "level"


def paper_head(methods: Methods) -> str | None:
    return next((name for name in PAPER if name in methods), None)


def primary_table(studies: dict[str, dict[str, Methods]]) -> str:
    """The primary endpoint of each study and regime, and beside it the same for Avg@8."""
    rows = []
    for study, found in studies.items():
        for regime, methods in found.items():
            head, rivals = paper_head(methods), sum(compare.rivals(methods), [])
            if not head or not compare.best(methods, rivals, "Pass"):
                continue
            cells = [study, regime, f"{head} ({len(methods[head])})"]
            for metric in ("Pass", "Avg"):
                name, at = compare.best(methods, rivals, metric)
                less = difference(methods[head], methods[name], metric, at)
                cells += [f"{shown(less, '+')} ({way((name, at))})", verdict(less)]
            rows.append(cells)
    return table(
        ["study", "regime", "head (seeds)", "Pass@8 less the best rival's", "", "Avg@8 less the best rival's", ""], rows
    )


def way(of: compare.Way) -> str:
    """A method, and how its tokens are decoded where that is not its own way."""
    name, at = of
    return name + {"own": "", "greedy": ", decoded greedily"}.get(at, f", decoded at {at}")


def rivals_table(found: dict[str, Methods]) -> str:
    """Each head less the best fixed temperature and the best other rival, for either metric its own, in percent."""
    rows = []
    for regime, methods in found.items():
        against = (
            found.get("frozen", methods) if regime == "frozen-long" else methods
        )  # most rivals learn nothing there
        for head in [name for name in methods if name.startswith("head")]:
            cells = [regime, head]
            for metric in ("Avg", "Pass"):
                for rivals in compare.rivals(against):
                    best = compare.best(against, rivals, metric)
                    less = difference(methods[head], against[best[0]], metric, best[1]) if best else None
                    cells.append(f"{shown(less, '+')} ({way(best)})" if best and less else "")
            rows += [cells] if any(cells[2:]) else []
    return table(
        ["regime", "method", *(f"{m}@8 less {of}" for m in ("Avg", "Pass") for of in ("fixed", "others"))], rows
    )


def less_rows(heads: Methods, rules: Methods) -> list[list[str]]:
    """Each head less each rule, problem by problem."""
    return [
        [head, rule, *(shown(difference(heads[head], rules[rule], metric), "+") for metric in ("Avg", "Pass"))]
        for head in heads
        for rule in rules
    ]


def less_table(heads: Methods, rules: Methods) -> str:
    return table(["", "less", "Avg@8", "Pass@8"], less_rows(heads, rules))


def cuts_table(found: dict[str, Methods]) -> str:
    """Each head less the rules of its regime that cut unlikely tokens away, and each head with a cut less itself without."""
    rows = []
    for regime, methods in found.items():
        heads = {f"{name} ({regime})": results for name, results in methods.items() if name.startswith("head")}
        rows += less_rows(heads, {name: results for name, results in methods.items() if compare.cuts(name)})
        for name, results in methods.items():
            alone = name.removesuffix(", min-p")
            if name.startswith("head") and alone != name and alone in methods:
                rows += less_rows({f"{name} ({regime})": results}, {"the same without min-p": methods[alone]})
    return table(["", "less", "Avg@8", "Pass@8"], rows)


def map_table(found: dict[str, Methods]) -> str:
    """A row a rate and method: its own policy, greedily, and on the tuning problems by which the default run is chosen."""
    rows = []
    for regime, methods in found.items():
        for name, results in methods.items():
            cells = [regime.removesuffix("-long"), name, str(len(results))]
            cells += [shown(interval(results, metric)) for metric in ("Avg", "Pass")]
            cells.append(shown(interval(results, "Avg", "greedy")) if "greedy" in results[0]["evaluations"] else "")
            tuned = [r["tuning"] for r in results if "tuning" in r]
            score = [100 * (of["own"]["Avg@8"] + of["own"]["Pass@8"]) for of in tuned]
            rises = [100 * (of["greedy"]["Avg@1"] - of["greedy, before"]["Avg@1"]) for of in tuned]
            cells.append(f"{np.mean(score):.1f}" if tuned else "")
            cells.append(", ".join(f"{rise:+.1f}" for rise in rises))
            rows.append(cells)
    names = [
        "token rate",
        "method",
        "seeds",
        "Avg@8",
        "Pass@8",
        "greedy",
        "tuning: Avg@8 + Pass@8",
        "tuning: greedy rises by",
    ]
    return table(names, rows)


def tables(found: dict[str, Methods]) -> str:
    """All of one study."""
    parts = {f"{name}": accuracy_table(methods) for name, methods in found.items()}
    parts |= {"Heads less their best rivals": rivals_table(found), "Heads less rules that cut": cuts_table(found)}
    if any("tuning" in r for methods in found.values() for results in methods.values() for r in results):
        parts["The map"] = map_table(found)
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts.items() if text)


def kept_studies() -> dict[str, dict[str, Methods]]:
    return {file.name.removeprefix("trials-").partition(".")[0]: read(file) for file in sorted(KEPT.glob("*.jsonl.gz"))}


def every_table() -> str:
    """All tables of the kept trials, and of the temperatures that were looked at."""
    studies = kept_studies()
    text = f"# Every table of the kept trials\n\n## Primary endpoints\n\n{primary_table(studies)}\n"
    text += "".join(f"\n## {name}\n\n{tables(found)}\n" for name, found in studies.items())
    looks = sorted(KEPT.glob("look-*.json"))
    return text + "".join(f"\n## {file.stem}\n\n{introspect.tables(introspect.load(file))}\n" for file in looks)


def words(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m study.findings", description="Tables and pictures of the trials.")
    parser.error = refuse
    add = parser.add_argument
    add(
        "study",
        nargs="+",
        help="a folder of trials, such as runs/study, or a file that --keep wrote; of several: when.png only",
    )
    add("--out", default="", help="folder of the tables and pictures [the study's own, or runs/findings]")
    add("--keep", default="", help="also write the trials to this one file, such as study/kept/trials.jsonl.gz")
    add(
        "--look",
        nargs=2,
        default=LEARNED,
        metavar=("REGIME", "METHOD"),
        help="whose temperatures [frozen 'head, mean']",
    )
    add("--keep-look", default="", help="also write the figures of these temperatures to this file")
    add("--problems", type=int, default=400, help="number of test problems on which temperatures are looked at")
    return parser.parse_args(given)


def refuse(message: str) -> None:
    print(f"python -m study.findings: {message}", file=sys.stderr)
    raise SystemExit(2)


def look(found: dict[str, Methods], root: Path, asked: argparse.Namespace, out: Path) -> str:
    """The tables of the temperatures, and their picture; empty where no trained head lies in the folder."""
    regime, method = asked.look
    folders = sorted((root / regime / method.replace(" ", "-").replace(",", "")).glob("seed-*"))
    folders = [f for f in folders if all((f / name).is_file() for name in (temperature_head.FILE, "result.json"))]
    if not folders:
        if tuple(asked.look) != LEARNED:
            raise ValueError(f"holds no finished trial of {method!r} in {regime!r} with a head of its own")
        return ""
    results = [
        r
        for r in found[regime][method]
        if (root / regime) and any(f.name == f"seed-{r['trial']['seed']}" for f in folders)
    ]
    problems = tasks.load(results[0]["trial"]["flags"]["task"], "test", asked.problems)
    looks = [introspect.look(folder, problems, seed) for seed, folder in enumerate(folders)]
    introspect.picture(looks, [result["metrics"] for result in results], out / "temperature.png")
    figures = introspect.figures(looks)
    if asked.keep_look:
        introspect.save(figures, Path(asked.keep_look))
    return f"### Temperatures of {method} ({regime})\n\n{introspect.tables(figures)}\n"


def main() -> None:
    asked = words(sys.argv[1:])
    if len(asked.study) > 1 and (asked.keep or tuple(asked.look) != LEARNED):
        refuse("--keep and --look are for one study")
    studies: dict[str, dict[str, Methods]] = {}
    root = Path()
    try:
        for root in map(Path, asked.study):
            name = root.name.removeprefix("trials-").partition(".")[0]
            if name in studies:
                raise ValueError("another of these has this name")
            studies[name] = found = read(root)
            if not found:
                raise ValueError("holds no result.json of a trial")
            if len(asked.study) > 1 and not frontier.comparable(found):
                raise ValueError("holds no fixed temperatures on frozen tokens, to which others are compared")
        out = Path(asked.out or (root if root.is_dir() and len(studies) == 1 else "runs/findings"))
        out.mkdir(parents=True, exist_ok=True)
        if asked.keep:
            keep(found, Path(asked.keep))
        if len(studies) > 1:
            frontier.when(studies, out / "when.png")
            return print(f"wrote {out / 'when.png'}")
        text = f"{primary_table(studies)}\n\n{tables(found)}\n\n{look(found, root, asked, out)}"
    except (OSError, ValueError) as error:
        refuse(f"{root}: {error}")
    frontier.picture(found, out / "frontier.png")
    (out / "findings.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
