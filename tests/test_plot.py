"""plot.py and display/: what a run shows, in a terminal, in files, in a page, and in a real browser."""

import errno
import html
import json
import random
import shutil
import subprocess
import sys
import threading
from itertools import combinations

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import model
import plot
import sample
import tasks
import temperature_head
from display import curves, heat_map, labels, log, report, svg, terminal
from display.progress import Progress

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
HOSTILE = '</script><img src=x onerror="document.title=1"> & "quoted" $\\frac$ \x1b[31m\x85 \u2028'


def summary(avg: float, best: float, tau: float) -> dict:
    near = {"Avg@8 95%": [avg - 0.02, avg + 0.02], "Pass@8 95%": [best - 0.05, best + 0.05]}
    return {"Avg@8": avg, "Pass@8": best, "temperature": tau, "tokens": 16.0, "samples": 8, "problems": 50} | near


@pytest.fixture
def run(tmp_path):
    """A run's folder as log.py leaves it, with text that would like to be HTML."""
    draw, kinds, folder = random.Random(0), ("operator", "operand", "result"), tmp_path / "made <up>"
    folder.mkdir()
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as file:
        for step in range(40):
            row = {
                "step": step,
                "reward": draw.random() / 2,
                "entropy": 0.4,
                "changed": 0.5,
                "tau/mean": 0.9,
                "tau/std": 0.2,
            }
            row |= {f"tau/{kind}": 0.3 * i + draw.random() / 9 for i, kind in enumerate(kinds)}
            row |= {f"tau_quantile/{q}": q / 80 + draw.random() / 99 for q in (5, 25, 50, 75, 95)}
            row |= {f"tau_by_entropy/{low}": 0.5 + low / 9 + draw.random() / 30 for low in curves.ENTROPY_BINS}
            if step == 19:
                row |= log.flat(summary(0.2, 0.5, 0.8))
            file.write(json.dumps(row) + "\n")
    with open(folder / "samples.jsonl", "w", encoding="utf-8") as file:
        for step, when in ((0, "before"), (0, None), (39, None), (40, "after")):
            for reward in (1.0, 0.0):
                count = 200 if when is None and reward else 12
                row = dict(
                    step=step,
                    problem=f"{HOSTILE} {reward}",
                    answer=HOSTILE,
                    extracted=None if reward else HOSTILE,
                    reward=reward,
                    finished=True,
                    pieces=["3", "*", HOSTILE, "\n"] * (count // 4),
                )
                row |= dict(
                    taus=[draw.uniform(0.1, 1.5) for _ in range(count)], changed=[True] * count, entropies=[0.5] * count
                )
                row |= dict(probabilities=[0.25] * count, alternatives=[[[HOSTILE, 0.5], ["4", 0.25]]] * count)
                row |= dict(gates=[0.75] * count, a=[2.5] * count, b=[1.25] * count, range=[0.1, 1.5])
                file.write(json.dumps(row | ({"when": when} if when else {})) + "\n")
    for name, of_run in (("before", summary(0.1, 0.3, 1.0)), ("after", summary(0.3, 0.6, 0.6))):
        (folder / f"{name}.json").write_text(json.dumps({"own": of_run, "1.0": summary(0.15, 0.5, 1.0)}))
    return folder


def test_every_figure_is_there_with_its_intervals(run):
    of = {"countdown, 0.3": summary(0.3, 0.4, 0.3), "modular, 0.3": summary(0.1, 0.2, 0.3)}
    of |= {"countdown, 1.0": summary(0.15, 0.5, 1.0), "countdown, ead": summary(0.2, 0.5, 0.9)}
    figures = curves.figures(run, of)
    assert len(figures) == 6
    lines = {line.label: line for figure in figures for line in figure.lines}
    assert {
        "training reward",
        "held-out Avg@8",
        "held-out Pass@8",
        "operator",
        "all tokens",
        "median",
        "last 10 steps",
    } <= set(lines)
    assert all(figure.title for figure in figures)
    assert figures[0].title == "Pass@8 from 30.0% to 60.0%, Avg@8 from 10.0% to 30.0%"
    assert (
        lines["after, own"].colour
        == lines["training reward"]._replace(colour="head").colour
        != lines["countdown, ead"].colour
    )
    for line in lines.values():
        assert len(line.x) == len(line.y) == len(line.low) == len(line.high)
        assert all(low <= y <= high for low, y, high in zip(line.low, line.y, line.high)), line.label
    held_out = lines["held-out Pass@8"]
    assert (held_out.x, held_out.y) == ([0, 20, 40], [0.3, 0.5, 0.6]) and held_out.low == pytest.approx(
        [0.25, 0.45, 0.55]
    )
    frontier = {line.label: line for line in figures[-1].lines}
    fixed = {
        "countdown, fixed 0.3 to 1",
        "modular, fixed 0.3",
        "after, fixed 1",
    }  # one curve through two benchmarks is none
    assert set(frontier) == fixed | {"before, own", "after, own", "countdown, ead"}
    assert frontier["countdown, fixed 0.3 to 1"].x == [0.3, 0.15] and frontier["after, own"].x_interval[
        0
    ] == pytest.approx((0.28, 0.32))


def test_the_interval_of_a_smoothed_curve_holds_the_truth_as_often_as_it_says():
    draw, held = random.Random(1), 0
    for _ in range(400):
        means, halves = curves.smooth([draw.gauss(0.3, 0.1) for _ in range(60)])
        held += abs(means[-1] - 0.3) < halves[-1]
    assert 0.88 < held / 400 < 0.98


def test_a_run_without_completions_or_evaluations_is_drawn_too(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "reward": 0.0}\n')
    assert [file.exists() for file in report.draw(tmp_path)] == [True] * 3


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (0, 200), (0.3, 0.31), (0, 1.575), (-0.2, 0.1), (0, 3072), (5, 5.0001)):
        found = svg.ticks(low, high)
        assert 2 <= len(found) <= 12 and all(low - 1e-9 <= value <= high + 1e-9 for value in found), (low, high, found)


def test_the_page_is_one_file_that_needs_nothing_else(run):
    page = report.draw(run)[0].read_text(encoding="utf-8")
    assert (
        page.count('class="token"') == 472 and page.count("<svg viewBox") == 7
    )  # six figures, and the one of the hover
    for outside in ("http:", "https:", "<link", "src=", "@import", "url("):
        assert outside not in page.replace("src=x", ""), outside
    assert "<img" not in page and "<title>made &lt;up&gt;</title>" in page


class Bytes:
    token_bytes = staticmethod(lambda token: bytes([token]))


class SecondLayer(temperature_head.TemperatureHead):
    layer = 1


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    config = model.Config(
        vocab_size=256, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_head=8, d_mlp=16, max_length=32
    )  # fmt: skip
    transformer = model.Transformer(config)
    with torch.no_grad():
        transformer.unembedding.weight.mul_(8)
    return transformer


@pytest.mark.parametrize("min_p", [0.0, 0.3])
@pytest.mark.parametrize("kind", [temperature_head.TemperatureHead, temperature_head.EntropyHead, SecondLayer])
def test_what_is_said_of_a_token_is_what_the_model_chose(transformer, kind, min_p):
    head, generator = kind(16), torch.Generator().manual_seed(0)
    head.min_p = min_p
    rollout = sample.generate(transformer, head, [[7, 8], [9]], 2, 6, {0}, generator, keep_reads=True)
    told = log.describe(transformer, head, Bytes, rollout, 2)
    ids = rollout.tokens[2].tolist()
    for i in range(6):
        with torch.no_grad():
            tokens = torch.tensor([ids[: 1 + i]])
            hidden, inner = transformer(tokens)[0, -1], transformer(tokens, layers=head.layer)[0, -1:]
            at_one = torch.softmax(transformer.unembed(hidden), dim=-1)
            logits = transformer.unembed(hidden).masked_fill(at_one < min_p * at_one.max(), -torch.inf)
            gate, a, b = (value[0] for value in head(head.reads(inner, logits[None])))
            probabilities = torch.softmax(logits / told["taus"][i], dim=-1)
            at_one = torch.distributions.Categorical(probs=torch.softmax(logits, dim=-1)).entropy()
        exact = [torch.sigmoid(gate), a, b, at_one, probabilities[ids[1 + i]], probabilities.max()]
        shown = [told[name][i] for name in ("gates", "a", "b", "entropies", "probabilities")]
        assert [*shown, told["alternatives"][i][0][1]] == pytest.approx([value.item() for value in exact], abs=2e-4)
        assert told["alternatives"][i][0][0] == bytes([int(probabilities.argmax())]).decode("utf-8", "replace")
        likely = probabilities.sort(descending=True).values[:4]
        listed = [p for _, p in told["alternatives"][i]]
        assert listed == pytest.approx(likely[likely > 0].tolist(), abs=2e-4), "and none that was out"
        assert told["pieces"][i] == bytes([ids[1 + i]]).decode("utf-8", "replace")


def test_a_rollout_that_stored_nothing_shows_no_gates(transformer):
    head = temperature_head.EntropyHead(16)
    rollout = sample.generate(transformer, head, [[7, 8]], 2, 6, {0}, torch.Generator().manual_seed(0))
    told = log.describe(transformer, head, Bytes, rollout, 0)
    assert "gates" not in told and len(told["taus"]) == len(told["alternatives"]) > 0


def test_the_gold_answer_stands_beside_the_one_that_was_given():
    problem = tasks.Problem("What is 6 * 7?", "42")
    assert log.extracted(problem, r"It is \boxed{43}.") == "43" and log.extracted(problem, "") is None
    assert log.extracted(problem, r"<think>\boxed{1}</think>\boxed{2}") == "2"
    modular = tasks.Problem("5,+7,-4,*3=32:", "32", "modular")
    assert [log.extracted(modular, text) for text in ("5+7=12,12*3=36,36-4=32;", "5+7", "5+7=")] == ["32", None, None]


# ---- text in a terminal ---------------------------------------------------------------------------------------------


def test_control_characters_are_written_out():
    hidden = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
    for character in hidden:
        assert terminal.visible(f"a{character}b") == f"a\\x{ord(character):02x}b"
    assert terminal.visible("a\tb\n\xa0é\u2028 ~") == "a\tb\n\xa0é\u2028 ~"
    assert terminal.show(["\x1b[2J", "\n"], [1.0, 0.5], colours=False) == "\\x1b[2J[1.00]  [0.50]"
    assert terminal.show(["\x1b"], [1.0], colours=True).count("\x1b") == 2, "our own colour, and its end"


def test_without_a_terminal_there_are_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    progress = Progress(5, 30)
    for _ in progress:
        progress.tell({"reward": 0.25, "tau/mean": 0.5, "entropy": 1.0}, 1234.5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"step {step} of 30" for step in (6, 10, 20, 30)]
    assert all("reward 0.250, tau 0.50, 1,234 tokens/s, " in line and line.endswith(" left") for line in lines)
    for _ in (hidden := Progress(0, 3, shown=False)):
        hidden.tell({"reward": 0.25, "tau/mean": 0.5, "entropy": 1.0}, 1.0)
    assert capsys.readouterr() == ("", ""), "other processes than the first"


def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress(0, 3)
    for _ in progress:
        progress.tell({"reward": 0.25, "tau/mean": 0.5, "entropy": 1.0}, 1234.5)
    progress.write("a completion")
    out, error = capsys.readouterr()
    assert out == "a completion\n" and "3/3" in error and "reward=0.250" in error


# ---- what is not installed, and a full disk -------------------------------------------------------------------------


def test_without_matplotlib_there_is_the_page(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.draw(run) == [run / "report.html"] and (run / "report.html").exists()
    assert "run.png and heat_map.png are not drawn" in capsys.readouterr().err


def test_without_tensorboard_there_are_metrics(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    logs = log.Log(tmp_path, Bytes, 0)
    logs.metrics({"step": 0, "reward": 0.5})
    logs.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "reward": 0.5}\n'
    assert "no TensorBoard files are written" in capsys.readouterr().err and not (tmp_path / "tensorboard").exists()


def test_a_full_disk_is_no_traceback_of_tensorboards_thread(tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: printed.append(str(failed.exc_value)))
    logs = log.Log(tmp_path, Bytes, 0)
    threads = logs.board.file_writer.event_writer._async_writer

    def full(data):
        raise OSError(errno.ENOSPC, "No space left on device")

    def wrong():
        raise RuntimeError("something else")

    monkeypatch.setattr(threads._writer, "write", full)
    with pytest.raises(OSError, match="No space left"):  # which train.py tells in one line
        for step in range(1000):
            logs.metrics({"step": step, "reward": 0.5})
    threads._worker.join()
    other = threading.Thread(target=wrong)
    other.start()
    other.join()
    assert printed == ["something else"]


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
    assert [name for name, *_ in blocks] == ["1:", "", "3:", "", "4:", "", "0:", ""]
    assert [(when, row["reward"]) for _, when, row in blocks][:4] == [
        ("before", 0),
        ("after", 1),
        ("before", 1),
        ("after", 0),
    ]
    _, chosen, blocks = heat_map.layout(looked_at([(0, 1)] * 9), most=4)
    assert (
        chosen == "Of 9 held-out problems 9 became right and 0 became wrong; 4 of these are shown." and len(blocks) == 8
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


@pytest.mark.parametrize("samples", [None, looked_at([(0, 1)])])
def test_nothing_in_the_heat_map_stands_on_anything_else(run, monkeypatch, samples):
    shown = {}
    monkeypatch.setattr(plt, "close", lambda figure: shown.update(figure=figure))
    heat_map.draw(run, samples or curves.read(run / "samples.jsonl"))
    monkeypatch.undo()
    (axis,) = shown["figure"].axes
    boxes = [text.get_window_extent() for text in axis.texts if len(text.get_text()) > 1]
    frame = axis.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)
    assert not any(labels.overlap(a.extents, b.extents) > 1 for a, b in combinations(boxes, 2))
    plt.close(shown["figure"])


def test_the_page_escapes_everything(run):
    """What a step is called, metrics, ranges, answers, settings: any of it may come from a file of somebody else's."""
    for name in ("metrics", "samples"):
        rows = [json.loads(line) for line in (run / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row |= {f"tau/{HOSTILE}": 0.5} if name == "metrics" else {"range": [HOSTILE, 1.5]}
            row |= {"when": HOSTILE} if name == "samples" and "when" not in row else {}
        (run / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (run / "run.json").write_text(json.dumps({"task": HOSTILE}))
    page = report.draw(run, {HOSTILE: summary(0.1, 0.2, 0.3) | {HOSTILE: 1.0, f"{HOSTILE} 95%": [0, 1]}})[0]
    text = page.read_text(encoding="utf-8")
    assert "<img" not in text and "\x1b" not in text
    assert text.count("</script>") == 1 and html.escape("\\x1b[31m") in text


# ---- in a browser ---------------------------------------------------------------------------------------------------

# Runs in the page: points at a token, and tells the outer page what it sees.
LOOK = """<script>{
let errors=0;addEventListener('error',()=>errors++);
const token=document.querySelectorAll('.token')[2];token.scrollIntoView();token.dispatchEvent(new MouseEvent('mouseover',{bubbles:true}));
const tip=document.getElementById('tip').getBoundingClientRect(),root=document.documentElement,at=e=>e.getBoundingClientRect();
parent.postMessage(JSON.stringify({errors,width:innerWidth,scroll:root.scrollWidth,tip:document.getElementById('tip').innerText,
inside:tip.left>=0&&tip.right<=innerWidth&&tip.top>=0&&tip.bottom<=innerHeight,images:document.images.length,
table:document.querySelector('table').getBoundingClientRect().right,columns:new Set([...document.querySelectorAll('.pair .card')].slice(0,2).map(e=>at(e).left)).size,
page:getComputedStyle(document.body).backgroundColor,ink:getComputedStyle(document.body).color}),'*')}</script>"""
OUTER = """<iframe src="page.html" style="width:%dpx;height:900px;border:0"></iframe><pre id="seen"></pre>
<script>addEventListener('message',e=>document.getElementById('seen').textContent=e.data)</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width, columns, dark", [(390, 1, False), (1280, 2, True)])
def test_the_page_in_a_browser(run, tmp_path, width, columns, dark):
    page = report.draw(run)[0].read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(page.replace("</body>", LOOK + "</body>"), encoding="utf-8")
    (tmp_path / "outer.html").write_text(OUTER % width, encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --virtual-time-budget=3000 --dump-dom "
    flags += f"--blink-settings=preferredColorScheme={0 if dark else 1} --window-size=1400,1000"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'outer.html'}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    text = dom.partition('<pre id="seen">')[2].partition("</pre>")[0]
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&nbsp;", " "), ("&amp;", "&")):
        text = text.replace(entity, character)
    seen = json.loads(text)
    assert seen["width"] == width and max(seen["scroll"], seen["table"]) <= width, "nothing sticks out"
    assert "Pass@8 from 30.0% to 60.0%" in page and "<dt>tau</dt>" in page and "<dt>Pass@8</dt>" in page
    assert seen["errors"] == 0 and seen["images"] == 0 and seen["inside"] and seen["columns"] == columns
    for said in ("tau", "change, P(change) = 0.750", "a = 2.50, b = 1.25", "0.500 nats", "0.2500", "<img src=x"):
        assert said in seen["tip"], seen["tip"]
    assert (sum(map(int, seen["page"][4:-1].split(","))) < 150) == dark  # the reader's scheme
    assert (sum(map(int, seen["ink"][4:-1].split(","))) > 600) == dark


def test_files_that_no_run_has_written_end_in_a_line(run, monkeypatch, capsys):
    (run / "before.json").write_text(json.dumps({"own": {"Avg@8": {"a": 1}, "Avg@8 95%": [0, 1]}}))
    monkeypatch.setattr("sys.argv", ["plot.py", str(run)])
    with pytest.raises(SystemExit) as ended:
        plot.main()
    said = capsys.readouterr().err
    assert (
        ended.value.code == 2
        and said.startswith(f"plot.py: {run}: its files are not as a run left them")
        and said.count("\n") == 1
    )
