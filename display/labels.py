"""Labels beside what they name, instead of a legend: where each fits without hiding another.  Imports nothing local."""

import numpy as np

Box = tuple[float, float, float, float]  # left, bottom, right, top
DIRECTIONS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions close to the wanted ones and in their order, at least `gap` apart.

    >>> spread([1.0, 1.5, 5.0], 1.0, 0.0, 9.0)
    [0.75, 1.75, 5.0]
    """
    groups: list[list[int]] = []

    def first(group: list[int]) -> float:
        length = gap * (len(group) - 1)
        middle = sum(wanted[i] for i in group) / len(group)
        return min(max(middle - length / 2, low), max(high - length, low))

    for index in sorted(range(len(wanted)), key=wanted.__getitem__):
        groups.append([index])
        while len(groups) > 1 and first(groups[-1]) - first(groups[-2]) < gap * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    found = {index: first(group) + gap * place for group in groups for place, index in enumerate(group)}
    return [found[index] for index in range(len(wanted))]


def overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def place(
    points: list[tuple[float, float]], sizes: list[tuple[float, float]], area: Box, bars: list[Box], around: float = 4
) -> list[Box]:
    """A box of each size beside its point, inside the area. Boxes avoid each other, all points and all bars.

    Points keep `around` free on each side. Where there is no room, the box with the least overlap is taken.
    """
    taken = [(x - around, y - around, x + around, y + around) for x, y in points] + bars
    boxes: list[Box] = []
    for (x, y), (width, height) in zip(points, sizes):
        tried = []
        for distance in np.arange(around + 1, 40 * around, 2 * around):
            for right, up in DIRECTIONS:
                left = x + right * distance - width * (1 - right) / 2
                bottom = y + up * distance - height * (1 - up) / 2
                box = left, bottom, left + width, bottom + height
                cost = 4 * (width * height - overlap(box, area)) + sum(overlap(box, other) for other in taken)
                tried.append((round(cost, 6), len(tried), box))
            if min(tried)[0] == 0:
                break
        boxes.append(min(tried)[2])
        taken.append(boxes[-1])
    return boxes


def beside_points(axis, texts: list[tuple[str, float, float, str]], bars: list[Box], size: float = 8) -> None:
    """Write each (text, x, y, colour) beside its point of a matplotlib axis; bars are error bars, in the axis' numbers.

    Call it last: it takes the limits of the axis as they are."""
    if not texts:
        return
    from matplotlib import patheffects

    axis.figure.draw_without_rendering()  # the layout settles
    unit, frame, to_data = axis.figure.dpi / 25, axis.get_window_extent(), axis.transData.inverted()
    pixels = [tuple(axis.transData.transform((x, y))) for _, x, y, _ in texts]
    how = dict(fontsize=size, va="bottom", parse_math=False)
    written = [axis.text(0, 0, text, color=colour, **how) for text, _, _, colour in texts]
    sizes = [(box.width, box.height) for box in (text.get_window_extent() for text in written)]
    corners = [axis.transData.transform(((a, b), (c, d))).ravel() for a, b, c, d in bars]
    thick = [(a - 1, b - 1, c + 1, d + 1) for a, b, c, d in corners]
    boxes = place(pixels, sizes, (frame.x0 + unit, frame.y0 + unit, frame.x1 - unit, frame.y1 - unit), thick, unit)
    for text, box, pixel in zip(written, boxes, pixels):
        text.set_position(to_data.transform(box[:2]))
        text.set_in_layout(False)
        text.set_path_effects([patheffects.withStroke(linewidth=2, foreground="white")])  # a bar may cross it
        nearest = np.clip(pixel[0], box[0], box[2]), np.clip(pixel[1], box[1], box[3])
        if np.hypot(nearest[0] - pixel[0], nearest[1] - pixel[1]) > 3 * unit:
            ends = to_data.transform([pixel, nearest])
            axis.plot(*ends.T, color=text.get_color(), linewidth=0.5, alpha=0.7, scalex=False, scaley=False)


def at_line_ends(axis, ends: list[float], texts: list[str], colours: list[str], size: float = 8) -> None:
    """Write texts right of a matplotlib axis, each at the height where its line ends."""
    low, high = axis.get_ylim()
    height = axis.get_window_extent().height * 72 / axis.figure.dpi  # points
    heights = spread([(end - low) / (high - low) for end in ends], 1.25 * size / height, 0.02, 0.98)
    for place, text, colour in zip(heights, texts, colours):
        axis.text(
            1.02, place, text, color=colour, fontsize=size, va="center", transform=axis.transAxes, parse_math=False
        )
