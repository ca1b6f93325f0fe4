"""study/findings.py and study/introspect.py: tables are those of the trials, and RESULTS.md and README.md say what they say."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
import temperature_head
from study import findings, frontier, introspect, rates, tables, trials
from study.results import keep

ROOT = Path(__file__).resolve().parent.parent


def test_findings_of_nothing_end_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["findings.py", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        findings.main()
    assert (
        ended.value.code == 2
        and capsys.readouterr().err == f"python -m study.findings: {tmp_path}: holds no result.json of a trial\n"
    )


def test_heads_are_held_against_the_cuts_of_their_own_regime_and_without_their_own():
    def results(right: int) -> list[dict]:
        return [{"evaluations": {"own": {"samples": 8, "successes": [right] * 20}}}] * 2

    joint = {"head, mean, every step": results(8), "head, mean, every step, min-p": results(6), "hot top-p": results(2)}
    found = {"frozen": {"head, mean": results(8), "EDT": results(0), "min-p for Avg@8": results(4)}, "3e-6": joint}
    lines = [line.strip("| ").split(" | ") for line in tables.cuts_table(found).splitlines()[2:]]
    assert {(head, less, avg.split()[0]) for head, less, avg, _ in lines} == {
        ("head, mean (frozen)", "min-p for Avg@8", "+50.0"),
        ("head, mean, every step (3e-6)", "hot top-p", "+75.0"),
        ("head, mean, every step, min-p (3e-6)", "hot top-p", "+50.0"),
        ("head, mean, every step, min-p (3e-6)", "the same without min-p", "-25.0"),
    }


def test_controls_stand_beside_the_head_of_their_own_regime_and_are_no_rivals():
    def results(right: int) -> list[dict]:
        return [{"evaluations": {"own": {"samples": 8, "successes": [right] * 20}}}] * 2

    frozen = {"head, mean": results(4), "shuffled head": results(6), "fixed 0.7": results(2)}
    joint = {"head, mean, every step": results(4), "mean of the head": results(8), "head, mean, every step, min-p": []}
    joint |= {"fixed 0.7": results(2), "fixed 0.7, clip-higher": results(3)}
    rows = tables.controls_table({"frozen": frozen, "3e-6": joint, "1e-5": {}}).splitlines()[2:]
    assert [row.split(" [")[0] for row in rows] == [
        "| head, mean (frozen) | shuffled head | -25.0",
        "| head, mean, every step (3e-6) | mean of the head | -50.0",
        "| fixed 0.7, clip-higher (3e-6) | the same without | +12.5",
    ]
    assert tables.primary_table({"s": {"frozen": frozen}}).count("(fixed 0.7)") == 2, "in Pass@8 and in Avg@8"


def test_the_primary_endpoint_is_pass_at_8_less_the_best_rival_and_no_more_than_its_interval_says():
    draw = np.random.default_rng(0)

    def results(rates: list[float]) -> list[dict]:
        return [{"evaluations": {"own": {"samples": 8, "successes": draw.binomial(8, rate, 400)}}} for rate in rates]

    rivals = {"fixed 0.7": results([0.05] * 3), "EDT": results([0.1] * 3), "min-p": results([0.9] * 3)}
    for seeds, said in (([0.2] * 3, "ahead"), ([0.05, 0.1, 0.4], "level"), ([0.02] * 3, "behind"), ([0.2], "one seed")):
        row = tables.primary_table({"s": {"frozen": rivals | {"head, mean": results(seeds)}}}).splitlines()[-1]
        cells = row.strip("| ").split(" | ")
        assert cells[:3] == ["s", "frozen", f"head, mean ({len(seeds)})"]
        assert cells[3].endswith("(EDT)") and cells[4] == said, "a rule that cuts is no rival here"
    assert tables.primary_table({"s": {"frozen": rivals}}) == ""


def test_the_best_of_a_column_is_bold_whoever_it_is():
    def results(right: int, samples: int = 8) -> list[dict]:
        own = {"samples": samples, "successes": [right, 0], "temperature": 1.0}
        return [{"evaluations": {"own": own}, "metrics": []}] * 2

    markdown = tables.accuracy_table({"head, mean": results(2), "min-p": results(4), "greedy": results(1, samples=1)})
    head, cut, greedy = (line.strip("| ").split(" | ") for line in markdown.splitlines()[2:])
    assert [cell.startswith("**") for cell in greedy[2:4]] == [True, False], "it is right every second time"
    assert greedy[3] == "" and [cell.startswith("**") for cell in head[2:4]] == [False, True], "the first of equals"
    assert [cell.startswith("**") for cell in cut[2:4]] == [False, False]


def test_the_rule_for_the_default_run_wants_greedy_accuracy_to_rise_in_every_seed_and_then_the_highest_sum(tmp_path):
    def result(score: float, greedy: float) -> dict:
        own = {"samples": 8, "successes": [8, 0]}
        tuning = {
            "own": {"Avg@8": 0.1, "Pass@8": score - 0.1},
            "greedy": {"Avg@1": greedy},
            "greedy, before": {"Avg@1": 0.04},
        }
        return {
            "evaluations": {"own": own, "1.0": own, "greedy": {"samples": 1, "successes": [1, 1]}},
            "tuning": tuning,
        }

    head = rates.MAP_METHODS[0]
    own = {
        "2e-4-long": {head: [result(0.5, 0.05)] * 3, "EAD": [result(0.9, 0.9)]},
        "1e-4-long": {head: [result(0.6, 0.05), result(0.5, 0.06), result(0.55, 0.05)]},
        "3e-5-long": {head: [result(0.9, 0.05), result(0.9, 0.04), result(0.9, 0.05)]},  # one seed stays where it was
        "1e-5-long": {head: [result(0.9, 0.05)] * 2},  # a seed is missing
    }
    more = {"evaluations": {"own": {"samples": 8, "successes": [8] * 250 + [0] * 750 + [8] * 4000}}}
    more["evaluations"] |= dict.fromkeys(("1.0", "greedy"), more["evaluations"]["own"])
    before = {"3e-6-long": {"EDT": [more], "TAMPO, pass@8": [more]}, "frozen": {}}
    found = rates.gathered({"map": own, "modular": before})
    rows = [line.strip("| ").split(" | ") for line in rates.choice(own).splitlines()[2:]]
    assert [(row[0], row[-1].strip(" |")) for row in rows] == [
        ("1e-5", "open"), ("3e-5", "out"), ("1e-4", "chosen"), ("2e-4", "stays"),
    ]  # fmt: skip
    assert rows[2][1:3] == ["+1.0, +2.0, +1.0", "55.0"]
    lines = rates.table(found).splitlines()
    assert lines[2:] == [
        "| head, mean |  | 50.0/50.0, 50.0/50.0, 100.0 (2) |" + " 50.0/50.0, 50.0/50.0, 100.0 (3) |" * 3,
        "| EDT | 25.0/25.0, 25.0/25.0, 25.0 (1) |  |  |  |  |",
        "| EAD |  |  |  |  | 50.0/50.0, 50.0/50.0, 100.0 (1) |",
    ], "the map's methods and its 1,000 problems, in their order"
    rates.picture(found, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 5_000


def test_a_study_of_more_samples_has_no_table_that_says_at_8():
    def results(samples: int) -> list[dict]:
        own = {"samples": samples, "successes": [samples, 0], "temperature": 1.0}
        return [{"evaluations": {"own": own}, "metrics": []}] * 2

    for samples, said in ((8, True), (64, False)):
        found = {"frozen": {name: results(samples) for name in ("head, mean", "fixed 0.7", "shuffled head")}}
        text = tables.of_study(found)
        assert ("@8 less" in text, "shuffled head | +0.0" in text) == (said, said)
        assert f"Pass@{samples} |" in text.splitlines()[2]
    every = tables.every_table()
    assert "| rivals | frozen |" in every and "| many | frozen |" not in every


def test_the_curve_is_pass_at_k_of_the_same_samples():
    own = [{"samples": 4, "successes": [4, 1, 0]}, {"samples": 4, "successes": [4, 1, 1]}]
    methods = {"head, mean": [{"evaluations": {"own": of}} for of in own]}
    header, _, row = tables.curve_table(methods).splitlines()
    assert header == "|  | Pass@1 | Pass@2 | Pass@4 |"
    assert row == "| head, mean | 45.8 | 58.3 | 83.3 |", "of one right among four two draws hold it every second time"


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
    row = tables.rivals_table({"frozen": methods}).splitlines()[-1].strip("| ").split(" | ")
    assert row[:2] == ["frozen", "head, mean"] and len(row) == 6
    for cell, difference, name in zip(
        row[2:], ("+25.0", "+31.2", "+25.0", "+25.0"), ("fixed 0.5", "EAD", "fixed 0.9", "TAMPO, pass@8")
    ):
        assert cell.startswith(difference + " [") and cell.endswith(f"({name})"), cell
    methods["fixed 0.9"] = [
        {"evaluations": of["evaluations"] | {"0.3": results([8, 8, 8, 0])[0]["evaluations"]["own"]}}
        for of in methods["fixed 0.9"]
    ]
    row = tables.rivals_table({"3e-6": methods}).splitlines()[-1].strip("| ").split(" | ")
    assert row[2].startswith("-18.8 [") and row[2].endswith("(fixed 0.9, decoded at 0.3)")
    methods["greedy"] = results([1, 1, 1, 1], samples=1)
    row = tables.rivals_table({"frozen": methods}).splitlines()[-1].strip("| ").split(" | ")
    assert row[2].endswith("(greedy)") and row[4].endswith("(fixed 0.9)"), "it has no Pass@8 of its own"
    longer = {"head, mean": results([8, 8, 8, 8])}
    row = tables.rivals_table({"frozen": methods, "frozen-long": longer}).splitlines()[-1].strip("| ").split(" | ")
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
    kept = [str(tables.KEPT / f"trials-{name}.jsonl.gz") for name in ("countdown", "modular-first")]
    monkeypatch.setattr(sys, "argv", ["findings.py", *kept, "--out", str(tmp_path / "out")])
    findings.main()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["when.png"]
    keep({"3e-6": slow}, tmp_path / "slow.gz")
    for second, said in ((kept[0], "another of these has this name"), (tmp_path / "slow.gz", "holds no fixed temp")):
        monkeypatch.setattr(sys, "argv", ["findings.py", kept[0], str(second)])
        with pytest.raises(SystemExit):
            findings.main()
        assert capsys.readouterr().err.startswith(f"python -m study.findings: {second}: {said}")
    for more in (["--keep", str(tmp_path / "both.gz")], ["--look", "3e-6", "head, mean"]):
        monkeypatch.setattr(sys, "argv", ["findings.py", *kept, *more])
        with pytest.raises(SystemExit):
            findings.main()
        assert capsys.readouterr().err == "python -m study.findings: --keep and --look are for one study\n"
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


ROW = re.compile(r"^\|(?!---)(?= *[^|]*\|).*\d\.\d.*\|$", re.M)  # a table's row that holds a figure
INTERVAL = re.compile(r"[-+]?\d+\.\d \[[-+]?\d+\.\d, [-+]?\d+\.\d\]")
FIGURE = re.compile(r"(?<![\w.-])\d{1,2}\.\d{1,2}(?![\w-]|\.\d)")
PAIR = re.compile(r"(?<![\d.])(?=(\d{1,2}\.\d/\d{1,2}\.\d)(?!\d))")  # Avg@8/Pass@8


def pairs(text: str) -> set[str]:
    """Every Avg@8/Pass@8 of a text, those of neighbouring cells of a table too."""
    text = re.sub(r" \[[^]]*\]|\*\*", "", text)  # no intervals
    return set(PAIR.findall(text.replace(" | ", "/").replace(" / ", "/")))


def told() -> str:
    """RESULTS.md and TOYS.md without what other people measured, and what has its own record."""
    text = "\n".join((ROOT / "study" / name).read_text(encoding="utf-8") for name in ("RESULTS.md", "TOYS.md"))
    for title in ("Related work", "Commands"):
        text = re.sub(rf"## {title}\n.*?(?=\n## |\Z)", "", text, flags=re.S)
    return text


def test_every_row_interval_and_figure_of_RESULTS_and_TOYS_is_one_of_the_kept_trials():
    text, every = told(), tables.every_table()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    prose = lines.replace("/", " ")
    settings = {"0.4", "0.2", "97.5"}  # millions of parameters; a share of min-p; a level
    for pattern, of, least, known in (
        (ROW, text, 40, set()),
        (INTERVAL, text, 60, set()),
        (FIGURE, prose, 30, settings),
    ):
        shown = pattern.findall(of)
        missing = set(shown) - known - set(pattern.findall(every.replace("/", " ") if of is prose else every))
        assert len(shown) > least and not missing, missing
    assert len(pairs(lines)) > 20 and pairs(lines) <= pairs(every), pairs(lines) - pairs(every)
    assert len((ROOT / "study/RESULTS.md").read_text(encoding="utf-8").splitlines()) <= 300


def test_every_row_and_interval_of_REAL_is_one_of_the_kept_results():
    text = (ROOT / "study/REAL.md").read_text(encoding="utf-8")
    text = re.sub(
        r"## How the untrained head.*?(?=\n## |\Z)", "", text, flags=re.S
    )  # study/start.py, which keeps nothing
    every = tables.every_table()
    for pattern, least in ((ROW, 50), (INTERVAL, 50)):
        shown = pattern.findall(text)
        missing = set(shown) - set(pattern.findall(every))
        assert len(shown) > least and not missing, missing


def test_every_interval_and_every_figure_of_the_findings_in_the_README_is_one_of_the_kept_trials():
    text, every = (ROOT / "README.md").read_text(encoding="utf-8"), tables.every_table()
    shown = INTERVAL.findall(text)
    missing = set(shown) - set(INTERVAL.findall(every))
    assert shown and not missing, missing
    findings = "".join(re.findall(r"^## (?:Two commands|Does it pay\?)\n.*?(?=\n## )", text, flags=re.S | re.M))
    lines = "\n".join(line for line in findings.splitlines() if not line.startswith("|"))
    assert pairs(lines) and pairs(lines) <= pairs(every), pairs(lines) - pairs(every)
    prose = lines.replace("/", " ")
    settings = {"3.11", "97.5"}  # a version; a level
    missing = set(FIGURE.findall(prose)) - settings - set(FIGURE.findall(every.replace("/", " ")))
    assert len(FIGURE.findall(prose)) > 20 and not missing, missing


def test_kept_trials_are_those_that_the_plan_still_has():
    task = {
        "countdown": "countdown:3",
        "modular-first": "countdown:3",
    }  # the first modular base had Countdown's settings
    for study, found in tables.studies().items():
        size = trials.FULL._replace(task=task.get(study, "modular"), settings="same-slip" * (study == "same-slip"))
        for regime, methods in found.items():
            planned = {trial.method: trial for trial in trials.planned(size, [regime])}
            for name, results in methods.items():
                if name.startswith("told"):
                    continue  # oracle.py's
                settings = [{n: v for n, v in r["trial"].items() if n not in ("seed", "base", "task")} for r in results]
                of_plan = {n: getattr(planned[name], n) for n in settings[0]}
                if of_plan["flags"]:
                    of_plan["flags"] = of_plan["flags"] | {"task": results[0]["trial"]["task"]}
                assert all(s == of_plan for s in settings), f"{study}: {regime}, {name} is planned in another way now"
                assert sorted(result["trial"]["seed"] for result in results) == list(range(len(results))), name
