"""The rule of training: an answer that copies the problem, or leaves it to compute, earns nothing."""

import json
from pathlib import Path

import pytest

import tasks
import verify
from answers.extract import MATH

MATH500 = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "math500.jsonl"

COPIES = [  # problem, gold, a right answer that says nothing
    (r"Compute $\sum_{k=1}^{10} k$.", "55", r"\sum_{k=1}^{10} k"),
    (r"Find $\lim_{x\to 0} \frac{\sin x}{x}$.", "1", r"\lim_{x \to 0}\frac{\sin x}{x}"),
    (r"Simplify $\sqrt{8}$.", r"2\sqrt{2}", r"\sqrt{8}"),
    (r"Simplify $\frac{2}{4}$.", r"\frac{1}{2}", r"\frac24"),
    (r"Expand $(x+1)(x+2)$.", "x^2+3x+2", "(x+1)(x+2)"),
    (r"Expand $(x+1)(x+2)$.", "x^2+3x+2", "(2+x)(1+x)"),
    (r"Write $0.\overline{3}$ as a fraction.", r"\frac{1}{3}", r"0.\overline{3}"),
    ("What is five factorial?", "120", "5!"),
    ("How much is 3 times 4, and 5?", "17", r"3 \cdot 4 + 5"),
    ("The remainder?", "43", r"7^{2023} \bmod 100"),
    ("How many?", "3", r"\lfloor 3.7 \rfloor"),
    ("How many ways?", "21", r"\binom{7}{2}"),
]
ANSWERS = [  # problem, gold, an answer that is an answer
    ("How long is the diagonal?", r"2\sqrt{2}", r"\sqrt{8}"),
    ("Which part?", r"\frac{1}{2}", r"\frac24"),
    ("Is it 42 or 43?", "42", "42"),
    ("Which of $x$ and $y$ is larger?", "y", "y"),
    ("Find the product.", r"3 \cdot 4", "12"),
    ("Find both.", "3+2x", "2x+3"),
    ("What is $12.0$ as an integer?", "12", "12"),
    ("Find the sum.", r"\frac{7}{2}", r"3\frac12"),
    ("What is $1,000 + 500$?", "1500", "1,500"),
    ("Add them.", "42", "30+12=42"),
    ("In how many ways?", r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
]


@pytest.mark.parametrize("problem, gold, answer", COPIES)
def test_a_copy_earns_nothing_where_the_problem_is_known(problem, gold, answer):
    text = rf"So \boxed{{{answer}}}."
    assert verify.reward(text, gold) == 1.0 and verify.reward(text, gold, problem) == 0.0


@pytest.mark.parametrize("problem, gold, answer", ANSWERS)
def test_an_answer_is_no_copy(problem, gold, answer):
    text = rf"So \boxed{{{answer}}}."
    assert verify.reward(text, gold, problem) == 1.0


def test_training_knows_the_problem_and_batches_keep_it():
    problem = tasks.Problem(r"Simplify $\sqrt{8}$.", r"2\sqrt{2}")
    texts = [r"\boxed{\sqrt{8}}", r"\boxed{2\sqrt2}"]
    assert tasks.rewards([problem, problem], texts, [True, True]) == [0.0, 1.0]
    assert verify.rewards(texts, [problem.answer] * 2) == [1.0, 1.0]
    assert verify.rewards(texts, [problem.answer] * 2, [problem.problem] * 2) == [0.0, 1.0]


@pytest.mark.skipif(not MATH500.exists(), reason="MATH-500 is not beside the repository")
def test_copying_the_last_formula_does_not_pay_and_every_solution_does():
    problems = [json.loads(line) for line in MATH500.read_text().splitlines()]
    paid = solved = known = 0.0
    for row in problems:
        formulas = MATH.findall(row["problem"])
        copied = r"\boxed{" + formulas[-1].strip("$\\[]() ").rstrip(".,") + "}" if formulas else ""
        paid += verify.reward(copied, row["answer"], row["problem"])
        solved += verify.reward(row["solution"], row["answer"])
        known += verify.reward(row["solution"], row["answer"], row["problem"])
    assert paid < 0.005 * len(problems) and known == solved > 0.99 * len(problems)
