"""`python -m study` and study.findings: a study resumes, refuses what does not belong to it, and is told truly."""

import gzip
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import pytest

import baselines
import eval as evaluation
import model
import tasks
import tokenizer
import train
from display import log
from study import __main__ as command
from study import experiment, findings, introspect, results, trials

ROOT = Path(__file__).resolve().parent.parent


def test_the_commands_from_a_small_study_to_its_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "QUICK", trials.Size(alone=2, steps=3, prompts=2, problems=6, seeds=2))
    base = str(ROOT / "models/countdown")
    words = ["study.py", "--quick", "--regimes", "frozen", "3e-5", "--jobs", "1"]
    words += ["--base", base, "--out", str(tmp_path)]
    drawing = log.Log.report

    def here(module, *more) -> str:
        monkeypatch.setattr(sys, "argv", [*more])
        module.main()
        return capsys.readouterr().out

    for methods in ("fixed 0.7", "short", "head, pass@8, tokens first"):  # the last starts from the tokens of `short`
        here(command, *words, "--methods", methods)
    monkeypatch.setattr(sys, "argv", [*words[:3], "frozen", *words[5:], "--methods", "head, mean"])
    command.main()
    capsys.readouterr()
    files = sorted(tmp_path.glob("*/*/seed-*/result.json"))
    assert len(files) == 2 * 5 and not list(tmp_path.glob("*/*/seed-*/checkpoints"))
    assert not list(tmp_path.rglob("run.png")) and log.Log.report is drawing, (
        "pictures of trials are not drawn, others are"
    )
    before = {file: file.stat().st_mtime_ns for file in files}
    listed = here(command, *words, "--methods", "fixed 0.7", "--list")
    assert [line.split()[0] for line in listed.splitlines()] == ["done"] * 4
    here(command, *words, "--methods", "fixed 0.7")
    assert before == {file: file.stat().st_mtime_ns for file in files}, "what is done is not done again"
    last = json.loads((tmp_path / "3e-5" / "head-pass@8-tokens-first" / "seed-1" / "result.json").read_text())
    assert set(last["evaluations"]) == {"own", *experiment.COMMON} and len(last["metrics"]) == 1
    assert len(last["evaluations"]["own"]["successes"]) == 6

    kept, again = tmp_path / "kept.jsonl.gz", tmp_path / "again.jsonl.gz"
    text = here(findings, "findings.py", str(tmp_path), "--problems", "5", "--keep", str(kept))
    assert (
        "| fixed 0.7 | 2 |" in text
        and "operand, first digit" in text
        and (tmp_path / "findings.md").read_text() == text
    )
    for name in ("frontier", "temperature"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    of_file = here(findings, "findings.py", str(kept), "--out", str(tmp_path / "of-file"), "--keep", str(again))
    first, second = (found[found.index("###") :].rstrip() for found in (text, of_file))
    assert first.startswith(second) and "| 3e-5 | head, pass@8, tokens first | " in of_file
    assert kept.read_bytes() == again.read_bytes() and len(kept.read_bytes()) < 10 * 300
    lines = gzip.decompress(kept.read_bytes()).decode().splitlines()
    assert not any("/" in line for line in lines), "no path of the machine that they ran on"
    rows = [row for line in lines for row in json.loads(line)["metrics"]]
    assert rows and all(set(row) == set(results.CURVES) for row in rows)
    for name in ("frontier",):
        assert (tmp_path / "of-file" / f"{name}.png").read_bytes() == (tmp_path / f"{name}.png").read_bytes()

    def done(*more) -> set[str]:
        elsewhere = ["study.py", *words[1:-1], str(tmp_path / "elsewhere"), "--list", "--done", str(kept)]
        elsewhere += ["--methods", "fixed 0.7", "short", "head, mean", "head, pass@8, tokens first", *more]
        return {line[5:] for line in here(command, *elsewhere).splitlines() if line.startswith("done")}

    all_of_them = {f"{r['regime']} {r['method']} {r['seed']}" for r in (json.loads(line)["trial"] for line in lines)}
    assert len(all_of_them) == 10 and done() == all_of_them, "kept trials count as done"
    (tmp_path / "elsewhere" / "frozen" / "fixed-0.7" / "seed-1" / "result.json").unlink()
    assert done("--base", os.path.relpath(base)) == all_of_them, "wherever the base lies"
    shutil.rmtree(tmp_path / "elsewhere")
    with monkeypatch.context() as there:
        there.setattr(model, "choose_device", lambda name: name)
        assert done("--device", "cuda") == set(), "in bfloat16 it is another trial"
    changed = model.load(shutil.copytree(base, tmp_path / "other"))
    assert done("--base", str(tmp_path / "other")) == all_of_them, "whatever its folder is called"
    shutil.rmtree(tmp_path / "elsewhere")
    changed.embed.weight.data[0, 0] += 1e-3
    model.save(changed, tmp_path / "other")
    assert done("--base", str(tmp_path / "other")) == set(), "of another base model it is another trial"
    assert done("--split", "tuning") == done("--problems", "5") == set(), "of other problems too"
    first = {f"3e-5 {m} {s}" for m in ("short", "head, pass@8, tokens first") for s in (0, 1)}
    kept.write_bytes(gzip.compress("\n".join(line for line in lines if "tokens first" not in line).encode()))
    assert all_of_them - done() == first, "what others have yet to start from has to be there"
    shutil.rmtree(tmp_path / "elsewhere")
    kept.write_bytes(
        gzip.compress("\n".join(line.replace('"own", "flags"', '"0.9", "flags"') for line in lines).encode())
    )
    assert all_of_them - done() == first | {f"frozen head, mean {s}" for s in (0, 1)}, "also where another is kept"
    changed = [json.loads(line) | ({"weights": "0"} if "tokens first" in line else {}) for line in lines]
    kept.write_bytes(gzip.compress("\n".join(map(json.dumps, changed)).encode()))
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(SystemExit):
        done()
    assert "started from different base models" in capsys.readouterr().err
    kept.write_bytes(again.read_bytes())
    other = here(
        findings, "findings.py", str(tmp_path), "--problems", "5", "--look", "3e-5", "head, pass@8, tokens first"
    )
    assert "## Temperatures of head, pass@8, tokens first (3e-5)" in other and "| operator |" in other
    restored = tmp_path / "frozen" / "head-mean" / "seed-0"  # its head is not there, nor are all its metrics
    (restored / "temperature_head.safetensors").unlink()
    result = json.loads((restored / "result.json").read_text())
    curves = [{name: row[name] for name in results.CURVES} for row in result["metrics"]]
    (restored / "result.json").write_text(json.dumps(result | {"metrics": curves}))
    drawn = []
    monkeypatch.setattr(introspect, "picture", lambda looks, metrics, out: drawn.append(metrics))
    here(findings, "findings.py", str(tmp_path), "--problems", "5")
    (metrics,) = drawn[0]
    assert any("tau/operator" in row for row in metrics), "the metrics are those of the seed whose head is looked at"
    monkeypatch.setattr(sys, "argv", ["findings.py", str(tmp_path), "--look", "frozen", "fixed 0.7"])
    with pytest.raises(SystemExit):
        findings.main()
    assert "no finished trial of 'fixed 0.7' in 'frozen'" in capsys.readouterr().err
    whole = kept.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for damaged in (
        whole[:200],
        bytes(flipped),
        b"text",
        gzip.compress(b'{"trial": {}}\n'),
        gzip.compress(b"[1]"),
        gzip.compress(lines[0].replace('"own"', '"owns"').encode()),
        gzip.compress("\n".join([*lines[:3], lines[3].replace('"successes": [', '"successes": [0, ')]).encode()),
        b"",
    ):
        kept.write_bytes(damaged)
        monkeypatch.setattr(sys, "argv", ["findings.py", str(kept), "--out", str(tmp_path / "damaged")])
        with pytest.raises(SystemExit):
            findings.main()
        said = capsys.readouterr().err
        assert (
            said.startswith(f"python -m study.findings: {kept}: ")
            and said.count("\n") == 1
            and not (tmp_path / "damaged").exists()
        )


def test_trained_trials_are_evaluated_again_on_other_problems(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "QUICK", trials.Size(alone=2, steps=3, prompts=2, problems=6, seeds=1))
    monkeypatch.chdir(tmp_path)
    base = os.path.relpath(ROOT / "models/countdown")
    methods = ["EAD", "short", "head, mean, tokens first"]
    words = ["study.py", "--quick", "--jobs", "1", "--regimes", "3e-5", "--base", base, "--methods", *methods]
    monkeypatch.setattr(sys, "argv", words)
    command.main()
    again = [*words, "--again", "runs/study-quick", "--skip", "4", "--problems", "3"]
    monkeypatch.setattr(sys, "argv", again)
    monkeypatch.setattr(train, "train", None)  # it is not called
    command.main()
    problems = tasks.load("countdown:3", "test", 7)[4:]
    for folder in Path("runs/study-quick/3e-5").glob("*/seed-0"):
        before = json.loads((folder / "result.json").read_text())
        result = json.loads(
            (Path("runs/study-quick-again/3e-5") / folder.parent.name / "seed-0/result.json").read_text()
        )
        assert result["trial"] == before["trial"] and list(result["evaluations"]) == ["own"] and not result["metrics"]
        assert results.problems_of(result | {"device": "cuda"}).device == "cuda"
        assert results.problems_of(result) == ("test", 3, 4, "cpu", 8) and result["weights"] == before["weights"]
        policy = baselines.make(result["trial"]["policy"], folder)
        trained = model.load(folder), tokenizer.load(folder)
        length = tasks.completion_length(problems[0])
        found = evaluation.evaluate(*trained, policy, problems, 8, length, seed=0).correct.sum(1)
        assert result["evaluations"]["own"]["successes"] == found.tolist()
    assert len(results.read(Path("runs/study-quick-again"))["3e-5"]) == 3
    for more, said in (
        (["--skip", "5"], "is of 3 test problems after the first 4, not of 3 test problems after the first 5: flags"),
        (["--skip", "9999"], "--skip 9999: there are "),
        (["--out", "runs/new", "--again", "runs/nowhere"], "--again runs/nowhere: 3e-5, EAD 0 has no trained model"),
    ):
        monkeypatch.setattr(sys, "argv", [*again, *more])
        with pytest.raises(SystemExit):
            command.main()
        assert said in capsys.readouterr().err


def test_another_base_model_and_other_problems(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "QUICK", trials.Size(alone=2, steps=2, prompts=2, problems=6, seeds=1))
    monkeypatch.chdir(tmp_path)
    words = ["study.py", "--quick", "--jobs", "1", "--methods", "fixed 0.7", "--regimes", "3e-5"]
    words += ["--task", "countdown:2"]
    base = os.path.relpath(ROOT / "models/countdown")
    monkeypatch.setattr(sys, "argv", [*words, "--base", base])
    loaded, load = [], tasks.load
    monkeypatch.setattr(tasks, "load", lambda *asked: loaded.append(asked) or load(*asked))
    command.main()
    assert ("countdown:2", "test", 6) in loaded
    file = tmp_path / "runs/study-quick-countdown2/3e-5/fixed-0.7/seed-0"
    trial = json.loads((file / "result.json").read_text())["trial"]
    assert trial["base"] == base and trial["task"] == trial["flags"]["task"] == "countdown:2"
    asked = [json.loads(line)["problem"] for line in (file / "samples.jsonl").read_text().splitlines()]
    assert asked and all(text.count(",") == 1 for text in asked)
    monkeypatch.setattr(sys, "argv", [*words[:5], "head, mean", "--regimes", "frozen", *words[-2:], "--base", base])
    command.main()
    monkeypatch.setattr(sys, "argv", ["findings.py", "runs/study-quick-countdown2", "--problems", "5"])
    findings.main()
    assert ("countdown:2", "test", 5) in loaded, "temperatures are looked at on such problems too"
    more = ["greedy", "--regimes", "frozen", "--task", "countdown", "--problems", "7", "--base", base]
    monkeypatch.setattr(sys, "argv", [*words[:5], *more, "--split", "tuning"])
    command.main()
    assert ("countdown:3", "tuning", 7) in loaded
    of_tuning = Path("runs/study-quick-tuning/frozen/greedy/seed-0/result.json")
    assert results.problems_of(json.loads(of_tuning.read_text())) == ("tuning", 7, 0, "cpu", 8)
    monkeypatch.setattr(sys, "argv", [*words[:5], *more])
    command.main()
    assert ("countdown:3", "test", 7) in loaded
    result = Path("runs/study-quick/frozen/greedy/seed-0/result.json")
    assert result.is_file(), "it is countdown:3 by another name"
    assert len(json.loads(result.read_text())["evaluations"]["own"]["successes"]) == 7
    monkeypatch.setattr(sys, "argv", ["findings.py", "runs/study-quick"])
    with warnings.catch_warnings(action="error"):  # a study with no curve to draw
        findings.main()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["study.py", "--quick", "--list", "--base", base])
    command.main()
    listed = capsys.readouterr().out
    assert "3e-6 fixed 0.7 0" in listed and "-long" not in listed
    shutil.copytree("runs/study-quick-countdown2", "damaged")
    changed = model.load(shutil.copytree(base, "changed"))
    changed.embed.weight.data[0, 0] += 1e-3
    model.save(changed, "changed")
    shutil.copytree(base, "without-weights", ignore=shutil.ignore_patterns("*.safetensors"))
    Path("damaged/3e-5/fixed-0.7/seed-0/result.json").write_text("[]")
    other = Path(shutil.copytree("runs/study-quick-countdown2", "others"), "3e-5/fixed-0.7/seed-0/result.json")
    other.write_text(other.read_text().replace('"token_lr": 3e-05', '"token_lr": 2e-05'))
    for more, said in (
        ([], "no model's folder"),
        (["--base", "without-weights"], "no model's folder"),
        (["--base", base, "--task", "countdown:7"], "2 to 6"),
        (["--base", base, "--split", "train"], "test or tuning"),
        (["--base", base, "--split", "tests"], "test, tuning, train"),
        (["--base", base, "--problems", "-1"], "at least 0"),
        (["--base", base, "--problems", "5"], "is of 6 test problems, not of 5 test problems"),
        (["--base", "changed"], "is of another base model than changed"),
        (["--base", base, "--out", "others"], "others/3e-5/fixed-0.7/seed-0/result.json is of other settings"),
        (["--base", base, "--methods", "warm"], "--methods warm: there are"),
        (["--base", base, "--methods", "warm", "--tune"], "--methods warm: there are EAD, EDT, mixture, min-p"),
        (["--base", base, "--out", "damaged"], "damaged/3e-5/fixed-0.7/seed-0/result.json is damaged"),
        (["--base", base, "--task", "gsm8k"], "countdown:N or modular"),
        (["--base", base, "--device", "cuda"], "is of 6 test problems, not of 6 test problems on cuda"),
    ):
        monkeypatch.setattr(model, "choose_device", lambda name: name)
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_trial_without_the_tokens_it_starts_from_is_named(tmp_path, monkeypatch, capsys):
    words = ["study.py", "--quick", "--regimes", "3e-5", "--out", str(tmp_path), "--methods", "tokens first"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        command.main()
    said = capsys.readouterr().err
    assert (
        ended.value.code == 2
        and said.count("\n") == 1
        and "starts from the tokens of short: --methods short first" in said
    )
