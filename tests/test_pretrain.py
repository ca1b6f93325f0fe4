"""pretrain.py: the imperfect demonstrator errs at the rates it is told to, and in no other way."""

import random

import pytest
import torch

import tasks
from models import pretrain
from problems import countdown, modular
from problems.traces import equation_holds


@pytest.mark.parametrize("numbers", [2, 3, 4])
def test_without_aimless_plans_and_slips_every_trace_is_right(numbers):
    draw = random.Random(0)
    for problem in tasks.load(f"countdown:{numbers}", "train", 60):
        assert tasks.rewards([problem], [pretrain.demonstrate(problem, draw, 0.0, 0.0)], [True]) == [1.0]


@pytest.mark.parametrize("numbers", [3, 4])
def test_a_slip_is_written_and_the_trace_goes_on_from_there(numbers):
    """Several slips in a trace, one of them onto a value that the plan uses elsewhere, too: every operand is on paper."""
    draw = random.Random(0)
    for problem in tasks.load(f"countdown:{numbers}", "train", 40) * 20:
        pool = problem.problem.split("=")[0].split(",")
        for step in pretrain.demonstrate(problem, draw, 0.3, 0.5).rstrip(";").split(","):
            left, operation, right, shown = countdown.STEP.fullmatch(step).groups()
            pool.remove(left)
            pool.remove(right)
            pool.append(shown)
        assert len(pool) == 1


def test_a_model_of_any_width():
    wider = pretrain.new_model(257, 0, width=48, layers=3)
    assert (wider.config.d_model, wider.config.n_layers, wider.config.d_head, wider.config.d_mlp) == (48, 3, 12, 128)
    assert wider(torch.tensor([[1, 2, 3]])).shape == (1, 3, 48)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--width", "100"], "--width 100 is not a multiple of 24"),
        (["--layers", "0"], "--layers must be at least 1"),
        (["--task", "gsm8k"], "--task 'gsm8k' is none of: countdown, countdown:2 to countdown:5, modular"),
        (["--device", "abacus"], "--device: device 'abacus' does not exist on this machine"),
    ],
)
def test_what_it_is_asked_is_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pretrain.py", "--out", str(tmp_path / "model"), *words])
    with pytest.raises(SystemExit) as ended:
        pretrain.main()
    assert ended.value.code == 2 and said in capsys.readouterr().err and not (tmp_path / "model").exists()


def test_a_model_is_not_written_over_and_half_of_one_is_not_left(tmp_path, monkeypatch, capsys):
    def interrupted(*of):
        raise KeyboardInterrupt

    words = ["pretrain.py", "--out", str(tmp_path), "--steps", "1", "--batch-size", "2"]
    monkeypatch.setattr("sys.argv", words)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(pretrain.F, "cross_entropy", interrupted)
        pretrain.main()
    assert ended.value.code == 130 and not list(tmp_path.iterdir())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        pretrain.main()
    assert ended.value.code == 2 and "already contains a model" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("slip", [pretrain.slip, pretrain.same_slip])
def test_slips_are_of_few_kinds_or_of_one(slip):
    """So the likeliest of them is a sixth as likely as the right result where a quarter of all results are wrong, or a third."""
    draw = random.Random(0)
    for result in (0, 3, 9, 10, 25, 99):
        drawn = [slip(result, draw) for _ in range(4000)]
        share = max(drawn.count(value) for value in set(drawn)) / 4000
        if slip is pretrain.same_slip:
            assert set(drawn) == {result - 10 if result >= 10 else result + 1}
        elif result >= 10:
            assert set(drawn) == {result - 10, result - 1, result + 1} and abs(share - 0.5) < 0.04
    problem = tasks.load("modular", "train", 1)[0]
    for step in pretrain.demonstrate(problem, draw, 1.0, 1.0, pretrain.same_slip).rstrip(";").split(","):
        left, operation, right, shown = modular.STEP.fullmatch(step).groups()
        true = modular.OPERATIONS[operation](int(left), int(right))
        assert int(shown) == (true - 10 if true >= 10 else true + 1)


@pytest.mark.parametrize("task", ["countdown", "modular"])
@pytest.mark.parametrize("flag, slip", [([], pretrain.slip), (["--same-slip"], pretrain.same_slip)])
def test_the_demonstrator_slips_as_it_is_told(task, flag, slip, tmp_path, monkeypatch):
    shown, really = [], pretrain.demonstrate

    def demonstrate(problem, draw, aimless, slips, slip):
        shown.append(slip)
        return really(problem, draw, aimless, slips, slip)

    monkeypatch.setattr(pretrain, "demonstrate", demonstrate)
    words = ["--out", str(tmp_path / "model"), "--task", task, "--steps", "1", "--batch-size", "3", "--width", "24"]
    monkeypatch.setattr("sys.argv", ["pretrain.py", *words, *flag])
    pretrain.main()
    assert shown == [slip] * 3 and (tmp_path / "model" / "model.safetensors").is_file()


def test_slips_come_at_their_rate():
    draw, problems = random.Random(0), tasks.load("countdown", "train", 300)
    steps = [step for p in problems for step in pretrain.demonstrate(p, draw, 1.0, 0.25).rstrip(";").split(",")]
    wrong = sum(not equation_holds(*step.split("=")) for step in steps)
    assert 0.19 < wrong / len(steps) < 0.31
