"""Tables of the study on real weights, from the lines that real.py keeps."""

import math

import numpy as np

import eval as evaluation
from display import intervals

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
    """Mean and bounds of first - second, (seeds, problems) each, as display/intervals.py has them.

    What has one seed adds no variance of seeds: right for a rule, which does not learn.  Of a head with one seed the interval is
    over the problems alone and says nothing of other seeds."""
    width = min(first.shape[1], second.shape[1])
    first, second = first[:, :width], second[:, :width]
    less = first.mean(0) - second.mean(0)
    square = intervals.student(width - 1, level) ** 2 * less.var(ddof=1) / width
    for seeds in (first, second):
        if len(seeds) > 1:
            square += intervals.student(len(seeds) - 1, level) ** 2 * seeds.mean(1).var(ddof=1) / len(seeds)
    return less.mean(), less.mean() - math.sqrt(square), less.mean() + math.sqrt(square)


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
        less = difference(own, per_problem(tested, rival, metric), 0.975)
        bounds = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * bound for bound in less))
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
        less = difference(own, per_problem(tested, rival, "Sum"), 0.975)
        bounds = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * bound for bound in less))
        lines.append(f"{head}, Avg@8 + Pass@8 less that of {rival}: {bounds}, {len(own)} seeds")
    return lines


def of_rows(rows: list[dict], name: str) -> str:
    """A line of the table: both metrics, temperature, entropy, and temperatures by class."""
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
    avg, some = (per_problem(rows, name, metric) for metric in METRICS)
    cells = [name, f"{avg.shape[0]} x {avg.shape[1]}", f"{100 * avg.mean():.1f}", f"{100 * some.mean():.1f}"]
    return "| " + " | ".join([*cells, f"{tau:.2f}", f"{entropy:.3f}", *shares]) + " |"


def table(tuned: list[dict], tested: list[dict]) -> str:
    """Markdown: every stage's policies, and the heads less each of their rivals."""
    heading = "| | seeds x problems | Avg@n | Pass@n | tau | H | operand | operator | result | format |"
    lines = []
    for title, rows in (
        ("rules, tuning problems", tuned),
        ("test problems", tested),
    ):
        if rows:
            lines += [f"{title}", "", heading, "|---" * (heading.count("|") - 1) + "|"]
            lines += [*(of_rows(rows, name) for name in names(rows)), ""]
    heads = [name for name in ("head, mean", "head, pass@8", "head, plain") if name in names(tested)]
    if heads:
        lines += ["| less | " + " | ".join(f"{head}: Avg@8 | {head}: Pass@8" for head in heads) + " |"]
        lines += ["|---" * (1 + 2 * len(heads)) + "|"]
        for rival in (name for name in names(tested) if name not in heads):
            cells = []
            for head in heads:
                for metric in METRICS:
                    less = difference(per_problem(tested, head, metric), per_problem(tested, rival, metric))
                    cells.append("{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * bound for bound in less)))
            lines.append(f"| {rival} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *primary(tested), *primary_of_sum(tested)])
