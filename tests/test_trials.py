"""study/trials.py and study/settings.py: every method may spend as much, and is tuned on as many settings."""

import dataclasses

import pytest

import config
from study import experiment, rates, settings, tables, trials
from trainer import checks


@pytest.mark.parametrize("regime", trials.ALL)
def test_methods_of_a_regime_have_as_many_rollouts(regime):
    made = trials.planned(trials.FULL, [regime])
    of_method = {trial.method: trial.flags for trial in made}
    assert len(made) == trials.FULL.seeds * len(of_method)
    rivals = {f"fixed {tau}" for tau in settings.GRID} | {"EAD", "EDT", "mixture", "TAMPO, pass@8"}
    without_and_with = [
        name + clip for name in ("head, mean, every step", "fixed 0.7") for clip in ("", ", clip-higher")
    ]
    few = {"frozen-long": {"head, mean", "head, pass@8"}, trials.TWICE: set(without_and_with)}
    if regime in few:  # the rivals of frozen-long are those of frozen
        assert set(of_method) == few[regime]
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
        assert steps == trials.FULL.steps * (3 if regime.endswith("long") else 1)
        fewer = {method for method, count in updates.items() if count < steps}
        assert fewer == {m for m in updates if m.endswith(("temperature first", "tokens first"))}
        assert {updates[method] for method in fewer} == {of_method["short"]["steps"]}


@pytest.mark.parametrize("of", settings.CHOSEN)
def test_every_method_is_tuned_on_as_many_settings(of):
    chosen, tuned = settings.CHOSEN[of], settings.TUNED | settings.TUNED_OF.get(of, {})
    counts = {name: len(of_method) for name, of_method in (tuned | {"fixed": settings.GRID}).items()}
    assert set(counts.values()) == {8} or counts.pop("min-p") == 16 and set(counts.values()) == {8}
    for name, policy in (chosen.rules | {"TAMPO": chosen.tampo}).items():
        assert policy in [of for of, _ in tuned[name.removesuffix(" for Avg@8")]], name
    for name, flags in (("sequence", chosen.sequence), ("head", chosen.head)):
        assert settings.PASS | flags in [of for _, of in tuned[name]], name
    policy, flags = chosen.head_and_cut
    assert (policy, settings.PASS | flags) in tuned["head, min-p"]
    size = trials.FULL._replace(task="modular" if of == "same-slip" else of, settings=of)
    assert size.chosen() == chosen == trials.FULL._replace(settings=of).chosen()


def test_tuning_shows_the_mean_of_the_seeds_and_each(tmp_path, monkeypatch, capsys):
    """Rules have four seeds, what learns has one, for a quarter of the steps, on the tuning problems."""
    asked = []

    def run_all(todo, root, problems, jobs):
        asked.extend((trial, *problems) for trial in todo)
        return [
            {"evaluations": {"own": {"Avg@8": 0.1 + trial.seed / 100, "Pass@8": 0.3, "problems": 7}}} for trial in todo
        ]

    monkeypatch.setattr(experiment, "run_all", run_all)
    size = trials.FULL._replace(problems=7, task="modular")
    experiment.tune(tmp_path, size, 1, "cpu", settings.tried())
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) == 8 * (len(settings.TUNED) + 1) + len(settings.CONTROLS)
    assert " 41.5  (40.0, 41.0, 42.0, 43.0)  11.5  0.7" in rows
    assert " 40.0  (40.0)  10.0  own temperature_lr=0.003 temperature_epochs=2" in rows
    assert {(trial.task, *problems) for trial, *problems in asked} == {("modular", "tuning", 7, 0, "cpu", 8)}
    assert {trial.flags["steps"] for trial, *_ in asked if trial.flags is not None} == {trials.FULL.alone // 4}
    asked.clear()
    size = size._replace(settings="same-slip")
    of_two = settings.tried("same-slip", ["head", "min-p"])  # and of no other whose name holds one of these
    experiment.tune(tmp_path, size, 1, "cpu", of_two)
    assert [t.policy for t, *_ in asked if t.seed == 0 and t.flags is None] == [
        p for p, _ in settings.TUNED_OF["same-slip"]["min-p"]
    ]
    assert [t.policy for t, *_ in asked if t.flags is not None] == ["own"] * 8


def test_every_trial_is_a_run_that_train_accepts():
    for trial in trials.planned(trials.FULL, trials.ALL):
        if trial.flags is not None and trial.seed == 0:
            checks.validate(config.parse(experiment.words_of(trial, out="nowhere")))


def test_the_default_run_is_the_trial_that_the_map_chose():
    trial = trials.map_plan()[1][0]
    kept = rates.choice(tables.studies()["map"])
    assert f"| {trial.regime.removesuffix('-long')} |" in next(row for row in kept.splitlines() if "chosen" in row)
    preset = config.parse([]).settings()
    looking = {"eval_every", "print_every", "final_problems", "save_every"}  # not what is trained
    assert {name: preset[name] for name in trial.flags.keys() - looking} == {
        name: value for name, value in trial.flags.items() if name not in looking
    }
    assert (preset["model"], preset["policy"], preset["out"]) == (trial.base, trial.policy, "runs/modular")
    same = [
        dataclasses.replace(config.parse(words), given=())
        for words in ([], ["--preset", "modular"], ["--task", "modular"])
    ]
    assert same[0] == same[1] == same[2]


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
                policy, flags = settings.CHOSEN[task.partition(":")[0]].head_and_cut
                own = cutting["head, mean, every step, min-p" if learns else "head, mean, min-p"]
                assert own.policy == policy and flags.items() <= own.flags.items()
                assert ("token_lr" in own.flags) == learns


def test_the_map_runs_what_decides_most_first():
    size, todo = trials.PLANS["map"]()
    assert len(todo) == len(set(trial[:3] for trial in todo)) == 5 * 3 + 5 * 2 * 3 + 8 * 4 * 3 + 7 * 3 + 2 * 3 + 4 * 3
    assert {(trial.base, trial.task) for trial in todo} == {("models/modular", "modular")}
    controls, trained = todo[15:45], [trial for trial in todo if trial.flags]
    rates = {trial.flags["token_lr"] for trial in trained}
    assert rates == {3e-6, 1e-5, 3e-5, 1e-4, 2e-4} and {trial.flags["steps"] for trial in trained} == {300}
    assert {trial.method for trial in todo[:15]} == {"head, mean, every step"}
    assert {(trial.flags["token_lr"], trial.seed) for trial in todo[:15]} == {(r, s) for r in rates for s in range(3)}
    assert {trial.after for trial in controls} == {"head, mean, every step"}, (
        "then the head's temperatures in other places"
    )
    assert {trial.flags["token_lr"] for trial in todo[45:90]} == {2e-4}, "then all methods of the default run's rate"
    twice, once = todo[-12:], [trial for trial in trained if trial not in todo[-12:]]
    assert {t.flags["token_epochs"] for t in twice} == {2} and not any("token_epochs" in t.flags for t in once)
    assert [t.flags.get("clip_high") for t in twice] == [None, 0.28] * 6, "each with clip-higher and without, last"
    planned = trials.planned(size, [*trials.MAP_RATES, trials.TWICE])
    assert set(map(str, todo)) < set(map(str, planned)), "trials of the map are those of its regimes"
