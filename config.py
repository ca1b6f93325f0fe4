"""One run's settings: every flag of train.py with its meaning, the presets, and what may not be combined.

Values come from the defaults, then the preset, then the command line.  What the paper does not publish (learning rates,
the range of tau, the schedule) is ours, and a flag.
"""

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import baselines
import checkpoint
import rl


def say(default, meaning: str):
    return field(default=default, metadata={"help": meaning})


@dataclass
class Config:
    preset: str = say(
        "countdown", "countdown, qwen3-0.6b-gsm8k, qwen3-1.7b-math, qwen3-4b-math: values for what follows"
    )
    # what is trained, on what
    model: str = say("base_model", "folder in Hugging Face format, or hub id")
    policy: str = say("own", "temperature policy: own (the learned head), a fixed temperature such as 0.7, ead, edt")
    task: str = say("countdown", "countdown, countdown:4, gsm8k, math, or a .jsonl file with problem and answer")
    eval_task: str = say(
        "", "held-out problems, as --task; none: Countdown's test split, or some of the file set aside"
    )
    template: str = say("auto", "prompt: auto, raw, plain, chat, chat-thinking")
    out: str = say("runs/countdown", "the run's folder, itself a Hugging Face model folder")
    resume: bool = say(False, "go on from the newest checkpoint in --out")
    seed: int = say(0, "fixes problems, sampling and initialisation")
    device: str = say("auto", "auto, cpu, cuda or mps")
    # rollouts
    steps: int = say(200, "rollouts, each followed by its optimizer steps")
    prompts_per_step: int = say(16, "problems a rollout (P)")
    samples_per_prompt: int = say(16, "completions a problem (G)")
    max_new_tokens: int = say(24, "longest completion; a longer one is cut and earns 0")
    max_prompt_tokens: int = say(128, "problems with longer prompts are left out")
    rollout_rows: int = say(512, "completions sampled at a time: lower it where memory ends while sampling")
    # objectives
    token_objective: str = say("mean", "mean (the paper's) or pass@8 (any number for 8; our extension)")
    temperature_objective: str = say("mean", "mean (the paper's) or pass@8 (any number for 8; our extension)")
    advantage: str = say("grpo", "for the mean objective: grpo, dr_grpo (no division by the std) or rloo")
    schedule: str = say(
        "every", "every (both sides each step), blocks:50 (in turn), tokens, temperature (one side only)"
    )
    temperature_first: int = say(0, "so many first steps train the temperature alone")
    # the token policy theta
    token_lr: float = say(2e-4, "learning rate of theta")
    token_epochs: int = say(1, "optimizer steps on each rollout")
    token_entropy: float = say(0.0, "weight of an entropy bonus")
    kl: float = say(0.0, "weight of a KL penalty to the initial token policy")
    # the temperature policy phi
    tau_min: float = say(0.1, "lowest temperature, above 0")
    tau_max: float = say(1.5, "highest temperature")
    temperature_lr: float = say(3e-3, "learning rate of phi")
    temperature_epochs: int = say(4, "optimizer steps on each rollout")
    temperature_entropy: float = say(0.0, "weight of an entropy bonus")
    # both
    clip_low: float = say(0.2, "PPO: ratios below 1 - this gain nothing more")
    clip_high: float = say(0.2, "PPO: ratios above 1 + this gain nothing more (larger: clip-higher)")
    max_grad_norm: float = say(1.0, "gradients are scaled down to this norm")
    micro_batch_tokens: int = say(16_384, "tokens a backward pass: lower it where memory ends while training")
    checkpointing: bool = say(False, "recompute layers in the backward pass: less memory, more time")
    # looking
    eval_every: int = say(50, "steps between evaluations; 0: only before and after")
    eval_problems: int = say(200, "held-out problems at each of them")
    final_problems: int = say(1000, "held-out problems before and after")
    eval_samples: int = say(8, "samples a problem in evaluations (k of Avg@k and Pass@k)")
    print_every: int = say(50, "steps between printed completions; 0: never")
    save_every: int = say(50, "steps between checkpoints")


MATHS = dict(
    prompts_per_step=64, samples_per_prompt=8, rollout_rows=128, max_prompt_tokens=512, max_new_tokens=3072,
    token_lr=1e-6, temperature_lr=1e-4, checkpointing=True, steps=500, final_problems=500, save_every=20,
)  # fmt: skip
PRESETS = {
    "countdown": {},
    "qwen3-0.6b-gsm8k": MATHS
    | dict(model="Qwen/Qwen3-0.6B", task="gsm8k", eval_task="gsm8k-test", max_new_tokens=768, out="runs/qwen3-0.6b-gsm8k"),
    "qwen3-1.7b-math": MATHS
    | dict(model="Qwen/Qwen3-1.7B", task="math", eval_task="math500", out="runs/qwen3-1.7b-math"),
    "qwen3-4b-math": MATHS
    | dict(model="Qwen/Qwen3-4B", task="math", eval_task="math500", out="runs/qwen3-4b-math", rollout_rows=64),
}  # fmt: skip


def parse(words: list[str]) -> Config:
    """Defaults, then the preset, then the flags."""
    parser = argparse.ArgumentParser(description="Train tokens and temperatures from verifiable rewards.")
    for f in dataclasses.fields(Config):
        flag = "--" + f.name.replace("_", "-")
        if f.type is bool:
            parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=f.metadata["help"])
        else:
            text = f"{f.metadata['help']} [{f.default}]"
            parser.add_argument(flag, type=f.type, default=argparse.SUPPRESS, help=text.replace("%", "%%"))
    flags = vars(parser.parse_args(words))
    preset = flags.get("preset", "countdown")
    if preset not in PRESETS:
        raise ValueError(f"--preset {preset!r} is none of: {', '.join(PRESETS)}")
    chosen = PRESETS[preset] | flags
    if flags.get("task", "countdown").partition(":")[0] != "countdown" and preset == "countdown":
        # Real maths on a real tokenizer: Countdown's short lengths would cut every prompt and every answer.
        chosen = dict(max_new_tokens=512, max_prompt_tokens=512, token_lr=1e-6, temperature_lr=1e-4) | chosen
        chosen.setdefault("out", f"runs/{Path(flags['task']).stem}")
    return Config(**chosen)


def validate(c: Config) -> None:
    """All that is wrong with the flags, at once."""
    wrong = [
        f"--{name.replace('_', '-')} must be at least {least}"
        for name, least in dict(
            steps=0, prompts_per_step=1, samples_per_prompt=2, max_new_tokens=1, token_epochs=1, temperature_epochs=1,
            eval_problems=1, final_problems=1, eval_samples=1, save_every=1, micro_batch_tokens=1, rollout_rows=1,
        ).items()
        if getattr(c, name) < least
    ]  # fmt: skip
    if not 0 < c.tau_min < c.tau_max:
        wrong.append(f"--tau-min {c.tau_min} and --tau-max {c.tau_max} must satisfy 0 < tau_min < tau_max")
    if c.advantage not in ("grpo", "dr_grpo", "rloo"):
        wrong.append(f"--advantage {c.advantage!r} is none of: grpo, dr_grpo, rloo")
    checks = [lambda: rl.sides(c.temperature_first, c.schedule, c.temperature_first)]
    for objective in (c.token_objective, c.temperature_objective):
        if objective != "mean":
            checks.append(lambda name=objective: rl.parse_pass_at_k(name, c.samples_per_prompt))
    if c.policy != "own":
        checks.append(lambda: baselines.make(c.policy))
    for check in checks:
        try:
            check()
        except ValueError as error:
            wrong.append(str(error))
    run = Path(c.out)
    if c.resume and not checkpoint.whole_checkpoints(run):
        wrong.append(f"--resume: {run} holds no checkpoint")
    if not c.resume and (checkpoint.whole_checkpoints(run) or (run / "config.json").exists()):
        wrong.append(f"{run} holds another run or model: --resume goes on with a run, --out names another place")
    if wrong:
        raise ValueError("; ".join(wrong))
