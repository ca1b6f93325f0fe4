"""verify.py beside Math-Verify, in one run: how often each is right on labelled pairs, by source, and how fast.

Then hostile strings (none may run code, be graded equal, or take over a second), the reward of copying the problem, and a
soak of mixed checks (memory stays flat). One to three minutes on one core, half of it Math-Verify's.

    python -m bench.verifier                        # everything, with ../shared and math-verify
    python -m bench.verifier --soak 0 --no-peer     # pairs, hostile strings and copies, verify.py alone

The pairs are JSONL files with gold, pred, expected, source or class, and pred_kind ("output": the answer is to be
extracted; "answer": it is bare). The hostile strings have gold, text and truly_equal (false: grading it equal is wrong;
null: either will do). The problems have problem and answer.
"""

import argparse
import collections
import gzip
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import verify
from answers.extract import MATH

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
PAIRS = [SHARED / "verify_cases" / name for name in ("dev.jsonl", "dev2.jsonl")]
HOSTILE, PROBLEMS = SHARED / "verify_cases" / "hostile_dev.jsonl.gz", SHARED / "data" / "math500.jsonl"


def fail(message: str) -> NoReturn:
    print(f"bench.verifier: {message}", file=sys.stderr)
    sys.exit(2)


def rows(path: Path) -> list[dict]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or "it is no JSONL file"
        fail(f"cannot read {path}: {reason}; --pairs, --hostile and --problems name other files")


def ours(row: dict) -> bool:
    if row["pred_kind"] == "output":
        return verify.reward(row["pred"], row["gold"]) == 1.0
    return verify.is_equivalent(row["pred"], row["gold"])


def math_verify():
    """Math-Verify as its README uses it, a bare formula being put between dollars."""
    try:
        from math_verify import parse
        from math_verify import verify as equal
    except ImportError:
        fail("math_verify is not installed: pip install -r requirements-dev.txt, or leave it out with --no-peer")

    def read(text: str, bare: bool):
        return parse(f"${text}$" if bare and "$" not in text and "boxed" not in text else text)

    return lambda row: bool(equal(read(row["gold"], True), read(row["pred"], row["pred_kind"] == "answer")))


def measure(name: str, judge, cases: list[dict]) -> None:
    """One table: accuracy, false positives and negatives, by source where there are any, and the time of a verdict."""
    seconds, wrong = [], collections.defaultdict(lambda: [0, 0, 0])
    for row in cases:
        start = time.perf_counter()
        try:
            verdict = judge(row)
        except Exception:  # a peer that raises gives no verdict: that is a plain no
            verdict = False
        seconds.append(time.perf_counter() - start)
        for source in (row.get("source") or row["class"], "all"):
            wrong[source][0] += 1
            wrong[source][1] += verdict and not row["expected"]
            wrong[source][2] += row["expected"] and not verdict
    print(f"\n{name}\n{'source':32}{'pairs':>7}{'accuracy':>10}{'false pos':>11}{'false neg':>11}")
    for source, (count, positives, negatives) in sorted(wrong.items(), key=lambda item: (item[0] == "all", item[0])):
        if positives + negatives or source == "all":
            print(f"{source:32}{count:7}{1 - (positives + negatives) / count:10.2%}{positives:11}{negatives:11}")
    ordered = sorted(seconds)
    median, late, latest = statistics.median(ordered), ordered[int(0.99 * len(ordered))], ordered[-1]
    print(
        f"{len(cases) / sum(seconds):.0f} cases/s in one thread; a verdict takes {median * 1e3:.3f} ms in the median,"
    )
    print(f"{late * 1e3:.1f} ms at p99 and {latest * 1e3:.1f} ms at most")


def hostile(cases: list[dict]) -> None:
    """Hostile strings, in an empty folder in which code that runs would leave a file."""
    slowest, wrong, home = 0.0, 0, os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for row in cases:
            for judge in (verify.reward, verify.is_equivalent):
                start = time.perf_counter()
                verdict = judge(row["text"], row["gold"])
                slowest = max(slowest, time.perf_counter() - start)
                wrong += bool(verdict) and row["truly_equal"] is False
        executed = len(os.listdir("."))
        os.chdir(home)
    print(f"\n{len(cases)} hostile strings, as output and as answer: {executed} executed, {wrong} wrong,")
    print(f"the slowest verdict took {slowest:.2f} s")


def copies(problems: list[dict]) -> None:
    """How often the last formula of the problem, put into a box, earns the reward: without and with the problem known."""
    earned = [0.0, 0.0]
    for row in problems:
        formulas = MATH.findall(row["problem"])
        text = r"\boxed{" + formulas[-1].strip("$\\[]() ").rstrip(".,") + "}" if formulas else ""
        for number, known in enumerate((None, row["problem"])):
            earned[number] += verify.reward(text, str(row["answer"]), known)
    shares = [f"{share / len(problems):.2%}" for share in earned]
    print(f"\ncopying the last formula of {len(problems)} problems earns {shares[0]}, and {shares[1]} in training")


def megabytes() -> None:
    """Extraction from 1 MB of what costs a careless pattern most, in CPU time."""
    units = [
        "{",
        "}",
        "$",
        "$$x",
        r"\(",
        r"\[ ",
        r"\\[",
        "\\",
        "answer is ",
        "is ",
        "1,",
        "7",
        " ",
        "\n",
        r"\boxed",
        r"\boxed{1} and ",
    ]
    worst = (0.0, "")
    for unit in units:
        long = unit * (10**6 // len(unit))
        for text in (long, r"\boxed{" + long, "The answer is " + long, long + " The answer is 5", long + r"\boxed{5}"):
            start = time.process_time()
            verify.extract_answer(text)
            worst = max(worst, (time.process_time() - start, unit))
    print(f"\nextraction from 1 MB takes at most {worst[0] * 1e3:.0f} ms of CPU time (with {worst[1]!r} repeated)")


def resident() -> float:
    """Resident memory of this process in MiB (Linux), or its peak elsewhere."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def soak(cases: list[dict], checks: int) -> None:
    """Many mixed checks, no two alike, with the memory after each tenth."""
    generator, memory, start = random.Random(0), [], time.perf_counter()
    for number in range(checks):
        row = generator.choice(cases)
        text = row.get("text", row.get("pred")) + " " * (number % 7)
        verify.reward(text, f"{row['gold']} + {number}" if number % 2 else row["gold"])
        if number % (checks // 10) == checks // 10 - 1:
            memory.append(resident())
    slope = (memory[-1] - memory[2]) / (0.7 * checks) * 1000
    sizes = ", ".join(f"{size:.1f}" for size in memory)
    print(f"\n{checks} mixed checks in {time.perf_counter() - start:.0f} s; resident MiB after each tenth: {sizes}")
    print(f"growth after the first three tenths: {slope:.4f} MiB in 1000 checks")


def main() -> None:
    parser = argparse.ArgumentParser(description="verify.py beside Math-Verify, on labelled pairs and hostile text.")
    parser.add_argument("--pairs", type=Path, nargs="+", default=PAIRS, help="JSONL files of labelled pairs")
    parser.add_argument("--hostile", type=Path, default=HOSTILE, help="JSONL file, may be gzipped")
    parser.add_argument("--problems", type=Path, default=PROBLEMS, help="JSONL file of problems, for copies")
    parser.add_argument("--soak", type=int, default=100_000, help="checks of the soak, 0 for none (default: 100000)")
    parser.add_argument("--no-peer", action="store_true", help="leave Math-Verify out")
    parser.error = fail
    options = parser.parse_args()
    if 0 < options.soak < 10 or options.soak < 0:
        fail("--soak takes 0 or at least 10 checks")
    files, bad = {path.name: rows(path) for path in options.pairs}, rows(options.hostile)
    judges = {"verify.py": ours} if options.no_peer else {"verify.py": ours, "Math-Verify": math_verify()}
    verify.is_equivalent("x+1", "1+x"), verify.is_equivalent(r"\int_0^1 x dx", "1/2")  # imports mpmath, and sympy
    for file, cases in files.items():
        for name, judge in judges.items():
            measure(f"{name} on {file}", judge, cases)
    hostile(bad)
    copies(rows(options.problems))
    megabytes()
    if options.soak:
        soak(
            sum(files.values(), []) + [row for row in bad if len(row["text"]) < 3000 and row["cls"] != "sumint"],
            options.soak,
        )


if __name__ == "__main__":
    main()
