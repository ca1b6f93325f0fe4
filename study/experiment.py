"""The experiment: does a learned temperature beat every fixed one, and when?

    python study.py              everything that RESULTS.md reports of it; what is done already is not done again
    python study.py --quick      the same with few steps, problems and seeds: ten minutes on two cores, too short to decide anything
    python study.py --list       what there is to do, and what of it is done; then findings.py makes tables and pictures
    python study.py --tune       the eight settings of each method, on the tuning problems
    python study.py --done study/kept/trials-countdown.jsonl.gz    the trials that are kept there count as done
    python study.py --base runs/base4 --task countdown:4     of another base model and task, see pretrain.py
    python study.py --again runs/study --skip 1000 --problems 5000     the trained trials of a folder on problems that none has seen

trials.py says what a trial is, and which there are.  Here each is run: it trains by train.py's own loop, and is then evaluated
on test problems under its own policy, at two common temperatures and greedily (are the tokens better, or only their decoding?).
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from tqdm import tqdm

import baselines
import config
import eval as evaluation
import model
import tasks
import tokenizer
import train
from display import log
from study import findings, trials
from study.trials import Asked, Size, Trial, folder_of, problems_of, weights_of, write
from trainer import faults
from trainer.prepare import prepare


def run_trial(trial: Trial, root: Path, asked: Asked, again: Path | None = None) -> dict:
    """Train and evaluate; result.json in the trial's folder is written last, and a trial that has one is done.

    `again`, a folder of trained trials: nothing is trained, and its own policy alone evaluated."""
    folder = folder_of(trial, root)
    if (folder / "result.json").is_file():
        return json.loads((folder / "result.json").read_text())
    shutil.rmtree(folder, ignore_errors=True)
    torch.set_num_threads(1)
    model.choose_device(asked.device)  # what that sets is of a process
    started, metrics = time.process_time(), []
    source = folder_of(trial, again or root, trial.after) if trial.after else Path(trial.base)
    if again and trial.flags is not None:
        source = folder_of(trial, again)
    elif trial.flags is not None:
        metrics = learn(trial, folder, source, asked.device)
        source = folder
        shutil.rmtree(folder / "checkpoints")  # the folder itself holds the last one
    transformer, vocabulary = model.load(source, asked.device), tokenizer.load(source)
    transformer.compute_dtype = torch.bfloat16 if asked.device.startswith("cuda") else None
    problems = tasks.load(trial.task, asked.split, asked.skip + asked.problems)[asked.skip :]
    ways = {"own": baselines.make(trial.policy, source, asked.device)}
    own_tokens = "token_lr" in (trial.flags or ()) or "tokens first" in trial.method
    if own_tokens and not again:
        ways |= {name: baselines.make(name, device=asked.device) for name in ("0.3", "0.7", "greedy")}
    evaluations = {}
    for name, policy in ways.items():
        length = tasks.completion_length(problems[0])
        of = evaluation.evaluate(transformer, vocabulary, policy, problems, 8, length, seed=trial.seed)
        evaluations[name] = of.summary() | {"successes": of.correct.sum(1).astype(int).tolist()}
    result = dict(trial=trial._asdict(), split=asked.split, skip=asked.skip, device=asked.device)
    result |= dict(weights=weights_of(trial.base), metrics=metrics, evaluations=evaluations)
    result["cpu_minutes"] = (time.process_time() - started) / 60
    write(result, folder)
    return result


def learn(trial: Trial, folder: Path, source: Path, device: str = "cpu", policy_of=None) -> list[dict]:
    """Train from the model in `source` by train.py's own loop: the run's metrics, one dict a step; the run lies in `folder`.

    `policy_of` makes a policy that has no name, of the vocabulary, to stand in for the trial's."""
    words = dict(out=folder, seed=trial.seed, device=device, model=source, policy=trial.policy) | trial.flags
    c = config.parse([word for name, value in words.items() for word in (f"--{name.replace('_', '-')}", str(value))])
    config.validate(c)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), no_pictures():
        run = prepare(c)
        if policy_of is not None:
            run.policy = policy_of(run.vocabulary)
        train.train(c, run)
    metrics = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    if len(metrics) < c.steps:  # at a signal train.py saves, and ends early
        raise faults.Stopped("a trial was ended before its last step")
    return metrics


def restore(file: Path, todo: list[Trial], root: Path, asked: Asked) -> None:
    """What findings.py kept in `file` counts as done, where it is a trial of `todo` with the same settings, problems, device and
    base model: that of `pretrain.py` comes out a little different on another machine.

    Of those that another trial has yet to start from, the tokens are needed, which are not kept: they run again.
    """
    methods = [results for of_regime in findings.read(file).values() for results in of_regime.values()]
    kept = {(r["trial"]["regime"], r["trial"]["method"], r["trial"]["seed"]): r for results in methods for r in results}
    weights = {trial.base: weights_of(trial.base) for trial in todo}

    def same(trial: Trial, result: dict) -> bool:
        settings = result["trial"] | {"base": trial.base} == trial._asdict()  # wherever it lies
        return settings and problems_of(result) == asked and result.get("weights") == weights[trial.base]

    of_todo = [(trial, kept[trial[:3]]) for trial in todo if trial[:3] in kept]
    used = {trial[:3]: result for trial, result in of_todo if same(trial, result)}
    if len(used) < len(of_todo):
        other = "are of other settings, problems, device or base weights, or do not say of which: they do not count"
        print(f"study.py: {len(of_todo) - len(used)} trials of {file} {other}", file=sys.stderr)
    needed = {(trial.regime, trial.after, trial.seed) for trial in todo if trial.after and trial[:3] not in used}
    for trial in todo:
        folder = folder_of(trial, root)
        if trial[:3] in used and trial[:3] not in needed and not (folder / "result.json").is_file():
            write(used[trial[:3]], folder)


@contextlib.contextmanager
def no_pictures():
    """Those of every trial would take longer than its evaluation."""
    report, log.Log.report = log.Log.report, lambda self: ""
    try:
        yield
    finally:
        log.Log.report = report


def run_all(todo: list[Trial], root: Path, asked: Asked, jobs: int, again: Path | None = None) -> list[dict]:
    """Every trial, `jobs` at a time, each on one thread, on a GPU all on the same; results in the order of `todo`."""
    depth: dict[tuple, tuple[int, int]] = {}
    for trial in todo:  # seed by seed, so that what is done is whole seeds as soon as may be; `after` comes first
        depth[trial[:3]] = trial.seed, 1 + depth.get((trial.regime, trial.after, trial.seed), (0, 0))[1]
    waiting = sorted(todo, key=lambda trial: depth[trial[:3]])
    results: dict[tuple, dict] = {}
    progress = tqdm(total=len(todo), desc="trials", disable=None)
    if jobs == 1:
        for trial in waiting:
            results[trial[:3]] = run_trial(trial, root, asked, again)
            progress.update()
        return [results[trial[:3]] for trial in todo]
    unfinished, running = {trial[:3] for trial in todo}, {}
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        while unfinished:
            ready = [trial for trial in waiting if (trial.regime, trial.after, trial.seed) not in unfinished]
            for trial in ready[: jobs - len(running)]:
                waiting.remove(trial)
                running[trial[:3]] = pool.apply_async(run_trial, (trial, root, asked, again))
            ended = [name for name, result in running.items() if result.ready()]
            for name in ended:
                results[name] = running.pop(name).get()
                unfinished.remove(name)
                progress.update()
            time.sleep(0 if ended else 0.05)
        pool.close()  # leaving would end the processes by a signal, of which they would complain
        pool.join()
    return [results[trial[:3]] for trial in todo]


def tune(root: Path, size: Size, jobs: int, device: str, settings: list[trials.Setting]) -> None:
    """Avg@8 + Pass@8 of every setting on the tuning problems, tokens frozen: four seeds, or one where something learns,
    for a quarter of the study's steps."""
    flags = trials.common(size) | {"schedule": "temperature", "steps": size.alone // 4}
    todo = []
    for policy, chosen in settings:
        rates = [f"{name}={value}" for name, value in (chosen or {}).items() if name not in trials.PASS]
        with_flags = None if chosen is None else flags | chosen
        for seed in range(4 if chosen is None else 1):
            name = " ".join((policy, *rates))
            todo.append(Trial("tuning", name, seed, policy, with_flags, "", size.base, size.task))
    scores: dict[str, list[tuple[float, float]]] = {}
    for trial, result in zip(todo, run_all(todo, root, Asked("tuning", size.problems, device=device), jobs)):
        own = result["evaluations"]["own"]
        scores.setdefault(trial.method, []).append((100 * own["Avg@8"], 100 * own["Pass@8"]))
    print(f"Avg@8 + Pass@8 on {own['problems']} tuning problems, mean of the seeds (each seed), and Avg@8 alone")
    for method, pairs in scores.items():
        sums = [avg + some for avg, some in pairs]
        alone = sum(avg for avg, _ in pairs) / len(pairs)
        print(f"{sum(sums) / len(sums):5.1f}  ({', '.join(f'{x:.1f}' for x in sums)})  {alone:4.1f}  {method}")


@contextlib.contextmanager
def one_line(parser):
    """What a user sees who stops it."""
    try:
        yield
    except (KeyboardInterrupt, faults.Stopped):
        parser.exit(130, "\nstudy.py: interrupted; the same command goes on with the trials that are not done\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and evaluate every method with every seed.")
    parser.error = lambda message: parser.exit(2, f"study.py: {message}; --help lists the flags\n")
    parser.add_argument("--quick", action="store_true", help="few steps, problems and seeds: about ten minutes")
    parser.add_argument("--tune", action="store_true", help="eight settings of each method on the tuning problems")
    parser.add_argument(
        "--list", action="store_true", help="say what there is to do and what of it is done; run nothing"
    )
    parser.add_argument(
        "--regimes", nargs="+", help=f"{', '.join(trials.ALL)} [all; with --quick all but the long ones]"
    )
    parser.add_argument(
        "--methods", nargs="+", default=[""], help="only methods of these names, or whose name holds one of these"
    )
    parser.add_argument("--seeds", type=int, default=0, help="so many seeds; 0: five, or one with --quick")
    parser.add_argument("--problems", type=int, default=0, help="so many test problems; 0: 1,000, or 200 with --quick")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many before these")
    parser.add_argument("--again", default="", help="evaluate the trained trials of this folder; nothing is trained")
    parser.add_argument("--split", default="test", help="test, or tuning: problems to choose by [test]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trials at a time, one thread each")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for a larger --base: all trials on one GPU")
    parser.add_argument("--base", default="models/countdown", help="folder of the model that all trials start from")
    parser.add_argument("--task", default="countdown:3", help="what that model was pretrained on: countdown:4, modular")
    parser.add_argument(
        "--settings", default="", choices=["", *trials.CHOSEN], help="those chosen for this task or base [the task's]"
    )
    parser.add_argument(
        "--out", default="", help="folder of the trials [runs/study, study-quick, study-countdown4, study-tuning ...]"
    )
    parser.add_argument("--done", default="", help="file of kept trials (findings.py --keep) that count as done")
    arguments = parser.parse_args()
    arguments.regimes = arguments.regimes or [r for r in trials.ALL if not (arguments.quick and r.endswith("long"))]
    if unknown := set(arguments.regimes) - set(trials.ALL):
        parser.exit(2, f"study.py: {unknown}: regimes are {', '.join(trials.ALL)}\n")
    if (
        min(arguments.seeds, arguments.problems, arguments.skip) < 0
        or arguments.jobs < 1
        or arguments.task.partition(":")[0] not in tasks.GENERATED
    ):
        parser.exit(
            2,
            "study.py: --jobs is at least 1, --seeds, --problems and --skip at least 0, and --task countdown:N or modular\n",
        )
    arguments.task = "countdown:3" if arguments.task == "countdown" else arguments.task
    try:
        if arguments.split == "train":
            raise ValueError("--split is test or tuning: trials train on train")
        tasks.load(arguments.task, arguments.split, 1)
        device = model.choose_device(arguments.device)
    except ValueError as error:
        parser.exit(2, f"study.py: {error}\n")
    if not all(any(Path(arguments.base).glob(name)) for name in ("config.json", "model*.safetensors")):
        parser.exit(2, f"study.py: --base {arguments.base} is no model's folder; pretrain.py makes one\n")
    size = trials.QUICK if arguments.quick else trials.FULL
    size = size._replace(seeds=arguments.seeds or size.seeds, base=arguments.base, task=arguments.task)
    size = size._replace(problems=arguments.problems or size.problems, settings=arguments.settings)
    name = "study" + "-quick" * arguments.quick
    if arguments.task != "countdown:3":
        name += "-" + arguments.task.replace(":", "")
    if arguments.split != "test":
        name += "-" + arguments.split
    name += "-again" * bool(arguments.again)
    root, again = Path(arguments.out or f"runs/{name}"), Path(arguments.again) if arguments.again else None
    planned = trials.planned(size, arguments.regimes)
    try:
        if arguments.tune:
            settings = trials.settings_of(size, arguments.methods)
        else:
            wanted = trials.named(arguments.methods, dict.fromkeys(trial.method for trial in planned))
    except ValueError as error:
        parser.exit(2, f"study.py: {error}\n")
    if arguments.tune:
        with one_line(parser):
            tune(root, size, arguments.jobs, device, settings)
        return
    todo = [trial for trial in planned if trial.method in wanted]
    there_are = len(tasks.load(arguments.task, arguments.split, arguments.skip + size.problems))
    asked = Asked(arguments.split, there_are - arguments.skip, arguments.skip, device)
    if asked.problems < 1:
        parser.exit(2, f"study.py: --skip {asked.skip}: there are {there_are} {asked.split} problems\n")
    if arguments.done:
        try:
            restore(Path(arguments.done), todo, root, asked)
        except (OSError, ValueError) as error:
            parser.exit(2, f"study.py: --done {arguments.done}: {error}\n")
    done = [trial for trial in todo if (folder_of(trial, root) / "result.json").is_file()]
    weights = weights_of(arguments.base)
    for trial, file in [] if arguments.list else [(trial, folder_of(trial, root) / "result.json") for trial in done]:
        try:
            result = json.loads(file.read_text())
            there = problems_of(result)
        except (ValueError, KeyError, TypeError):
            parser.exit(2, f"study.py: {file} is damaged; without it the trial runs again\n")
        if result.get("weights", weights) != weights:
            parser.exit(2, f"study.py: {file} is of another base model than {arguments.base}: another --out\n")
        if result["trial"] | {"base": trial.base} != trial._asdict():
            parser.exit(2, f"study.py: {file} is of other settings than those planned: another --out\n")
        if there != asked:
            parser.exit(2, f"study.py: {file} is of {there}, not of {asked}: flags as there, or another --out\n")
    for trial in [] if arguments.list else todo:
        if again and trial.flags is not None and not (folder_of(trial, again) / "model.safetensors").is_file():
            parser.exit(
                2, f"study.py: --again {again}: {trial.regime}, {trial.method} {trial.seed} has no trained model\n"
            )
        first = trial._replace(method=trial.after)  # whose tokens it starts from
        included = any(first[:3] == other[:3] for other in todo)
        if trial.after and not included and not (folder_of(first, again or root) / "result.json").is_file():
            parser.exit(
                2,
                f"study.py: {trial.regime}, {trial.method} starts from the tokens of {trial.after}: --methods {trial.after} first\n",
            )
    print(f"{len(todo)} trials, {len(done)} of them done", file=sys.stderr)
    if arguments.list:
        for trial in todo:
            print("done" if trial in done else "    ", trial.regime, trial.method, trial.seed)
        return
    with one_line(parser):
        run_all(todo, root, asked, arguments.jobs, again)
    print(f"python findings.py {root}    makes the tables and pictures")


if __name__ == "__main__":
    main()
