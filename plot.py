"""Pictures of a run: its curves, and its completions with every token coloured by its temperature.

python plot.py runs/countdown        writes run.png and heat_map.html there, prints the last completions coloured
"""

import argparse
import html
import json
import sys
from pathlib import Path

import sample


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


def smooth(values: list[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average without the bias of its start.

    >>> smooth([1.0, 1.0, 1.0])
    [1.0, 1.0, 1.0]
    """
    result, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        result.append(round(total / norm, 12))
    return result


def picture(run: Path) -> Path:
    """run.png: reward and held-out accuracy, temperature by kind of token, entropy and gate."""
    import matplotlib

    matplotlib.use("Agg")  # no screen needed
    import matplotlib.pyplot as plt

    metrics = read(run / "metrics.jsonl")
    if not metrics:
        raise ValueError(f"{run / 'metrics.jsonl'}: empty; the run has made no step")
    steps = [row["step"] + 1 for row in metrics]

    def curve(axis, name: str, label: str, **style):
        if all(name in row for row in metrics):
            axis.plot(steps, smooth([row[name] for row in metrics]), label=label, **style)

    figure, (accuracy, temperature, spread) = plt.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    curve(accuracy, "reward", "training reward", color="0.6")
    points: dict[str, list[tuple[int, float, float, float]]] = {}
    for when, step in (("before", 0), ("after", steps[-1])):
        if (run / f"{when}.json").is_file():
            summary = next(iter(json.loads((run / f"{when}.json").read_text(encoding="utf-8")).values()))
            for name, value in summary.items():
                if name.startswith(("Avg@", "Pass@")) and not name.endswith("95%"):
                    points.setdefault(name, []).append((step, value, *summary[f"{name} 95%"]))
    for name in (list(points)[:1] + list(points)[-1:]) if points else []:  # Avg@k and the largest Pass@k
        line = [(x, y) for x, y, _, _ in points[name]]
        line += [(row["step"] + 1, row[f"eval/{name}"]) for row in metrics if f"eval/{name}" in row]
        drawn = accuracy.plot(*zip(*sorted(line)), marker=".", label=f"held-out {name}")[0]
        for x, y, low, high in points[name]:
            accuracy.errorbar(x, y, [[max(y - low, 0)], [max(high - y, 0)]], color=drawn.get_color(), capsize=3)
    kinds = sorted({name for row in metrics for name in row if name.startswith("tau/")} - {"tau/mean", "tau/std"})
    for name in kinds:
        rows = [(row["step"] + 1, row[name]) for row in metrics if name in row]
        temperature.plot([x for x, _ in rows], smooth([y for _, y in rows]), label=name.removeprefix("tau/"))
    curve(temperature, "tau/mean", "all tokens", color="black", linewidth=2)
    curve(spread, "entropy", "token entropy at tau = 1 (nats)")
    curve(spread, "tau/std", "std of tau")
    curve(spread, "changed", "share of steps that change tau")
    for axis, title in ((accuracy, "right answers"), (temperature, "temperature"), (spread, "spread")):
        axis.set(title=title, xlabel="step", ylim=(0, None))
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(run / "run.png", dpi=120)
    plt.close(figure)
    return run / "run.png"


PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>%s</title>
<style>:root{color-scheme:light dark}body{font:15px/1.9 ui-monospace,monospace;max-width:70em;margin:2em auto;padding:0 1em}
span{border-radius:3px;padding:1px 0;color:#111;white-space:pre-wrap}small{opacity:.7}</style>
<h2>Every token by the temperature it was drawn at</h2>
<p>%s</p>
"""


def shade(temperature: float, low: float, high: float) -> str:
    """Blue is cold, white the middle, red hot."""
    share = min(max((temperature - low) / max(high - low, 1e-6), 0.0), 1.0)
    return f"hsl({220 if share < 0.5 else 8}, 85%, {95 - 70 * abs(share - 0.5):.0f}%)"


def heat_map(run: Path) -> Path:
    """heat_map.html: the completions of samples.jsonl, newest first; hovering over a token shows its temperature."""
    rows = read(run / "samples.jsonl") if (run / "samples.jsonl").is_file() else []
    low, high = 0.0, max([1.5] + [tau for row in rows for tau in row["taus"]])
    scale = " ".join(
        f'<span style="background:{shade(low + (high - low) * i / 6, low, high)}">&nbsp;{low + (high - low) * i / 6:.2f}&nbsp;</span>'
        for i in range(7)
    )
    page = PAGE % (html.escape(run.name), scale)
    for row in reversed(rows):
        spans = "".join(
            f'<span style="background:{shade(tau, low, high)}" title="tau {tau:.2f}">{html.escape(piece)}</span>'
            for piece, tau in zip(row["pieces"], row["taus"])
        )
        verdict = "right" if row["reward"] else "wrong"
        page += f"<p><small>step {row['step']}, {verdict}</small> {html.escape(row['problem'])}<br>{spans}</p>\n"
    (run / "heat_map.html").write_text(page, encoding="utf-8")
    return run / "heat_map.html"


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a run: run.png and heat_map.html in its folder.")
    parser.error = lambda message: parser.exit(2, f"plot.py: {message}; --help lists the flags\n")
    parser.add_argument("run", help="the folder of a run, such as runs/countdown")
    run = Path(parser.parse_args().run)
    try:
        print(picture(run))
        print(heat_map(run))
        samples = read(run / "samples.jsonl")[-4:] if (run / "samples.jsonl").is_file() else []
    except (ValueError, OSError) as error:
        print(f"plot.py: {error}", file=sys.stderr)
        sys.exit(2)
    for row in samples:
        print(
            f"step {row['step']}  {row['problem'][:60]} {sample.show(row['pieces'], row['taus'], sys.stdout.isatty())}"
        )


if __name__ == "__main__":
    main()
