"""Problems from files and by name: what is read, what is refused, and what is said about it."""

import codecs
import csv
import gzip
import io
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tasks
import verify

# ---- files ----------------------------------------------------------------------------------------------------------


def write(path, *lines: str):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


GOOD = '{"problem": "1+1", "answer": "2"}'


def test_a_file_is_read_in_order(tmp_path, capsys):
    numbers = '{"problem": "é?", "answer": 7, "source": "elsewhere"}'
    path = write(tmp_path / "p.jsonl", GOOD, "", numbers, '{"problem": "no gold", "answer": " "}', GOOD)
    two = tasks.Problem("1+1", "2")
    assert tasks.load(path) == [two, tasks.Problem("é?", "7"), two]
    error = capsys.readouterr().err
    assert "p.jsonl: left out 1 of 4 rows" in error
    half = write(tmp_path / "half.jsonl", r'{"problem": "so \ud83d much", "answer": "2"}')
    assert tasks.load(half) == [tasks.Problem("so ? much", "2")], "half of a surrogate pair can be written nowhere"


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"problem": ', "not JSON"),
        ('{"answer": "2"}', "'problem' is missing"),
        ('{"problem": "1+1"}', "'answer' is missing"),
        ('{"problem": ["1+1"], "answer": "2"}', "'problem'"),
        ('{"problem": "1+1", "answer": null}', "'answer'"),
        ('["1+1", "2"]', "'problem'"),
        ('"text"', "'problem'"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(line, said, tmp_path):
    path = write(tmp_path / "bad.jsonl", GOOD, "", line, GOOD)
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 3: ")) as caught:
        tasks.load(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


HASHES = "She has 6 * 7 = <<6*7=42>>42 eggs, and 1,000 hens.\n#### 1,042"
ROWS = [{"problem": "1+1", "answer": "007"}, {"question": "Two\nlines, é?", "answer": HASHES}]
READ = [tasks.Problem("1+1", "007"), tasks.Problem("Two\nlines, é?", "1042")]


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: list[dict]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows(
        [["answer", "question"], *([row["answer"], row.get("problem", row.get("question"))] for row in rows)]
    )
    return text.getvalue().encode()


FORMATS = {
    "rows.jsonl": lines(ROWS),
    "windows.jsonl": codecs.BOM_UTF8 + lines(ROWS).replace(b"\n", b"\r\n"),
    "lines.json": lines(ROWS),
    "array.json": json.dumps(ROWS, indent=2).encode(),
    "array.jsonl": codecs.BOM_UTF8 + json.dumps(ROWS).encode(),
    "rows.jsonl.gz": gzip.compress(lines(ROWS)),
    "array.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "rows.csv": as_csv(ROWS),
    "excel.csv.gz": gzip.compress(codecs.BOM_UTF8 + as_csv(ROWS)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_alike(name, tmp_path):
    """Gold answers of GSM8K's own format too: what follows the #### is the answer, and its comma is none of it."""
    (tmp_path / name).write_bytes(FORMATS[name])
    assert tasks.load(str(tmp_path / name)) == READ
    assert tasks.rewards(READ, ["\\boxed{7}", "It is \\boxed{1042}."], [True, True]) == [1.0, 1.0]


def test_a_parquet_file_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "question": [row.get("problem", row.get("question")) for row in ROWS],
        "answer": [r["answer"] for r in ROWS],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "p.parquet")
    assert tasks.load(str(tmp_path / "p.parquet")) == READ
    parquet.write_table(pyarrow.table({"problem": ["a"], "answer": [[1, 2]]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="p.parquet, row 1: the field 'answer'"):
        tasks.load(str(tmp_path / "p.parquet"))


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("p.jsonl.gz", b"no gzip", "not a whole gzip file"),
        ("p.jsonl.gz", gzip.compress(lines(ROWS))[:-9], "not a whole gzip file"),
        ("p.json", b'[{"problem": "1"', "line 1: not JSON"),
        ("p.json", b'[{"problem": "1", "answer": "2"}, 3]', "row 2: the field 'problem'"),
        ("p.json", b"[" * 100_000, "line 1: not JSON"),
        ("p.csv", b"problem,solution\n1,2\n", "line 2: the field 'answer'"),
        ("p.csv", b"problem,answer\n1\n", "line 2: the field 'answer'"),
        ("p.csv", b'problem,answer\n"1,2\n', "not CSV"),
        ("p.csv", "problem,answer\né,2\n".encode("latin-1"), "not CSV"),
        ("p.csv", b"problem,answer\n", "no problems in it"),
        ("p.parquet", b"no parquet", "not a Parquet file"),
    ],
)
def test_a_damaged_file_is_one_line(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))) as caught:
        tasks.load(str(tmp_path / name))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(FORMATS)), st.integers(0, 400), st.binary(max_size=6), st.integers(0, 6))
def test_a_file_with_some_bytes_changed_is_read_or_refused_in_one_line(tmp_path, name, place, new, left_out):
    content = FORMATS[name]
    path = tmp_path / name
    path.write_bytes(content[:place] + new + content[place + left_out :])
    try:
        assert all(p.problem.strip() and p.answer.strip() for p in tasks.load(str(path)))
    except ValueError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_a_count_is_drawn_from_the_whole_file_with_a_seed(tmp_path):
    """The first ones of a file that is sorted by subject would be one subject."""
    path = write(tmp_path / "p.jsonl", *[json.dumps({"problem": f"{i}?", "answer": "1"}) for i in range(500)])
    some = [int(p.problem[:-1]) for p in tasks.load(path, count=100)]
    assert len(set(some)) == 100 and some == sorted(some) and min(some) < 50 and max(some) > 450
    assert [int(p.problem[:-1]) for p in tasks.load(path, count=100)] == some
    assert [int(p.problem[:-1]) for p in tasks.load(path, count=100, seed=1)] != some
    assert len(tasks.load(path)) == len(tasks.load(path, count=500)) == len(tasks.load(path, count=10**6)) == 500


def test_what_is_held_out_and_left_out_is_said(tmp_path):
    rows = [json.dumps({"problem": f"{'long ' * (i % 10 == 0)}{i % 1900}?", "answer": "1"}) for i in range(2000)]
    path = write(tmp_path / "p.jsonl", *rows)  # 100 are there twice, 200 are long

    def render(problem):
        return list(problem.problem.encode())

    chosen = tasks.load_apart(path, "", 200, render, 5)
    training, held_out = {p.problem for p, _ in chosen.training}, [p.problem for p, _ in chosen.held_out]
    assert 170 < len(held_out) < 200 and not training & set(held_out) and len(training) + len(held_out) == 1710
    assert all(ids == render(problem) for problem, ids in chosen.training + chosen.held_out)
    assert chosen.said.startswith(f"{path}: {len(chosen.training):,} problems to train on, {len(held_out)} held out, ")
    left = int(re.search(r"([\d,]+) left out, whose prompts have more than 5 tokens", chosen.said)[1])
    assert left == 200 and "1,9" not in chosen.said
    assert max(int(text[:-1]) for text in held_out) > 1800 > 100 > min(int(text[:-1]) for text in held_out)
    assert len(tasks.load_apart(path, "", 10_000, render, 99).held_out) == 1900 // 5, "one in five at most"
    assert "left out" not in tasks.load_apart(path, "", 200, render, 99).said
    other = tasks.load_apart(path, "countdown", 30, render, 99)
    assert [p for p, _ in other.held_out] == tasks.load("countdown", "test", 30) and len(other.training) == 2000
    generated = tasks.load_apart("modular", "", 30, render, 99)
    assert [p for p, _ in generated.held_out] == tasks.load("modular", "test", 30) and len(generated.training) == 10_000


def test_files_that_hold_no_problems_are_refused_by_name(tmp_path):
    for name, content in (("empty.jsonl", b""), ("latin.jsonl", '{"problem": "é", "answer": "2"}'.encode("latin-1"))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            tasks.load(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl: no such file"):
        tasks.load(str(tmp_path / "absent.jsonl"))


def test_the_benchmarks_of_the_paper_are_read_from_files(shared):
    rows = {
        "math500": 500,
        "aime24": 30,
        "amc23": 40,
        "minerva_math": 272,
        "olympiadbench": 675,
        "omni_math_partial": 3390,
    }
    for name, count in rows.items():
        problems = tasks.load(str(shared / "data" / f"{name}.jsonl"))
        assert len(problems) == count and all(problem.kind == "math" for problem in problems)


# ---- the hub --------------------------------------------------------------------------------------------------------

HUB_ROWS = {  # a row as each data set has it, and what it must become
    "gsm8k": (
        {"question": "How many clips?", "answer": "48+24 = <<48+24=72>>72 clips.\n#### 72"},
        ("How many clips?", "72"),
    ),
    "gsm8k-test": ({"question": "How much?", "answer": "It costs\n#### 1,080"}, ("How much?", "1080")),
    "math": (
        {"problem": "Find $x$.", "solution": "...", "answer": r"\frac{1}{2}", "level": 3, "unique_id": "a"},
        ("Find $x$.", r"\frac{1}{2}"),
    ),
    "math500": ({"problem": "Find $y$.", "answer": "(1, 2)", "level": 5}, ("Find $y$.", "(1, 2)")),
    "aime24": ({"id": 60, "problem": "Aya walks.", "answer": "204", "url": "..."}, ("Aya walks.", "204")),
    "aime25": ({"problem": "Find bases.", "answer": "70", "id": "0"}, ("Find bases.", "70")),
    "amc23": ({"id": 0, "question": "Cities A and B.", "answer": 27.0, "url": "..."}, ("Cities A and B.", "27")),
    "minerva": ({"question": "A telescope.", "answer": "1.6"}, ("A telescope.", "1.6")),
    "olympiadbench": (
        {"question": "A game.", "final_answer": ["$2$", "$3$"], "unit": None, "is_multiple_answer": False},
        ("A game.", "$2$"),
    ),
    "omni-math": ({"problem": "Consider pairs.", "answer": "115440", "difficulty": 8.0}, ("Consider pairs.", "115440")),
}


def test_every_name_has_a_row_here():
    assert set(HUB_ROWS) == set(tasks.HUB)


@pytest.mark.parametrize("name", tasks.HUB)
def test_data_sets_by_name(name, monkeypatch):
    import datasets

    row, (problem, answer) = HUB_ROWS[name]
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or [row, row | {"n": 2}])
    loaded = tasks.load(name)
    assert [p.problem for p in loaded] == [problem] * 2 and all(p.kind == "math" for p in loaded)
    assert verify.is_equivalent(loaded[0].answer, answer)
    (hub_id, *_), named = asked[0]
    assert hub_id == tasks.HUB[name][0] and named["split"] in ("train", "test")
    assert len(tasks.load(name, count=1)) == 1


def test_rows_of_the_hub_without_an_answer_are_left_out_which_is_said(monkeypatch, capsys):
    import datasets

    rows = [{"problem": "a", "answer": "1"}, {"problem": "b", "answer": None}, {"problem": "c", "answer": " "}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    assert tasks.load("math500") == [tasks.Problem("a", "1")]
    assert capsys.readouterr().err == "math500: left out 2 of 3 rows without a problem or an answer\n"


def test_a_hub_that_gives_nothing_is_one_line(monkeypatch):
    import datasets

    def fail(*arguments, **named):
        raise ConnectionError("no network\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match=r"task 'math500': .*no network.*\.jsonl") as caught:
        tasks.load("math500")
    assert "\n" not in str(caught.value)
