"""modular.py: its problems, its reward against one written another way, and its demonstrator."""

import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import config
import tasks
import tokenizer
from models import pretrain
from problems import modular
from study import introspect
from trainer.prepare import choose_problems


def independent_verdict(problem: str, text: str) -> bool:
    """All right traces of a problem, written out, and whether the text is one of them."""
    left, _, target = problem.rstrip(":").partition("=")
    start, *operations = left.split(",")
    right = set()
    for chosen in itertools.product(operations, repeat=3):
        now, steps = int(start), []
        for name in chosen:
            then = int(eval(f"{now}{name}")) % 100
            steps.append(f"{now}{name}={then}")
            now = then
        if now == int(target):
            right.add(",".join(steps) + ";")
    return text in right


@st.composite
def solved(draw):
    """(problem, a right trace for it)."""
    problem = modular.draw_problem(random.Random(draw(st.integers(0, 10**9))))
    start, operand, target = modular.read(problem)
    names = draw(st.sampled_from([names for end, names in modular.plans(problem) if end == target]))
    now, steps = start, []
    for name in names:
        then = modular.OPERATIONS[name](now, operand[name])
        steps.append(f"{now}{name}{operand[name]}={then}")
        now = then
    return tasks.Problem(problem, str(target), "modular"), ",".join(steps) + ";"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(solved(), solved(), st.data())
def test_right_traces_are_rewarded_and_traces_with_a_character_changed_are_judged_rightly(one, other, data):
    problem, trace = one

    def reward(text: str) -> bool:
        return tasks.rewards([problem], [text], [True]) == [1.0]

    assert reward(trace) and independent_verdict(problem.problem, trace)
    assert reward(other[1]) == independent_verdict(problem.problem, other[1])
    assert tasks.rewards([problem], [trace], [False]) == [0.0], "a truncated one earns nothing"
    for _ in range(6):
        place = data.draw(st.integers(0, len(trace)))
        character = data.draw(st.sampled_from("0123456789+-*=,;: \n.٣²/()"))
        kind = data.draw(st.sampled_from(("replace", "insert", "delete")))
        changed = trace[:place] + character * (kind != "delete") + trace[place + (kind != "insert") :]
        assert reward(changed) == independent_verdict(problem.problem, changed), changed


@pytest.mark.parametrize(
    "trace",
    ["5+1=6;", "5+1=6,6-1=5;", "5+1=6,6-1=5,5+1=6,6-1=5,5+1=6;", "5+2=7,7-1=6,6*1=6;", "5+1=6,5+1=6,5+1=6;", "5*2=10,10*2=20,20*2=40;",
     "5*2=11,11-1=10,10-1=9;", "", ";", ",,;", "5+1=6,6-1=5,5+1=6; ", "5+1=6,6-1=5,5+1=06;"],
)  # fmt: skip
def test_what_is_not_three_right_steps_to_the_target_earns_nothing(trace):
    problem = tasks.Problem("5,+1,-1,*2=6:", "6", "modular")
    assert tasks.rewards([problem, problem], ["5+1=6,6-1=5,5+1=6;", trace], [True, True]) == [1.0, 0.0]


def test_problems_can_be_solved_fit_their_length_and_no_split_shares_one():
    of_split = {split: tasks.load("modular", split, 1500) for split in tasks.SPLITS}
    assert of_split["train"][:20] == tasks.load("modular", "train", 20), "always the same ones"
    texts = [{p.problem for p in problems} for problems in of_split.values()]
    assert all(len(t) == 1500 for t in texts) and all(not a & b for a, b in itertools.combinations(texts, 2))
    for problem in of_split["test"][:200]:
        start, operand, target = modular.read(problem.problem)
        assert problem.kind == "modular" and problem.answer == str(target) and 0 <= target < 100 and 0 < start < 100
        assert target in [end for end, _ in modular.plans(problem.problem)] and len(operand) == 3
        assert 0 <= introspect.difficulty(problem) < 1
    with pytest.raises(ValueError, match="'exam'"):
        tasks.load("modular", "exam")


def test_the_demonstrator_errs_at_its_rates_and_in_no_other_way():
    draw, problems = random.Random(0), tasks.load("modular", "train", 400)
    right = [pretrain.demonstrate(p, draw, 0.0, 0.0) for p in problems]
    assert tasks.rewards(problems, right, [True] * 400) == [1.0] * 400
    wrong = steps = 0
    for problem in problems:
        now = problem.problem.split(",")[0]
        trace = pretrain.demonstrate(problem, draw, 1.0, 0.25)
        for match, result in tasks.task_of(problem).steps(problem, trace):
            assert match.group(1) == now, "a slip is written and the trace goes on from there"
            wrong, steps, now = wrong + (match.group(4) != str(result)), steps + 1, match.group(4)
    assert steps == 3 * 400 and 0.2 < wrong / steps < 0.3
    aimless = "".join(pretrain.demonstrate(p, draw, 1.0, 0.0) for p in problems)
    for name, habit in pretrain.HABITS.items():
        assert aimless.count(name) / 1200 == pytest.approx(habit, abs=0.04), "+ is preferred, * is rare"
    some = [pretrain.demonstrate(p, draw, 0.75, 0.0) for p in problems]
    assert 0.22 < sum(tasks.rewards(problems, some, [True] * 400)) / 400 < 0.4, (
        "a quarter is aimed, and luck adds to it"
    )
    longest = max(len(pretrain.demonstrate(p, draw, 0.75, 0.25)) for p in problems * 3)
    assert longest < tasks.completion_length(problems[0]) == modular.LENGTH == 28, "and the end of text"


def test_it_is_asked_as_it_is_by_a_run_with_the_small_model_s_settings(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer.byte_level_file(["<|endoftext|>"])))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    vocabulary = tokenizer.load(tmp_path)
    problem = tasks.load("modular", "test", 1)[0]
    assert vocabulary.decode(tasks.render(problem.problem, vocabulary)) == problem.problem
    c = config.parse(["--task", "modular", "--prompts-per-step", "4", "--final-problems", "30"])
    assert c.token_lr == config.Config().token_lr and (c.out, c.model) == ("runs/modular", "models/modular")
    training, held_out, _ = choose_problems(c, vocabulary)
    assert [problem for problem, _ in held_out] == tasks.load("modular", "test", 30) and len(training) == 10_000, (
        "a split of its own, not some of the training's"
    )
