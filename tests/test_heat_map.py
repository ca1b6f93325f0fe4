"""display/heat_map.py and labels.py: what is chosen, and nothing stands on anything else."""

from itertools import combinations

import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from display import heat_map, labels

HOSTILE = '</script><img src=x> & "quoted" $\\frac$ \x1b[31m\x85 \u2028'


# ---- labels and the heat map ----------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), max_size=12), st.floats(0.5, 8))
def test_labels_at_line_ends_keep_their_order_and_their_distance(wanted, gap):
    found = labels.spread(wanted, gap, 0, 100)
    for (a, at_a), (b, at_b) in combinations(zip(wanted, found), 2):
        assert abs(at_a - at_b) >= gap - 1e-6
        assert a == b or (a < b) == (at_a < at_b)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in found)


@given(st.lists(st.tuples(st.floats(50, 550), st.floats(50, 350)), min_size=1, max_size=10))
def test_labels_beside_points_hide_no_other(points):
    sizes = [(60.0 + 5 * i, 12.0) for i in range(len(points))]
    boxes = labels.place(points, sizes, (0, 0, 600, 400), [])
    assert all(labels.overlap(a, b) < 1e-3 for a, b in combinations(boxes, 2))
    assert all(b[0] >= 0 and b[1] >= 0 and b[2] <= 600 and b[3] <= 400 for b in boxes)


def looked_at(outcomes: list[tuple[float, float]]) -> list[dict]:
    """Rows of samples.jsonl: the rewards of a problem before and after."""
    return [
        dict(step=0, when=when, problem=f"{i}:", reward=rewards[place], pieces=["1", "<end>"], taus=[1.0, 0.5], finished=True)
        for place, when in enumerate(("before", "after")) for i, rewards in enumerate(outcomes)
    ]  # fmt: skip


def test_the_heat_map_shows_problems_whose_outcome_changed_and_says_so():
    title, chosen, blocks = heat_map.layout(looked_at([(0, 0), (0, 1), (1, 1), (1, 0), (0, 1)]), most=4)
    assert title == "The same problems before and after training"
    assert chosen == "Of 5 held-out problems 2 became right and 1 became wrong; these come first."
    assert [name for name, *_ in blocks] == ["1:", "", "4:", "", "3:", "", "0:", ""]
    assert [(when, row["reward"]) for _, when, row in blocks][2:6] == [
        ("before", 0),
        ("after", 1),
        ("before", 1),
        ("after", 0),
    ]
    _, chosen, blocks = heat_map.layout(looked_at([(0, 1)] * 9), most=4)
    assert (
        chosen == "Of 9 held-out problems 9 became right and 0 became wrong; shown are 4 that became right."
        and len(blocks) == 8
    )
    _, chosen, _ = heat_map.layout(looked_at([(0, 0)]), most=4)
    assert chosen == "Of 1 held-out problems 0 became right and 0 became wrong."


def test_the_heat_map_leaves_the_end_of_text_out_and_cuts_what_is_long():
    row = dict(pieces=["12", "\n", "\x1b", "<end>"], taus=[0.1, 0.2, 0.3, 0.4], finished=True)
    assert heat_map.cells(row) == [("1", 0.1), ("2", 0.1), ("↵", 0.2), *((c, 0.3) for c in "\\x1b")]
    assert heat_map.cells(row | {"finished": False})[-1] == (">", 0.4)
    long = dict(pieces=["abc"] * 20, taus=[1.0] * 20)
    lines = ["".join(c for c, _ in line) for line in heat_map.wrapped(long, width=10, lines=2)]
    assert lines == ["abcabcabca", "bcabcabca…"]


@pytest.mark.parametrize("text", ["1:", HOSTILE * 9])
def test_nothing_in_the_heat_map_stands_on_anything_else(tmp_path, monkeypatch, text):
    shown = {}
    monkeypatch.setattr(plt, "close", lambda figure: shown.update(figure=figure))
    heat_map.draw(tmp_path, [row | dict(problem=text, pieces=[text, "<end>"]) for row in looked_at([(0.25, 1)])])
    monkeypatch.undo()
    (axis,) = shown["figure"].axes
    boxes = [text.get_window_extent() for text in axis.texts if len(text.get_text()) > 1]
    frame = axis.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)
    assert not any(labels.overlap(a.extents, b.extents) > 1 for a, b in combinations(boxes, 2))
    plt.close(shown["figure"])
