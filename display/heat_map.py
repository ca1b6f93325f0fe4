"""heat_map.png: the same problems before and after training, every character on the colour of its temperature.

Red tokens were sampled hot, blue ones cold. Problems whose outcome changed come first, and the title counts them.
"""

import warnings
from pathlib import Path

from display import terminal


def shade(temperature: float, high: float) -> tuple[float, float, float, float]:
    """Red, green, blue and opacity: blue is cold, red hot, and the middle of [0, high] has no colour."""
    share = min(max(temperature / high, 0.0), 1.0)
    colour = (0.10, 0.45, 0.95) if share < 0.5 else (0.95, 0.25, 0.15)
    return *colour, round(abs(share - 0.5) * 1.5, 3)


def hottest(samples: list[dict]) -> float:
    """The hot end of the scale."""
    return max([1.5] + [tau for row in samples for tau in row["taus"]])


Pair = tuple[dict, dict]  # a completion before training and one after it, of the same problem


def change(pair: Pair) -> float:
    """By how much the reward rose."""
    return pair[1]["reward"] - pair[0]["reward"]


def pairs(samples: list[dict]) -> list[Pair]:
    """The held-out problems that were looked at: first those that became right, then those that became wrong."""
    before, after = (
        {row["problem"]: row for row in samples if row.get("when") == when} for when in ("before", "after")
    )
    both = [(row, after[problem]) for problem, row in before.items() if problem in after]
    return sorted(both, key=lambda pair: (change(pair) == 0, -change(pair)))


def outcomes(both: list[Pair]) -> str:
    """What became of the problems.

    >>> wrong, right = {"reward": 0.0}, {"reward": 1.0}
    >>> outcomes([(wrong, right), (wrong, right), (right, wrong), (wrong, wrong)])
    'of 4 held-out problems 2 became right and 1 became wrong'
    """
    better, worse = sum(change(pair) > 0 for pair in both), sum(change(pair) < 0 for pair in both)
    return f"of {len(both)} held-out problems {better} became right and {worse} became wrong"


def cells(row: dict) -> list[tuple[str, float]]:
    """The characters of a completion with their temperatures, without the token that ended it."""
    tokens = list(zip(row["pieces"], row["taus"]))[: -1 if row.get("finished") else None]
    return [(c, tau) for piece, tau in tokens for c in terminal.visible(piece).replace("\n", "↵").replace("\t", " ")]


def wrapped(row: dict, width: int, lines: int = 3) -> list[list[tuple[str, float]]]:
    """The first lines of a completion; an ellipsis ends what is cut."""
    found = cells(row)
    kept = found[: width * lines]
    if len(kept) < len(found):
        kept[-1] = ("…", kept[-1][1])
    return [kept[start : start + width] for start in range(0, len(kept), width)] or [[]]


def short(text: str, most: int) -> str:
    text = " ".join(terminal.visible(text).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def layout(samples: list[dict], most: int) -> tuple[str, str, list[tuple[str, str, dict]]]:
    """The title, what was chosen, and (problem, when, completion) of each block of lines."""
    both = pairs(samples)
    if not both:
        blocks = [(row["problem"], f"step {row['step']}", row) for row in samples[-2 * most :]]
        return "Completions of training, by temperature", "The newest ones.", blocks
    blocks = [
        ("" if row is after else row["problem"], row["when"], row) for b, after in both[:most] for row in (b, after)
    ]
    changes = [change(pair) for pair in both[:most]]
    chosen = "."
    if min(changes) > 0 and len(both) > most:
        chosen = f"; shown are {most} that became right."
    elif any(changes):
        chosen = "; these come first."
    return "The same problems before and after training", outcomes(both).capitalize() + chosen, blocks


def draw(run: Path, samples: list[dict], most: int = 4, width: int = 72) -> Path:
    """heat_map.png, in the run's folder."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    title, chosen, blocks = layout(samples, most)
    high, cell, row_height = hottest(samples), 0.084, 0.22  # inches
    name_width = min(32, max((len(name) for name, *_ in blocks), default=0)) + 1
    when_width = max((len(when) for _, when, _ in blocks), default=0) + 1
    start = name_width + when_width + max((len(terminal.verdict(row["reward"])) for *_, row in blocks), default=0) + 1
    bodies = [wrapped(row, width) for *_, row in blocks]
    columns = start + max((len(line) for body in bodies for line in body), default=0)
    columns = max(columns, round(0.8 * len(chosen)), 70)  # and the scale
    height = 3.2 + sum(map(len, bodies)) + 0.5 * sum(bool(name) for name, *_ in blocks) + 1.6
    canvas = plt.figure(figsize=(cell * (columns + 2), row_height * height), dpi=150)
    axis = canvas.add_axes((0, 0, 1, 1), xlim=(-1, columns + 1), ylim=(height, 0))
    axis.axis("off")

    def write(column: float, line: float, text: str, colour: str = "black", **how) -> None:
        how |= dict(va="center", family="monospace", parse_math=False)  # a $ in a problem is a $
        axis.text(column, line + 0.5, text, color=colour, fontsize=9.6, **how)

    def tile(column: float, line: float, tau: float) -> None:
        *colour, opacity = shade(tau, high)
        axis.add_patch(plt.Rectangle((column, line + 0.04), 1, 0.92, color=colour, alpha=opacity, linewidth=0))

    axis.text(0, 0.9, title, fontsize=12, weight="bold", va="center")
    axis.text(0, 2.1, chosen, fontsize=9, color="0.4", va="center")
    line = 2.8
    for (name, when, row), body in zip(blocks, bodies):
        line += 0.5 * bool(name)
        write(0, line, short(name, name_width - 1))
        write(name_width, line, when, "0.4")
        colour = "#1a7f37" if row["reward"] > 0.5 else "#cf222e"
        write(name_width + when_width, line, terminal.verdict(row["reward"]), colour)
        for part in body:
            for column, (character, tau) in enumerate(part):
                tile(start + column, line, tau)
                if character.isprintable():
                    write(start + column + 0.5, line, character, ha="center")
            line += 1
    line += 0.6
    write(0, line, "temperature", "0.4")
    for index in range(7):
        for column in range(5):
            tile(13 + 5 * index + column, line, high * index / 6)
        write(13 + 5 * index + 2.5, line, f"{high * index / 6:.2f}", ha="center")
    write(13 + 35 + 1, line, "blue: cold, red: hot", "0.4")
    with warnings.catch_warnings(action="ignore"):  # a character that the font lacks is drawn as a box
        canvas.savefig(run / "heat_map.png")
    plt.close(canvas)
    return run / "heat_map.png"
