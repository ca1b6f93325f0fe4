"""What a run prints before its first step.  `--dry-run` loads and checks everything, times a step, and keeps nothing."""

import time

import rl
from display.progress import duration
from display.terminal import visible
from engine.memory import bytes_per_row, free_bytes


def size_of(count: int) -> str:
    """
    >>> size_of(7_500_000), size_of(3 * 2**30)
    ('7 MiB', '3.0 GiB')
    """
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def announce(run) -> str:
    """What a user should see before waiting: model, problems, first prompt and gold answer, sizes, memory, files."""
    c, (problem, ids) = run.c, run.training[0]
    size = sum(parameter.numel() for parameter in run.transformer.parameters())
    of_head = sum(parameter.numel() for parameter in run.policy.parameters()) if run.policy.learns else 0
    rows = min(c.rollout_rows, c.prompts_per_step * c.samples_per_prompt)
    cache = rows * bytes_per_row(run.sampler, len(ids) + run.max_new_tokens)
    update = 16 * size + (2 * size if run.transformer.compute_dtype else 0)  # weights, gradients, Adam's two moments
    before = len(run.held_out) * (2 * c.eval_samples + 1)
    lines = [
        f"model: {c.model}, {size:,} parameters, {run.transformer.config.family}; policy {c.policy}, {of_head:,} parameters",
        f"problems: {run.said}",
        f"first prompt: {visible(repr(run.vocabulary.decode(ids)))}",
        f"its gold answer: {visible(problem.answer)}",
        f"a step: {c.prompts_per_step} problems x {c.samples_per_prompt} samples of at most {run.max_new_tokens} tokens, "
        f"{rows} at a time",
        f"memory: {size_of(update)} in the update, {size_of(cache)} of keys and values in a rollout, and more for "
        f"activations; {size_of(free_bytes(run.transformer.device))} are free",
        f"evaluation before and after training: {len(run.held_out):,} problems (--final-problems), {before:,} completions each time",
        f"files: {c.out}",
    ]
    return "\n".join(lines)


def rehearse(run) -> None:
    """Print how long the run takes, by one prompt, or by a whole step if that takes less than a minute.  Keep nothing."""
    c = run.c
    print(announce(run))
    timed(run, 1)  # warms up
    scale, of_rollout, of_update = c.prompts_per_step, *timed(run, 1)
    if scale * (of_rollout + of_update) < 60:
        scale, of_rollout, of_update = 1, *timed(run, c.prompts_per_step)
    step = scale * (of_rollout + of_update)
    completions = 2 * len(run.held_out) * (2 * c.eval_samples + 1)
    whole = c.steps * step + completions * scale * of_rollout / (c.prompts_per_step * c.samples_per_prompt)
    measured = "by one prompt" if scale > 1 else "measured whole"
    print(
        f"dry run: a step takes about {step:.1f} s ({measured}); {c.steps} steps and the evaluations before and after take "
        f"about {duration(whole)}.  Nothing was kept."
    )


def timed(run, prompts: int) -> tuple[float, float]:
    """Seconds for a rollout of so many prompts, and for a token step on it where tokens learn."""
    started = time.perf_counter()
    problems, asked, generator = run.ask(0)
    run.policy.begin_step(0, generator)
    rollout = run.sample(asked[:prompts], generator, keep_reads=True)
    run.policy.end_step()
    run.verdicts([p for p in problems[:prompts] for _ in range(run.c.samples_per_prompt)], rollout)
    sampled = time.perf_counter()
    advantage = rollout.finished.float() - 0.5  # any values other than 0
    settings = run.token_settings, run.reference, run.gradient
    if run.c.schedule != "temperature":
        rl.token_step(run.transformer, run.optimizers["token"], rollout, advantage, *settings)
    return sampled - started, time.perf_counter() - sampled
