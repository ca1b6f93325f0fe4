"""What is asked and what is right: problems, their prompts, their rewards.

    modular                           generated: reach a target in three steps, modulo 100          problems/modular.py
    countdown, countdown:4            generated: reach a target, using every number once            problems/countdown.py
    gsm8k, math, math500, aime24 ...  the paper's data sets by name, from the hub                   problems/files.py
    any/file.jsonl                    one object a line with `problem` and `answer`                 problems/files.py

    prompt ids = render(problem)      for training, evaluation and sampling alike                   problems/prompts.py
    reward     = rewards(text)        a generated task checks its own answers, verify.py all others

A truncated completion earns 0 whatever it says, and stays in its group.

A new task is a JSONL file, which needs no code; or a file in problems/ with a subclass of `problems.problem.Task`, and its line
in GENERATED.
"""

import verify
from problems import countdown, modular, prompts, stops
from problems.files import HUB, from_hub, read_jsonl, write_jsonl
from problems.problem import SPLITS, Problem, Task
from problems.prompts import INSTRUCTION, TEMPLATES, Prompt, read_template, trained_prompt
from problems.stops import Stop

__all__ = [
    "EMBEDDED", "GENERATED", "HUB", "INSTRUCTION", "SPLITS", "TEMPLATES", "Problem", "Prompt", "Stop", "completion_length",
    "completion_texts",    "load", "read_template", "render", "rewards", "stop_ids", "stops_of", "task_of", "trained_prompt", "write_jsonl",
]  # fmt: skip

GENERATED: dict[str, Task] = {
    "countdown": countdown.Countdown(),
    "modular": modular.Modular(),
}
# The model that comes along for a task.
EMBEDDED = {"modular": "models/modular", "countdown:3": "models/countdown", "countdown": "models/countdown"}


def load(name: str, split: str = "train", count: int | None = None) -> list[Problem]:
    """The problems of a task, the first `count` of them if it is given.

    Generated tasks have the splits train, tuning and test, with at most 10,000 problems each.  Other tasks ignore `split`.
    Raises ValueError or FileNotFoundError with the task, the file and the line.
    """
    family, _, variant = name.partition(":")
    if family in GENERATED:
        try:
            return GENERATED[family].problems(split, count or 10_000, variant)
        except ValueError as error:
            raise ValueError(f"task {name!r}: {error}") from None
    if name in HUB:
        return from_hub(name)[:count]
    if name.endswith((".jsonl", ".json")):
        return read_jsonl(name)[:count]
    raise ValueError(f"task {name!r} is none of: {', '.join((*GENERATED, *HUB))}, or a .jsonl file")


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


def stop_ids(vocabulary, texts: tuple[str, ...] = ()) -> set[int]:
    """Tokens that end a completion: end of text, end of a chat turn (a base model may not list it), and any with a stop text.

    This is exact for stop texts of one byte; `Stop` also finds a longer one that is spread over several tokens.
    """
    turns = {vocabulary.token_to_id(token) for token in ("<|im_end|>", "<|eot_id|>")} - {None}
    return vocabulary.eos_ids | turns | (stops.ids_with(vocabulary, texts) if texts else set())


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


def rewards(problems: list[Problem], texts: list[str], finished: list[bool]) -> list[float]:
    """R(x, y) of each completion text, in {0.0, 1.0}."""
    result, in_words = [0.0] * len(texts), []
    for index, (problem, text, whole) in enumerate(zip(problems, texts, finished, strict=True)):
        if whole and (task := task_of(problem)):
            result[index] = task.reward(problem, text)
        elif whole:
            in_words.append(index)
    answers = [prompts.after_thinking(texts[i]) for i in in_words]
    checked = verify.rewards(answers, [problems[i].answer for i in in_words]) if in_words else []
    for index, reward in zip(in_words, checked):
        result[index] = reward
    return result
