"""Do the bounds in requirements*.txt hold?  The tests that lean on dependencies, with the oldest versions and the newest.

    python tests/versions.py

makes two virtual environments, one with the lower bound of every package and one with the newest version that each
upper bound admits, runs the tests below in both, and prints what was installed and what came of it; a bound that does
not hold is to be moved.  A quarter of an hour on two cores, 2 GB of disk an environment.  torch stays at its pin in
both: another build of it is gigabytes.  ruff and mypy are no test's dependency: the newest environment checks the
repository with both ends of them.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = [
    "tokenizer", "model", "temperature_head", "tasks", "verify", "values", "eval", "checkpoint", "plot", "commands",
    "interop",
]  # fmt: skip
CHECKERS = {"ruff": ["ruff check .", "ruff format --check ."], "mypy": ["mypy"]}
LINE = re.compile(r"([\w.-]+)(\[\w+\])?(?:==([\w.]+)|>=([\w.]+),<([\w.]+))\s*(?:;[^#]*)?(?:#.*)?")


def bounds(root: Path = ROOT) -> dict[str, tuple[str, str]]:
    """{package, with its extra: (lower bound, version specifier)} of both files, a pin being its own lower bound.

    Raises ValueError for a line with neither a pin nor both bounds.
    """
    found = {}
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (root / name).read_text(encoding="utf-8").splitlines():
            if not line or line.startswith(("#", "-r")):
                continue
            match = LINE.fullmatch(line)
            if match is None:
                raise ValueError(f"{name}: {line!r} is neither package==version nor package>=version,<version")
            package, extra, pin, low, high = match.groups()
            found[package + (extra or "")] = (pin or low, f"=={pin}" if pin else f">={low},<{high}")
    return found


def say(command: list, **more) -> subprocess.CompletedProcess:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=ROOT, **more)


def install(python: Path, requirements: list[str]) -> str:
    """What pip says where it cannot; nothing where it has."""
    done = say([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
    return done.stderr.strip() if done.returncode else ""


def installed(python: Path) -> dict[str, str]:
    """{package: version}, names in lower case with a dash, as pip compares them."""
    listed = json.loads(say([python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]).stdout)
    return {comparable(one["name"]): one["version"] for one in listed}


def comparable(package: str) -> str:
    """
    >>> comparable("math-verify[antlr4_13_2]"), comparable("huggingface_hub")
    ('math-verify', 'huggingface-hub')
    """
    return re.sub(r"[-_.]+", "-", package.partition("[")[0]).lower()


def last_line_of_pytest(python: Path, workers: int) -> str:
    files = [f"tests/test_{name}.py" for name in TESTS]
    words = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "-n", workers, *files]
    done = say(words, env=os.environ | {"OMP_NUM_THREADS": "1"})
    lines = (done.stdout.strip() or done.stderr.strip() or f"exit code {done.returncode}").splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    print("".join(f"  {line}\n" for line in failed), end="", flush=True)
    return lines[-1].strip("= ")


def check(python: Path, checker: str) -> str:
    failed = [line for line in CHECKERS[checker] if say([python, "-m", *line.split()]).returncode]
    return f"{', '.join(failed)} failed" if failed else "passed"


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the tests with the oldest and the newest dependencies.")
    parser.add_argument("--workers", type=int, default=2, help="processes of pytest")
    parser.add_argument("--only", choices=["lowest", "newest"], help="one of the two environments")
    arguments = parser.parse_args()
    known, versions, outcomes = bounds(), {}, {}
    lowest = [f"{package}=={low}" for package, (low, _) in known.items() if package not in CHECKERS]
    wanted = {"lowest": lowest, "newest": [package + specifier for package, (_, specifier) in known.items()]}
    wanted = {name: wanted[name] for name in wanted if arguments.only in (None, name)}
    with tempfile.TemporaryDirectory() as work:
        for name, requirements in wanted.items():
            venv.create(Path(work, name), with_pip=True)
            python = Path(work, name, "bin", "python")
            print(f"{name}: pip, then pytest", flush=True)
            if refused := install(python, requirements):
                sys.exit(f"{name}: pip cannot install these together\n{refused}")
            versions[name] = installed(python)
            outcomes[name, "tests"] = last_line_of_pytest(python, arguments.workers)
        if "newest" in wanted:
            for checker in CHECKERS:
                outcomes["newest", checker] = check(python, checker)
                low = known[checker][0]
                outcomes["lowest", checker] = install(python, [f"{checker}=={low}"]) or check(python, checker)
    print(table(known, versions, outcomes))
    sys.exit(any("failed" in said or "error" in said.lower() for said in outcomes.values()))


def table(known: dict, versions: dict[str, dict[str, str]], outcomes: dict[tuple[str, str], str]) -> str:
    """Markdown: a package a row with what was installed, then what came of it.

    >>> print(table({"tqdm": ("4.6", ">=4.6,<5")}, {"newest": {"tqdm": "4.7"}}, {("newest", "tests"): "9 passed"}))
    | package | bounds | lowest | newest |
    |---|---|---|---|
    | tqdm | >=4.6,<5 | 4.6 | 4.7 |
    | tests | | | 9 passed |
    """
    lines = ["| package | bounds | lowest | newest |", "|---|---|---|---|"]
    for package, (low, specifier) in known.items():
        columns = [versions.get(name, {}).get(comparable(package), "") for name in ("lowest", "newest")]
        lines.append(f"| {package} | {specifier} | {columns[0] or low} | {columns[1]} |")
    for what in dict.fromkeys(what for _, what in outcomes):
        lines.append(
            "| " + what + " | " + "".join(f"| {outcomes.get((n, what), '')} " for n in ("lowest", "newest")) + "|"
        )
    return "\n".join(line.replace("|  |", "| |") for line in lines)


if __name__ == "__main__":
    main()
