"""Nonsense for every command: flags, damaged model folders, damaged problem files, damaged checkpoints.

    python tests/fuzz.py --cases 2000

A case is one command in a process of its own (a fork: 20 ms).  It may work or refuse; it may not end in a traceback, by a
signal, with another exit code than 0, 1 or 2, or hang.  test_injection.py runs a few of them with the other tests.
"""

import argparse
import contextlib
import gzip
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]
import torch
import torch.utils.tensorboard  # noqa: F401
from test_checkpoint import write_base

import config
import eval as evaluation
import model
import plot
import sample
import train
import verify
from display import log

COMMANDS = {"train.py": train, "eval.py": evaluation, "sample.py": sample, "plot.py": plot, "verify.py": verify}
SECONDS = 60
WORDS = ["", "-1", "0", "1", "2", "3", "0.5", "1e400", "nan", "-inf", "1e-300", "99999999999999999999", "abc", "é\udcff", "\x00", "own", "greedy",
    "ead", "edt:base=", "edt:base=0.5", "tampo", "sequence", "pass@1", "pass@2", "pass@", "mean", "blocks:2", "blocks:x", "tokens", "countdown",
    "plain", "auto", "{problem}", "Q: {problem} A:", "{problem}{problem}", "\\n", ";", "absent.py:f", "words:2", "words:x", "x.csv", "x.parquet",
    "countdown:4", "countdown:x", "modular", "modular:4", "even", "tau", "chess", "cpu", "cuda:99", "mps", "raw", "chat", "/", ".", "/proc/self/mem", "/dev/null", "~", "a/b/c", "x.jsonl"]  # fmt: skip
LONG = {"--steps", "--final-problems", "--eval-problems", "--problems", "--samples", "--eval-samples", "--prompts-per-step",
    "--samples-per-prompt", "--token-epochs", "--temperature-epochs", "--max-new-tokens", "--rows", "--task", "--benchmark",
    "--eval-task"}  # fmt: skip
CHAT = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{% endfor %}"
ODD = [None, True, -1, 0, 1, 2**70, 0.5, "", "x", [], [1], {}, {"a": 1}, "gelu", 1e308]


def fork(script: str, words: list[str], said: Path, folder: Path) -> int | None:
    """The exit code of a command in a fork of this process, minus the signal that ended it, or None where it hung.

    It runs in `folder`, since some of what a case names is a file here: eval.py --out 1."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        opened = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(opened, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        code = 99
        try:
            sys.argv = [script, *words]
            COMMANDS[script].main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)
    started = time.monotonic()
    while time.monotonic() < started + SECONDS:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def damage(draw: random.Random, file: Path) -> None:
    """Flip bytes, cut, append, empty; or, in JSON, put an odd value somewhere."""
    data = bytearray(file.read_bytes())
    how = draw.choice(["flip", "flip", "cut", "append", "empty", "zeros", "json", "json", "json", "remove", "folder"])
    if how == "json" and file.suffix == ".json":
        tree = json.loads(data)
        node = tree
        for _ in range(draw.randrange(4)):
            inner = [
                v for v in (node.values() if isinstance(node, dict) else node) if isinstance(v, (dict, list)) and v
            ]
            node = draw.choice(inner) if inner else node
        key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if draw.random() < 0.3:
            del node[key]
        else:
            node[key] = draw.choice(ODD)
        file.write_text(json.dumps(tree))
        return
    if how == "remove" or how == "folder":
        file.unlink()
        if how == "folder":
            file.mkdir()
        return
    if how == "cut":
        data = data[: draw.randrange(len(data) + 1)]
    elif how == "append":
        data += draw.randbytes(draw.randrange(1, 50))
    elif how == "empty":
        data = bytearray()
    elif how == "zeros":
        start = draw.randrange(max(1, len(data)))
        data[start : start + 64] = bytes(len(data[start : start + 64]))
    else:
        for _ in range(draw.choice([1, 1, 3, 30])):
            # the head of a file says what follows: half of the flips are there
            place = draw.randrange(min(len(data), 200) if draw.random() < 0.5 else len(data)) if data else 0
            if data:
                data[place] = draw.randrange(256)
    file.write_bytes(data)


def problem_line(draw: random.Random) -> bytes:
    good = {"problem": "1+1?", "answer": "2"}
    return draw.choice([
        lambda: json.dumps(good).encode(), lambda: b"", lambda: b"{", lambda: b"[1, 2]", lambda: b"null", lambda: b"\xff\xfe",
        lambda: json.dumps(good | {draw.choice(list(good)): draw.choice(ODD)}).encode(), lambda: json.dumps(draw.choice(ODD)).encode(),
        lambda: b"[" * 100_000, lambda: b'{"problem": "' + b"9" * 2_000_000 + b'", "answer": "1"}', lambda: draw.randbytes(40),
        lambda: json.dumps({"problem": "\ud800" * 3, "answer": "\x00"}).encode(), lambda: b'{"problem": 1e999, "answer": NaN}',
    ])()  # fmt: skip


def case(draw: random.Random, base: Path, run: Path, folder: Path) -> tuple[str, list[str]]:
    """One command line; what it damages is a copy in `folder`."""
    short = ["--prompts-per-step", "2", "--samples-per-prompt", "2", "--steps", "1", "--max-new-tokens", "4", "--eval-samples", "2",
        "--final-problems", "2", "--device", "cpu", "--out", str(folder / "out"), "--template", "raw", "--eval-every", "0"]  # fmt: skip
    task = ["--task", str(base / "problems.jsonl")]
    kind = draw.choice(["flags", "flags", "model", "model", "problems", "checkpoint", "run"])
    if kind == "flags":
        script = draw.choice(["train.py", "train.py", "eval.py", "sample.py", "plot.py", "verify.py"])
        flags = {
            "train.py": ["--" + name.replace("_", "-") for name in config.Config().settings()],
            "eval.py": ["--model", "--benchmark", "--policy", "--samples", "--problems", "--max-new-tokens", "--template", "--rows",
                "--seed", "--device", "--out", "--system", "--instruction", "--stop", "--reward"],
            "sample.py": ["--model", "--prompt", "--policy", "--max-new-tokens", "--template", "--seed", "--device", "--system",
                "--instruction", "--stop"],
            "plot.py": ["--help"], "verify.py": ["--gold", "--text"],
        }[script]  # fmt: skip
        words = {
            "train.py": ["--model", str(base), *task, *short],
            "eval.py": ["--model", str(base), "--benchmark", str(base / "problems.jsonl"), "--samples", "2", "--problems", "2",
                "--max-new-tokens", "4", "--template", "raw", "--device", "cpu"],
            "sample.py": ["--model", str(run), "--prompt", "12?", "--max-new-tokens", "4", "--template", "raw", "--device", "cpu"],
        }.get(script, [])  # fmt: skip
        for _ in range(draw.choice([1, 1, 2, 4])):
            flag = draw.choice(flags)
            small = [word for word in WORDS if not word.startswith(("9999", "countdown"))]
            words += [flag, draw.choice(small if flag in LONG else WORDS)]
            if draw.random() < 0.1:
                words.append(draw.choice(WORDS))
        if "--out" in words[len(short) :] and script == "train.py":  # not into the machine's own folders
            words += [
                "--out",
                draw.choice([str(folder / "out"), "/dev/null/x", str(base), str(base / "problems.jsonl"), ""]),
            ]
        return script, [word for word in words if "\x00" not in word]  # no system passes a zero byte
    if kind == "problems":
        lines = [problem_line(draw) for _ in range(draw.randrange(5))] + [
            b'{"problem": "%d?", "answer": "2"}' % i for i in range(5)
        ]
        draw.shuffle(lines)
        data = b"\n".join(lines[: draw.randrange(len(lines) + 1)])
        file = folder / draw.choice(["p.jsonl", "p.jsonl", "p.json", "p.csv", "p.parquet", "p.jsonl.gz"])
        file.write_bytes(gzip.compress(data) if file.suffix == ".gz" and draw.random() < 0.8 else data)
        if draw.random() < 0.5:
            return "train.py", ["--model", str(base), "--task", str(file), *short]
        return "eval.py", [
            "--model",
            str(base),
            "--benchmark",
            str(file),
            "--samples",
            "1",
            "--max-new-tokens",
            "3",
        ]
    if kind == "checkpoint":
        shutil.copytree(run, folder / "out")
        newest = max((folder / "out" / "checkpoints").iterdir())
        damage(draw, draw.choice([file for file in newest.iterdir() if file.is_file()]))
        return "train.py", ["--out", str(folder / "out"), "--resume", "--steps", "3"]
    shutil.copytree(run, folder / "model", ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    model = folder / "model"
    if kind == "run":
        damage(draw, draw.choice([file for file in model.iterdir() if file.suffix in (".jsonl", ".json")]))
        return "plot.py", [str(model)]
    template = draw.choice([CHAT, CHAT, *ODD, "{% for m in messages %}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}"])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": draw.choice(["<|endoftext|>", *ODD])}
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    how = draw.choice(["raw", "chat", "auto"])
    names = [
        "config.json",
        "tokenizer_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "generation_config.json",
        "temperature_head.safetensors",
    ]
    for name in draw.sample(names, draw.choice([1, 1, 2])):
        damage(draw, model / name)
    if draw.random() < 0.7:
        return "sample.py", [
            "--model",
            str(model),
            "--prompt",
            "12?",
            "--max-new-tokens",
            "4",
            "--device",
            "cpu",
            "--template",
            how,
        ]
    for name in ("run.json", "trainer_state.pt"):
        (model / name).unlink(missing_ok=True)
    return "train.py", ["--model", str(model), *task, *short, "--template", how]


def fuzz(cases: int, seed: int, work: Path, show=lambda *text: None) -> list[str]:
    """What went wrong, one line a case."""
    draw, failures = random.Random(seed), []
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    log.Log.report = lambda self: ""  # drawing takes seconds, and plot.py is a command of its own
    base, run, said = write_base(work / "base"), work / "run", work / "said"
    verify.is_equivalent("1.5", "3/2"), model.load(base)  # what is imported on first use, once for all forks
    flags = ["--model", str(base), "--task", str(base / "problems.jsonl"), "--prompts-per-step", "2", "--samples-per-prompt", "2",
        "--steps", "2", "--max-new-tokens", "4", "--eval-samples", "2", "--final-problems", "2", "--device", "cpu", "--out", str(run),
        "--template", "raw", "--eval-every", "0", "--print-every", "1"]  # fmt: skip
    assert fork("train.py", flags, said, work) == 0, said.read_text()
    codes: dict = {}
    for number in range(cases):
        folder = work / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        script, words = case(draw, base, run, folder)
        code = fork(script, words, said, folder)
        text = said.read_text(errors="replace")
        codes[code] = codes.get(code, 0) + 1
        refused_clearly = code != 2 or text.splitlines()[-1].startswith(f"{script}: ")
        if code not in (0, 1, 2) or "Traceback" in text or not refused_clearly:
            failures.append(f"case {number}, exit {code}: {script} {' '.join(words)}\n{text[-1500:]}")
            show(failures[-1])
    show(f"{cases} cases, exit codes {codes}, {len(failures)} failures")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description="Run every command on nonsense, and count tracebacks.")
    parser.add_argument("--cases", type=int, default=2000, help="how many commands")
    parser.add_argument("--seed", type=int, default=0, help="other nonsense")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        sys.exit(bool(fuzz(arguments.cases, arguments.seed, Path(work), show=print)))


if __name__ == "__main__":
    main()
