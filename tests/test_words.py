"""Word problems: what is asked, how it is asked, what is right, and what each token is."""

import random
import re

import pytest

import tasks
import verify
from problems import words


def solve(line: str) -> list[bool]:
    """Whether each equation of a line holds, and begins with what the one before ended with."""
    found, value = [], None
    for left, operation, right, result in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", line):
        a, b = int(left), int(right)
        exact = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[operation]
        found.append(exact == int(result) and value in (None, a))
        value = int(result)
    return found


@pytest.mark.parametrize("steps", range(1, words.MOST_STEPS + 1))
def test_the_line_of_a_problem_solves_it(steps):
    draw = random.Random(steps)
    for _ in range(200):
        question, line = words.draw_problem(draw, steps)
        assert solve(line) == [True] * steps
        assert words.steps_of(question) == steps
        assert line.endswith(f"={words.answer(line)}. #### {words.answer(line)}")
        assert 1 <= int(words.answer(line)) <= words.LARGEST
        assert tasks.task_of(question).name == "words"


def test_every_number_of_the_line_stands_in_the_question_or_was_computed():
    draw = random.Random(0)
    for _ in range(200):
        question, line = words.draw_problem(draw, 3)
        known = set(re.findall(r"\d+", question))
        for left, right, result in re.findall(r"(\d+)[-+*/](\d+)=(\d+)", line):
            assert {left, right} <= known
            known.add(result)


def test_every_pattern_of_every_operation_occurs():
    draw = random.Random(0)
    questions = " ".join(words.draw_problem(draw, 3)[0] for _ in range(500))
    for patterns in words.PATTERNS.values():
        for pattern in patterns:
            assert max(re.split(r"\{.*?\}", pattern), key=len) in questions


def test_splits_are_disjoint_and_always_the_same():
    splits = {split: tasks.load("words:2", split, 500) for split in tasks.SPLITS}
    texts = [problem.problem for problems in splits.values() for problem in problems]
    assert len(set(texts)) == len(texts) == 1500
    assert splits["test"] == tasks.load("words:2", "test", 500)
    assert splits["test"][:100] == tasks.load("words:2", "test", 100)


def test_no_worked_example_is_a_problem():
    for steps in (1, 3):
        shown = words.prompt("", steps)
        for split in tasks.SPLITS:
            assert not [p for p in tasks.load(f"words:{steps}", split, 1000) if p.problem in shown]


def test_worked_examples_are_three_and_right():
    for steps in (1, 2, 3):
        lines = re.findall("^Answer: (.+)$", words.prompt("How many?", steps), re.MULTILINE)
        assert [solve(line) for line in lines] == [[True] * steps] * 3
        assert [words.answer(line) for line in lines] == [re.findall(r"=(\d+)", line)[-1] for line in lines]
        assert len({line for line in lines}) == 3


@pytest.mark.parametrize("variant", ["0", "7", "x", "-1", "1.5"])
def test_a_number_of_steps_that_does_not_exist(variant):
    with pytest.raises(ValueError, match="words takes 1 to 6 steps"):
        tasks.load(f"words:{variant}", "train", 1)


def test_rewards():
    problem = tasks.Problem("Nora has 5 boxes ...", "327", "words")
    texts = [
        " 71*5=355, 355-28=327. #### 327", " 355-28=327. #### 327", "#### 327", " 71*5=355. #### 355",
        " 327", " #### 327.5", " #### 3270", " #### 0327", " #### 327 #### 328", " #### -327",
    ]  # fmt: skip
    assert tasks.rewards([problem] * 10, texts, [True] * 10) == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert tasks.rewards([problem], texts[:1], [False]) == [0]  # truncated


def test_classes():
    line = " 71*5=355, 355-28=327. #### 327"
    short = {"format": ".", "operand": "a", "operator": "o", "result": "r"}
    assert "".join(short[kind] for kind in words.classes(line)) == ".aaoa.rrr..aaaoaa.rrr.......rrr"


class Letters:
    """A vocabulary of characters."""

    bos_id = None

    def encode(self, text):
        return [ord(letter) for letter in text]


def test_prompt_and_stop():
    problem = tasks.load("words:1", "test", 1)[0]
    assert tasks.stops_of(problem) == ("\n",)
    assert words.prompt(problem.problem, 1).endswith(f"\n\nQuestion: {problem.problem}\nAnswer:")
    asked = tasks.render(problem, Letters())
    assert "".join(map(chr, asked)) == words.prompt(problem.problem, 1)
    assert tasks.render(problem.problem, Letters()) == asked  # as `sample.py --prompt` asks it


def test_the_longest_answers_fit():
    draw = random.Random(1)
    for steps in (1, 3, 6):
        for _ in range(200):
            question, line = words.draw_problem(draw, steps)
            problem = tasks.Problem(question, words.answer(line), "words")
            assert len(f" {line}\n") <= tasks.completion_length(problem)


def test_other_questions_by_the_same_line():
    """GSM8K's, which verify.py checks: a template file."""
    text = tasks.read_template("problems/one-line.txt")
    lines = re.findall("^Answer: (.+)$", text, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        assert all(solve(equation) == [True] for equation in line.split(". ")[0].split(", "))
        assert verify.reward(f" {line}", words.answer(line)) == 1.0
    assert text.endswith("Question: {problem}\nAnswer:")
