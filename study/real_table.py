"""Tables of the study on real weights, from the lines that real.py keeps."""

import gzip
import json
import math
from pathlib import Path

import numpy as np

import eval as evaluation
from display import intervals, labels
from display.curves import COLOURS

METRICS = ("Avg", "Pass")
NO_RIVALS = ("head", "told")  # how names of what is no rule begin


def per_problem(rows: list[dict], policy: str, metric: str) -> np.ndarray:
    """(seeds, problems) of Avg, Pass or their Sum, of the chunks that every seed of the policy has; (0, 0) where there is none."""
    of_seed: dict[int, dict[int, dict]] = {}
    for row in rows:
        if row["policy"] == policy:
            of_seed.setdefault(row["seed"], {})[row["chunk"]] = row
    if not of_seed:
        return np.zeros((0, 0))
    of_seed = {seed: of_seed[seed] for seed in sorted(of_seed)}
    chunks = sorted(set.intersection(*(set(of) for of in of_seed.values())))
    result = []
    for of in of_seed.values():
        counts = np.array([count for chunk in chunks for count in of[chunk]["successes"]], dtype=int)
        n = next(iter(of.values()))["samples"]
        avg = np.array([count / n for count in counts])
        some = np.array([evaluation.pass_at_k(n, int(count), n) for count in counts])
        result.append({"Avg": avg, "Pass": some, "Sum": avg + some}[metric])
    return np.array(result)


def names(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["policy"] for row in rows))


def best_of(tuned: list[dict], families: dict[str, list[str]]) -> list[str]:
    """Of each family the best setting by Avg@8 + Pass@8, and that by Avg@8 where it is another."""
    if not tuned:
        raise SystemExit("real.py: there are no tuned rules yet: run `tune` before `test`")
    avg, some = ({name: per_problem(tuned, name, metric).mean() for name in names(tuned)} for metric in METRICS)
    chosen = []
    for settings in families.values():
        chosen += [max(settings, key=lambda name: avg[name] + some[name]), max(settings, key=avg.__getitem__)]
    return list(dict.fromkeys(chosen))


def difference(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and bounds of first - second, (seeds, problems) each, on the same problems.

    Variances add up, each with the square of Student's quantile: of the problems, and of each side's seeds.  What has one seed adds
    none of seeds.  That is right for a rule, which does not learn.  Of a head with one seed the interval says nothing of others."""
    width = first.shape[1]
    less = first.mean(0) - second.mean(0)
    square = intervals.student(width - 1, level) ** 2 * less.var(ddof=1) / width
    for seeds in (first, second):
        if len(seeds) > 1:
            square += intervals.student(len(seeds) - 1, level) ** 2 * seeds.mean(1).var(ddof=1) / len(seeds)
    return less.mean(), less.mean() - math.sqrt(square), less.mean() + math.sqrt(square)


def less(rows: list[dict], head: str, rival: str, metric: str, level: float = 0.95) -> tuple[float, float, float]:
    """The head less a rival, on the problems that both have.  Its own control shares its seeds: there the pairs are compared."""
    chunks: dict[tuple, set[int]] = {}
    for row in rows:
        if row["policy"] in (head, rival):
            chunks.setdefault((row["policy"], row["seed"]), set()).add(row["chunk"])
    common = set.intersection(*chunks.values())
    first, second = (per_problem([r for r in rows if r["chunk"] in common], name, metric) for name in (head, rival))
    if rival.startswith(f"{head}, ") and len(first) == len(second):
        return difference(first - second, np.zeros_like(first[:1]), level)
    return difference(first, second, level)


def primary(tested: list[dict]) -> list[str]:
    """Both primary endpoints of REAL.md, each at 97.5%."""
    lines = []
    rules = [name for name in names(tested) if not name.startswith(NO_RIVALS)]
    for head, metric in (("head, pass@8", "Pass"), ("head, mean", "Avg")):
        own = per_problem(tested, head, metric)
        if not own.size:
            continue
        floor = per_problem(tested, head, "Avg").mean() if metric == "Pass" else -1.0
        able = [name for name in rules if per_problem(tested, name, "Avg").mean() >= floor] or rules
        rival = max(able, key=lambda name: per_problem(tested, name, metric).mean())
        bounds = shown(less(tested, head, rival, metric, 0.975), "+")
        fewer = " (no rule has its Avg@8: of all rules)" if metric == "Pass" and able is rules else ""
        lines.append(f"{head}, {metric}@8 less that of {rival}{fewer}: {bounds}, {len(own)} seeds")
    return lines


def primary_of_sum(tested: list[dict], head: str = "head, plain") -> list[str]:
    """Both primary endpoints of the second round, each at 97.5%."""
    own = per_problem(tested, head, "Sum")
    if not own.size:
        return []
    rules = [name for name in names(tested) if not name.startswith(NO_RIVALS)]
    best = max(rules, key=lambda name: per_problem(tested, name, "Sum").mean())
    lines = []
    for rival in (best, f"{head}, shuffled"):
        bounds = shown(less(tested, head, rival, "Sum", 0.975), "+")
        lines.append(f"{head}, Avg@8 + Pass@8 less that of {rival}: {bounds}, {len(own)} seeds")
    for told in (name for name in names(tested) if name.startswith("told")):
        lines.append(f"{told}, the same less that of {best}, at 95%: {shown(less(tested, told, best, 'Sum'), '+')}")
    return lines


def short(name: str) -> str:
    """A policy's name for people.

    >>> short("ead:tokens_per_unit=1,growth=0,warm_tokens=0,d_0=25,tau_max=0.7"), short("0.4"), short("1.0+top_p=0.7")
    ('EAD, d_0=25, tau_max=0.7', 'fixed 0.4', 'top-p 0.7 at 1.0')
    """
    kind, _, cut = name.partition("+")
    if cut:
        return f"{cut.replace('_', '-').replace('=', ' ')} at {kind}"
    kind, _, settings = name.partition(":")
    if settings:
        told = [part for part in settings.split(",") if not part.startswith(("tokens_per_unit", "growth", "warm"))]
        return ", ".join([kind.upper() if len(kind) == 3 else kind, *told])
    return f"fixed {name}" if name[0].isdigit() else name


def shown(of: tuple[float, float, float], sign: str = "") -> str:
    return "{:{s}.1f} [{:{s}.1f}, {:{s}.1f}]".format(*(100 * bound for bound in of), s=sign)


def of_rows(rows: list[dict], name: str) -> str:
    """A line of the table: both metrics with their intervals, temperature, entropy, and temperatures by class."""
    own = [row for row in rows if row["policy"] == name]
    tokens = sum(row["tokens"] for row in own)
    tau, entropy = (sum(row[field] * row["tokens"] for row in own) / tokens for field in ("tau", "entropy"))
    classes: dict[str, list[float]] = {}
    for row in own:
        for kind, (total, count) in row["classes"].items():
            found = classes.setdefault(kind, [0.0, 0])
            found[0], found[1] = found[0] + total, found[1] + count
    shares = [
        f"{classes[kind][0] / classes[kind][1]:.2f}" if kind in classes else ""
        for kind in ("operand", "operator", "result", "format")
    ]
    metrics = [per_problem(rows, name, metric) for metric in METRICS]
    cells = [short(name), f"{metrics[0].shape[0]} x {metrics[0].shape[1]}"]
    cells += [shown(difference(values, np.zeros_like(values[:1]))) for values in metrics]
    return "| " + " | ".join([*cells, f"{tau:.2f}", f"{entropy:.2f}", *shares]) + " |"


def policies(rows: list[dict]) -> str:
    """Markdown: a line a policy, heads and their controls first."""
    heading = "| | seeds x problems | Avg@8 | Pass@8 | tau | entropy | operand | operator | result | format |"
    order = sorted(names(rows), key=lambda name: not name.startswith("head"))
    return "\n".join([heading, "|---" * (heading.count("|") - 1) + "|", *(of_rows(rows, name) for name in order)])


def against(
    rows: list[dict], heads: tuple[str, ...] = ("head, mean", "head, pass@8", "head, plain", "head, min-p")
) -> str:
    """Markdown: each head less each other policy, problem by problem; empty without a head."""
    heads = tuple(name for name in heads if name in names(rows))
    if not heads:
        return ""
    lines = ["| less | " + " | ".join(f"{head}: Avg@8 | {head}: Pass@8" for head in heads) + " |"]
    lines += ["|---" * (1 + 2 * len(heads)) + "|"]
    for rival in (name for name in names(rows) if name not in heads):
        cells = [shown(less(rows, head, rival, metric), "+") for head in heads for metric in METRICS]
        lines.append(f"| {short(rival)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def of_each_seed(rows: list[dict]) -> str:
    """A line a head: Avg@8/Pass@8 of its seeds, and the mean temperature of operators."""
    lines = []
    for name in (name for name in names(rows) if name.startswith("head") and not name.endswith("its mean")):
        avg, some = (100 * per_problem(rows, name, metric).mean(1) for metric in METRICS)
        told = []
        for seed, figures in enumerate(zip(avg, some)):
            pairs = [r["classes"].get("operator", (0, 0)) for r in rows if (r["policy"], r["seed"]) == (name, seed)]
            total, count = (sum(column) for column in zip(*pairs))
            told.append("{:.1f}/{:.1f}".format(*figures) + (f" ({total / count:.2f})" if count else ""))
        lines.append(f"{name}, Avg@8/Pass@8 of each seed (tau of operators): {', '.join(told)}")
    return "\n".join(lines)


def stage(rows: list[dict]) -> str:
    """Everything of one file of results."""
    parts = [policies(rows), of_each_seed(rows), against(rows), "\n".join([*primary(rows), *primary_of_sum(rows)])]
    return "\n\n".join(part for part in parts if part)


def both_trained(rows: list[dict]) -> str:
    """Markdown: trained how (study/joint.py), against evaluated how; Avg@8 / Pass@8 / majority vote of 8, in percent."""
    if not rows:
        return "nothing is done yet"
    apart = [row["policy"].partition(" | ")[::2] for row in rows]
    trained, evaluated = (list(dict.fromkeys(column)) for column in zip(*apart))
    lines = ["| trained | seeds | " + " | ".join(map(short, evaluated)) + " |", "|---" * (len(evaluated) + 2) + "|"]
    for name in trained:
        cells, seeds = [], 0
        for policy in evaluated:
            of = f"{name} | {policy}"
            own = [row for row in rows if row["policy"] == of]
            if not own:
                cells.append("")
                continue
            figures = [100 * per_problem(own, of, metric).mean() for metric in METRICS]
            seeds = len({row["seed"] for row in own})
            votes = [vote for row in own for vote in row.get("majority", ())]
            figures += [100 * np.mean(votes)] if votes else []
            cells.append(" / ".join(f"{x:.1f}" for x in (figures[:1] if policy == "greedy" else figures)))
        lines.append(f"| {name} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def frontier(rows: list[dict], out: Path) -> None:
    """Avg@8 against Pass@8: fixed temperatures as a curve, rules in grey, heads in blue with their seeds, their controls hollow."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5.6), constrained_layout=True)
    mean = {name: [100 * per_problem(rows, name, metric).mean() for metric in METRICS] for name in names(rows)}
    curve = [mean[name] for name in mean if name[0].isdigit() and "+" not in name]
    axis.plot(*zip(*curve), "-", color=COLOURS["rival"], zorder=1)
    texts = []
    for name, (x, y) in mean.items():
        if name == "greedy":
            continue
        colour = COLOURS["head" if name.startswith("head") else "rival"]
        if name.startswith("head") and not name.endswith(("shuffled", "its mean")):  # each seed, small
            seeds = [100 * per_problem(rows, name, metric).mean(1) for metric in METRICS]
            axis.plot(*seeds, ".", color=colour, markersize=5, alpha=0.5, zorder=2)
        control = name.endswith(("shuffled", "its mean")) or name.startswith("told")
        axis.plot(x, y, "o", color=colour, markersize=6, fillstyle="none" if control else "full", zorder=3)
        texts.append((short(name).removeprefix("fixed "), x, y, colour if name.startswith("head") else "0.35"))
    axis.set(xlabel="Avg@8 (%)", ylabel="Pass@8 (%)")
    axis.margins(0.12)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.autoscale_view()
    labels.beside_points(axis, texts, [])
    figure.savefig(out, dpi=120)
    plt.close(figure)


def read(path: Path) -> list[dict]:
    """The lines of a file of results, packed or not; none where there is no file."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]  # not half a line


def kept(folder: Path) -> dict[str, str]:
    """Every table of the kept results real-MODEL-STAGE.jsonl.gz, by title."""
    found = {}
    for file in sorted(folder.glob("real-*.jsonl.gz")):
        stem = file.name.partition(".")[0]
        found[stem] = both_trained(read(file)) if stem.endswith("joint") else stage(read(file))
    return found
