"""A few kills of fault_injection.py, cases of fuzz.py and steps of soak.py, which are commands of their own for many."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fuzz
import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    "words", [("fault_injection.py", "--kills", "3"), ("fuzz.py", "--cases", "60"), ("soak.py", "--steps", "5")]
)
def test_some(words, tmp_path):
    done = subprocess.run([sys.executable, HERE / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir()), "what it makes belongs in a folder of its own"


def test_a_command_of_the_fuzzer_writes_where_it_is_told_to(tmp_path, monkeypatch):
    """eval.py --out 1 is a fair command, and its file is not to end up among ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(fuzz.COMMANDS, "eval.py", SimpleNamespace(main=lambda: Path("1").write_text("figures")))
    (tmp_path / "case").mkdir()
    assert fuzz.fork("eval.py", [], tmp_path / "said", tmp_path / "case") == 0
    assert (tmp_path / "case" / "1").is_file() and not (tmp_path / "1").exists()
