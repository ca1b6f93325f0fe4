"""What is asked and what is right: problems, their prompts, their rewards.

    modular                           generated: reach a target in three steps, modulo 100          problems/modular.py
    countdown, countdown:4            generated: reach a target, using every number once            problems/countdown.py
    words, words:3                    generated: arithmetic word problems of three steps            problems/words.py
    gsm8k, math, math500, aime24 ...  the paper's data sets by name, from the hub                   problems/files.py
    any/file.jsonl, .csv, .parquet    rows with `problem` and `answer`                              problems/files.py

    prompt ids = render(problem)      for training, evaluation and sampling alike                   problems/prompts.py
    reward     = rewards(text)        a generated task checks its own answers, verify.py all others
                                      --reward file.py:function replaces both                       problems/own_reward.py

A truncated completion earns 0 whatever it says, and stays in its group.

A new task is a file of problems, which needs no code; or a file in problems/ with a subclass of `problems.problem.Task`, and its line
in GENERATED.
"""

from collections.abc import Callable

import verify
from problems import countdown, modular, prompts, stops, words
from problems.choice import Chosen, choose, hold_out, sample_of
from problems.files import HUB, SUFFIXES, from_hub, read_file, write_jsonl
from problems.own_reward import RewardError, call, load_reward
from problems.problem import SPLITS, Problem, Task
from problems.prompts import INSTRUCTION, TEMPLATES, Prompt, read_template, trained_prompt
from problems.stops import Stop

__all__ = [
    "EMBEDDED", "GENERATED", "HUB", "INSTRUCTION", "SPLITS", "TEMPLATES", "Chosen", "Problem", "Prompt", "RewardError", "Stop",
    "completion_length", "completion_texts", "load", "load_apart", "load_reward", "read_template", "render", "rewards",
    "stop_ids", "stop_of", "stops_of", "task_of", "trained_prompt", "write_jsonl",
]  # fmt: skip

GENERATED: dict[str, Task] = {
    "countdown": countdown.Countdown(),
    "modular": modular.Modular(),
    "words": words.Words(),
}
# The model that comes along for a task.
EMBEDDED = {"modular": "models/modular", "countdown:3": "models/countdown", "countdown": "models/countdown"}


def load(name: str, split: str = "train", count: int | None = None, seed: int = 0) -> list[Problem]:
    """The problems of a task, or `count` of them.

    Generated tasks have the splits train, tuning and test; the first `count` problems (10,000) of each are made.  Data sets and
    files have no splits, and `count` of their problems are drawn with `seed`.
    Raises ValueError or FileNotFoundError with the task, the file and the row.
    """
    family, _, variant = name.partition(":")
    if family in GENERATED:
        try:
            return GENERATED[family].problems(split, count or 10_000, variant)
        except ValueError as error:
            raise ValueError(f"task {name!r}: {error}") from None
    if name not in HUB and not name.lower().endswith(SUFFIXES):
        raise ValueError(
            f"task {name!r} is none of: {', '.join((*GENERATED, *HUB))}, or a file ({', '.join(SUFFIXES)})"
        )
    return sample_of(from_hub(name) if name in HUB else read_file(name), count, seed)


def load_apart(name: str, held_out: str, count: int, render: Callable, longest: int) -> Chosen:
    """Problems to train on and `count` held-out ones, with their prompts `render(problem)` of at most `longest` tokens.

    The held-out problems are those of the task `held_out`.  Without one they are the test split of a generated task, or some of
    the training problems, set aside.
    """
    training = load(name, "train")
    if held_out or task_of(training[0]):
        aside = load(held_out or name, "test", count)
    else:
        aside = hold_out(training, count)
    return choose(name, training, aside, render, longest)


def task_of(problem: Problem | str) -> Task | None:
    """The generated task that a problem is of; None for a problem in words."""
    if isinstance(problem, Problem):
        return GENERATED.get(problem.kind)
    return next((task for task in GENERATED.values() if task.recognises(problem)), None)


def completion_length(problem: Problem) -> int:
    """Tokens that a right completion may need, its end included: 1,024 for a problem in words."""
    task = task_of(problem)
    return task.longest(problem) if task else 1024


# ---- prompts, and where a completion ends ----------------------------------------------------------------------------


def render(problem: Problem | str, vocabulary, template: str | Prompt = "auto") -> list[int]:
    """The prompt's ids: the one function for training, evaluation and sampling.

    `template` is one of TEMPLATES, a file or text with {problem} in it, or a Prompt, which also holds a system turn and another
    instruction.  Text that looks like a special token stays text: only the template places special tokens.
    """
    task, text = task_of(problem), problem if isinstance(problem, str) else problem.problem
    prompt = template if isinstance(template, Prompt) else Prompt(template)
    return prompts.prompt_ids(text, task.prompt(text) if task else None, vocabulary, prompt)


def stops_of(problem: Problem | str, prompt: str | Prompt = "auto") -> tuple[str, ...]:
    """The texts that end a completion: the prompt's, else those of the generated task."""
    task = task_of(problem)
    own = prompt.stops if isinstance(prompt, Prompt) else ()
    return own or (task.stops if task else ())


def stop_ids(vocabulary) -> set[int]:
    """Tokens that end a completion: end of text, and end of a chat turn, which a base model may not list."""
    turns = {vocabulary.token_to_id(token) for token in ("<|im_end|>", "<|eot_id|>")} - {None}
    return vocabulary.eos_ids | turns


def stop_of(vocabulary, texts: tuple[str, ...]) -> Stop | None:
    """What sample.generate takes as `stop`; None where only end-of-text tokens end a completion."""
    return Stop(vocabulary, stop_ids(vocabulary), texts) if texts else None


def completion_texts(rollout, vocabulary, stop_texts: tuple[str, ...] = ()) -> list[str]:
    """The text of each completion of a Rollout: without its end-of-text token, up to the first stop text.

    A chat template may have begun the model's thinking; then the text begins with <think> too.
    """
    ends, result = stop_ids(vocabulary), []
    for row, mask, length in zip(rollout.tokens.tolist(), rollout.mask.tolist(), rollout.prompt_lengths.tolist()):
        ids = [token for token, sampled in zip(row, mask) if sampled]
        text = vocabulary.decode(ids[:-1] if ids and ids[-1] in ends else ids)
        thinks = vocabulary.decode(row[max(0, length - 8) : length]).rstrip().endswith("<think>")
        result.append(stops.cut("<think>" * thinks + text, stop_texts))
    return result


# ---- rewards --------------------------------------------------------------------------------------------------------


def rewards(
    problems: list[Problem], texts: list[str], finished: list[bool], own: Callable | None = None
) -> list[float]:
    """R(x, y) of each completion text, in {0.0, 1.0}; with a reward of one's `own` (`load_reward`), in [0, 1]."""
    result, in_words = [0.0] * len(texts), []
    for index, (problem, text, whole) in enumerate(zip(problems, texts, finished, strict=True)):
        if not whole:
            continue
        if own is not None:
            result[index] = call(own, text, problem.problem, problem.answer)
        elif task := task_of(problem):
            result[index] = task.reward(problem, text)
        else:
            in_words.append(index)
    answers = [prompts.after_thinking(texts[i]) for i in in_words]
    golds, asked = ([getattr(problems[i], field) for i in in_words] for field in ("answer", "problem"))
    checked = verify.rewards(answers, golds, asked) if in_words else []
    for index, reward in zip(in_words, checked):
        result[index] = reward
    return result
