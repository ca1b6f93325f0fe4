"""Problems of data sets by name, and of files."""

import json
import sys
from pathlib import Path

from problems.problem import Problem


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
