"""oracle.py: the rule knows the kind of every token that comes, in each row, until the row ends; the best setting is chosen."""

import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import model
import sample
import tasks
import tokenizer
from problems.traces import trace_classes
from study import experiment as study
from study import oracle, trials

ROOT = Path(__file__).resolve().parent.parent
NUMBER = st.integers(0, 1999).map(str)
STEP = st.builds("{}{}{}={}".format, NUMBER, st.sampled_from("+-*"), NUMBER, NUMBER)


@pytest.fixture(scope="module")
def base():
    if not (ROOT / "models/modular").is_dir():
        pytest.skip("needs the shipped model")
    return model.load(ROOT / "models/modular"), tokenizer.load(ROOT / "models/modular")


def places(text: str) -> list[int]:
    """Where each character is written."""
    found = [oracle.LEFT]
    for character in text:
        found.append(oracle.follows(found[-1], character))
    return found[:-1]


@given(st.lists(STEP, min_size=1, max_size=4))
def test_places_are_those_that_classes_of_a_trace_say(steps):
    text = ",".join(steps) + ";"
    able = {
        "operator": {oracle.OPERATOR},
        "result": {oracle.RESULT},
        "operand": {oracle.LEFT, oracle.OPERATOR, oracle.RIGHT},  # a number may end or go on
        "format": {oracle.RIGHT, oracle.RESULT},  # = and what ends a step
    }
    at = places(text)
    assert all(place in able[kind] for place, kind in zip(at, trace_classes(text)))
    for step in re.finditer("[^,;]+", text):  # a step begins with a digit that nothing stands before
        assert [i for i in range(*step.span()) if at[i] == oracle.LEFT] == [step.start()]
    assert oracle.follows(oracle.RIGHT, "of") == oracle.RIGHT, "what has no place in a trace changes nothing"


def test_each_row_has_the_temperature_of_its_own_place(base):
    """Rows end at different steps, and those that are left move up."""
    transformer, vocabulary = base
    of_place = {oracle.LEFT: 0.9, oracle.OPERATOR: 1.4, oracle.RIGHT: 0.9, oracle.RESULT: 0.7}
    policy, problems = oracle.Told(vocabulary, 0.9, 1.4, 0.7), tasks.load("modular", "tuning", 6)
    prompts, stop = [tasks.render(problem.problem, vocabulary) for problem in problems], tasks.stop_ids(vocabulary)

    def rollout() -> sample.Rollout:
        generator = torch.Generator().manual_seed(0)
        length = tasks.completion_length(problems[0])
        return sample.generate(transformer, policy, prompts, 8, length, stop, generator)

    drawn = rollout()
    assert len(set(drawn.mask.sum(1).tolist())) > 2, "rows of several lengths"
    for tokens, mask, temperatures in zip(drawn.tokens, drawn.mask, drawn.temperatures):
        at = [oracle.LEFT]
        for token in tokens[mask].tolist():
            at.append(oracle.follows(at[-1], vocabulary.decode([token])))
        assert temperatures[mask].tolist() == pytest.approx([of_place[place] for place in at[:-1]])
    assert torch.equal(rollout().tokens, drawn.tokens), "a policy that has been used begins anew"
    own = oracle.result_of(transformer, vocabulary, policy, problems, 0)["evaluations"]["own"]
    assert own["temperature"] == pytest.approx(float(drawn.temperatures[drawn.mask].mean())), "evaluation lets it see"


def command(monkeypatch, capsys, *words) -> tuple[int, str, str]:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["oracle.py", *words])
    code = 0
    try:
        oracle.main()
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


def test_the_best_settings_are_chosen_on_tuning_problems_and_held_against_heads(base, monkeypatch, capsys):
    grid = {(0.1, 1.2, 0.1): (0.2, 0.3), (0.1, 0.6, 0.1): (0.3, 0.1), (1.2, 1.2, 0.5): (0.0, 0.4)}
    asked, heads = [], {}

    def told(transformer, vocabulary, policy, problems, seed):
        operand, operator, _, result = (round(float(x), 3) for x in policy.of_place)
        avg, some = grid[operand, operator, result]
        asked.append((problems[0], len(problems), operator, seed))
        own = {"Avg@8": avg, "Pass@8": some, "samples": 8, "temperature": 1.0, "entropy": 0.2}
        return {"evaluations": {"own": own | {"successes": [round(8 * avg)] * len(problems)}}, "metrics": []}

    own = dict(samples=8, successes=[8, 0, 8, 0], temperature=0.5, entropy=0.2)
    heads["head, mean"] = [{"evaluations": {"own": own}, "metrics": [], "trial": {"task": "modular"}}]
    monkeypatch.setattr(oracle, "GRID", list(grid))
    monkeypatch.setattr(oracle, "result_of", told)
    monkeypatch.setattr(oracle, "read", lambda file: {"frozen": heads})
    words = ("--problems", "4", "--tuning", "3", "--seeds", "2", "--kept", "trials")
    code, printed, error = command(monkeypatch, capsys, *words)
    assert code == 0, error
    by_sum, by_avg = (
        next(line for line in printed.splitlines() if line.startswith(f"| {name}")) for name in ("told:", "told, for")
    )
    assert (
        "operand 0.1, operator 1.2, result 0.1 | 2 |" in by_sum
        and "operand 0.1, operator 0.6, result 0.1 | 2 |" in by_avg
    )
    tuning, test = tasks.load("modular", "tuning", 1)[0], tasks.load("modular", "test", 1)[0]
    assert asked[:3] == [(tuning, 3, 1.2, 0), (tuning, 3, 0.6, 0), (tuning, 3, 1.2, 0)]
    assert asked[3:] == [(test, 4, 1.2, 0), (test, 4, 0.6, 0), (test, 4, 1.2, 1), (test, 4, 0.6, 1)]
    assert "| head, mean (frozen) | told | +25.0 |" in printed, "50.0 less 2 of 8; one seed has no interval"
    code, _, error = command(monkeypatch, capsys, "--problems", "5", "--kept", "trials")
    assert (code, error) == (
        2,
        "oracle.py: trials holds trials of 4 problems of modular, not of the first 5 of modular\n",
    )


def test_it_runs(base, monkeypatch, capsys):
    monkeypatch.setattr(oracle, "GRID", [(0.3, 0.9, 0.1)])
    code, printed, error = command(monkeypatch, capsys, "--problems", "8", "--tuning", "4", "--seeds", "1")
    assert code == 0 and printed.count("operand 0.3, operator 0.9, result 0.1 | 1 |") == 2, error
    assert "less" not in printed, "no heads, no differences"


def test_tokens_learn_under_the_rule_with_the_flags_of_the_other_rules(base, monkeypatch, capsys):
    of_run, evaluated = [], []
    learn, result_of = study.learn, oracle.result_of

    def spy(trial, *where, **how):
        of_run.append((trial, learn(trial, *where, **how)))

    def result(transformer, *of):
        evaluated.append(transformer.embed.weight.detach().clone())
        return result_of(transformer, *of)

    monkeypatch.setattr(oracle, "GRID", [(0.3, 1.4, 0.1)])
    monkeypatch.setattr(trials, "FULL", trials.FULL._replace(steps=1, prompts=16))
    monkeypatch.setattr(study, "learn", spy)
    monkeypatch.setattr(oracle, "result_of", result)
    words = ("--problems", "8", "--tuning", "4", "--seeds", "1", "--regime", "3e-6-long")
    code, printed, error = command(monkeypatch, capsys, *words)
    assert code == 0 and printed.count("operand 0.3, operator 1.4, result 0.1 | 1 |") == 2, error
    for trial, metrics in of_run:
        assert trial.flags["token_lr"] == 3e-6 and trial.flags["steps"] == 3 and "token_weight" not in trial.flags
        assert len(metrics) == 3 and {"token/loss"} == {key for key in metrics[0] if key.endswith("/loss")}
        told = [metrics[-1][f"tau/{kind}"] for kind in ("operator", "result")]
        assert told == pytest.approx([1.4, 0.1]), "the rule saw what was written"
        assert 0.3 < metrics[-1]["tau/operand"] < 1.4, "a second digit stands where an operator may"
    moved = [float((weight - evaluated[0]).abs().max()) for weight in evaluated]
    assert moved[0] == 0 and all(1e-6 < by < 1e-4 for by in moved[1:]), "three steps of at most 3e-6 or so"


def test_heads_are_those_of_the_regime(monkeypatch):
    own = {"evaluations": {"own": {"successes": [1, 0]}}, "trial": {"task": "modular"}}
    frozen, joint = (
        ("head, mean", "head, pass@8, no-gate", "EAD"),
        ("head, mean, every step", "head, mean, tokens first", "head, mean, every step, min-p"),
    )
    found = {"frozen": dict.fromkeys(frozen, [own]), "3e-6": dict.fromkeys(joint, [own])}
    monkeypatch.setattr(oracle, "read", lambda file: found)
    assert set(oracle.heads_of("kept", "modular", 2, "frozen")) == {"head, mean (frozen)"}
    assert set(oracle.heads_of("kept", "modular", 2, "3e-6")) == {"head, mean, every step (3e-6)"}


@pytest.mark.parametrize(
    "words, said",
    [
        (("--seeds", "0"), "are at least 1"),
        (("--task", "math500"), "not generated"),
        (("--task", "countdown:4"), "--base names one"),
        (("--base", "nowhere"), "nowhere"),
        (("--kept", "nowhere.gz"), "nowhere.gz"),
        (("--regime", "finished"), "is none of: frozen, 3e-6"),
    ],
)
def test_mistakes(words, said, monkeypatch, capsys):
    code, _, error = command(monkeypatch, capsys, *words)
    assert code == 2 and said in error and error.startswith("oracle.py: ") and error.count("\n") == 1, error
