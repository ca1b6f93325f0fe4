"""One run's settings: every flag of train.py with its meaning, the presets, and what may not be combined.

Values come from the defaults, then the preset, then the command line.  The defaults are a run of minutes on a laptop, in the
regime in which the learned temperature was ahead of every rival in both metrics (RESULTS.md): slow tokens, on a task with a
choice at each step.  What the paper does not publish (learning rates, the range of tau, the schedule) is ours, and a flag.
"""

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import baselines
import model
import rl
import tasks
from engine import distributed
from trainer import checkpoint


def option(default, meaning: str):
    return field(default=default, metadata={"help": meaning})


@dataclass
class Config:
    """One line a flag: type, default, meaning."""

    # fmt: off

    preset: str = option("modular", "a set of other defaults: qwen3-0.6b-gsm8k, qwen3-1.7b-math, qwen3-4b-math; without it --task chooses")
    # what is trained, on what
    model: str = option("models/modular", "folder in Hugging Face format, or hub id, or id@revision")
    policy: str = option("own", "own: the learned head; sequence, tampo: other learned ones; 0.7, ead, edt: rules; +min_p=0.1 behind it cuts")
    task: str = option("modular", "modular, countdown, countdown:4, gsm8k, math, or a .jsonl file with problem and answer")
    eval_task: str = option("", "held-out problems, as --task; none: a generated task's test split, or some of the file set aside")
    template: str = option("auto", "prompt: auto, raw, plain, chat, chat-thinking")
    out: str = option("runs/modular", "the run's folder, itself a Hugging Face model folder")
    resume: bool = option(False, "go on from the newest checkpoint in --out")
    seed: int = option(0, "fixes problems, sampling and initialisation")
    device: str = option("auto", "auto, cpu, cuda or mps")
    # rollouts
    steps: int = option(300, "rollouts, each followed by its optimizer steps")
    prompts_per_step: int = option(32, "problems a rollout (P)")
    samples_per_prompt: int = option(16, "completions a problem (G)")
    max_new_tokens: int = option(0, "longest completion, a longer one is cut and earns 0; 0: what a generated task needs, 1024 otherwise")
    max_prompt_tokens: int = option(512, "problems with longer prompts are left out")
    rollout_rows: int = option(0, "completions sampled at a time, but never fewer than a problem's G; 0: as many as 16 GiB of keys and values hold, to 512")
    # objectives
    token_objective: str = option("mean", "mean (the paper's) or pass@8 (any number for 8; our extension)")
    temperature_objective: str = option("mean", "mean (the paper's) or pass@8 (any number for 8; our extension)")
    advantage: str = option("grpo", "what a mean objective uses: grpo, dr_grpo (no division by the std) or rloo")
    schedule: str = option("every", "every (both sides each step), blocks:50 (in turn), tokens, temperature (one side only)")
    temperature_first: int = option(0, "so many first steps train the temperature alone")
    # the token policy theta
    token_lr: float = option(3e-6, "learning rate of theta")
    token_epochs: int = option(1, "optimizer steps on each rollout")
    token_entropy: float = option(0.0, "weight of an entropy bonus")
    token_weight: str = option("even", "even, or tau: a token's surrogate times its temperature, which cancels the 1/tau of its gradient")
    kl: float = option(0.0, "weight of a KL penalty to the initial token policy")
    # the temperature policy phi
    tau_min: float = option(0.05, "lowest temperature, above 0")
    tau_max: float = option(1.5, "highest temperature")
    temperature_lr: float = option(3e-3, "learning rate of phi")
    temperature_epochs: int = option(2, "optimizer steps on each rollout")
    temperature_entropy: float = option(0.0, "weight of an entropy bonus")
    # both
    clip_low: float = option(0.2, "PPO: ratios below 1 - this gain nothing more")
    clip_high: float = option(0.2, "PPO: ratios above 1 + this gain nothing more (larger: clip-higher)")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm")
    micro_batch_tokens: int = option(0, "tokens a backward pass, lower where memory ends; 0: 16,384, or on a CPU 2,048, for its caches")
    checkpointing: bool = option(False, "recompute layers in the backward pass: less memory, more time")
    shard: bool = option(False, "under torchrun: spread weights and optimizer over the processes (FSDP2)")
    # looking
    eval_every: int = option(50, "steps between evaluations; 0: only before and after")
    eval_problems: int = option(200, "held-out problems at each of them")
    final_problems: int = option(1000, "held-out problems before and after")
    eval_samples: int = option(8, "samples a problem in evaluations (k of Avg@k and Pass@k)")
    print_every: int = option(50, "steps between printed completions; 0: never")
    save_every: int = option(50, "steps between checkpoints; one more is written where an evaluation is the best so far")
    keep_checkpoints: int = option(2, "how many of the last checkpoints stay, beside the best")
    # fmt: on

    @property
    def token_kind(self) -> str:
        """Which rl.advantages the token step uses."""
        return self.advantage if self.token_objective == "mean" else self.token_objective

    @property
    def temperature_kind(self) -> str:
        return self.advantage if self.temperature_objective == "mean" else self.temperature_objective


# Real weights, which the embedded models' learning rates would destroy.
REAL = dict(steps=200, prompts_per_step=16, token_lr=1e-6, tau_min=0.1, temperature_lr=1e-4)
MATHS = REAL | dict(
    steps=500, prompts_per_step=64, samples_per_prompt=8, max_new_tokens=3072,
    checkpointing=True, final_problems=500, save_every=20,
)  # fmt: skip
PRESETS: dict[str, dict] = {
    "modular": {},
    # Fast tokens: accuracy grows five times in two minutes, and the temperature is left with little to do.
    "countdown": dict(
        task="countdown", model="models/countdown", steps=200, prompts_per_step=16, token_lr=2e-4, tau_min=0.1
    ),
    "problems": REAL,  # anybody's: of a file or a data set
    "qwen3-0.6b-gsm8k": MATHS
    | dict(model="Qwen/Qwen3-0.6B", task="gsm8k", eval_task="gsm8k-test", max_new_tokens=768, out="runs/qwen3-0.6b-gsm8k"),
    "qwen3-1.7b-math": MATHS
    | dict(model="Qwen/Qwen3-1.7B", task="math", eval_task="math500", out="runs/qwen3-1.7b-math"),
    "qwen3-4b-math": MATHS
    | dict(model="Qwen/Qwen3-4B", task="math", eval_task="math500", out="runs/qwen3-4b-math"),
}  # fmt: skip


def parse(words: list[str]) -> Config:
    """Defaults, then the preset, then the flags; a resumed run's defaults are what it ran with."""
    parser = argparse.ArgumentParser(description="Train tokens and temperatures from verifiable rewards.")
    parser.error = lambda message: parser.exit(2, f"train.py: {message}; --help lists the flags\n")
    for f in dataclasses.fields(Config):
        flag = "--" + f.name.replace("_", "-")
        if f.type is bool:
            parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=f.metadata["help"])
        else:
            text = f"{f.metadata['help']} [{f.default}]"
            parser.add_argument(flag, type=f.type, default=argparse.SUPPRESS, help=text.replace("%", "%%"))
    flags = vars(parser.parse_args(words))
    chosen = with_preset(flags)
    run = Path(chosen["out"])
    if flags.get("resume") and checkpoint.whole_checkpoints(run):
        chosen = checkpoint.configuration(run) | {"out": str(run)} | flags  # the folder may have been moved
        if unknown := set(chosen) - {f.name for f in dataclasses.fields(Config)}:
            raise ValueError(f"{run}: {min(unknown)!r} is no setting of this version, so it cannot resume this run")
        for f in dataclasses.fields(Config):
            if type(chosen.get(f.name, f.default)) not in ((float, int) if f.type is float else (f.type,)):
                raise ValueError(
                    f"{run}: {f.name} is {chosen[f.name]!r} in its {checkpoint.CONFIG}, which is no {f.type.__name__}"
                )
    return Config(**chosen)


def with_preset(flags: dict) -> dict:
    """The flags over their preset's values, the task's own where none is named; ValueError where they do not go together."""
    task = flags.get("task", Config.task)
    family = task.partition(":")[0]
    of_task = family if family in tasks.GENERATED else "problems"
    preset = flags.get("preset", of_task)
    if preset not in PRESETS:
        raise ValueError(f"--preset {preset!r} is none of: {', '.join(PRESETS)}")
    has_model = preset not in (*tasks.GENERATED, "problems")  # whatever the task
    if not has_model and preset != of_task and ("task" in flags or preset == "problems"):
        raise ValueError(f"--preset {preset} is not for --task {task}: leave --preset out")
    if not flags.get("resume"):
        if "model" in flags and not {"task", "preset"} & flags.keys():
            raise ValueError(f"--model {flags['model']} needs a --task: which problems it is asked")
        if "model" not in flags and not has_model and task not in tasks.EMBEDDED:
            raise ValueError(f"--task {task} needs a --model: those that come along know modular and countdown only")
    values = PRESETS[preset]
    if "task" in flags:  # the held-out problems and the folder are those of another task
        values = {name: value for name, value in values.items() if name not in ("eval_task", "out")}
    values = {"preset": preset} | values | flags
    return {"out": "runs/" + Path(values.get("task", task)).stem.replace(":", "")} | values


def validate(c: Config) -> None:
    """All that is wrong with the flags, at once."""
    least = dict(
        steps=1, prompts_per_step=1, samples_per_prompt=2, max_new_tokens=0, max_prompt_tokens=1, rollout_rows=0,
        temperature_first=0, token_epochs=1, temperature_epochs=1, token_lr=0, temperature_lr=0, clip_low=0, clip_high=0,
        max_grad_norm=0, kl=0, micro_batch_tokens=0, eval_every=0, eval_problems=1, final_problems=1, eval_samples=1,
        print_every=0, save_every=1, keep_checkpoints=1,
    )  # fmt: skip
    wrong = [
        f"--{name.replace('_', '-')} is {getattr(c, name)} and must be at least {bound}"
        for name, bound in least.items()
        if not getattr(c, name) >= bound  # so that nan is wrong too
    ]
    if c.max_grad_norm == 0:
        wrong.append("--max-grad-norm 0 would scale every gradient to nothing; a large one, 1e9, does not clip")
    if not 0 < c.tau_min < c.tau_max:
        wrong.append(f"--tau-min {c.tau_min} and --tau-max {c.tau_max} must satisfy 0 < tau_min < tau_max")
    if c.advantage not in rl.ADVANTAGES:
        wrong.append(f"--advantage {c.advantage!r} is none of: {', '.join(rl.ADVANTAGES)}")
    if c.token_weight not in ("even", "tau"):
        wrong.append(f"--token-weight {c.token_weight!r} is none of: even, tau")
    checks: list = [lambda: rl.sides(0, c.schedule)]  # called for their complaints only
    for objective in (c.token_kind, c.temperature_kind):
        if objective not in rl.ADVANTAGES:
            checks.append(lambda name=objective: rl.parse_pass_at_k(name, c.samples_per_prompt))
        if objective == f"pass@{c.samples_per_prompt}":  # one subset only, and it is its own baseline
            wrong.append(f"{objective} of {c.samples_per_prompt} samples per prompt makes every advantage 0")
    try:
        kind, settings, cuts = baselines.parse(c.policy)
        if kind == "tampo":
            baselines.LEARNED[kind](**settings)
        if cuts and kind == "tampo":
            wrong.append(f"--policy {c.policy}: TAMPO learns from the likelihoods of tokens that nothing was cut from")
        if cuts and c.schedule != "temperature" and (c.token_epochs > 1 or c.kl):
            wrong.append(
                f"--policy {c.policy} cuts tokens away, other ones as the model moves: --token-epochs 1 and no --kl"
            )
        if not baselines.learns(c.policy):
            rule = baselines.make(c.policy)
            if getattr(rule, "temperature", 1) == 0:
                wrong.append("--policy greedy makes all samples of a group the same, so there is nothing to learn from")
            if c.schedule.startswith(("temperature", "blocks")) or c.temperature_first:
                wrong.append(
                    f"--policy {c.policy} does not learn, so there is no temperature to train alone or in turn"
                )
    except ValueError as error:
        wrong.append(str(error))
    if c.policy.startswith("sequence") and c.temperature_entropy:
        wrong.append("--temperature-entropy is for a temperature at each token, and --policy sequence has one in all")
    if c.prompts_per_step % distributed.size():
        wrong.append(f"--prompts-per-step {c.prompts_per_step} is no multiple of the {distributed.size()} processes")
    if c.policy.startswith("tampo") and distributed.size() > 1:
        wrong.append("--policy tampo draws one temperature a step, in one process")
    if c.shard and distributed.size() == 1:
        wrong.append("--shard needs several processes: torchrun --nproc-per-node=2 train.py ...")
    checks.append(lambda: model.choose_device(c.device))
    for check in checks:
        try:
            check()
        except ValueError as error:
            wrong.append(str(error))
    if not c.out:
        wrong.append("--out is empty, and names the run's folder")
    run = Path(c.out)
    if c.resume and not checkpoint.whole_checkpoints(run):
        wrong.append(f"--resume: {run} holds no checkpoint")
    if not c.resume and (checkpoint.whole_checkpoints(run) or (run / "config.json").exists()):
        wrong.append(f"{run} holds another run or model: --resume goes on with a run, --out names another place")
    elif not c.resume and run.is_dir():  # a run writes over what has the names of its files
        asked = {Path(task).resolve() for task in (c.task, c.eval_task)}
        there = [file for file in run.iterdir() if file.name[0] != "."]
        left = checkpoint.LEFT_BEHIND if (run / "tensorboard").is_dir() else {"checkpoints"}  # where one was killed
        others = [
            f.name
            for f in there
            if f.resolve() in asked or f.name not in left and f.suffix not in (".log", ".out", ".err")
        ]
        if others:
            wrong.append(f"{run} holds {min(others)}, which is not of a run: --out names a folder for the run alone")
    if wrong:
        raise ValueError("; ".join(wrong))
