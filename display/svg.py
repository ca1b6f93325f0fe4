"""A figure of curves.py as inline SVG. Its colours are the page's CSS variables, so it follows the reader's scheme."""

import html

from display import labels, terminal

WIDTH, HEIGHT, LEFT, BOTTOM = 460, 250, 40, 34
LETTER, LINE_HEIGHT = 6.3, 13.0  # of the label's font, in pixels


def escaped(text: object) -> str:
    """Any value as text of a page: markup is text, control characters are written out."""
    return html.escape(terminal.visible(str(text)), quote=True)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers in [low, high].

    >>> ticks(0.0, 1.1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = max(high - low, 1e-9) / count
    power = 10.0 ** (len(f"{int(1 / rough)}") * -1 if rough < 1 else len(f"{int(rough)}") - 1)
    step = min((factor * power for factor in (1, 2, 2.5, 5, 10, 20)), key=lambda s: abs(s - rough))
    first = -int(-low // step) if low >= 0 else int(low // step)
    found = [round(i * step, 10) for i in range(first, int(high / step) + 2)]
    return [value for value in found if low - 1e-9 <= value <= high + 1e-9]


def svg(figure) -> str:
    right = WIDTH - 10
    if not figure.scatter:  # room for the labels at the ends of the lines
        right -= LETTER * max(len(line.label) for line in figure.lines)
    xs = [x for line in figure.lines for x in line.x]
    xs += [end for line in figure.lines for pair in line.x_interval or [] for end in pair]
    ys = [y for line in figure.lines for column in (line.y, line.low, line.high) for y in column]
    x_low, x_high = min(xs), max(xs)
    x_low, x_high = (x_low - 0.5, x_high + 0.5) if x_low == x_high else (x_low, x_high)
    y_low, y_high = min(ys), max(*ys, 1e-9)
    y_low, y_high = (y_low if y_low > y_high / 2 else min(y_low, 0.0)) - 0.001, y_high + 0.05 * (y_high - y_low) + 0.001

    def px(x):
        return LEFT + 8 + (x - x_low) / (x_high - x_low) * (right - LEFT - 16)

    def py(y):
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - BOTTOM - 10)

    parts = []
    for value in ticks(y_low, y_high):
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{py(value):.1f}" y2="{py(value):.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{py(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(x_low, x_high):
        parts.append(f'<text x="{px(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 3}" text-anchor="middle">{escaped(figure.x)}</text>')
    for line in figure.lines:
        colour = f"var(--{line.colour})"
        if not line.marks:
            around = [*zip(line.x, line.high), *reversed([*zip(line.x, line.low)])]
            band = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in around)
            parts.append(f'<polygon points="{band}" fill="{colour}" opacity=".18"/>')
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(line.x, line.y))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        for x, y in zip(line.x, line.y) if line.marks else []:
            said = escaped(f"{line.label}: {figure.x} {x:.3g}, {figure.y} {y:.3g}")
            parts.append(
                f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.2" fill="{colour}"><title>{said}</title></circle>'
            )
        if line.marks:
            parts += [
                f'<line x1="{px(a):.1f}" y1="{py(b):.1f}" x2="{px(c):.1f}" y2="{py(d):.1f}" stroke="{colour}" opacity=".6"/>'
                for a, b, c, d in figure._replace(lines=[line]).bars()
            ]
    ends = [(px(line.x[-1]), py(line.y[-1])) for line in figure.lines]
    if figure.scatter:
        sizes = [(LETTER * len(line.label), LINE_HEIGHT) for line in figure.lines]
        bars = [(px(a), py(d), px(c), py(b)) for a, b, c, d in figure.bars()]
        boxes = labels.place(ends, sizes, (LEFT, 0, right, HEIGHT - BOTTOM), bars)
        where = [(box[0], box[3] - 3) for box in boxes]
    else:
        heights = labels.spread([y for _, y in ends], LINE_HEIGHT, 10, HEIGHT - BOTTOM)
        where = [(right + 6, y + 4) for y in heights]
    for (x, y), line in zip(where, figure.lines):
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" style="fill:var(--{line.colour})">{escaped(line.label)}</text>')
    caption = f"<figcaption><b>{escaped(figure.title)}</b> {escaped(figure.y)}</figcaption>"
    drawing = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(figure.title)}">{"".join(parts)}</svg>'
    )
    return f"<figure>{caption}{drawing}</figure>"
