"""What makes the head learn from few completions?  Frozen tokens, steps as small as a real model allows, one change at a time.

    python -m study.efficiency --out study/kept/efficiency.jsonl
    python -m study.efficiency --out study/kept/efficiency.jsonl --table
    python -m study.efficiency --noise 60           variance of the first gradient by both estimators, on the same rollouts

Each trial trains a head on the embedded modular model and is evaluated on tuning problems along the way.  A line of the file
is one point of a curve: settings, seed, completions seen, Avg@8, Pass@8.  A trial whose last point is there is done.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

import eval as evaluation
import model
import rl
import tasks
import tokenizer
from engine import marginal
from study import frozen
from study.frozen import ScaledHead, Settings, train
from temperature_head import Action

SAMPLED, MARGINAL = Settings(estimator="sampled"), Settings()
PLAIN = dict(tau_min=0.05, tau_max=1.5)
ALL = dict(tau_min=0.1, tau_initial=0.8, concentration=20.0, scale="standard")
LARGER = dict(prompts=4, samples=16)
TRIALS: dict[str, tuple[Settings, dict]] = {
    "ten times as many": (replace(SAMPLED, prompts=32, samples=16), {}),
    "sampled": (SAMPLED, {}),
    "sampled, 8 epochs": (replace(SAMPLED, epochs=8), {}),
    "sampled, 4 x 16": (replace(SAMPLED, **LARGER), {}),
    "sampled, rate 1e-2": (replace(SAMPLED, learning_rate=1e-2), {}),
    "sampled, standardised": (SAMPLED, dict(scale="standard")),
    "sampled, rms": (SAMPLED, dict(scale="rms")),
    "sampled, width 16": (SAMPLED, dict(width=16)),
    "sampled, a + b = 12": (SAMPLED, dict(concentration=12.0)),
    "sampled, all": (replace(SAMPLED, epochs=8, **LARGER), ALL),
    "marginal": (MARGINAL, {}),
    "marginal, 8 epochs": (replace(MARGINAL, epochs=8), {}),
    "marginal, 4 x 16": (replace(MARGINAL, **LARGER), {}),
    "marginal, rate 1e-2": (replace(MARGINAL, learning_rate=1e-2), {}),
    "marginal, standardised": (MARGINAL, dict(scale="standard")),
    "marginal, rms": (MARGINAL, dict(scale="rms")),
    "marginal, width 16": (MARGINAL, dict(width=16)),
    "marginal, a + b = 12": (MARGINAL, dict(concentration=12.0)),
    "marginal, from 0.8": (MARGINAL, dict(tau_min=0.1, tau_initial=0.8)),
    "marginal, all": (replace(MARGINAL, epochs=8, **LARGER), ALL),
    "sampled, mean": (replace(SAMPLED, objective="grpo"), {}),
    "marginal, mean": (replace(MARGINAL, objective="grpo"), {}),
    "marginal, mean, rloo": (replace(MARGINAL, objective="rloo"), {}),
    "marginal, mean, dr_grpo": (replace(MARGINAL, objective="dr_grpo"), {}),
}


def run(name: str, seed: int, base: str, task: str, cut: int, every: int, problems: int):
    """The curve of one trial, a dict a point."""
    settings, of_head = TRIALS[name]
    cut, every = (10 * cut, 10 * every) if name == "ten times as many" else (cut, every)
    transformer, vocabulary = model.load(base), tokenizer.load(base)
    torch.manual_seed(seed)
    head = ScaledHead(transformer.config.d_model, **(PLAIN | of_head))
    stop = tasks.stop_ids(vocabulary)
    training = [(p, tasks.render(p.problem, vocabulary)) for p in tasks.load(task, "train", 4000)]
    tuning = tasks.load(task, "tuning", problems)
    length = tasks.completion_length(tuning[0])

    def reward_of(asked, rollout):
        return tasks.rewards(
            asked, [vocabulary.decode(ids) for ids in rollout.completions()], rollout.finished.tolist()
        )

    started, seen = time.process_time(), 0
    for seen, _, tau, signal in train(transformer, head, training, reward_of, stop, length, settings, seed):
        if seen % every == 0 or seen >= cut:
            spent = time.process_time() - started
            of = evaluation.evaluate(transformer, vocabulary, head, tuning, 8, length, seed=10_000 + seed).summary()
            started = time.process_time() - spent
            yield dict(
                trial=name, seed=seed, completions=seen, avg=of["Avg@8"], passed=of["Pass@8"], tau=tau, signal=signal,
                entropy=of["entropy"], cpu_seconds=round(spent, 1), last=seen >= cut, settings=asdict(settings), head=of_head,
            )  # fmt: skip
        if seen >= cut:
            return


def table(rows: list[dict]) -> str:
    """Markdown: Avg@8 / Pass@8 in percent along each curve, mean of the seeds that have the point."""
    columns = sorted({row["completions"] for row in rows})
    lines = ["| | seeds | " + " | ".join(map(str, columns)) + " |", "|---" * (len(columns) + 2) + "|"]
    for name in (name for name in TRIALS if any(row["trial"] == name for row in rows)):
        cells = []
        for count in columns:
            points = [row for row in rows if (row["trial"], row["completions"]) == (name, count)]
            means = [100 * sum(row[metric] for row in points) / len(points) for metric in ("avg", "passed") if points]
            cells.append(" / ".join(f"{mean:.1f}" for mean in means))
        seeds = len({row["seed"] for row in rows if row["trial"] == name})
        lines.append(f"| {name} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def noise(base: str, task: str, rollouts: int) -> str:
    """Variance of the untrained head's gradient, from steps of 64 completions."""
    transformer, vocabulary = model.load(base), tokenizer.load(base)
    torch.manual_seed(0)
    head, settings = ScaledHead(transformer.config.d_model, **PLAIN), Settings()
    problems = tasks.load(task, "train", settings.prompts * rollouts)
    stop, length, generator = tasks.stop_ids(vocabulary), tasks.completion_length(problems[0]), torch.Generator()
    found: dict[str, list[torch.Tensor]] = {"sampled": [], "marginal": []}
    for start in range(0, len(problems), settings.prompts):
        asked = [p for p in problems[start : start + settings.prompts] for _ in range(settings.samples)]
        prompts = [tasks.render(p.problem, vocabulary) for p in asked[:: settings.samples]]
        rollout = frozen.plainly(transformer, head, prompts, settings.samples, length, stop, generator)
        texts = [vocabulary.decode(ids) for ids in rollout.completions()]
        rewards = torch.tensor(tasks.rewards(asked, texts, rollout.finished.tolist())).view(settings.prompts, -1)
        advantage, mask = rl.advantages(rewards, settings.objective).view(-1, 1), rollout.mask
        log_prob = {
            "marginal": marginal.log_prob(head, marginal.explain(transformer, head, rollout)),
            "sampled": head.log_prob(
                rollout.reads[mask], Action(rollout.temperatures[mask], rollout.changed[mask], rollout.z[mask])
            ),
        }
        for name, of_token in log_prob.items():
            loss = -(of_token * advantage.expand(mask.shape)[mask]).mean()
            gradient = torch.autograd.grad(loss, list(head.parameters()))
            found[name].append(torch.cat([part.flatten() for part in gradient]))
    variance = {name: float(torch.stack(parts).var(0).sum()) for name, parts in found.items()}
    signal = float(torch.stack(found["marginal"]).mean(0).square().sum()) - variance["marginal"] / rollouts
    lines = [f"{name}: variance {v:.3g}, {v / signal:.1f} times the squared mean" for name, v in variance.items()]
    return "\n".join([*lines, f"ratio {variance['sampled'] / variance['marginal']:.1f}, over {rollouts} steps"])


def main() -> None:
    parser = argparse.ArgumentParser(description="What makes the head learn from few completions?")
    parser.error = lambda message: parser.exit(2, f"efficiency.py: {message}; --help lists the flags\n")
    parser.add_argument("--out", default="runs/efficiency.jsonl", help="file of the curves, added to [%(default)s]")
    parser.add_argument("--base", default="models/modular", help="the frozen model [%(default)s]")
    parser.add_argument("--task", default="modular", help="a generated task [%(default)s]")
    parser.add_argument("--cut", type=int, default=2560, help="completions of a trial [%(default)s]")
    parser.add_argument("--every", type=int, default=640, help="completions between evaluations [%(default)s]")
    parser.add_argument("--problems", type=int, default=300, help="tuning problems of an evaluation [%(default)s]")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of each trial [%(default)s]")
    parser.add_argument("--trials", nargs="+", default=list(TRIALS), metavar="NAME", help="only these [all]")
    parser.add_argument("--noise", type=int, default=0, help="only measure the gradient's variance, over so many steps")
    parser.add_argument("--table", action="store_true", help="only print the curves of --out as a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.noise:
        print(noise(arguments.base, arguments.task, arguments.noise))
        return
    if unknown := set(arguments.trials) - set(TRIALS):
        parser.error(f"--trials {min(unknown)!r} is none of: {', '.join(TRIALS)}")
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(row) for row in out.read_text().splitlines()] if out.is_file() else []
    if arguments.table:
        print(table(rows))
        return
    done = {(row["trial"], row["seed"]) for row in rows if row["last"]}
    for seed in range(arguments.seeds):
        for name in arguments.trials:
            if (name, seed) in done:
                continue
            of_trial = (name, seed, arguments.base, arguments.task, arguments.cut, arguments.every, arguments.problems)
            curve = list(run(*of_trial))
            with out.open("a") as file:
                file.writelines(json.dumps(point) + "\n" for point in curve)
            last = curve[-1]
            print(
                f"{last['cpu_seconds']:6.0f} s  {100 * last['avg']:5.1f} {100 * last['passed']:5.1f}  tau {last['tau']:.2f}  "
                f"{name}, seed {seed}",
                flush=True,
            )


if __name__ == "__main__":
    main()
