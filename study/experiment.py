"""The experiment: does a learned temperature beat every fixed one, and when?

    python -m study --plan map   the learning rate of the tokens against the method, in the order that decides most first
    python -m study --quick      every method with few steps, problems and seeds: ten minutes on two cores, too short to decide
    python -m study --list       the trials that there are, and which are done; then study.findings makes the tables
    python -m study --tune       eight settings of each method, on the tuning problems
    python -m study tables       every table of the kept trials
    python -m study --done study/kept/trials-countdown.jsonl.gz    the trials kept there count as done
    python -m study --base runs/base4 --task countdown:4           another base model and task, see models/pretrain.py
    python -m study --again runs/study --skip 1000 --problems 5000   trained trials once more, on problems that none has seen

trials.py says what a trial is, and which there are.  Here each is run.  It trains by train.py's own loop.  Then it is evaluated on
test problems under its own policy and, where its tokens learned, at common temperatures and greedily: did the tokens get
better, or only their decoding?
"""

import contextlib
import io
import json
import multiprocessing
import os
import shutil
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
from study import rivals, settings, trials
from study.results import Asked, weights_of, write
from study.trials import Size, Trial, folder_of
from trainer import checks, faults
from trainer.prepare import prepare

COMMON = ("0.3", "0.5", "0.7", "1.0", "greedy")  # how tokens that learned are decoded too


def run_trial(trial: Trial, root: Path, asked: Asked, again: Path | None = None) -> dict:
    """Train and evaluate.  A trial is done when its folder has a result.json, which is written last.

    With `again`, a folder of trained trials, nothing is trained, and only the trial's own policy is evaluated."""
    folder = folder_of(trial, root)
    if (folder / "result.json").is_file():
        return json.loads((folder / "result.json").read_text())
    shutil.rmtree(folder, ignore_errors=True)
    torch.set_num_threads(1)
    model.choose_device(asked.device)  # its settings belong to the process, and this may be a new one
    started, metrics = time.process_time(), []
    source = folder_of(trial, again or root, trial.after) if trial.after else Path(trial.base)
    if again and trial.flags is not None:
        source = folder_of(trial, again)
    elif trial.flags is not None:
        metrics = learn(trial, folder, source, asked.device)
        source = folder
        shutil.rmtree(folder / "checkpoints")  # the folder itself holds the last weights
    transformer, vocabulary = model.load(source, asked.device), tokenizer.load(source)
    problems = tasks.load(trial.task, asked.split, asked.skip + asked.problems)[asked.skip :]

    def evaluate(policy, problems) -> dict:
        transformer.compute_dtype = torch.bfloat16 if asked.device.startswith("cuda") else None
        length = tasks.completion_length(problems[0])
        found = evaluation.evaluate(transformer, vocabulary, policy, problems, asked.samples, length, seed=trial.seed)
        return found.summary() | {"successes": found.correct.sum(1).astype(int).tolist()}

    stop = tasks.stop_ids(vocabulary)
    own = rivals.evaluated(trial, source, asked.device, metrics, stop, lambda policy: evaluate(policy, problems))
    result = dict(trial=trial._asdict(), split=asked.split, skip=asked.skip, device=asked.device, samples=asked.samples)
    result |= dict(weights=weights_of(trial.base), metrics=metrics, evaluations={"own": evaluate(own, problems)})
    own_tokens = "token_lr" in (trial.flags or ()) or "tokens first" in trial.method
    if own_tokens and not again:
        common = {name: baselines.make(name, device=asked.device) for name in COMMON}
        result["evaluations"] |= {name: evaluate(policy, problems) for name, policy in common.items()}
        choose_by = tasks.load(trial.task, "tuning", min(asked.problems, 1000))
        result["tuning"] = {"own": evaluate(own, choose_by), "greedy": evaluate(common["greedy"], choose_by)}
        transformer = model.load(trial.base, asked.device)  # `evaluate` reads this name
        result["tuning"]["greedy, before"] = evaluate(common["greedy"], choose_by)
    result["cpu_minutes"] = (time.process_time() - started) / 60
    write(result, folder)
    return result


def words_of(trial: Trial, **more) -> list[str]:
    """train.py's command line for a trial, without the flags that do nothing with its policy, which train.py refuses."""
    flags = more | {"policy": trial.policy} | trial.flags
    if trial.policy.startswith("tampo") or not baselines.learns(trial.policy):
        flags = {name: value for name, value in flags.items() if name not in checks.OF_HEAD}
    return [word for name, value in flags.items() for word in (checks.flag(name), str(value))]


def learn(trial: Trial, folder: Path, source: Path, device: str = "cpu", policy_of=None) -> list[dict]:
    """Train from the model in `source` by train.py's own loop, in `folder`; returns the run's metrics, one dict a step.

    `policy_of(vocabulary)` replaces the trial's policy, for policies without a name."""
    c = config.parse(words_of(trial, out=folder, seed=trial.seed, device=device, model=source))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), no_pictures():
        run = prepare(c)
        if policy_of is not None:
            run.policy = policy_of(run.vocabulary)
        train.train(c, run)
    metrics = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    if len(metrics) < c.steps:  # a signal: train.py saved and ended early
        raise faults.Stopped("a trial was ended before its last step")
    return metrics


@contextlib.contextmanager
def no_pictures():
    """Runs inside draw no report, which would take longer than the trial's evaluation."""
    report, log.Log.report = log.Log.report, lambda self: ""
    try:
        yield
    finally:
        log.Log.report = report


def run_all(todo: list[Trial], root: Path, asked: Asked, jobs: int, again: Path | None = None) -> list[dict]:
    """Every trial in the order of `todo`, `jobs` at a time, each on one thread, on a GPU all on the same.

    A trial waits for the one that it starts from, which comes before it in `todo`."""
    waiting = list(todo)
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
        pool.close()  # without it, leaving kills the processes, and they print tracebacks
        pool.join()
    return [results[trial[:3]] for trial in todo]


def tune(root: Path, size: Size, jobs: int, device: str, tried: list[settings.Setting]) -> None:
    """Avg@8 + Pass@8 of every setting on the tuning problems, tokens frozen: four seeds, or one where something learns,
    for a quarter of the study's steps."""
    flags = trials.common(size) | {"schedule": "temperature", "steps": size.alone // 4}
    todo = []
    for policy, chosen in tried:
        rates = [f"{name}={value}" for name, value in (chosen or {}).items() if name not in settings.PASS]
        with_flags = None if chosen is None else flags | chosen
        for seed in range(4 if chosen is None else 1):
            name = " ".join((policy, *rates))
            todo.append(Trial("tuning", name, seed, policy, with_flags, "", size.base, size.task))
    scores: dict[str, list[tuple[float, float]]] = {}
    todo = trials.by_seed(todo)
    for trial, result in zip(todo, run_all(todo, root, Asked("tuning", size.problems, device=device), jobs)):
        own = result["evaluations"]["own"]
        scores.setdefault(trial.method, []).append((100 * own["Avg@8"], 100 * own["Pass@8"]))
    print(f"Avg@8 + Pass@8 on {own['problems']} tuning problems, mean of the seeds (each seed), and Avg@8 alone")
    for method, pairs in scores.items():
        sums = [avg + some for avg, some in pairs]
        alone = sum(avg for avg, _ in pairs) / len(pairs)
        print(f"{sum(sums) / len(sums):5.1f}  ({', '.join(f'{x:.1f}' for x in sums)})  {alone:4.1f}  {method}")
