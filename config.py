"""One run's settings: every flag of train.py with its meaning, and the presets.  trainer/checks.py checks their values.

The preset overrides the defaults, and the command line overrides both.  The default run takes minutes on a laptop.  The paper does
not publish learning rates, the range of tau and the schedule.  These defaults are ours.
"""

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import rl
import tasks
from trainer import checkpoint

GROUPS = {
    "basic": "",
    "asking": "how problems become prompts, and completions rewards",
    "method": "the algorithm; see rl.py and temperature_head.py",
    "memory": "these change memory and time; results change only by rounding and random numbers",
    "looking": "evaluations, prints and checkpoints",
}


def option(default, group: str, meaning: str):
    return field(default=default, metadata={"help": meaning, "group": group})


@dataclass
class Config:
    """One line a flag: type, default, group, meaning."""

    # fmt: off
    task: str = option("modular", "basic", "modular, countdown, countdown:4, words:3, gsm8k, math, or a file with problem and answer")
    model: str = option("models/modular", "basic", "folder in Hugging Face format, hub id, or id@revision")
    preset: str = option("modular", "basic", "a named set of defaults; without it --task chooses one")
    policy: str = option("own", "basic", "own: the learned head; other learned policies: sequence, no-gate, entropy-only, tampo; rules: 0.7, ead, edt, mixture; append +min_p=0.1 to drop unlikely tokens")
    steps: int = option(300, "basic", "rollouts, each followed by its optimizer steps")
    out: str = option("runs/modular", "basic", "the run's folder, in Hugging Face format")
    resume: bool = option(False, "basic", "continue from the newest checkpoint in --out")
    dry_run: bool = option(False, "basic", "load and check everything, time one step, print how long the run takes, and stop")
    seed: int = option(0, "basic", "fixes problems, sampling and initialisation")
    device: str = option("auto", "basic", "auto, cpu, cuda or mps")

    eval_task: str = option("", "asking", "held-out problems, as --task; default: a generated task's test split, or a part of the file")
    template: str = option("auto", "asking", "auto, raw, plain, chat, chat-thinking, or a text file with {problem} in it")
    system: str = option("", "asking", "the system turn of a chat; default: that of the model's chat template")
    instruction: str = option(tasks.INSTRUCTION, "asking", "text after the problem, in plain and chat")
    stop: str = option("", "asking", "a text that ends a completion, such as \\n")
    reward: str = option("", "asking", "your own reward, file.py:function of (text, problem, answer) in [0, 1]; none: the task's, or verify.py")
    max_new_tokens: int = option(0, "asking", "longest completion; a truncated one earns 0; 0: what a generated task needs, else 1024")
    max_prompt_tokens: int = option(512, "asking", "problems with longer prompts are left out")

    prompts_per_step: int = option(32, "method", "problems in each rollout (P)")
    samples_per_prompt: int = option(16, "method", "completions of each problem (G)")
    token_objective: str = option("mean", "method", "mean (the paper's) or pass@8 (any number for 8; our extension)")
    temperature_objective: str = option("mean", "method", "mean (the paper's) or pass@8 (any number for 8; our extension)")
    advantage: str = option("grpo", "method", f"what a mean objective uses: {', '.join(rl.ADVANTAGES)}")
    schedule: str = option("every", "method", "every (both sides each step), blocks:50 (in turn), tokens, temperature (one side only)")
    temperature_first: int = option(0, "method", "number of first steps that train the temperature alone")
    token_lr: float = option(2e-4, "method", "learning rate of theta")
    token_epochs: int = option(1, "method", "optimizer steps of theta on each rollout")
    token_entropy: float = option(0.0, "method", "weight of an entropy bonus for theta")
    token_weight: str = option("even", "method", "even, or tau: multiply each token's surrogate by its temperature, which cancels the 1/tau of its gradient")
    kl: float = option(0.0, "method", "weight of a KL penalty to the initial token policy")
    tau_min: float = option(0.05, "method", "lowest temperature, above 0")
    tau_max: float = option(1.5, "method", "highest temperature")
    tau_initial: float = option(1.0, "method", "the head's mean temperature at the start, and tau_0")
    concentration: float = option(4.0, "method", "a + b of the head's Beta at the start; larger: temperatures closer to --tau-initial")
    temperature_lr: float = option(3e-3, "method", "learning rate of phi")
    temperature_epochs: int = option(2, "method", "optimizer steps of phi on each rollout")
    temperature_estimator: str = option("sampled", "method", "sampled (the paper's) or marginal: the temperatures summed out, which learns from far fewer completions (engine/marginal.py; our extension)")
    temperature_entropy: float = option(0.0, "method", "weight of an entropy bonus for phi")
    clip_low: float = option(0.2, "method", "PPO: ratios below 1 - this gain nothing more")
    clip_high: float = option(0.2, "method", "PPO: ratios above 1 + this gain nothing more (larger: clip-higher)")
    max_grad_norm: float = option(1.0, "method", "gradients are scaled down to this norm")

    rollout_rows: int = option(0, "memory", "completions sampled at a time, at least G; 0: as many as fit half of the free memory, at most 512")
    micro_batch_tokens: int = option(0, "memory", "tokens in each backward pass; lower it when out of memory; 0: 16,384, on a CPU 2,048, which fit its caches")
    checkpointing: bool = option(False, "memory", "recompute layers in the backward pass: less memory, more time")
    shard: bool = option(False, "memory", "under torchrun: spread weights and optimizer over the processes (FSDP2)")

    eval_every: int = option(50, "looking", "steps between evaluations; 0: only before and after")
    eval_problems: int = option(200, "looking", "held-out problems in each evaluation during the run")
    final_problems: int = option(1000, "looking", "held-out problems in the evaluations before and after the run")
    eval_samples: int = option(8, "looking", "samples of each problem in evaluations (k of Avg@k and Pass@k)")
    print_every: int = option(50, "looking", "steps between printed completions; 0: never")
    log_every: int = option(10, "looking", "steps between lines of progress, where the output is not a terminal")
    save_every: int = option(50, "looking", "steps between checkpoints; the best evaluation so far writes one too")
    keep_checkpoints: int = option(2, "looking", "keep so many of the last checkpoints, and the best")
    # fmt: on

    given: tuple[str, ...] = field(default=(), compare=False)  # the settings named on the command line

    @property
    def token_kind(self) -> str:
        """Which rl.advantages the token step uses."""
        return self.advantage if self.token_objective == "mean" else self.token_objective

    @property
    def temperature_kind(self) -> str:
        return self.advantage if self.temperature_objective == "mean" else self.temperature_objective

    @property
    def prompt(self) -> tasks.Prompt:
        return tasks.Prompt(self.template, self.system, self.instruction, self.stop)

    def settings(self) -> dict:
        """The settings that run.json stores."""
        return {f.name: getattr(self, f.name) for f in FLAGS}


FLAGS = [f for f in dataclasses.fields(Config) if f.metadata]

# Real weights, which the embedded models' learning rates would destroy.  A few hot draws derail a large vocabulary: with a + b = 80 the
# entropy of SmolLM2-135M and Qwen2.5-Coder-0.5B is 2 to 5% above that at a fixed tau, with 4 it is 30 to 110% (study/start.py).
REAL = dict(
    steps=200, prompts_per_step=16, token_lr=1e-6, tau_min=0.1, concentration=80.0, temperature_lr=1e-4, final_problems=200,
)  # fmt: skip
MATHS = REAL | dict(
    steps=500, prompts_per_step=64, samples_per_prompt=8, max_new_tokens=3072,
    checkpointing=True, final_problems=500, save_every=20,
)  # fmt: skip
WORDS = REAL | dict(
    steps=24, prompts_per_step=8, samples_per_prompt=8, schedule="temperature", temperature_estimator="marginal",
    temperature_objective="pass@4", temperature_lr=1e-3, temperature_epochs=4, tau_initial=0.8, concentration=20.0,
    eval_every=0, print_every=20, final_problems=100,
)  # fmt: skip
PRESETS: dict[str, dict] = {
    "modular": {},
    # Accuracy grows five times in two minutes, which leaves the temperature little to improve.
    "countdown": dict(task="countdown", model="models/countdown", steps=200, prompts_per_step=16, tau_min=0.1),
    "problems": REAL,  # for any file or data set
    # On a laptop, tokens frozen: word problems of one step and of three.
    "smollm2-135m-words": WORDS | dict(model="HuggingFaceTB/SmolLM2-135M-Instruct", task="words:1", out="runs/smollm2-135m-words"),
    "qwen2.5-coder-0.5b-words": WORDS
    | dict(model="Qwen/Qwen2.5-Coder-0.5B-Instruct", task="words:3", out="runs/qwen2.5-coder-0.5b-words"),
    "qwen3-0.6b-gsm8k": MATHS
    | dict(model="Qwen/Qwen3-0.6B", task="gsm8k", eval_task="gsm8k-test", max_new_tokens=768, out="runs/qwen3-0.6b-gsm8k"),
    "qwen3-1.7b-math": MATHS
    | dict(model="Qwen/Qwen3-1.7B", task="math", eval_task="math500", out="runs/qwen3-1.7b-math"),
    "qwen3-4b-math": MATHS
    | dict(model="Qwen/Qwen3-4B", task="math", eval_task="math500", out="runs/qwen3-4b-math"),
}  # fmt: skip


def make_parser(defaults: dict) -> argparse.ArgumentParser:
    """A parser whose --help shows these defaults."""
    parser = argparse.ArgumentParser(
        description="Train tokens and temperatures from verifiable rewards.",
        epilog=f"presets: {', '.join(PRESETS)}; the defaults above are for --task {defaults.get('task', Config.task)}",
    )
    parser.error = lambda message: parser.exit(2, f"train.py: {message}; --help lists the flags\n")
    groups = {name: parser.add_argument_group(name, text or None) for name, text in GROUPS.items()}
    for f in FLAGS:
        flag, group = "--" + f.name.replace("_", "-"), groups[f.metadata["group"]]
        if f.type is bool:
            group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=f.metadata["help"])
        else:
            text = f"{f.metadata['help']} [{defaults.get(f.name, f.default)}]".replace("%", "%%")
            group.add_argument(flag, type=f.type, default=argparse.SUPPRESS, help=text, metavar=f.type.__name__)
    return parser


def parse(words: list[str]) -> Config:
    """Defaults, then the preset, then the flags.  A resumed run's defaults are its earlier settings."""
    first = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for flag in ("--task", "--preset", "--model"):
        first.add_argument(flag, default=argparse.SUPPRESS)
    defaults: dict = {}
    if {"-h", "--help"} & set(words):
        defaults = with_preset({"model": "", "task": Config.task} | vars(first.parse_known_args(words)[0]))
        of_task = tasks.EMBEDDED.get(defaults["task"], "none: name one")
        defaults["model"] = defaults["model"] or PRESETS[defaults["preset"]].get("model", of_task)
    flags = vars(make_parser(defaults).parse_args(words))
    chosen = with_preset(flags)
    run = Path(chosen["out"])
    if flags.get("resume") and checkpoint.whole_checkpoints(run):
        chosen = checkpoint.configuration(run) | {"out": str(run)} | flags  # the folder may have been moved
        if unknown := set(chosen) - {f.name for f in FLAGS}:
            raise ValueError(f"{run}: this version cannot resume this run: it has no setting {min(unknown)!r}")
        for f in FLAGS:
            if type(chosen.get(f.name, f.default)) not in ((float, int) if f.type is float else (f.type,)):
                raise ValueError(
                    f"{run}: {f.name} is {chosen[f.name]!r} in its {checkpoint.CONFIG}; it must be of type {f.type.__name__}"
                )
    return Config(**chosen, given=tuple(flags))


def with_preset(flags: dict) -> dict:
    """The flags over the preset's values.  The default preset is the task's.  ValueError: flags exclude each other."""
    task = flags.get("task", Config.task)
    family = task.partition(":")[0]
    of_task = family if family in PRESETS else "problems"
    preset = flags.get("preset", of_task)
    if preset not in PRESETS:
        raise ValueError(f"--preset {preset!r} is none of: {', '.join(PRESETS)}")
    has_model = preset not in (*tasks.GENERATED, "problems")  # for any task
    if not has_model and preset != of_task and ("task" in flags or preset == "problems"):
        raise ValueError(f"--preset {preset} is not for --task {task}: leave --preset out")
    if not flags.get("resume"):
        if "model" in flags and not {"task", "preset"} & flags.keys():
            raise ValueError(f"--model {flags['model']} needs a --task, which names the problems")
        if "model" not in flags and not has_model and task not in tasks.EMBEDDED:
            raise ValueError(f"--task {task} needs a --model: the embedded models know only modular and countdown")
    values = PRESETS[preset]
    if "task" in flags:  # the preset's held-out problems and folder belong to another task
        values = {name: value for name, value in values.items() if name not in ("eval_task", "out")}
    values = {"preset": preset} | values | flags
    return {"out": "runs/" + Path(values.get("task", task)).stem.replace(":", "")} | values
