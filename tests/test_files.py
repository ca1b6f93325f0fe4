"""Problems from files and by name: what is read, what is refused, and what is said about it."""

import re

import pytest

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
    assert "left out 1 row" in error and "p.jsonl" in error
    assert tasks.load(path, count=2) == [two, tasks.Problem("é?", "7")]
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


def test_a_hub_that_gives_nothing_is_one_line(monkeypatch):
    import datasets

    def fail(*arguments, **named):
        raise ConnectionError("no network\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match=r"task 'math500': .*no network.*\.jsonl") as caught:
        tasks.load("math500")
    assert "\n" not in str(caught.value)
