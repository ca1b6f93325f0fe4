"""What the trials say, as Markdown tables.  `python -m study tables` prints every table of what study/kept holds:

    trials-*.jsonl.gz    trials, as `python -m study.findings --keep` writes them
    look-*.json          what learned temperatures read, as `--keep-look` writes it
    real-*.jsonl.gz      results on real weights, as study/real.py and study/joint.py write them; choices-*.json: as study/look.py does
    efficiency.jsonl     curves of study/efficiency.py
    default-*.json       a default run before and after: before.json and after.json of each seed, under one name each

RESULTS.md, REAL.md and TOYS.md have the tables that matter, and a test compares them with these.

The primary endpoint of a study, one for each regime: Pass@8 of the head with the paper's objective, less that of the rival with
the highest Pass@8.  Rivals are all that choose a temperature alone: fixed ones, their tokens decoded in other ways too, rules, and
learned single ones.  The rival is chosen on the same problems, which errs against the head.
"""

import json
from pathlib import Path

import numpy as np

import eval as evaluation
from study import compare, efficiency, introspect, look, rates, real_table
from study.compare import Methods, difference, interval, per_problem
from study.results import read

KEPT = Path(__file__).parent / "kept"
PAPER = ("head, mean", "head, mean, every step", "head, mean, every step, by tau")  # the first that a regime has
# The head's heat in other places, its heat everywhere, and a learned rival with two temperatures a token.
CONTROLS = ("shuffled head", "mean of the head", "two-piece, mean")
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


def samples_of(methods: Methods) -> int:
    return max(results[0]["evaluations"]["own"]["samples"] for results in methods.values())


def of_eight(found: dict[str, Methods]) -> bool:
    """Does every method have eight samples of each problem?  The tables of differences say Avg@8 and Pass@8."""
    return all(samples_of(methods) == 8 for methods in found.values())


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
    k = samples_of(methods)
    return table(["", "seeds", f"Avg@{k}", f"Pass@{k}", "of each seed", "tau", *decoded, "signal"], rows)


def curve_table(methods: Methods) -> str:
    """Pass@k of each method's own policy for k = 1, 2, 4, ... up to the number of samples: means over the seeds."""
    most = samples_of(methods)
    sizes = [2**i for i in range(most.bit_length()) if 2**i <= most]
    rows = []
    for name, results in methods.items():
        found = [result["evaluations"]["own"] for result in results]
        n = found[0]["samples"]
        of_count = [[evaluation.pass_at_k(n, c, k) for c in range(n + 1)] for k in sizes if k <= n]
        means = [100 * np.mean([np.take(of_k, of["successes"]).mean() for of in found]) for of_k in of_count]
        rows += [[name, *(f"{mean:.1f}" for mean in means)]] if n > 1 else []
    return table(["", *(f"Pass@{k}" for k in sizes)], rows)


def verdict(of: tuple[float, float, float]) -> str:
    """Ahead or behind where the interval excludes 0; level is all else."""
    _, low, high = of
    return "one seed" if low != low else "ahead" if low > 0 else "behind" if high < 0 else "level"


def primary_table(studies: dict[str, dict[str, Methods]], cuts: bool = False) -> str:
    """The primary endpoint of each study and regime, and beside it the same for Avg@8.

    With `cuts` against the rules that cut unlikely tokens away, also for the head that cuts itself."""
    rows = []
    for study, found in studies.items():
        for regime, methods in found.items():
            head = next((name for name in PAPER if name in methods), "none")
            rivals = [(n, "own") for n in methods if compare.cuts(n)] if cuts else sum(compare.rivals(methods), [])
            for name in [n for n in (head, f"{PAPER[0]}, min-p", f"{PAPER[1]}, min-p") if n in methods][: 1 + cuts]:
                cells = [study, regime, f"{name} ({len(methods[name])})"]
                for metric in ("Pass", "Avg") if rivals else ():
                    best = compare.best(methods, rivals, metric)
                    less = difference(methods[name], methods[best[0]], metric, best[1])
                    cells += [f"{shown(less, '+')} ({way(best)})", verdict(less)]
                rows += [cells] if rivals and (cuts or name == head) else []
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


def controls_table(found: dict[str, Methods]) -> str:
    """The head with the paper's objective less each of its controls, and clip-higher less itself without, a regime at a time."""
    rows = []
    for regime, methods in found.items():
        heads = {f"{name} ({regime})": methods[name] for name in PAPER[:2] if name in methods}
        rows += less_rows(heads, {name: methods[name] for name in CONTROLS if name in methods})
        for name, results in methods.items():
            alone = name.removesuffix(", clip-higher")
            if alone != name and alone in methods:
                rows += less_rows({f"{name} ({regime})": results}, {"the same without": methods[alone]})
    return table(["", "less", "Avg@8", "Pass@8"], rows)


def of_study(found: dict[str, Methods]) -> str:
    """Every table of one study."""
    parts = {name: accuracy_table(methods) for name, methods in found.items()}
    parts |= {f"Pass@k: {name}": curve_table(methods) for name, methods in found.items()}
    if of_eight(found):
        parts |= {"Heads less their best rivals": rivals_table(found), "Heads less rules that cut": cuts_table(found)}
        parts["Methods less their controls"] = controls_table(found)
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts.items() if text)


def studies() -> dict[str, dict[str, Methods]]:
    """The kept trials of each study of the toys, by its name; real-*.jsonl.gz are those of REAL.md."""
    files = [file for file in sorted(KEPT.glob("*.jsonl.gz")) if not file.name.startswith("real-")]
    return {file.name.removeprefix("trials-").partition(".")[0]: read(file) for file in files}


def every_table() -> str:
    kept = studies()
    whole_map = rates.gathered(kept)
    eight = {name: found for name, found in (kept | {"map": kept["map"] | whole_map}).items() if of_eight(found)}
    parts = {"Primary endpoints": primary_table(eight)}
    parts["The same against rules that cut"] = primary_table(eight, cuts=True)
    parts["The map"] = f"{rates.table(whole_map)}\n\n{rates.choice(kept['map'])}"
    parts |= {f"Trials: {name}": of_study(found) for name, found in kept.items()}
    parts |= {file.stem: introspect.tables(introspect.load(file)) for file in sorted(KEPT.glob("look-*.json"))}
    parts |= real_table.kept(KEPT)
    choices = {file.stem: json.loads(file.read_text()) for file in sorted(KEPT.glob("choices-*.json"))}
    parts |= {name: look.tables(of["model"], of["head"]) for name, of in choices.items()}
    parts["Choices beside mistakes"] = look.beside(
        {name.removeprefix("choices-"): of["model"] for name, of in choices.items()}
    )
    for file in sorted(KEPT.glob("efficiency.jsonl")):
        parts[file.stem] = efficiency.table(real_table.read(file))
    for file in sorted(KEPT.glob("default-*.json")):
        parts[file.stem] = evaluation.table(json.loads(file.read_text()), ["Avg@8", "Pass@8"])
    return "# Every table of the kept trials\n" + "".join(f"\n## {name}\n\n{text}\n" for name, text in parts.items())
