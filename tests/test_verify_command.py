"""verify.py from outside: batches of rewards, and the two command lines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import verify
from verify import rewards

ROOT = Path(__file__).resolve().parent.parent


# ---------------------------------------------------------------------------------------------------------- batches
def test_rewards_keep_their_order():
    texts = [rf"\boxed{{{n % 7}}}" for n in range(50)]
    assert rewards(texts, ["3"] * 50) == [float(n % 7 == 3) for n in range(50)]
    assert rewards([], []) == []
    with pytest.raises(ValueError):
        rewards(["a"], [])


def test_big_batches_go_to_processes_and_keep_their_order(monkeypatch):
    monkeypatch.setattr(verify, "BATCH_SECONDS", 0.0)
    texts = [rf"So \boxed{{{n % 7}}}" for n in range(400)]
    assert rewards(texts, ["3"] * 400) == [float(n % 7 == 3) for n in range(400)]


# ---------------------------------------------------------------------------------------------------- the command line
def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, str(ROOT / "verify.py"), *arguments], capture_output=True, text=True, timeout=60, **options
    )


def test_command_line(tmp_path):
    shown = command("--gold", r"\frac{1}{2}", "--text", r"So \boxed{0.5}.")
    assert (
        shown.returncode == 0
        and "0.5" in shown.stdout
        and r"\frac{1}{2}" in shown.stdout
        and "equal, decided by: value" in shown.stdout
    )
    cases = tmp_path / "cases.jsonl"
    cases.write_text(
        '{"gold": "2", "pred": "1+1"}\n{"gold": "2", "pred": "it is \\\\boxed{3}", "pred_kind": "output"}\n'
    )
    verdicts = [json.loads(line) for line in command(str(cases)).stdout.splitlines()]
    assert [(verdict["equal"], verdict["answer"]) for verdict in verdicts] == [(True, "1+1"), (False, "3")]


@pytest.mark.parametrize("content", [None, "not json\n", '{"gold": "2"}\n', "[1]\n"])
def test_a_users_mistake_is_one_line(tmp_path, content):
    cases = tmp_path / "cases.jsonl"
    if content is not None:
        cases.write_text(content)
    for arguments in ([str(cases)], ["--gold", "1"], ["--text", "1"], [], ["--nonsense"], [str(tmp_path)]):
        failed = command(*arguments)
        assert failed.returncode == 2 and not failed.stdout, arguments
        assert failed.stderr.startswith("verify.py: ") and failed.stderr.count("\n") == 1, arguments


def test_help_has_one_line_a_flag():
    shown = command("--help", env=os.environ | {"COLUMNS": "80"}).stdout.partition("positional arguments:")[2]
    lines = [line for line in shown.splitlines() if line.startswith(" ")]
    assert len(lines) == 4 and all(len(line.split()) > 2 for line in lines)
    assert [line.split()[0] for line in lines] == ["cases", "-h,", "--gold", "--text"]


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"gold": "2", "pred": "1+1"}\n' * 5000)
    piped = subprocess.Popen(
        [sys.executable, str(ROOT / "verify.py"), str(cases)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    piped.stdout.readline()
    piped.stdout.close()
    assert piped.stderr.read() == b"" and piped.wait(60) == 0
    piped.stderr.close()
