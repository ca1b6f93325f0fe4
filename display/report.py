"""The report of a run: one HTML page that needs no server and no network, with the pictures beside it.

It opens with what happened, in one sentence, and with what its words mean. report.css and report.js stand inside the page.
"""

import json
import sys
from pathlib import Path

from display import curves, heat_map, terminal
from display.svg import escaped, svg

STYLE, SCRIPT = (Path(__file__).with_name(f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))


def tint(temperature: float, high: float) -> str:
    red, green, blue, strength = heat_map.shade(temperature, high)
    return f"background:rgb({255 * red:.0f} {255 * green:.0f} {255 * blue:.0f}/{strength})"


# ---- what happened --------------------------------------------------------------------------------------------------


def metrics_of(summary: dict) -> list[str]:
    """Avg@k and the largest Pass@k of an evaluation; Avg@1 of a greedy one."""
    names = [name for name in summary if f"{name} 95%" in summary]
    return list(dict.fromkeys(names[:1] + names[-1:]))


def happened(metrics: list[dict], before: dict, after: dict) -> str:
    """One sentence about the whole run.

    >>> happened([{"step": 0, "reward": 0.1, "tau/mean": 1.0}, {"step": 1, "reward": 0.3, "tau/mean": 0.5}], {}, {})
    'In 2 steps the training reward went from 0.100 to 0.300, and the mean temperature from 1.00 to 0.50.'
    """
    first, last = (next(iter(summaries.values()), {}) for summaries in (before, after))
    n = curves.few(metrics)

    def moved(name: str, said: str, digits: int) -> list[str]:
        ends = [[row[name] for row in rows if name in row] for rows in (metrics[:n], metrics[-n:])]
        ends = [f"{sum(values) / len(values):.{digits}f}" for values in ends if values]
        return [f"{said} from {ends[0]} to {ends[1]}"] if len(ends) == 2 else []

    told = moved("reward", "the training reward went", 3)
    compared = [name for name in metrics_of(last) if name in first]
    if compared:
        problems = f"on {last['problems']:,} held-out problems" if "problems" in last else "on held-out problems"
        for name in compared:
            told.append(f"{name} from {100 * first[name]:.1f}% to {100 * last[name]:.1f}%")
        told[-len(compared)] = f"{problems} {told[-len(compared)].replace(' from', ' went from', 1)}"
    if "temperature" in first and "temperature" in last:
        told.append(f"the mean temperature from {first['temperature']:.2f} to {last['temperature']:.2f}")
    else:
        told += moved("tau/mean", "the mean temperature", 2)
    told[-1:] = [f"and {words}" for words in told[-1:]] if len(told) > 1 else told
    return f"In {metrics[-1]['step'] + 1} steps {', '.join(told)}." if told else ""


def definitions(evaluations: dict[str, dict], own: str) -> str:
    """What the words of the page mean."""
    named = {name for summary in evaluations.values() for name in metrics_of(summary)}
    k = max((int(name[5:]) for name in named if name.startswith("Pass@")), default=8)
    policies = {"1.0": "temperature 1 for every token", "greedy": "always the likeliest token"}
    policies[own] = "the temperature policy of this run"
    terms = {
        "tau": "the temperature at which a token is sampled. Below 1 likely tokens become likelier, above 1 unlikely ones do",
        f"Avg@{k}": f"the share of right answers among {k} samples of each problem",
        f"Pass@{k}": f"the share of problems with at least one right answer in {k} samples",
        "[low, high]": "a 95% confidence interval",
    }
    used = {label.rpartition(", ")[2] for label in evaluations}
    terms |= {name: said for name, said in policies.items() if name in used}
    return "".join(f"<div><dt>{escaped(term)}</dt> <dd>{escaped(said)}</dd></div>" for term, said in terms.items())


def table(evaluations: dict[str, dict]) -> str:
    """Every evaluation with its intervals, in percent. Intervals stand below, so that it fits a phone."""
    shown = list(dict.fromkeys(n for summary in evaluations.values() for n in metrics_of(summary) if n != "Avg@1"))
    shown = shown[:1] + shown[-1:] if len(shown) > 1 else shown or ["Avg@1"]
    rows = ["".join(f"<th>{escaped(cell)}</th>" for cell in ("", *shown, "tau", "tokens"))]
    for label, summary in evaluations.items():
        count = f"<small>{summary['problems']:,} problems</small>" if "problems" in summary else ""
        cells = [escaped(label) + count]
        for name in shown:
            name = name if name in summary or not name.startswith("Avg") else "Avg@1"  # greedy: one sample a problem
            low, high = summary.get(f"{name} 95%", (0, 0))
            interval = f"<small>[{100 * low:.1f}, {100 * high:.1f}]</small>"
            cells.append(f"{100 * summary[name]:.1f}%{interval}" if name in summary else "")
        cells += [
            f"{summary[name]:.{digits}f}" if name in summary else ""
            for name, digits in (("temperature", 2), ("tokens", 0))
        ]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


# ---- completions ----------------------------------------------------------------------------------------------------


def completion(row: dict, high: float) -> str:
    """A completion. Each token is tinted by its temperature and carries what `log.describe` knows about it."""
    columns = dict(changed="changed", gate="gates", a="a", b="b", entropy="entropies", probability="probabilities")
    spans = []
    for i, (piece, tau) in enumerate(zip(row["pieces"], row["taus"])):
        told = {"tau": tau} | {name: row[column][i] for name, column in columns.items() if column in row}
        if "alternatives" in row:
            told["alternatives"] = [[terminal.visible(text), p] for text, p in row["alternatives"][i]]
        told |= {"range": row["range"]} if "range" in row else {}
        data = escaped(json.dumps(told))
        spans.append(
            f'<span class="token" tabindex="0" style="{tint(tau, high)}" data-d="{data}">{escaped(piece)}</span>'
        )
    kind = "right" if row["reward"] > 0.5 else "wrong"
    when = row.get("when", f"step {row['step']}")
    head = f'{escaped(when)}, <b class="{kind}">{terminal.verdict(row["reward"])}</b>'
    if "answer" in row:
        head += f", answer {escaped(row['extracted'] or 'none')}, gold {escaped(row['answer'])}"
    asked = f'<div class="asked"><small>{head}</small> {escaped(row["problem"])}</div>'
    return f'<div class="card">{asked}<div class="text">{"".join(spans)}</div></div>'


def side_by_side(groups, high: float) -> str:
    return "".join(f'<div class="pair">{"".join(completion(row, high) for row in rows)}</div>' for rows in groups)


def of_training(samples: list[dict], most: int) -> list[list[dict]]:
    """Right and wrong of the same step: the newest steps, and the first of all."""
    of_step: dict[int, list[dict]] = {}
    for row in samples:
        if "when" not in row:
            of_step.setdefault(row["step"], []).append(row)
    steps = sorted(of_step, reverse=True)
    return [of_step[step] for step in steps[: most - 1] + steps[most - 1 :][-1:]]


# ---- the page -------------------------------------------------------------------------------------------------------


def page(
    run: Path, evaluations: dict[str, dict], figures: list[curves.Figure], samples: list[dict], most: int = 8
) -> str:
    """The whole report, as a string."""
    settings, high = curves.read_json(run / "run.json"), heat_map.hottest(samples)
    before, after = (curves.read_json(run / f"{when}.json") for when in ("before", "after"))
    wanted = ("model", "task", "policy", "token_objective", "temperature_objective", "schedule", "steps", "seed")
    told = ", ".join(f"{key.replace('_', ' ')} {settings[key]}" for key in wanted if key in settings)
    scale = "".join(f'<span style="{tint(high * i / 6, high)}">{high * i / 6:.2f}</span>' for i in range(7))
    legend = f'<p class="scale">tau: {scale} <small>blue: cold, red: hot; point at a token, or tap it</small></p>'
    both = heat_map.pairs(samples)
    looked_at = f"<p>{escaped(heat_map.outcomes(both).capitalize())}; those come first.</p>" if both else ""
    sections = [
        ("Before and after", table(evaluations) if evaluations else ""),
        ("Curves", f'<div class="grid">{"".join(map(svg, figures))}</div>'),
        ("The same problem, before and after", looked_at + legend + side_by_side(both[:most], high) if both else ""),
    ]
    steps = of_training(samples, most)
    sections.append(("Right and wrong, step by step", legend + side_by_side(steps, high) if steps else ""))
    body = "".join(f"<h2>{title}</h2>{content}" for title, content in sections if content)
    opening = f'<p class="happened">{escaped(happened(curves.read(run / "metrics.jsonl"), before, after))}</p>'
    name = escaped(run.name)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{name}</title><style>{STYLE}</style></head><body><h1>{name}</h1><small>{escaped(told)}</small>{opening}"
        f'<dl>{definitions(evaluations, next(iter(after or before), ""))}</dl>{body}<div id="tip"></div><script>{SCRIPT}</script></body></html>\n'
    )


def draw(run: Path, evaluations: dict[str, dict] | None = None) -> list[Path]:
    """report.html, run.png and heat_map.png, in the run's folder. Without matplotlib only the page."""
    figures = curves.figures(run, evaluations)
    samples = curves.read(run / "samples.jsonl") if (run / "samples.jsonl").is_file() else []
    compared = {
        f"{when}, {name}": summary
        for when in ("before", "after")
        for name, summary in curves.read_json(run / f"{when}.json").items()
    }
    file = run / "report.html"
    text = page(run, compared | (evaluations or {}), figures, samples)
    file.write_bytes(text.encode("utf-8", "replace"))  # half of a surrogate pair is no text
    try:
        return [file, curves.picture(run, figures), heat_map.draw(run, samples)]
    except ImportError as error:
        print(f"run.png and heat_map.png are not drawn: {error}", file=sys.stderr)
        return [file]
