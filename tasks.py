"""What is asked and what is right: problems, their prompts, their rewards.

    modular                           generated: reach a target in three steps, modulo 100 (modular.py)
    countdown, countdown:4            generated: reach a target, using every number once
    gsm8k, math, math500, aime24 ...  the paper's data sets by name, from the hub through `datasets`
    any/file.jsonl                    one object a line with `problem` and `answer`

`render` makes the prompt ids for training, evaluation and sampling alike, and verify.py compares what is reached with the answer.
A truncated completion earns 0 whatever it holds (and stays in its group).
"""

import functools
import hashlib
import json
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import verify
from problems import modular

GENERATED = ("countdown", "modular")
# The model that comes along for a task.
EMBEDDED = {"modular": "models/modular", "countdown:3": "models/countdown", "countdown": "models/countdown"}
SPLITS = {"test": range(0, 25), "tuning": range(25, 37), "train": range(37, 100)}  # percent of all problems


@dataclass(frozen=True)
class Problem:
    problem: str
    answer: str
    kind: str = "math"  # or one of GENERATED


# ---- Countdown: 3,5,7=22:  ->  3*5=15,15+7=22; ---------------------------------------------------------------------

LARGEST_NUMBER = 12
OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
NUMBER = "(0|[1-9][0-9]{0,6})"
STEP = re.compile(f"{NUMBER}([-+*]){NUMBER}={NUMBER}")


def countdown(split: str, count: int, numbers: int = 3) -> list[Problem]:
    """`count` distinct problems of a split (fewer if there are no more), always the same ones.

    A hash of (sorted numbers, target) decides the split, so that the splits share no problem, in any order of its
    numbers.  Every problem can be solved: its target comes from a random sequence of steps.

    >>> countdown("train", 2)
    [Problem(problem='2,3,8=30:', answer='30', kind='countdown'), Problem(problem='7,6,6=78:', answer='78', kind='countdown')]
    """

    def one(draw: random.Random) -> tuple[str, Problem]:
        drawn = [draw.randint(1, LARGEST_NUMBER) for _ in range(numbers)]
        target = random_target(drawn, draw)
        return f"{sorted(drawn)} {target}", Problem(f"{','.join(map(str, drawn))}={target}:", str(target), "countdown")

    return distinct(one, split, count, f"countdown {split} {numbers}")


def random_target(numbers: list[int], draw: random.Random) -> int:
    pool = list(numbers)
    while len(pool) > 1:
        a, b = (pool.pop(draw.randrange(len(pool))) for _ in range(2))
        operation = draw.choice([name for name in OPERATIONS if name != "-" or a >= b])
        pool.append(OPERATIONS[operation](a, b))
    return pool[0]


@functools.lru_cache(maxsize=1 << 16)  # a few thousand equations make up nearly all traces
def equation_holds(left: str, right: str) -> bool:
    return verify.is_equivalent(left, right)


def countdown_reward(problem: Problem, text: str) -> float:
    """1.0 for a trace whose equations hold, use up the numbers, and end at the target; the text is nothing but the trace.

    >>> problem = Problem("3,5,7=22:", "22", "countdown")
    >>> [countdown_reward(problem, trace) for trace in ("3*5=15,15+7=22;", "3*5=15,15+7=22", "5+7=12,12+3=22;")]
    [1.0, 0.0, 0.0]
    """
    pool = problem.problem.split("=")[0].split(",")
    if not text.endswith(";"):
        return 0.0
    for step in text[:-1].split(","):
        match = STEP.fullmatch(step)
        if not match:
            return 0.0
        left, operation, right, result = match.groups()
        for operand in (left, right):
            if operand not in pool:
                return 0.0
            pool.remove(operand)
        if not equation_holds(left + operation + right, result):
            return 0.0
        pool.append(result)
    return float(len(pool) == 1 and equation_holds(pool[0], problem.answer))


# ---- the other generated task, and what both share ------------------------------------------------------------------


def modular_problems(split: str, count: int) -> list[Problem]:
    """As `countdown`, of modular.py's."""

    def one(draw: random.Random) -> tuple[str, Problem]:
        text = modular.draw_problem(draw)
        return text, Problem(text, str(modular.read(text)[2]), "modular")

    return distinct(one, split, count, f"modular {split}")


def distinct(one, split: str, count: int, seed: str) -> list[Problem]:
    """`count` problems of a split with different keys; one(draw) -> (key, problem), and the key's hash decides the split."""
    if split not in SPLITS:
        raise ValueError(f"generated problems have the splits {', '.join(SPLITS)}, and not {split!r}")
    draw, found, misses = random.Random(seed), {}, 0
    while len(found) < count and misses < 5000:  # so many with nothing new: the split is as good as empty
        key, problem = one(draw)
        if int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100 in SPLITS[split] and key not in found:
            found[key], misses = problem, 0
        misses += 1
    return list(found.values())


def completion_length(problem: Problem) -> int:
    """Tokens that a right completion may need: the longest trace and its end, of problems that are not generated 1,024.

    >>> completion_length(Problem("3,5,7=22:", "22", "countdown"))  # as 12*12=144,144*12=1728; and the end of text
    24
    """
    if problem.kind == "modular":
        return modular.LENGTH
    if problem.kind != "countdown":
        return 1024
    numbers = problem.problem.count(",") + 1
    digits = [len(str(LARGEST_NUMBER**count)) for count in range(1, numbers + 1)]
    return sum(left + right + 5 for left, right in zip(digits, digits[1:])) + numbers - 1


def steps_of(problem: Problem, text: str):
    """Each step that a trace holds, as a match of `left, operation, right, result`, and what its result should be."""
    operations, step = (modular.OPERATIONS, modular.STEP) if problem.kind == "modular" else (OPERATIONS, STEP)
    for match in step.finditer(text):
        left, operation, right, _ = match.groups()
        yield match, operations[operation](int(left), int(right))


def trace_classes(text: str) -> list[str]:
    """What each character of a trace is: a choice (operand, operator), a computation (result), or form (format).

    >>> trace_classes("3*5=15;")
    ['operand', 'operator', 'operand', 'format', 'result', 'result', 'format']
    """
    classes, in_result = [], False
    for character in text:
        if character in "+-*":
            classes.append("operator")
        elif character.isdigit():
            classes.append("result" if in_result else "operand")
        else:
            classes.append("format")
            in_result = character == "="
    return classes


# ---- data sets by name, and files ---------------------------------------------------------------------------------


def after_hashes(answer: str) -> str:
    """GSM8K's gold answer follows `####`."""
    return answer.rpartition("####")[2].strip().replace(",", "")


HUB = {  # name: (hub id, configuration, split, problem field, answer field, how to read the answer)
    "gsm8k": ("openai/gsm8k", "main", "train", "question", "answer", after_hashes),
    "gsm8k-test": ("openai/gsm8k", "main", "test", "question", "answer", after_hashes),
    "math": ("nlile/hendrycks-MATH-benchmark", None, "train", "problem", "answer", str),
    "math500": ("HuggingFaceH4/MATH-500", None, "test", "problem", "answer", str),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", "problem", "answer", str),
    "aime25": ("math-ai/aime25", None, "test", "problem", "answer", str),
    "amc23": ("math-ai/amc23", None, "test", "question", "answer", str),
    "minerva": ("math-ai/minervamath", None, "test", "question", "answer", str),
    "olympiadbench": ("math-ai/olympiadbench", None, "test", "question", "final_answer", lambda answers: answers[0]),
    "omni-math": ("KbsdJames/Omni-MATH", None, "test", "problem", "answer", str),
}


def load(name: str, split: str = "train", count: int | None = None) -> list[Problem]:
    """The problems of a task, the first `count` of them if it is given.

    `split` (train, tuning, test) is for what is generated, 10,000 at most; the others have names or files.
    Raises ValueError or FileNotFoundError with the task, the file and the line.
    """
    if name.partition(":")[0] == "countdown":
        numbers = name.partition(":")[2] or "3"
        if not numbers.isdigit() or not 2 <= int(numbers) <= 6:
            raise ValueError(f"task {name!r}: countdown takes 2 to 6 numbers, as in countdown:4")
        return countdown(split, count or 10_000, int(numbers))
    if name == "modular":
        return modular_problems(split, count or 10_000)
    if name in HUB:
        return from_hub(name)[:count]
    if name.endswith((".jsonl", ".json")):
        return read_jsonl(name)[:count]
    raise ValueError(f"task {name!r} is none of: countdown, modular, {', '.join(HUB)}, or a .jsonl file")


def from_hub(name: str) -> list[Problem]:
    import datasets

    hub_id, configuration, split, problem, answer, read = HUB[name]
    try:
        rows = datasets.load_dataset(hub_id, configuration, split=split)
        problems = [Problem(row[problem], read(row[answer])) for row in rows]
    except Exception as error:  # the hub's errors have many types; the user needs one line
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"task {name!r}: the hub did not give {hub_id} ({reason}); a .jsonl file works too") from None
    return [problem for problem in problems if problem.problem.strip() and problem.answer.strip()]


def read_jsonl(path: str) -> list[Problem]:
    """Problems of a file, one JSON object a line; rows whose answer is empty cannot be rewarded and are left out, aloud."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    problems, empty = [], 0
    with open(path, "rb") as lines:  # bytes: a line that is not UTF-8 has a number too
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
            for field in ("problem", "answer"):
                if not isinstance(row, dict) or type(row.get(field)) not in (str, int, float):
                    raise ValueError(f"{path}, line {number}: the field {field!r} is missing or not text")
            problem, answer = (str(row[f]).encode("utf-8", "replace").decode() for f in ("problem", "answer"))
            if problem.strip() and answer.strip():  # half of a surrogate pair, as scraped text may hold, is a ? here
                problems.append(Problem(problem, answer))
            else:
                empty += 1
    if empty:
        print(f"{path}: left out {empty} rows whose problem or answer is empty", file=sys.stderr)
    if not problems:
        raise ValueError(f"{path}: no problems in it")
    return problems


def write_jsonl(path: Path, problems: list[Problem]) -> None:
    """The inverse of `read_jsonl`."""
    lines = [json.dumps({"problem": p.problem, "answer": p.answer}) + "\n" for p in problems]
    path.write_text("".join(lines), encoding="utf-8")


# ---- prompts ------------------------------------------------------------------------------------------------------

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
TEMPLATES = ("auto", "raw", "plain", "chat", "chat-thinking")


def choose_template(problem: str, vocabulary) -> str:
    if re.fullmatch(r"[0-9,]+=[0-9]+:", problem) or modular.PROBLEM.fullmatch(problem):
        return "raw"  # a notation of its own
    return "plain" if vocabulary.token_to_id("<|im_start|>") is None else "chat"


def render(problem: str, vocabulary, template: str = "auto") -> list[int]:
    """The prompt's ids: the one function for training, evaluation and sampling.

    raw: the problem as it is.  plain: `Question: ... Answer:`, for models without chat tokens.  chat: one ChatML turn, as
    Qwen's and SmolLM2's own template writes it; Qwen3 is told not to think, unless the template is chat-thinking.
    Text that looks like a special token stays text: only the template places special tokens.
    """
    if template not in TEMPLATES:
        raise ValueError(f"template {template!r} is none of: {', '.join(TEMPLATES)}")
    if template == "auto":
        template = choose_template(problem, vocabulary)
    begin = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
    if template == "raw":
        return begin + vocabulary.encode(problem)
    if template == "plain":
        return begin + vocabulary.encode(f"Question: {problem}\n{INSTRUCTION}\nAnswer:")
    start, end = (vocabulary.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>"))
    if start is None or end is None:
        raise ValueError(f"template {template!r} needs <|im_start|> and <|im_end|> in the vocabulary; try plain")
    encode = vocabulary.encode
    user, turn = encode(f"user\n{problem}\n{INSTRUCTION}"), encode("assistant\n")
    ids = [*begin, start, *user, end, *encode("\n"), start, *turn]
    think, done = (vocabulary.token_to_id(token) for token in ("<think>", "</think>"))
    if template == "chat" and think is not None and done is not None:
        ids += [think, *encode("\n\n"), done, *encode("\n\n")]
    return ids


def stop_ids(vocabulary) -> set[int]:
    """What ends a completion: the model's end-of-text tokens, and the end of a chat turn, which base models may not list."""
    end = vocabulary.token_to_id("<|im_end|>")
    return vocabulary.eos_ids | ({end} if end is not None else set())


# ---- rewards ------------------------------------------------------------------------------------------------------


def rewards(problems: list[Problem], texts: list[str], finished: list[bool]) -> list[float]:
    """R(x, y) in {0.0, 1.0} for each completion text (without the end-of-text token)."""
    result = [0.0] * len(texts)
    maths = []
    for index, (problem, text, whole) in enumerate(zip(problems, texts, finished, strict=True)):
        if whole and problem.kind == "countdown":
            result[index] = countdown_reward(problem, text)
        elif whole and problem.kind == "modular":
            reached = modular.answer(problem.problem, text)
            result[index] = float(reached is not None and equation_holds(reached, problem.answer))
        elif whole:
            maths.append(index)
    checked = verify.rewards([texts[i] for i in maths], [problems[i].answer for i in maths]) if maths else []
    for index, reward in zip(maths, checked):
        result[index] = reward
    return result
