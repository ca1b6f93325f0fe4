"""The house keeps its rules: three rings, imports that run one way, files of one sitting, a loop that reads as the algorithm."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import sample
import train

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("engine", "files", "trainer", "answers", "display", "problems", "study", "bench", "models")
FILES = {file.stem: file for file in ROOT.glob("*.py")} | {
    f"{room}.{file.stem}": file for room in ROOMS for file in (ROOT / room).glob("*.py") if file.stem != "__init__"
}
BESIDE = ("study.", "bench.", "models.")  # they use the system, and nothing of it uses them
ALONE = {
    "token_policy": set(),
    "temperature_head": {"token_policy"},
    "rl": {"token_policy", "temperature_head"},
    "model": {"files.weights"},
}


def names_in(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def imports(file: Path, everywhere: bool = False) -> set[str]:
    """The files of the house that a file imports when it is imported; `everywhere`: also later, inside a function."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    return {name for node in nodes for name in names_in(node)} & set(FILES)


def reached(name: str) -> set[str]:
    """All that comes along when this file is imported."""
    found, todo = set(), [name]
    while todo:
        new = imports(FILES[todo.pop()]) - found
        found |= new
        todo += new
    return found


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(BESIDE)])
def test_nothing_imports_what_stands_beside(name):
    assert not {other for other in imports(FILES[name], everywhere=True) if other.startswith(BESIDE)}


@pytest.mark.parametrize("name", FILES)
def test_no_import_goes_round_in_a_circle(name):
    assert name not in reached(name), f"{name} imports itself, by way of others"


@pytest.mark.parametrize("name", ALONE)
def test_the_method_can_be_copied_into_another_project(name, tmp_path):
    """Each of these files runs with the few that it names, and torch."""
    assert imports(FILES[name]) <= ALONE[name] and reached(name) <= ALONE[name]
    for other in {name} | ALONE[name]:
        copy = tmp_path / FILES[other].relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(FILES[other].read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_sitting(name):
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= 300


def test_the_root_is_the_paper():
    root = [name for name in FILES if "." not in name]
    assert len(root) <= 14
    assert sum(len(FILES[name].read_text(encoding="utf-8").splitlines()) for name in root) <= 2800
    for room in ROOMS:
        assert ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))), room
    for name, file in FILES.items():
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), f"{name} does not say what it is"


def test_the_loops_read_as_the_algorithm():
    assert len(inspect.getsource(inspect.unwrap(sample.generate)).splitlines()) <= 36  # with its decorator
    assert len(inspect.getsource(train.train).splitlines()) <= 40
    order = ["run.sample(", "run.reward(", "rl.advantages(", "rl.token_step", "temperature_step, policy"]
    places = [inspect.getsource(train.train).index(step) for step in order]
    assert places == sorted(places)
