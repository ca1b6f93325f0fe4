"""study.py, findings.py and introspect.py: trials are equal in what they may spend, resume, and are told truly."""

import collections
import gzip
import json
import multiprocessing.pool
import os
import re
import shutil
import signal
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import model
import rl
import tasks
import temperature_head
from display import log
from study import experiment as study
from study import findings, frontier, introspect, trials
from trainer import faults

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("regime", trials.ALL)
def test_methods_of_a_regime_have_as_many_rollouts(regime):
    made = trials.planned(trials.FULL, [regime])
    of_method = {trial.method: trial.flags for trial in made}
    assert len(made) == trials.FULL.seeds * len(of_method)
    rivals = {f"fixed {tau}" for tau in trials.GRID} | {"EAD", "EDT", "mixture", "TAMPO, pass@8"}
    if regime == "frozen-long":  # the rivals are those of frozen
        assert set(of_method) == {"head, mean", "head, pass@8"}
    else:
        assert rivals < set(of_method)
    spent, updates = {}, {}
    for trial in made:
        if trial.flags is not None and trial.method not in ("short", "tokens"):
            before = of_method[trial.after] if trial.after else {"steps": 0, "prompts_per_step": 0}
            spent[trial.method] = sum(flags["steps"] * flags["prompts_per_step"] for flags in (trial.flags, before))
            alone = trial.flags.get("temperature_first", 0)
            updates[trial.method] = before["steps"] if trial.after else trial.flags["steps"] - alone
    assert len(set(spent.values())) == 1, spent
    if regime == "frozen-long":
        (both,) = {t.flags["steps"] for t in trials.planned(trials.FULL, ["3e-6-long"]) if t.method == "fixed 0.7"}
        assert {trial.flags["steps"] for trial in made} == {both}
        assert {trial.flags["schedule"] for trial in made} == {"temperature"}
    if regime in trials.TOKEN_LR:
        steps = of_method["fixed 0.7"]["steps"]
        assert steps == trials.FULL.steps * (3 if regime in ("3e-6-long", "1e-5-long", "3e-5-long") else 1)
        fewer = {method for method, count in updates.items() if count < steps}
        assert fewer == {m for m in updates if m.endswith(("temperature first", "tokens first"))}
        assert {updates[method] for method in fewer} == {of_method["short"]["steps"]}


@pytest.mark.parametrize("settings", trials.CHOSEN)
def test_every_method_is_tuned_on_as_many_settings(settings):
    chosen, tuned = trials.CHOSEN[settings], trials.TUNED | trials.TUNED_OF.get(settings, {})
    counts = {name: len(of_method) for name, of_method in (tuned | {"fixed": trials.GRID}).items()}
    assert set(counts.values()) == {8} or counts.pop("min-p") == 16 and set(counts.values()) == {8}
    for name, policy in (chosen.rules | {"TAMPO": chosen.tampo}).items():
        assert policy in [of for of, _ in tuned[name.removesuffix(" for Avg@8")]], name
    for name, flags in (("sequence", chosen.sequence), ("head", chosen.head)):
        assert trials.PASS | flags in [of for _, of in tuned[name]], name
    policy, flags = chosen.head_and_cut
    assert (policy, trials.PASS | flags) in tuned["head, min-p"]
    size = trials.FULL._replace(task="modular" if settings == "same-slip" else settings, settings=settings)
    assert size.chosen() == chosen == trials.FULL._replace(settings=settings).chosen()


def test_tuning_shows_the_mean_of_the_seeds_and_each(tmp_path, monkeypatch, capsys):
    """Rules have four seeds, what learns has one, for a quarter of the steps, on the tuning problems."""
    asked = []

    def run_all(todo, root, problems, jobs):
        asked.extend((trial, *problems) for trial in todo)
        return [
            {"evaluations": {"own": {"Avg@8": 0.1 + trial.seed / 100, "Pass@8": 0.3, "problems": 7}}} for trial in todo
        ]

    monkeypatch.setattr(study, "run_all", run_all)
    size = trials.FULL._replace(problems=7, task="modular")
    study.tune(tmp_path, size, 1, "cpu", trials.settings_of(size))
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) == 8 * (len(trials.TUNED) + 1) + len(trials.CONTROLS)
    assert " 41.5  (40.0, 41.0, 42.0, 43.0)  11.5  0.7" in rows
    assert " 40.0  (40.0)  10.0  own temperature_lr=0.003 temperature_epochs=2" in rows
    assert {(trial.task, *problems) for trial, *problems in asked} == {("modular", "tuning", 7, 0, "cpu")}
    assert {trial.flags["steps"] for trial, *_ in asked if trial.flags is not None} == {trials.FULL.alone // 4}
    asked.clear()
    size = size._replace(settings="same-slip")
    of_two = trials.settings_of(size, ["head", "min-p"])  # and of no other whose name holds one of these
    study.tune(tmp_path, size, 1, "cpu", of_two)
    assert [t.policy for t, *_ in asked if t.seed == 0 and t.flags is None] == [p for p, _ in SAME_SLIP["min-p"]]
    assert [t.policy for t, *_ in asked if t.flags is not None] == ["own"] * 8


def test_every_trial_is_a_run_that_train_accepts():
    import config

    for trial in trials.planned(trials.FULL, trials.ALL):
        if trial.flags is not None and trial.seed == 0:
            flags = {"policy": trial.policy, "out": "nowhere"} | trial.flags
            words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
            config.validate(config.parse(words))


def test_the_default_run_is_the_trial_that_wins():
    import config

    size = trials.FULL._replace(task="modular", base="models/modular")
    trial = next(t for t in trials.planned(size, ["3e-6-long"]) if t.method == "head, mean, every step")
    preset = vars(config.parse([]))
    looking = {"eval_every", "print_every", "final_problems", "save_every"}  # not what is trained
    assert {name: preset[name] for name in trial.flags.keys() - looking} == {
        name: value for name, value in trial.flags.items() if name not in looking
    }
    assert (preset["model"], preset["policy"], preset["out"]) == (trial.base, trial.policy, "runs/modular")
    assert config.parse([]) == config.parse(["--preset", "modular"]) == config.parse(["--task", "modular"])


def test_the_commands_from_a_small_study_to_its_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "QUICK", trials.Size(alone=2, steps=3, prompts=2, problems=6, seeds=2))
    base = str(ROOT / "models/countdown")
    words = ["study.py", "--quick", "--regimes", "frozen", "3e-5", "--jobs", "1"]
    words += ["--base", base, "--out", str(tmp_path)]
    drawing = log.Log.report

    def here(command, *more) -> str:
        monkeypatch.setattr(sys, "argv", [*more])
        command.main()
        return capsys.readouterr().out

    for methods in ("fixed 0.7", "short", "head, pass@8, tokens first"):  # the last starts from the tokens of `short`
        here(study, *words, "--methods", methods)
    monkeypatch.setattr(sys, "argv", [*words[:3], "frozen", *words[5:], "--methods", "head, pass@8"])
    study.main()
    capsys.readouterr()
    results = sorted(tmp_path.glob("*/*/seed-*/result.json"))
    assert len(results) == 2 * 5 and not list(tmp_path.glob("*/*/seed-*/checkpoints"))
    assert not list(tmp_path.rglob("run.png")) and log.Log.report is drawing, (
        "pictures of trials are not drawn, others are"
    )
    before = {file: file.stat().st_mtime_ns for file in results}
    listed = here(study, *words, "--methods", "fixed 0.7", "--list")
    assert [line.split()[0] for line in listed.splitlines()] == ["done"] * 4
    here(study, *words, "--methods", "fixed 0.7")
    assert before == {file: file.stat().st_mtime_ns for file in results}, "what is done is not done again"
    last = json.loads((tmp_path / "3e-5" / "head-pass@8-tokens-first" / "seed-1" / "result.json").read_text())
    assert set(last["evaluations"]) == {"own", "0.3", "0.7", "greedy"} and len(last["metrics"]) == 1
    assert len(last["evaluations"]["own"]["successes"]) == 6

    kept, again = tmp_path / "kept.jsonl.gz", tmp_path / "again.jsonl.gz"
    text = here(findings, "findings.py", str(tmp_path), "--problems", "5", "--keep", str(kept))
    assert (
        "| fixed 0.7 | 2 |" in text
        and "operand, first digit" in text
        and (tmp_path / "study.findings.md").read_text() == text
    )
    for name in ("frontier", "efficiency", "temperature"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    of_file = here(findings, "findings.py", str(kept), "--out", str(tmp_path / "of-file"), "--keep", str(again))
    assert text.startswith(of_file.rstrip()) and "| 3e-5 | head, pass@8, tokens first | " in of_file
    assert kept.read_bytes() == again.read_bytes() and len(kept.read_bytes()) < 10 * 200
    lines = gzip.decompress(kept.read_bytes()).decode().splitlines()
    assert not any("/" in line for line in lines), "no path of the machine that they ran on"
    rows = [row for line in lines for row in json.loads(line)["metrics"]]
    assert rows and all(set(row) == set(findings.CURVES) for row in rows)
    for name in ("frontier", "efficiency"):
        assert (tmp_path / "of-file" / f"{name}.png").read_bytes() == (tmp_path / f"{name}.png").read_bytes()

    def done(*more) -> set[str]:
        elsewhere = ["study.py", *words[1:-1], str(tmp_path / "elsewhere"), "--list", "--done", str(kept)]
        elsewhere += ["--methods", "fixed 0.7", "short", "head, pass@8", "head, pass@8, tokens first", *more]
        return {line[5:] for line in here(study, *elsewhere).splitlines() if line.startswith("done")}

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
    assert all_of_them - done() == first | {f"frozen head, pass@8 {s}" for s in (0, 1)}, "also where another is kept"
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
    restored = tmp_path / "frozen" / "head-pass@8" / "seed-0"  # its head is not there, nor are all its metrics
    (restored / "temperature_head.safetensors").unlink()
    result = json.loads((restored / "result.json").read_text())
    curves = [{name: row[name] for name in findings.CURVES} for row in result["metrics"]]
    (restored / "result.json").write_text(json.dumps(result | {"metrics": curves}))
    drawn = []
    monkeypatch.setattr(introspect, "temperature_tables", lambda looks, metrics, out: drawn.append(metrics) or "")
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
            said.startswith(f"findings.py: {kept}: ") and said.count("\n") == 1 and not (tmp_path / "damaged").exists()
        )


def test_trained_trials_are_evaluated_again_on_other_problems(tmp_path, monkeypatch, capsys):
    import policies

    import eval as evaluation
    import tokenizer
    import train

    monkeypatch.setattr(trials, "QUICK", trials.Size(alone=2, steps=3, prompts=2, problems=6, seeds=1))
    monkeypatch.chdir(tmp_path)
    base = os.path.relpath(Path(study.__file__).parent / "models/countdown")
    methods = ["EAD", "short", "head, mean, tokens first"]
    words = ["study.py", "--quick", "--jobs", "1", "--regimes", "3e-5", "--base", base, "--methods", *methods]
    monkeypatch.setattr(sys, "argv", words)
    study.main()
    again = [*words, "--again", "runs/study-quick", "--skip", "4", "--problems", "3"]
    monkeypatch.setattr(sys, "argv", again)
    monkeypatch.setattr(train, "train", None)  # it is not called
    study.main()
    problems = tasks.load("countdown:3", "test", 7)[4:]
    for folder in Path("runs/study-quick/3e-5").glob("*/seed-0"):
        before = json.loads((folder / "result.json").read_text())
        result = json.loads(
            (Path("runs/study-quick-again/3e-5") / folder.parent.name / "seed-0/result.json").read_text()
        )
        assert result["trial"] == before["trial"] and list(result["evaluations"]) == ["own"] and not result["metrics"]
        assert study.problems_of(result | {"device": "cuda"}).device == "cuda"
        assert study.problems_of(result) == ("test", 3, 4, "cpu") and result["weights"] == before["weights"]
        policy = policies.make(result["trial"]["policy"], folder)
        trained = model.load(folder), tokenizer.load(folder)
        length = tasks.completion_length(problems[0])
        found = evaluation.evaluate(*trained, policy, problems, 8, length, seed=0).correct.sum(1)
        assert result["evaluations"]["own"]["successes"] == found.tolist()
    assert len(findings.read(Path("runs/study-quick-again"))["3e-5"]) == 3
    for more, said in (
        (["--skip", "5"], "is of 3 test problems after the first 4, not of 3 test problems after the first 5: flags"),
        (["--skip", "9999"], "--skip 9999: there are "),
        (["--out", "runs/new", "--again", "runs/nowhere"], "--again runs/nowhere: 3e-5, EAD 0 has no trained model"),
    ):
        monkeypatch.setattr(sys, "argv", [*again, *more])
        with pytest.raises(SystemExit):
            study.main()
        assert said in capsys.readouterr().err


def test_another_base_model_and_other_problems(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "QUICK", trials.Size(alone=2, steps=2, prompts=2, problems=6, seeds=1))
    monkeypatch.chdir(tmp_path)
    words = ["study.py", "--quick", "--jobs", "1", "--methods", "fixed 0.7", "--regimes", "3e-5"]
    words += ["--task", "countdown:2"]
    base = os.path.relpath(Path(study.__file__).parent / "models/countdown")
    monkeypatch.setattr(sys, "argv", [*words, "--base", base])
    asked_for, really = [], tasks.countdown
    monkeypatch.setattr(tasks, "countdown", lambda *given: asked_for.append(given) or really(*given))
    study.main()
    assert ("test", 6, 2) in asked_for
    file = tmp_path / "runs/study-quick-countdown2/3e-5/fixed-0.7/seed-0"
    trial = json.loads((file / "result.json").read_text())["trial"]
    assert trial["base"] == base and trial["task"] == trial["flags"]["task"] == "countdown:2"
    asked = [json.loads(line)["problem"] for line in (file / "samples.jsonl").read_text().splitlines()]
    assert asked and all(text.count(",") == 1 for text in asked)
    monkeypatch.setattr(sys, "argv", [*words[:5], "head, pass@8", "--regimes", "frozen", *words[-2:], "--base", base])
    study.main()
    monkeypatch.setattr(sys, "argv", ["findings.py", "runs/study-quick-countdown2", "--problems", "5"])
    findings.main()
    assert asked_for[-1] == ("test", 5, 2), "temperatures are looked at on such problems too"
    more = ["greedy", "--regimes", "frozen", "--task", "countdown", "--problems", "7", "--base", base]
    loaded, load = [], tasks.load
    monkeypatch.setattr(tasks, "load", lambda *asked: loaded.append(asked) or load(*asked))
    monkeypatch.setattr(sys, "argv", [*words[:5], *more, "--split", "tuning"])
    study.main()
    assert loaded[-1] == ("countdown:3", "tuning", 7)
    of_tuning = Path("runs/study-quick-tuning/frozen/greedy/seed-0/result.json")
    assert study.problems_of(json.loads(of_tuning.read_text())) == ("tuning", 7, 0, "cpu")
    monkeypatch.setattr(sys, "argv", [*words[:5], *more])
    study.main()
    assert loaded[-1] == ("countdown:3", "test", 7)
    result = Path("runs/study-quick/frozen/greedy/seed-0/result.json")
    assert result.is_file(), "it is countdown:3 by another name"
    assert len(json.loads(result.read_text())["evaluations"]["own"]["successes"]) == 7
    monkeypatch.setattr(sys, "argv", ["findings.py", "runs/study-quick"])
    with warnings.catch_warnings(action="error"):  # a study with no curve to draw
        findings.main()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["study.py", "--quick", "--list", "--base", base])
    study.main()
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
            study.main()
        assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_trial_that_a_signal_ended_is_not_done(tmp_path, monkeypatch):
    """train.py saves and returns at the first signal; half a trial must not be evaluated as a whole one."""
    trial = next(t for t in trials.planned(trials.Size(4, 3, 2, 4, 1), ["3e-5"]) if t.method == "fixed 0.7")
    really = rl.token_step

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return really(*arguments)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(rl, "token_step", interrupted)
    try:
        with pytest.raises(faults.Stopped):
            study.run_trial(trial, tmp_path, study.Asked("test", 4))
        assert not list(tmp_path.rglob("result.json"))
        monkeypatch.setattr(rl, "token_step", really)
        assert len(study.run_trial(trial, tmp_path, study.Asked("test", 4))["metrics"]) == 3
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("words", [["--tune"], ["--regimes", "frozen", "--methods", "greedy", "--jobs", "1"]])
@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, faults.Stopped])
def test_who_stops_a_study_sees_one_line(words, ended_by, tmp_path, monkeypatch, capsys):
    def run_trial(*of):
        raise ended_by

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(study, "run_trial", run_trial)
    monkeypatch.setattr(sys, "argv", ["study.py", "--quick", "--jobs", "1", "--out", str(tmp_path / "study"), *words])
    with pytest.raises(SystemExit) as ended:
        study.main()
    assert ended.value.code == 130 and "the same command goes on" in capsys.readouterr().err


def test_cuts_are_among_the_rules_and_a_head_with_one_is_tuned_as_such():
    """In every regime that has rules; where tokens learn, under the cut."""
    for task in ("countdown:3", "modular"):
        made = trials.planned(trials.FULL._replace(task=task), trials.ALL)
        for regime in ("frozen", "finished", *trials.TOKEN_LR):
            cutting = {t.method: t for t in made if t.regime == regime and "+" in t.policy}
            learns = regime in trials.TOKEN_LR
            assert {"min-p", "top-p"} <= cutting.keys()
            assert all((cutting[name].flags is not None) == learns for name in ("min-p", "top-p"))
            if regime != "finished":
                policy, flags = trials.CHOSEN[task.partition(":")[0]].head_and_cut
                own = cutting["head, mean, every step, min-p" if learns else "head, mean, min-p"]
                assert own.policy == policy and flags.items() <= own.flags.items()
                assert ("token_lr" in own.flags) == learns


def test_a_trial_sets_up_its_device_wherever_it_runs(tmp_path, monkeypatch):
    """What choose_device switches is of a process, and a worker that trains nothing has not been asked to choose."""

    def choose(name):
        raise LookupError(f"chosen: {name}")

    monkeypatch.setattr(model, "choose_device", choose)
    trial = study.Trial("frozen", "fixed 0.7", 0, "0.7", None)
    with pytest.raises(LookupError, match="chosen: cuda"):
        study.run_trial(trial, tmp_path, study.Asked("test", 5, device="cuda"))


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_trials_wait_for_a_free_job_and_for_what_they_start_from_alone(jobs, tmp_path, monkeypatch):
    said: list[tuple] = []

    def run_trial(trial, root, asked, again):
        said.append((trial.seed, trial.method, "begins"))
        time.sleep(0.5 if trial.method == "slow" else 0.01)
        said.append((trial.seed, trial.method, "ends"))
        return {"trial": trial}

    monkeypatch.setattr(study, "run_trial", run_trial)
    threads = types.SimpleNamespace(Pool=lambda jobs: multiprocessing.pool.ThreadPool(8))
    monkeypatch.setattr(study.multiprocessing, "get_context", lambda kind: threads)
    after = {"slow": "", "quick": "", "later": "quick"}
    todo = [study.Trial("3e-6", name, seed, "own", None, after[name]) for name in after for seed in (0, 1)]
    results = study.run_all(todo, tmp_path, study.Asked("test", 5), jobs)
    assert [result["trial"] for result in results] == todo
    at_once = [sum(1 if what == "begins" else -1 for *_, what in said[:i]) for i in range(1 + len(said))]
    assert max(at_once) == jobs and len(said) == 2 * len(todo)
    for seed in (0, 1):
        assert said.index((seed, "later", "begins")) > said.index((seed, "quick", "ends"))
    waits = said.index((1, "slow", "begins")) > said.index((0, "slow", "ends"))
    assert waits == (jobs == 1), "not for the seed before"


def test_a_trial_without_the_tokens_it_starts_from_is_named(tmp_path, monkeypatch, capsys):
    words = ["study.py", "--quick", "--regimes", "3e-5", "--out", str(tmp_path), "--methods", "tokens first"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        study.main()
    said = capsys.readouterr().err
    assert (
        ended.value.code == 2
        and said.count("\n") == 1
        and "starts from the tokens of short: --methods short first" in said
    )


def test_findings_of_nothing_end_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["findings.py", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        findings.main()
    assert (
        ended.value.code == 2
        and capsys.readouterr().err == f"findings.py: {tmp_path}: holds no result.json of study.py\n"
    )


def test_interval_covers_the_truth_as_often_as_it_says():
    draw, covered = np.random.default_rng(0), 0
    for _ in range(60):
        of_seed = draw.normal(0.5, 0.03, size=(8, 1))
        values = (draw.random((8, 200)) < of_seed).astype(float)
        _, low, high = frontier.interval(values, resamples=200)
        covered += low <= 0.5 <= high
    assert 50 <= covered <= 60, covered


@pytest.mark.parametrize(
    "seeds, scatter, share", [(2, 1, 0.87), (2, 2, 0.77), (3, 1, 0.90), (3, 2, 0.85), (5, 1, 0.93), (5, 2, 0.91)]
)
def test_intervals_over_few_seeds_are_too_narrow_by_as_much_as_RESULTS_says(seeds, scatter, share):
    """In points: seeds scatter by so many; problems alone, 5,000 of them, by 0.65 (here 200, with as much noise in all)."""
    draw, covered = np.random.default_rng(0), 0
    for _ in range(500):
        of_seed, of_problem = draw.normal(0, scatter, (seeds, 1)), draw.normal(0, 0.65 * 200**0.5, (1, 200))
        _, low, high = frontier.interval(of_seed + of_problem, resamples=200)
        covered += low <= 0 <= high
    assert abs(covered / 500 - share) < 0.05, covered


def test_height_is_pass_above_the_frontier_with_an_interval_that_holds_it():
    draw = np.random.default_rng(0)

    def results(rate: float) -> list[dict]:  # of three seeds, every problem as hard: Pass@8 = 1 - (1 - rate)^8
        return [{"evaluations": {"own": {"samples": 8, "successes": draw.binomial(8, rate, 3000)}}} for _ in range(3)]

    others = [(results(rate), "own") for rate in (0.02, 0.1)]
    found, low, high = frontier.height(results(0.2), others)
    truth = 100 * (0.9**8 - 0.8**8)  # right of all others the frontier is level
    assert low < truth < high and high - low < 6 and low < found < high
    found, low, high = frontier.height(results(0.1), others)
    assert low < 0 < high and abs(found) < 2
    apart = results(0.1)[:1] + results(0.2)[:1] + results(0.3)[:1]
    _, low, high = frontier.height(apart, others)
    assert high - low > 15, "seeds that differ make it wide, however many problems there are"


def test_a_difference_is_of_the_same_problems():
    """Problems differ far more than methods do: drawn together, a small lead shows; drawn apart, it would not."""
    draw = np.random.default_rng(0)
    hard = draw.beta(0.2, 0.6, size=1000)  # most problems are never or always solved

    def results(lead: float) -> list[dict]:
        rates = np.clip(hard + lead, 0, 1)
        return [{"evaluations": {"own": {"samples": 8, "successes": draw.binomial(8, rates)}}} for _ in range(3)]

    better, worse = results(0.02), results(0.0)
    found, low, high = frontier.difference(better, worse, "Avg")
    truth = 100 * float((np.clip(hard + 0.02, 0, 1) - hard).mean())
    assert 0 < low < truth < high and high - low < 2
    alone = frontier.interval(100 * frontier.per_problem(better, "own", "Avg"))
    assert alone[2] - alone[1] > 3, "each interval alone is wider than the lead"
    assert frontier.difference(worse, better, "Avg")[0] == -found


SAME_SLIP = trials.TUNED_OF["same-slip"]
# Where tokens learn much, rules on frozen tokens are no fair rivals.
HELD_AGAINST_CUTS = collections.defaultdict(
    lambda: ("frozen", "frozen-long", "3e-6-long"),
    {"trials-countdown": ("frozen",), "trials-large": ("frozen", "3e-6")},
)


@pytest.mark.parametrize(
    "kept, task, shown",
    [
        ("trials-countdown", "countdown:3", trials.ALL),
        ("trials-modular", "modular", trials.ALL),
        ("fresh-modular", "modular", trials.ALL),
        ("trials-large", "modular", trials.ALL),
        ("trials-same-slip", "modular", trials.ALL),
        (
            "trials-modular-first",
            "countdown:3",
            ["1e-5-long"],
        ),  # of its first base model, with the settings of Countdown
    ],
)
def test_the_tables_of_RESULTS_are_those_of_the_kept_trials(kept, task, shown):
    found = findings.read(ROOT / "docs" / f"{kept}.jsonl.gz")
    found = {regime: methods for regime, methods in found.items() if regime in shown}
    tables = [findings.accuracy_table(methods) for methods in found.values()]
    tables += [
        findings.map_table(found),
        findings.rivals_table(found),
        findings.cuts_table(found, HELD_AGAINST_CUTS[kept]),
    ]
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    assert found and not {line for table in tables for line in table.splitlines()} - set(text)
    for regime, methods in found.items():
        size = trials.FULL._replace(task=task, settings="same-slip" if kept == "trials-same-slip" else "")
        planned = {trial.method: trial for trial in trials.planned(size, [regime])}
        for name, results in methods.items():
            settings = [{n: v for n, v in r["trial"].items() if n not in ("seed", "base", "task")} for r in results]
            of_plan = {n: getattr(planned[name], n) for n in settings[0]}
            if of_plan["flags"]:
                of_plan["flags"] = of_plan["flags"] | {"task": results[0]["trial"]["task"]}
            assert all(s == of_plan for s in settings), f"study.py has come to plan {regime}, {name} in another way"
            assert sorted(result["trial"]["seed"] for result in results) == list(range(len(results))), name
            assert min(len(result["evaluations"]["own"]["successes"]) for result in results) >= 1000


def test_heads_are_held_against_the_cuts_of_frozen_tokens_and_of_their_own_regime():
    """The rule that has learned is right half as often: so a row shows which of the two it is of."""

    def results(right: int) -> list[dict]:
        return [{"evaluations": {"own": {"samples": 8, "successes": [right] * 20}}}]

    joint = {"head, mean, every step": results(8), "head, mean, every step, min-p": results(6), "min-p": results(2)}
    found = {"frozen": {"head, mean": results(8), "EDT": results(0), "top-p": results(4)}, "3e-6": joint}

    def rows(*regimes: str) -> set[tuple[str, ...]]:
        lines = [line.strip("| ").split(" | ") for line in findings.cuts_table(found, regimes).splitlines()[2:]]
        return {(head, less, avg.split()[0]) for head, less, avg, _ in lines}

    learned = {
        ("head, mean, every step (3e-6)", "min-p, tokens trained too", "+75.0"),
        ("head, mean, every step, min-p (3e-6)", "min-p, tokens trained too", "+50.0"),
        ("head, mean, every step, min-p (3e-6)", "the same without min-p", "-25.0"),
    }
    assert rows() == learned
    assert rows("frozen") == learned | {("head, mean (frozen)", "top-p", "+50.0")}
    of_joint = {("head, mean, every step (3e-6)", "top-p", "+50.0")}
    assert rows("3e-6") == learned | of_joint | {("head, mean, every step, min-p (3e-6)", "top-p", "+25.0")}


def test_what_is_looked_at_is_sampled_with_what_it_cuts(tmp_path):
    """Of a head that learned under a cut so sharp that one token was left everywhere."""
    for file in (ROOT / "models/countdown").iterdir():
        shutil.copy(file, tmp_path)
    temperature_head.TemperatureHead(96, 0.5, 4.0).save(tmp_path)
    problems = tasks.load("countdown:3", "tuning", 6)
    for policy, sharp in (("own", False), ("own+min_p=1.0", True)):
        (tmp_path / "run.json").write_text(json.dumps({"policy": policy}))
        seen = introspect.look(tmp_path, problems, seed=0)
        assert bool(max(seen["entropy"]) < 1e-3) == bool(max(seen["pull"]) < 1e-6) == sharp


def test_every_interval_of_the_README_is_in_RESULTS():
    """And RESULTS is held to the kept trials, above."""
    number = r"[-+]?\d+\.\d"
    shown = re.findall(rf"{number} \[{number}, {number}\]", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(shown) > 30 and not set(shown) - set(
        re.findall(rf"{number} \[{number}, {number}\]", (ROOT / "RESULTS.md").read_text(encoding="utf-8"))
    )


def test_rivals_are_the_best_of_their_kind_for_each_metric():
    def results(successes: list[int], samples: int = 8) -> list[dict]:
        own = {"samples": samples, "successes": successes * 50}
        return [{"evaluations": {"own": own}}, {"evaluations": {"own": own}}]

    methods = {
        "greedy": results([1, 0, 0, 0], samples=1),  # Avg 25
        "fixed 0.3": results([8, 0, 0, 0]),  # Avg 25, Pass 25
        "fixed 0.5": results([8, 2, 0, 0]),  # Avg 31.25, Pass 50
        "fixed 0.9": results([1, 1, 1, 0]),  # Avg 9.375, Pass 75
        "EAD": results([4, 4, 0, 0]),  # Avg 25, Pass 50
        "TAMPO, pass@8": results([1, 1, 1, 0]),
        "short": results([8, 8, 8, 8]),  # what others start from is no rival
        "head, mean": results([8, 8, 1, 1]),  # Avg 56.25, Pass 100
    }
    row = findings.rivals_table({"frozen": methods}).splitlines()[-1].strip("| ").split(" | ")
    assert row[:2] == ["frozen", "head, mean"] and len(row) == 6
    for cell, difference, name in zip(
        row[2:], ("+25.0", "+31.2", "+25.0", "+25.0"), ("0.5", "EAD", "0.9", "TAMPO, pass@8")
    ):
        assert cell.startswith(difference + " [") and cell.endswith(f"({name})"), cell
    methods["fixed 0.9"] = [
        {"evaluations": of["evaluations"] | {"0.3": results([8, 8, 8, 0])[0]["evaluations"]["own"]}}
        for of in methods["fixed 0.9"]
    ]
    row = findings.rivals_table({"3e-6": methods}).splitlines()[-1].strip("| ").split(" | ")
    assert row[2].startswith("-18.8 [") and row[2].endswith("(0.9, decoded at 0.3)")
    methods["greedy"] = results([1, 1, 1, 1], samples=1)
    row = findings.rivals_table({"frozen": methods}).splitlines()[-1].strip("| ").split(" | ")
    assert row[2].endswith("(greedy)") and row[4].endswith("(0.9)"), "it has no Pass@8 of its own"
    longer = {"head, mean": results([8, 8, 8, 8])}
    row = findings.rivals_table({"frozen": methods, "frozen-long": longer}).splitlines()[-1].strip("| ").split(" | ")
    assert row[0] == "frozen-long" and row[3].startswith("+75.0 [") and row[3].endswith("(EAD)"), "the rivals of frozen"


def test_how_much_tokens_learn_and_when_the_head_pays(tmp_path, monkeypatch, capsys):
    def results(successes: list[int]) -> list[dict]:
        trial = {"regime": "frozen", "method": "x"}
        own = {"samples": 8, "successes": successes}
        return [{"trial": trial, "evaluations": {"own": own}, "metrics": []} for _ in range(2)]

    frozen = {
        "fixed 0.5": results([4, 0]),
        "fixed 0.7": results([1, 1]),
        "head, mean": results([4, 2]),
        "EAD": results([2, 2]),
    }
    slow = {"fixed 0.5": results([4, 2]), "fixed 0.7": results([4, 4]), "head, mean, every step": results([4, 3])}
    found = {"frozen": frozen, "3e-6": slow, "1e-5": {"head, mean, every step": results([8, 8])}}
    assert frontier.comparable(found) == {"frozen": 1.0, "3e-6": 2.0}, "1e-5 has no fixed temperature"
    assert frontier.comparable({"3e-6": slow}) == {}

    leads = []
    monkeypatch.setattr(frontier, "difference", lambda *words: leads.append(words) or (1.0, 0.5, 1.5))
    frontier.when({"one": found}, tmp_path / "when.png")
    assert (tmp_path / "when.png").read_bytes().startswith(b"\x89PNG")
    assert leads == [
        (frozen["head, mean"], frozen["fixed 0.5"], "Avg", "own"),
        (slow["head, mean, every step"], slow["fixed 0.7"], "Avg", "own"),
        (frozen["head, mean"], frozen["fixed 0.7"], "Pass", "own"),  # before EAD, which ties
        (slow["head, mean, every step"], slow["fixed 0.5"], "Pass", "own"),  # as well as 0.7
    ]

    monkeypatch.undo()
    kept = [str(ROOT / "docs" / f"trials-{name}.jsonl.gz") for name in ("countdown", "modular-first")]
    monkeypatch.setattr(sys, "argv", ["findings.py", *kept, "--out", str(tmp_path / "out")])
    findings.main()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["when.png"]
    findings.keep({"3e-6": slow}, tmp_path / "slow.gz")
    for second, said in ((kept[0], "another of these has this name"), (tmp_path / "slow.gz", "holds no fixed temp")):
        monkeypatch.setattr(sys, "argv", ["findings.py", kept[0], str(second)])
        with pytest.raises(SystemExit):
            findings.main()
        assert capsys.readouterr().err.startswith(f"findings.py: {second}: {said}")
    for more in (["--keep", str(tmp_path / "both.gz")], ["--look", "3e-6", "head, mean"]):
        monkeypatch.setattr(sys, "argv", ["findings.py", *kept, *more])
        with pytest.raises(SystemExit):
            findings.main()
        assert capsys.readouterr().err == "findings.py: --keep and --look are for one study\n"
    assert not (tmp_path / "both.gz").exists()


def test_explained_is_the_share_that_features_tell():
    draw = np.random.default_rng(0)
    features, noise = draw.normal(size=(4000, 3)), draw.normal(size=4000)
    target = features @ np.array([1.0, -1.0, 0.0]) + noise  # two thirds of its variance
    assert introspect.explained(target, features) == pytest.approx(2 / 3, abs=0.04)
    assert introspect.explained(target, features[:, 2:]) == pytest.approx(0, abs=0.02)


def test_argmax_is_judged_only_where_a_right_digit_exists():
    class Always7:
        def unembed(self, hidden):
            return torch.nn.functional.one_hot(torch.full((len(hidden),), ord("7")), 257).float()

    countdown = tasks.Problem("5,8=7:", "7", "countdown")
    assert introspect.argmax_is_wrong(Always7(), torch.zeros(6, 1), countdown, "5-8=7;")[4] != 1.0, (
        "-3 cannot be written: no digit is right"
    )
    text = "9+8=17,17+5=23;"  # results begin at 4 and at 12; 22 would be right
    verdicts = introspect.argmax_is_wrong(Always7(), torch.zeros(len(text), 1), countdown, text)
    judged = {i: v for i, v in enumerate(verdicts) if v == v}
    assert judged == {4: 1.0, 5: 0.0, 12: 1.0, 13: 1.0}
    text, modular = "98+9=7,7*12=84,4-9=1;", tasks.Problem("98,+9,-9,*12=1:", "1", "modular")  # 7, 84 and 95 are right
    verdicts = introspect.argmax_is_wrong(Always7(), torch.zeros(len(text), 1), modular, text)
    assert {i: v for i, v in enumerate(verdicts) if v == v} == {5: 0.0, 12: 1.0, 13: 1.0, 19: 1.0}


def test_difficulty_is_the_share_of_plans_that_miss():
    easy, hard = (tasks.Problem(p, p.split("=")[1][:-1], "countdown") for p in ("1,1,1=1:", "2,3,7=42:"))
    assert 0 < introspect.difficulty(easy) < introspect.difficulty(hard) < 1
    assert introspect.difficulty(tasks.Problem("5,+7,-4,*3=32:", "32", "modular")) == pytest.approx(26 / 27)
