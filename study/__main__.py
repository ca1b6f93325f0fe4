"""`python -m study`: run the trials, list them, tune settings, or write every table; experiment.py says how."""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

import model
import tasks
from study import settings, tables, trials
from study.experiment import run_all, tune
from study.results import Asked, problems_of, restore, weights_of
from study.trials import Size, Trial, folder_of
from trainer import faults


def words(given: list[str]) -> argparse.Namespace:
    """The command line; what argparse can see to be wrong ends here."""
    parser = argparse.ArgumentParser(prog="python -m study", description="Train and evaluate every method and seed.")
    parser.error = refuse
    add = parser.add_argument
    add("--plan", choices=sorted(trials.PLANS), help="the trials of this plan, in its order")
    add("--quick", action="store_true", help="few steps, problems and seeds: about ten minutes")
    add("--tune", action="store_true", help="eight settings of each method on the tuning problems")
    add("--list", action="store_true", help="print the trials and which are done; run nothing")
    add("--regimes", nargs="+", help=f"{', '.join(trials.ALL)} [all; with --quick all but the long ones]")
    add("--methods", nargs="+", default=[""], help="only methods of these names, or whose name holds one of these")
    add("--seeds", type=int, default=0, help="number of seeds; 0: five, or one with --quick")
    add("--problems", type=int, default=0, help="number of test problems; 0: 1,000, or 200 with --quick")
    add("--samples", type=int, default=8, help="samples of each problem in the evaluation [8]")
    add("--skip", type=int, default=0, help="leave out this many problems before these")
    add("--again", default="", help="evaluate the trained trials of this folder; train nothing")
    add("--split", default="test", help="test, or tuning: problems to choose by [test]")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="trials at a time, one thread each")
    add("--device", default="cpu", help="cpu, or cuda for a larger --base: all trials on one GPU")
    add("--base", default="models/countdown", help="folder of the model that all trials start from")
    add("--task", default="countdown:3", help="what that model was pretrained on: countdown:4, modular")
    add(
        "--settings", default="", choices=["", *settings.CHOSEN], help="those chosen for this task or base [the task's]"
    )
    add("--out", default="", help="folder of the trials [runs/study, study-quick, study-map, study-countdown4 ...]")
    add("--done", default="", help="a file of kept trials (study.findings --keep) that count as done")
    found = parser.parse_args(given)
    fixed = (
        "quick",
        "regimes",
        "methods",
        "seeds",
        "problems",
        "samples",
        "skip",
        "split",
        "base",
        "task",
        "settings",
        "tune",
    )
    if found.plan and (more := [name for name in fixed if getattr(found, name) != parser.get_default(name)]):
        refuse(f"--plan {found.plan} says which trials on which problems: leave out --{more[0]}")
    found.regimes = found.regimes or [r for r in trials.ALL if not (found.quick and r.endswith("long"))]
    if unknown := set(found.regimes) - set(trials.ALL):
        refuse(f"{unknown}: regimes are {', '.join(trials.ALL)}")
    if min(found.seeds, found.problems, found.skip) < 0 or found.jobs < 1 or found.samples < 2:
        refuse("--jobs is at least 1, --samples at least 2, --seeds, --problems and --skip at least 0")
    if found.task.partition(":")[0] not in tasks.GENERATED:
        refuse("--task is countdown:N or modular")
    if found.split == "train":
        refuse("--split is test or tuning: trials train on train")
    found.task = "countdown:3" if found.task == "countdown" else found.task
    return found


def refuse(message: str) -> None:
    """A user's mistake: one line, and the exit status 2."""
    print(f"python -m study: {message}; --help lists the flags", file=sys.stderr)
    raise SystemExit(2)


@contextlib.contextmanager
def one_line():
    """What a user sees who stops it."""
    try:
        yield
    except (KeyboardInterrupt, faults.Stopped):
        print(
            "\npython -m study: interrupted; the same command goes on with the trials that are not done",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def default_folder(asked: argparse.Namespace) -> str:
    if asked.plan:
        return f"runs/study-{asked.plan}"
    task = "" if asked.task == "countdown:3" else "-" + asked.task.replace(":", "")
    split = "" if asked.split == "test" else "-" + asked.split
    return f"runs/study{'-quick' * asked.quick}{task}{split}{'-again' * bool(asked.again)}"


def trials_of(asked: argparse.Namespace) -> tuple[Size, list[Trial]]:
    """What to run, in its order."""
    if asked.plan:
        return trials.PLANS[asked.plan]()
    size = trials.QUICK if asked.quick else trials.FULL
    size = size._replace(seeds=asked.seeds or size.seeds, base=asked.base, task=asked.task, settings=asked.settings)
    size = size._replace(problems=asked.problems or size.problems)
    if asked.tune:
        return size, []
    planned = trials.planned(size, asked.regimes)
    wanted = settings.named(asked.methods, dict.fromkeys(trial.method for trial in planned))
    return size, trials.by_seed([trial for trial in planned if trial.method in wanted])


def check_done(done: list[Trial], root: Path, base: str, problems: Asked) -> None:
    """ValueError where a result in the folder is not one of these trials."""
    weights = weights_of(base)
    for trial in done:
        file = folder_of(trial, root) / "result.json"
        try:
            result = json.loads(file.read_text())
            there, ran = problems_of(result), result["trial"] | {"base": trial.base}
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{file} is damaged; without it the trial runs again") from None
        if result.get("weights", weights) != weights:
            raise ValueError(f"{file} is of another base model than {base}: another --out")
        if ran != trial._asdict():
            raise ValueError(f"{file} is of other settings than those planned: another --out")
        if there != problems:
            raise ValueError(f"{file} is of {there}, not of {problems}: flags as there, or another --out")


def check_sources(todo: list[Trial], root: Path, again: Path | None) -> None:
    """ValueError where a trial starts from one that is neither done nor among these."""
    for trial in todo:
        where = f"{trial.regime}, {trial.method}"
        if again and trial.flags is not None and not (folder_of(trial, again) / "model.safetensors").is_file():
            raise ValueError(f"--again {again}: {where} {trial.seed} has no trained model")
        first = trial._replace(method=trial.after)
        included = any(first[:3] == other[:3] for other in todo)
        if trial.after and not included and not (folder_of(first, again or root) / "result.json").is_file():
            raise ValueError(f"{where} starts from the tokens of {trial.after}: --methods {trial.after} first")


def run(asked: argparse.Namespace) -> None:
    """ValueError or OSError for a user's mistake."""
    tasks.load(asked.task, asked.split, 1)
    device = model.choose_device(asked.device)
    size, todo = trials_of(asked)
    if not all(any(Path(size.base).glob(name)) for name in ("config.json", "model*.safetensors")):
        raise ValueError(f"--base {size.base} is no model's folder; models/pretrain.py makes one")
    root, again = Path(asked.out or default_folder(asked)), Path(asked.again) if asked.again else None
    if asked.tune:
        tried = settings.tried(asked.settings, asked.methods)
        with one_line():
            return tune(root, size, asked.jobs, device, tried)
    there_are = len(tasks.load(size.task, asked.split, asked.skip + size.problems))
    problems = Asked(asked.split, there_are - asked.skip, asked.skip, device, asked.samples)
    if problems.problems < 1:
        raise ValueError(f"--skip {asked.skip}: there are {there_are} {asked.split} problems")
    if asked.done:
        try:
            restore(Path(asked.done), todo, root, problems)
        except (OSError, ValueError) as error:
            raise ValueError(f"--done {asked.done}: {error}") from None
    done = [trial for trial in todo if (folder_of(trial, root) / "result.json").is_file()]
    if asked.list:
        for trial in todo:
            print("done" if trial in done else "    ", trial.regime, trial.method, trial.seed)
        return
    check_done(done, root, size.base, problems)
    check_sources(todo, root, again)
    print(f"{len(todo)} trials, {len(done)} of them done", file=sys.stderr)
    with one_line():
        run_all(todo, root, problems, asked.jobs, again)
    print(f"python -m study.findings {root}    makes the tables and pictures")


def main() -> None:
    if sys.argv[1:2] == ["tables"]:
        return print(tables.every_table())
    try:
        run(words(sys.argv[1:]))
    except (ValueError, OSError) as error:
        print(f"python -m study: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
