"""Problems of data sets by name, and of files: JSONL, a JSON array, CSV, Parquet.

CSV is read with Python's own reader and Parquet with pyarrow.  `datasets` would guess types, in which 007 becomes 7, and keep
a copy of each file in its cache.
"""

import codecs
import contextlib
import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from problems.problem import Problem


def after_hashes(answer: str) -> str:
    """GSM8K's gold answer follows `####`."""
    return answer.rpartition("####")[2].strip().replace(",", "")


SUFFIXES = (".jsonl", ".json", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz", ".parquet")

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
    """The problems of a data set; ValueError where the hub does not give it."""
    import datasets

    hub_id, configuration, split, problem, answer, read = HUB[name]
    try:
        rows = datasets.load_dataset(hub_id, configuration, split=split)
        problems = [Problem(str(row[problem] or ""), read(row[answer] or "")) for row in rows]
    except Exception as error:  # the hub's errors have many types; the user needs one line
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"task {name!r}: the hub did not give {hub_id} ({reason}); a .jsonl file works too") from None
    return with_answers(name, problems)


def with_answers(name: str, problems: list[Problem]) -> list[Problem]:
    """Without the problems whose answer is empty, which no completion could meet: their number is said."""
    kept = [problem for problem in problems if problem.problem.strip() and problem.answer.strip()]
    if left_out := len(problems) - len(kept):
        print(f"{name}: left out {left_out} of {len(problems)} rows without a problem or an answer", file=sys.stderr)
    if not kept:
        raise ValueError(f"{name}: no problems in it")
    return kept


def read_file(path: str) -> list[Problem]:
    """The problems of a file.  A row has `problem` (or `question`) and `answer`.

    Raises FileNotFoundError or ValueError with the file and the row.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    problems = []
    for where, row in rows_of(path):
        name = "question" if isinstance(row, dict) and "problem" not in row and "question" in row else "problem"
        for field in (name, "answer"):
            if not isinstance(row, dict) or type(row.get(field)) not in (str, int, float):
                raise ValueError(f"{path}, {where}: the field {field!r} is missing or not text")
        # Scraped text may hold half of a surrogate pair, which becomes a ?.
        problem, answer = (str(row[field]).encode("utf-8", "replace").decode() for field in (name, "answer"))
        problems.append(Problem(problem, after_hashes(answer) if "####" in answer else answer))
    return with_answers(path, problems)


def rows_of(path: str) -> Iterator[tuple[str, object]]:
    """(place, row) for each row: JSON objects a line or in an array, CSV with a header, Parquet; each but Parquet also as .gz."""
    if path.endswith(".parquet"):
        yield from parquet_rows(path)
        return
    try:
        data = gzip.decompress(Path(path).read_bytes()) if path.endswith(".gz") else Path(path).read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from None
    data = data.removeprefix(codecs.BOM_UTF8)  # Windows programs begin a file with it
    if path.removesuffix(".gz").endswith(".csv"):
        yield from csv_rows(path, data)
    elif (rows := json_array(data)) is not None:
        yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
    else:
        for number, line in enumerate(data.split(b"\n"), start=1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line.decode("utf-8"))
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{path}, line {number}: not JSON ({error})") from None


def json_array(data: bytes) -> list | None:
    """The rows of a file that is one JSON array; None for any other."""
    if data.lstrip()[:1] == b"[":
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(data)
    return None


def csv_rows(path: str, data: bytes) -> Iterator[tuple[str, dict]]:
    """Fields are text as they stand: 007 stays 007."""
    csv.field_size_limit(2**31 - 1)  # a field may be a long text
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""), strict=True)
        for row in reader:
            if None in row:
                raise ValueError(
                    f"{path}, line {reader.line_num}: more fields than the header; quote fields with commas"
                )
            yield f"line {reader.line_num}", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not CSV ({error})") from None


def parquet_rows(path: str) -> Iterator[tuple[str, dict]]:
    from pyarrow import ArrowException, parquet  # comes with datasets

    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file ({(str(error).splitlines() or [''])[0]})") from None
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def write_jsonl(path: Path, problems: list[Problem]) -> None:
    """A file that `read_file` reads back."""
    lines = [json.dumps({"problem": p.problem, "answer": p.answer}) + "\n" for p in problems]
    path.write_text("".join(lines), encoding="utf-8")
