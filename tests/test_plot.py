"""plot.py and the report: what a run shows, in files, in a page, and in a real browser."""

import html
import json
import random
import shutil
import subprocess
import sys

import pytest

import plot
from display import curves, log, report, svg

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


def test_without_matplotlib_there_is_the_page(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.draw(run) == [run / "report.html"] and (run / "report.html").exists()
    assert "run.png and heat_map.png are not drawn" in capsys.readouterr().err


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
