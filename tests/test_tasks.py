"""tasks.py: which problems there are, what is asked, and what is right."""

import itertools
import json
import re

import pytest
import torch
from conftest import byte_level

import baselines
import eval as evaluation
import model
import sample
import tasks
import train
import verify
from display import log
from problems import own_reward
from problems.problem import Task, distinct
from problems.traces import equation_holds
from trainer.prepare import choose_problems


def test_unknown_tasks_are_refused():
    for name in ("countdown:1", "countdown:99", "countdown:x", "chess", "problems.txt"):
        with pytest.raises(ValueError, match=re.escape(name)):
            tasks.load(name)
    with pytest.raises(ValueError, match="exam"):
        tasks.load("countdown", "exam")


# ---- rewards: through the verifier ----------------------------------------------------------------------------------


def test_every_equation_of_a_trace_is_checked_by_the_verifier_and_cached(monkeypatch):
    asked, really = [], verify.is_equivalent
    monkeypatch.setattr(verify, "is_equivalent", lambda *pair: asked.append(pair) or really(*pair))
    equation_holds.cache_clear()
    problem = tasks.Problem("3,5,7=22:", "22", "countdown")
    assert tasks.rewards([problem] * 3, ["3*5=15,15+7=22;"] * 3, [True] * 3) == [1.0] * 3
    assert set(asked) == {("3*5", "15"), ("15+7", "22"), ("22", "22")} and len(asked) == 3
    monkeypatch.setattr(verify, "is_equivalent", lambda *pair: False)
    equation_holds.cache_clear()
    assert tasks.rewards([problem], ["3*5=15,15+7=22;"], [True]) == [0.0]
    equation_holds.cache_clear()


def test_answers_in_words_go_through_the_verifier():
    problems = [tasks.Problem("?", gold) for gold in ("1/2", "7", "7", r"\frac{1}{2}")]
    texts = [r"so \boxed{\frac{1}{2}}", r"so \boxed{8}", "no answer here", "The answer is 0.5."]
    assert tasks.rewards(problems, texts, [True] * 4) == [1.0, 0.0, 0.0, 1.0]


def test_truncated_completions_earn_nothing_and_the_order_is_kept():
    countdown, maths = tasks.Problem("3,5,7=22:", "22", "countdown"), tasks.Problem("?", "7")
    problems = [countdown, maths, countdown, maths, maths]
    texts = ["3*5=15,15+7=22;", r"\boxed{7}", "3*5=15,15+7=22;", r"\boxed{7}", r"\boxed{6}"]
    assert tasks.rewards(problems, texts, [False, False, True, True, True]) == [0.0, 0.0, 1.0, 1.0, 0.0]
    assert tasks.rewards(problems, texts, [False] * 5) == [0.0] * 5
    with pytest.raises(ValueError):
        tasks.rewards(problems, texts[:4], [True] * 5)


class Reversed(Task):
    """Write a word backwards: what a task of one's own takes."""

    name, stops = "reversed", ("\n",)

    def problems(self, split, count, variant=""):
        def one(draw):
            word = "".join(draw.choices("abcdefgh", k=int(variant or 3)))
            return word, tasks.Problem(f"reverse {word}", word[::-1], self.name)

        return distinct(one, split, count, f"reversed {split} {variant}")

    def reward(self, problem, text):
        return float(text.strip() == problem.answer)

    def prompt(self, problem):
        return f"reverse ab\nba\n\n{problem}\n"


def test_a_task_of_ones_own_is_a_class_and_a_line(monkeypatch, tmp_path):
    monkeypatch.setitem(tasks.GENERATED, "reversed", Reversed())
    vocabulary = byte_level(tmp_path, "<|endoftext|>")
    problems = tasks.load("reversed:5", "test", 20)
    assert len({p.problem for p in problems}) == 20 and problems == tasks.load("reversed:5", "test", 20)
    assert not set(problems) & set(tasks.load("reversed:5", "train", 500))
    problem = tasks.Problem("reverse abc", "cba", "reversed")
    assert tasks.render(problem, vocabulary) == list(b"reverse ab\nba\n\nreverse abc\n")
    assert tasks.render(problem, vocabulary, "plain") == tasks.render("reverse abc", vocabulary, "plain")
    assert tasks.stops_of(problem) == ("\n",) and tasks.completion_length(problem) == 1024
    assert tasks.rewards([problem] * 3, ["cba", " cba", "abc"], [True] * 3) == [1.0, 1.0, 0.0]
    assert tasks.task_of(problem).classes("cb") == ["text"] * 2 and not list(
        tasks.task_of(problem).steps(problem, "cb")
    )
    chosen = tasks.load_apart("reversed", "", 10, lambda p: tasks.render(p, vocabulary), 99)
    assert len(chosen.held_out) == 10 and len(chosen.training) > 100


def test_a_reward_of_ones_own(tmp_path):
    """As the docstring of own_reward.py shows it; for generated problems too, and never for a truncated completion."""
    file = tmp_path / "tags.py"
    file.write_text(re.search(r"import re\n.*?== answer\)\n", own_reward.__doc__, re.DOTALL)[0].replace("\n    ", "\n"))
    own = tasks.load_reward(f"{file}:in_tags")
    problems = [tasks.Problem("?", "7")] * 3 + [tasks.Problem("3,5,7=22:", "22", "countdown")]
    texts = ["<answer>8</answer><answer> 7 </answer>", r"\boxed{7}", "<answer>7</answer>", "<answer>22</answer>"]
    assert tasks.rewards(problems, texts, [True, True, False, True], own) == [1.0, 0.0, 0.0, 1.0]
    half = tmp_path / "half.py"
    half.write_text("def half(text, problem, answer):\n    return len(text) / (len(problem) + len(answer))\n")
    assert tasks.rewards([tasks.Problem("ab", "cd")], ["x"], [True], tasks.load_reward(f"{half}:half")) == [0.25]


@pytest.mark.parametrize(
    "code, said",
    [
        ("def f(text, problem, answer): return 1 / 0", "ZeroDivisionError"),
        ("def f(text, problem, answer): return None", "the reward is None"),
        ("def f(text, problem, answer): return 1.5", "the reward is 1.5"),
        ("def f(text, problem, answer): return float('nan')", "the reward is nan"),
        ("def f(text, problem, answer): return -0.1", "a number from 0 to 1"),
        ("def f(text): return 1.0", "TypeError"),
        ("import sys\ndef f(text, problem, answer): sys.exit(3)", "SystemExit"),
        ("raise OSError('many\\nlines')", "fails (OSError: many lines)"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("g = 1", "has no function 'f'"),
        ("f = 1", "has no function 'f'"),
    ],
)
def test_a_reward_that_fails_is_one_line_that_names_it(code, said, tmp_path):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(tasks.RewardError) as caught:
        tasks.rewards([tasks.Problem("Why?", "7")], ["7"], [True], tasks.load_reward(f"{tmp_path / 'mine.py'}:f"))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert "mine.py" in str(caught.value) or "'Why?'" in str(caught.value)


@pytest.mark.parametrize("named", ["absent.py:f", "f", "", "mine.txt:f", ":f", "absent.py:"])
def test_a_reward_that_is_not_there(named):
    with pytest.raises(tasks.RewardError, match="no such file; it is named as file.py:function"):
        tasks.load_reward(named)


def write(path, *lines: str):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_training_evaluation_and_sampling_ask_through_one_function(tmp_path, monkeypatch):
    """What `render` gives is what reaches the model, in all three."""
    vocabulary = byte_level(tmp_path, "<|endoftext|>")
    torch.manual_seed(0)
    transformer = model.Transformer(
        model.Config(
            vocab_size=257, d_model=8, n_layers=1, n_heads=1, n_kv_heads=1, d_head=8, d_mlp=8, max_length=32, tied=True
        )
    )
    transformer.original_config = {"eos_token_id": 256}
    model.save(transformer, tmp_path)
    marks = itertools.count()
    rendered, prompted, really = [], [], sample.generate

    def render(problem, vocabulary, template="auto"):
        ids = [7, 7, next(marks) % 250]
        rendered.append(tuple(ids))
        return ids

    def generate(transformer, policy, prompts, *rest, **named):
        prompted.extend(map(tuple, prompts))
        return really(transformer, policy, prompts, *rest, **named)

    monkeypatch.setattr(tasks, "render", render)
    monkeypatch.setattr(sample, "generate", generate)
    problems = tasks.load("countdown", "test", 3)
    evaluation.evaluate(transformer, vocabulary, baselines.Fixed(1.0), problems, 2, 3)
    assert prompted == rendered and len(prompted) == 3
    rendered.clear(), prompted.clear()
    monkeypatch.setattr("sys.argv", ["sample.py", "--model", str(tmp_path), "--prompt", "hi", "--max-new-tokens", "2"])
    sample.main()
    assert prompted == rendered and len(prompted) == 1
    rendered.clear(), prompted.clear()
    monkeypatch.setattr(log.Log, "report", lambda self: "")
    monkeypatch.setattr(train.faults, "Interrupt", type("Never", (), {"now": False, "done": lambda self: None}))
    path = write(tmp_path / "p.jsonl", *[json.dumps({"problem": f"{i}?", "answer": "1"}) for i in range(8)])
    c = train.config.parse(["--model", str(tmp_path), "--task", path, "--out", str(tmp_path / "run"), "--steps", "2"])
    c.prompts_per_step, c.samples_per_prompt, c.max_new_tokens, c.final_problems, c.eval_samples = 2, 2, 2, 2, 2
    train.train(c, train.prepare(c))
    assert set(prompted) <= set(rendered) and len(prompted) >= 2 * 2


def test_held_out_problems_are_not_trained_on(tmp_path):
    rows = [json.dumps({"problem": f"{i % 60}?", "answer": "1"}) for i in range(100)]  # some twice
    path, vocabulary = write(tmp_path / "p.jsonl", *rows), byte_level(tmp_path, "<|endoftext|>")
    for flags in ([], ["--final-problems", "7"], ["--final-problems", "5000"], ["--task", "countdown"]):
        c = train.config.parse(["--model", "some", "--task", path, "--template", "raw", *flags])
        training, held_out, _ = choose_problems(c, vocabulary)
        asked = {problem.problem for problem, _ in training}
        assert 0 < len(held_out) <= c.final_problems and len(asked) >= c.prompts_per_step
        assert not asked & {problem.problem for problem, _ in held_out}
        assert all(ids == tasks.render(problem.problem, vocabulary, "raw") for problem, ids in training + held_out)


def test_problems_set_aside_are_written_so_that_eval_can_read_them(tmp_path):
    problems = [tasks.Problem("é \n?", "1"), tasks.Problem("x", r"\frac{1}{2}")]
    tasks.write_jsonl(tmp_path / "p.jsonl", problems)
    assert tasks.load(str(tmp_path / "p.jsonl")) == problems
