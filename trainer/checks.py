"""Checks of a run's settings: values out of range, settings that exclude each other, flags without effect."""

from pathlib import Path

import baselines
import config
import model
import rl
import tasks
from engine import distributed
from trainer import checkpoint

LEAST = dict(
    steps=1, prompts_per_step=1, samples_per_prompt=2, max_new_tokens=0, max_prompt_tokens=1, rollout_rows=0,
    temperature_first=0, token_epochs=1, temperature_epochs=1, token_lr=0, temperature_lr=0, clip_low=0, clip_high=0,
    max_grad_norm=0, kl=0, micro_batch_tokens=0, eval_every=0, eval_problems=1, final_problems=1, eval_samples=1,
    print_every=0, log_every=1, save_every=1, keep_checkpoints=1,
)  # fmt: skip
OF_TOKENS = ("token_objective", "token_lr", "token_epochs", "token_entropy", "token_weight", "kl")
OF_HEAD = (
    "tau_min", "tau_max", "tau_initial", "concentration", "temperature_lr", "temperature_epochs", "temperature_entropy",
    "temperature_estimator",
)  # fmt: skip
OF_TEMPERATURE = ("temperature_objective", "temperature_first")


def validate(c: config.Config) -> None:
    """ValueError with everything that is wrong."""
    wrong = [*of_values(c), *of_policy(c), *without_effect(c), *of_folder(c)]
    if wrong:
        raise ValueError("; ".join(wrong))


def complaint(check, *arguments) -> list[str]:
    """The message of a check that fails, in a list."""
    try:
        check(*arguments)
    except ValueError as error:
        return [str(error)]
    return []


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def of_values(c: config.Config) -> list[str]:
    wrong = [
        f"{flag(name)} is {getattr(c, name)} and must be at least {bound}"
        for name, bound in LEAST.items()
        if not getattr(c, name) >= bound  # so that nan is wrong too
    ]
    if c.max_grad_norm == 0:
        wrong.append("--max-grad-norm 0 would make every gradient 0; for no clipping use a large number such as 1e9")
    if not 0 < c.tau_min < c.tau_max:
        wrong.append(f"--tau-min {c.tau_min} and --tau-max {c.tau_max} must satisfy 0 < tau_min < tau_max")
    elif not c.tau_min <= c.tau_initial <= c.tau_max:
        wrong.append(f"--tau-initial {c.tau_initial} must lie between --tau-min {c.tau_min} and --tau-max {c.tau_max}")
    if c.temperature_estimator == "marginal" and c.concentration > 150:
        wrong.append(f"--concentration {c.concentration} is above 150, too narrow for --temperature-estimator marginal")
    if not 0.4 <= c.concentration <= 1e4:
        wrong.append(f"--concentration {c.concentration} must lie between 0.4 and 10,000")
    if c.advantage not in rl.ADVANTAGES:
        wrong.append(f"--advantage {c.advantage!r} is none of: {', '.join(rl.ADVANTAGES)}")
    if c.temperature_estimator not in ("sampled", "marginal"):
        wrong.append(f"--temperature-estimator {c.temperature_estimator!r} is none of: sampled, marginal")
    if c.token_weight not in ("even", "tau"):
        wrong.append(f"--token-weight {c.token_weight!r} is none of: even, tau")
    for objective in (c.token_kind, c.temperature_kind):
        if objective not in (*rl.ADVANTAGES, c.advantage):
            wrong += complaint(rl.parse_pass_at_k, objective, c.samples_per_prompt)
        if objective == f"pass@{c.samples_per_prompt}":  # there is one subset, so reward = mean
            wrong.append(f"{objective} of {c.samples_per_prompt} samples per prompt makes every advantage 0")
    wrong += complaint(rl.sides, 0, c.schedule) + complaint(model.choose_device, c.device)
    wrong += complaint(tasks.read_template, c.template)
    if c.reward:
        wrong += complaint(tasks.load_reward, c.reward)
        if any(kind.startswith("pass@") for kind in (c.token_kind, c.temperature_kind)):
            wrong.append("pass@k is for rewards of 0 or 1, and --reward may give others: use the mean objective")
    if c.prompts_per_step % distributed.size():
        wrong.append(
            f"--prompts-per-step {c.prompts_per_step} must be a multiple of the {distributed.size()} processes"
        )
    if c.shard and distributed.size() == 1:
        wrong.append("--shard needs several processes: torchrun --nproc-per-node=2 train.py ...")
    return wrong


def of_policy(c: config.Config) -> list[str]:
    wrong = []
    try:
        kind, settings, cuts = baselines.parse(c.policy)
        if kind == "tampo":
            baselines.LEARNED[kind](**settings)
        if cuts and kind == "tampo":
            wrong.append(
                f"--policy {c.policy}: TAMPO learns from the likelihoods of all tokens, so +min_p and +top_p are not allowed"
            )
        if cuts and c.schedule != "temperature" and (c.token_epochs > 1 or c.kl):
            wrong.append(
                f"--policy {c.policy} removes tokens, and would remove other tokens once the model has moved: "
                "use --token-epochs 1 and no --kl"
            )
        if not baselines.learns(c.policy):
            rule = baselines.make(c.policy)
            if getattr(rule, "temperature", 1) == 0:
                wrong.append("--policy greedy makes all samples of a group the same, so there is nothing to learn from")
            if c.schedule.startswith(("temperature", "blocks")) or c.temperature_first:
                wrong.append(f"--policy {c.policy} does not learn, so it cannot train the temperature alone or in turn")
            if kind == "edt" and settings.get("base", 0) > settings.get("tau_max", rule.tau_max):
                wrong.append(f"--policy {c.policy}: base exceeds tau_max {rule.tau_max}")
        if c.temperature_estimator == "marginal" and kind in ("sequence", "entropy-only"):
            wrong.append(f"--policy {kind} does not read h_t at every token: it needs --temperature-estimator sampled")
        if kind == "tampo" and distributed.size() > 1:
            wrong.append("--policy tampo draws one temperature a step, so it runs in one process only")
    except ValueError as error:
        wrong.append(str(error))
    return wrong


def without_effect(c: config.Config) -> list[str]:
    """Flags on the command line that would have no effect."""
    kind = c.policy.partition("+")[0].partition(":")[0]
    idle: dict[str, str] = {}
    if c.schedule == "temperature":
        idle |= dict.fromkeys(OF_TOKENS, "--schedule temperature")
    if c.schedule == "tokens" and not c.temperature_first:
        idle |= dict.fromkeys(
            (*OF_TEMPERATURE, "temperature_lr", "temperature_epochs", "temperature_entropy", "temperature_estimator"),
            "--schedule tokens",
        )
    if kind == "tampo":
        idle |= dict.fromkeys(OF_HEAD, "--policy tampo")
    elif kind not in baselines.LEARNED:
        idle |= dict.fromkeys((*OF_HEAD, *OF_TEMPERATURE), f"--policy {c.policy}")
    if c.temperature_estimator == "marginal":
        idle["temperature_entropy"] = "--temperature-estimator marginal"
    if kind == "sequence" and c.temperature_entropy:
        idle["temperature_entropy"] = "--policy sequence"
    if c.token_kind != c.advantage and c.temperature_kind != c.advantage:
        idle["advantage"] = "two pass@k objectives"
    return [f"{flag(name)} does nothing with {why}" for name, why in idle.items() if name in c.given]


def of_folder(c: config.Config) -> list[str]:
    """--out must be a run's folder, or one where nothing would be overwritten."""
    if not c.out:
        return ["--out is empty; name the run's folder"]
    run, wrong = Path(c.out), []
    if c.resume and not checkpoint.whole_checkpoints(run):
        wrong.append(f"--resume: {run} contains no checkpoint")
    if not c.resume and (checkpoint.whole_checkpoints(run) or (run / "config.json").exists()):
        wrong.append(f"{run} contains another run or model: continue the run by --resume, or choose another --out")
    elif not c.resume and run.is_dir():
        asked = {Path(task).resolve() for task in (c.task, c.eval_task)}
        there = [file for file in run.iterdir() if file.name[0] != "."]
        left = checkpoint.LEFT_BEHIND if (run / checkpoint.LOCK).exists() else {"checkpoints"}  # of a killed run
        others = [
            f.name
            for f in there
            if f.resolve() in asked or f.name not in left and f.suffix not in (".log", ".out", ".err")
        ]
        if others:
            wrong.append(
                f"{run} contains {min(others)}, which train.py did not write: choose an empty folder for --out"
            )
    return wrong
