"""The documents keep their word: pointers land on their lines, experiments print what is shown, commands exist, patches work.

python tests/test_tutorial.py --renumber        puts the line numbers of all pointers right, after code has moved
"""

import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "TUTORIAL.md",
    ROOT / "CHANGELOG.md",
    ROOT / "bench" / "BENCHMARKS.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# [`rl.py:12`](rl.py#L12) `some of that line`
POINTER = re.compile(r"\[`([\w/]+\.py):(\d+)`\]\((?:\.\./)?([\w/]+\.py)#L(\d+)\)\s+`([^`]+)`")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def place(file: str, text: str, near: int) -> int:
    """The number of the line that holds `text`, the nearest one if there are several; 0 if there is none."""
    if not (ROOT / file).is_file():
        return 0
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = [number for number, line in enumerate(lines, start=1) if " ".join(text.split()) in line]
    return min(found, key=lambda number: abs(number - near), default=0)


def corrected(match: re.Match) -> str:
    """The pointer with the number of the line that holds its text; as it was, and a complaint, where none does."""
    file, number, _, anchor, text = match.groups()
    line = place(file, text, int(number))
    if not line:
        print(f"no line of {file} says {text!r}", file=sys.stderr)
        return match[0]
    return match[0].replace(f":{number}`", f":{line}`", 1).replace(f"#L{anchor})", f"#L{line})", 1)


def renumber() -> None:
    for document in DOCUMENTS:
        document.write_text(POINTER.sub(corrected, document.read_text(encoding="utf-8")), encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_pointers_land_on_the_lines_they_name(document):
    text = document.read_text(encoding="utf-8")
    pointers = POINTER.findall(text)
    assert len(pointers) == len(re.findall(r"\.py:\d+`\]", text)), "a pointer without the text of its line"
    assert len(pointers) >= (18 if document.name == "TUTORIAL.md" else 0)
    for file, number, linked, anchor, words in pointers:
        line = (ROOT / file).read_text(encoding="utf-8").splitlines()[int(number) - 1]
        hint = "python tests/test_tutorial.py --renumber puts numbers right"
        assert (file, number) == (linked, anchor) and " ".join(words.split()) in line, (
            f"{file}:{number} is not {words!r}: {hint}"
        )


def test_renumbering_is_a_command_of_its_own():
    """Run as a script this file finds nothing of the repository on Python's path."""
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=bare)
    assert (done.returncode, done.stderr) == (1, "python tests/test_tutorial.py --renumber or --run\n")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (document.parent / target.partition("#")[0]).exists(), target


def test_the_tree_of_the_readme_names_every_file_of_the_root_and_every_folder():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"^```\n(minimal\.py .*?)^```", text, re.MULTILINE | re.DOTALL)
    named = [re.split(r"  +", line, maxsplit=1) for line in tree.splitlines()]
    assert all(len(line) == 2 for line in named), "a name without its comment"
    files = {file.name for file in ROOT.glob("*.py")}
    folders = {f"{file.parent.name}/" for file in ROOT.glob("*/*.py")}
    assert {name for names, _ in named for name in names.split()} == files | folders
    assert len(text.splitlines()) <= 180


def test_the_experiments_print_what_the_tutorial_shows(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = "\n".join(
        body for kind, body in BLOCK.findall((ROOT / "TUTORIAL.md").read_text(encoding="utf-8")) if kind == "python"
    )
    test = doctest.DocTestParser().get_doctest(text, {}, "TUTORIAL.md", "TUTORIAL.md", 0)
    assert len(test.examples) > 25
    said: list[str] = []
    assert doctest.DocTestRunner().run(test, out=said.append).failed == 0, "".join(said)


def commands(document: Path) -> list[str]:
    """Every `python something.py ...` of the document's bash blocks, continued lines joined, comments cut."""
    blocks = "\n".join(body for kind, body in BLOCK.findall(document.read_text(encoding="utf-8")) if kind == "bash")
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in blocks.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("python ") and not line.startswith("python -m")]


def test_the_commands_of_the_documents_have_the_flags_they_use(monkeypatch, capsys):
    every = {command for document in DOCUMENTS for command in commands(document)}
    assert len(every) >= 8
    monkeypatch.setattr("trainer.faults.at_once", lambda: None)  # pytest has its own signals
    helps: dict[str, str] = {}
    for command in every:
        script = command.split()[1]
        if script.startswith("tests/"):
            continue
        if script not in helps:
            monkeypatch.setattr(sys, "argv", [script, "--help"])
            with pytest.raises(SystemExit) as ended:
                importlib.import_module(Path(script).stem).main()
            helps[script], error = capsys.readouterr()
            assert not ended.value.code, error
        for flag in re.findall(r"--[a-z][a-z-]*", command):
            assert re.search(rf"{flag}\b(?!-)", helps[script]), f"{command}: {script} has no {flag}"


PATCHES = sorted((ROOT / "docs" / "ablations").glob("*.patch"))


def changed_lines(patch: Path) -> tuple[int, int]:
    """(lines that are added or removed, files that are touched)."""
    lines = patch.read_text(encoding="utf-8").splitlines()
    return sum(line[:1] in "+-" and line[:3] not in ("+++", "---") for line in lines if line), sum(
        line[:3] == "+++" for line in lines
    )


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_an_ablation_is_a_small_patch_that_trains(patch, tmp_path):
    lines, files = changed_lines(patch)
    assert lines <= 15 and files == 1
    for file in ROOT.glob("*.py"):
        shutil.copy(file, tmp_path)
    for room in ("engine", "files", "trainer", "answers", "display", "problems", "models"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["patch", "-p1", "--fuzz=0", "-i", patch], cwd=tmp_path, check=True, capture_output=True)
    flags = "--steps 1 --prompts-per-step 2 --samples-per-prompt 4 --final-problems 2 --eval-samples 2 --eval-every 0 --device cpu"
    command = [sys.executable, "train.py", "--task", "countdown", *flags.split(), "--out", "run"]
    command += ["--advantage", "maxrl"] if patch.stem == "advantage" else []
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0 and (tmp_path / "run" / "temperature_head.safetensors").exists(), done.stderr


def test_the_guide_counts_the_lines_of_each_patch():
    guide = (ROOT / "docs" / "ABLATIONS.md").read_text(encoding="utf-8")
    for patch in PATCHES:
        counts = {int(n) for n in re.findall(rf"\| (\d+) \| [^|]*\[{patch.name}\]", guide)}
        counts |= {int(n) for n in re.findall(rf"\[{patch.name}\][^|]* in (\d+) lines", guide)}
        lines = patch.read_text(encoding="utf-8").splitlines()
        added = sum(line[:1] == "+" and line[:3] != "+++" for line in lines)
        removed = sum(line[:1] == "-" and line[:3] != "---" for line in lines)
        assert max(added, removed) in counts or added + removed in counts, (patch.name, added, removed, counts)


def run_all() -> None:
    """Every `python ...` of the documents once, in their order, from the repository's folder; an hour at most."""
    text = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    blocks = "\n".join(body for kind, body in BLOCK.findall(text) if kind == "bash").replace("\\\n", " ")
    for command in dict.fromkeys(line.strip() for line in blocks.splitlines() if line.startswith("python ")):
        if "Qwen/" in command or "runs/mine" in command:
            print(f"not run, needs the hub: {command}")
            continue
        code = subprocess.run(command, shell=True, cwd=ROOT, executable="/bin/bash").returncode
        print(f"exit code {code}: {command}", flush=True)
        if code:
            sys.exit(1)


if __name__ == "__main__":
    actions = {"--renumber": renumber, "--run": run_all}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.exit("python tests/test_tutorial.py --renumber or --run")
    actions[sys.argv[1]]()
