"""countdown.py: its problems, and its reward against one written another way."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks
from problems import countdown
from problems.traces import trace_classes

countdown_reward = tasks.GENERATED["countdown"].reward


# ---- the problems ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def splits() -> dict[str, list[tasks.Problem]]:
    return {split: tasks.load("countdown", split) for split in tasks.SPLITS}


def read(problem: tasks.Problem) -> tuple[list[int], int]:
    numbers, target = re.fullmatch(r"([\d,]+)=(\d+):", problem.problem).groups()
    return [int(number) for number in numbers.split(",")], int(target)


def reachable(numbers: list[int]) -> set[int]:
    """Every target, by trying everything; no result on the way may be negative."""
    if len(numbers) == 1:
        return {numbers[0]}
    found = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
        for result in (a + b, a * b, a - b):
            if result >= 0:
                found |= reachable([*rest, result])
    return found


def test_splits_share_no_problem_in_any_order_of_its_numbers(splits):
    keys = {}
    for split, problems in splits.items():
        found = [(tuple(sorted(read(problem)[0])), read(problem)[1]) for problem in problems]
        assert len(set(found)) == len(found), "distinct"
        keys[split] = set(found)
    for a, b in itertools.combinations(keys, 2):
        assert not keys[a] & keys[b]


def test_there_are_enough_problems(splits):
    assert len(splits["test"]) >= 1000 and len(splits["tuning"]) >= 300 and len(splits["train"]) >= 2000
    assert len(tasks.load("countdown", "test", 1000)) == 1000


def test_every_problem_can_be_solved(splits):
    for problem in itertools.chain(*splits.values()):
        numbers, target = read(problem)
        assert len(numbers) == 3 and all(1 <= number <= 12 for number in numbers)
        assert problem.answer == str(target) and problem.kind == "countdown"
        assert target in reachable(numbers), problem


def test_other_sizes_and_the_same_problems_every_time():
    for name, size in (("countdown", 3), ("countdown:2", 2), ("countdown:4", 4), ("countdown:6", 6)):
        problems = tasks.load(name, "test", 30)
        assert len(problems) == 30 and {len(read(problem)[0]) for problem in problems} == {size}
        assert problems == tasks.load(name, "test", 30)
        assert not set(problems) & set(tasks.load(name, "train", 3000))
    assert tasks.load("countdown", "test", 50)[:20] == tasks.load("countdown", "test", 20)
    for split in tasks.SPLITS:
        four = tasks.load("countdown:4", split, 10)
        assert all(read(problem)[1] in reachable(read(problem)[0]) for problem in four)


# ---- the reward ------------------------------------------------------------------------------------------


def independent_verdict(problem: tasks.Problem, text: str) -> bool:
    """The rules read aloud, in another way than tasks.py writes them: without verify.py and without a pattern."""
    pool = [str(number) for number in read(problem)[0]]
    if text[-1:] != ";":
        return False
    for step in text[:-1].split(","):
        left, equals, result = step.partition("=")
        operators = [character for character in left if character in "+-*"]
        if not equals or len(operators) != 1:
            return False
        a, operator, b = left.partition(operators[0])
        for number in (a, b, result):
            if not number or len(number) > 7 or set(number) - set("0123456789"):
                return False
            if number[0] == "0" and number != "0":
                return False
        for operand in (a, b):
            if operand not in pool:
                return False
            pool.remove(operand)
        if int(result) != {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operator]:
            return False
        pool.append(result)
    return len(pool) == 1 and int(pool[0]) == int(problem.answer)


@st.composite
def solved(draw, numbers: int = 3):
    """(problem, a right trace for it), by a random plan."""
    pool = draw(st.lists(st.integers(1, 12), min_size=numbers, max_size=numbers))
    asked, steps = ",".join(map(str, pool)), []
    while len(pool) > 1:
        a = pool.pop(draw(st.integers(0, len(pool) - 1)))
        b = pool.pop(draw(st.integers(0, len(pool) - 1)))
        operator = draw(st.sampled_from("+-*" if a >= b else "+*"))
        pool.append({"+": a + b, "-": a - b, "*": a * b}[operator])
        steps.append(f"{a}{operator}{b}={pool[-1]}")
    return tasks.Problem(f"{asked}={pool[0]}:", str(pool[0]), "countdown"), ",".join(steps) + ";"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(solved(), st.data())
def test_right_traces_are_rewarded_and_every_other_character_is_judged_rightly(problem_and_trace, data):
    problem, trace = problem_and_trace
    assert countdown_reward(problem, trace) == 1.0 and independent_verdict(problem, trace)
    for _ in range(4):
        place = data.draw(st.integers(0, len(trace)))
        character = data.draw(st.sampled_from("0123456789+-*=,;: \n.٣²/()"))
        kind = data.draw(st.sampled_from(("replace", "insert", "delete")))
        changed = trace[:place] + character * (kind != "delete") + trace[place + (kind != "insert") :]
        assert countdown_reward(problem, changed) == float(independent_verdict(problem, changed)), changed


@settings(max_examples=40, deadline=None, derandomize=True)
@given(solved(numbers=5), solved(numbers=2), st.text(alphabet="0123456789+-*=,;", max_size=20))
def test_other_sizes_and_random_text_are_judged_rightly(five, two, text):
    for problem, trace in (five, two):
        assert countdown_reward(problem, trace) == 1.0
        assert countdown_reward(problem, text) == float(independent_verdict(problem, text))
    assert countdown_reward(five[0], two[1]) == float(independent_verdict(five[0], two[1]))


@pytest.mark.parametrize(
    "trace",
    [
        "", ";", "22;", "15+7=22;", "3*5=15,15+7=22", "3*5=15,15+7=22;;", "3*5=15;15+7=22;", " 3*5=15,15+7=22;",
        "3*5=15,15+7=22;\n", "3*5=15,15+7=22; 5", "3*5=16,16+7=22;", "3*5=15,15+7=23;", "3*5=15,3*5=15,15+7=22;",
        "3*7=21,21+1=22;", "3*5=15,15+7=22,22+0=22;", "3*5=15,7-15=-8;", "3*5=15,15+7=22.0;", "3*5=15,15+7=21+1;",
        "3*5=15,7+15=2_2;", "3×5=15,15+7=22;", "3*5=15,15+7=22,;", r"\boxed{22}", "3*5=١٥,١٥+7=22;", "3*5=15,15+7=٢٢;",
        "3*5=1٥,1٥+7=22;", "3*5=015,015+7=22;", "3*5=15,15+7=022;", "03*5=15,15+7=22;",
    ],
)  # fmt: skip
def test_what_is_not_a_right_trace_earns_nothing(trace):
    assert countdown_reward(tasks.Problem("3,5,7=22:", "22", "countdown"), trace) == 0.0


def test_a_number_that_is_given_twice_is_used_twice():
    problem = tasks.Problem("4,4,2=16:", "16", "countdown")
    assert countdown_reward(problem, "4*4=16,16-2=14;") == 0.0
    assert countdown_reward(problem, "4-2=2,4*2=8;") == 0.0
    problem = tasks.Problem("4,4,2=14:", "14", "countdown")
    assert countdown_reward(problem, "4*4=16,16-2=14;") == 1.0
    assert countdown_reward(problem, "4*2=8,8+2=10,10+4=14;") == 0.0


def test_classes_name_every_character():
    assert trace_classes("12-5=7,7*3=21;") == (
        ["operand"] * 2 + ["operator", "operand", "format", "result", "format"]
        + ["operand", "operator", "operand", "format", "result", "result", "format"]
    )  # fmt: skip
    assert len(trace_classes("é=;;x")) == 5 and trace_classes("") == []


@pytest.mark.parametrize("numbers", [2, 3, 4])
def test_the_longest_right_trace_fits_a_completion(numbers):
    problem = tasks.load(f"countdown:{numbers}", "test", 1)[0]
    traces = (",".join(f"{a}{o}{b}={r}" for a, o, b, r in plan) for _, plan in countdown.plans((12,) * numbers))
    assert max(map(len, traces)) + len(";") + 1 <= tasks.completion_length(problem) <= 16 * numbers
    assert tasks.completion_length(tasks.Problem("?", "1")) == 1024
