"""A few kills of fault_injection.py, cases of fuzz.py and steps of soak.py, which are commands of their own for many."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    "words", [("fault_injection.py", "--kills", "3"), ("fuzz.py", "--cases", "60"), ("soak.py", "--steps", "5")]
)
def test_some(words):
    done = subprocess.run([sys.executable, HERE / words[0], *words[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
