"""Train an introspective language model: tokens and temperatures, from verifiable rewards.

    repeat                                                                       (the paper's algorithm)
        ask P problems; sample G completions of each, every token after its own temperature        sample.py
        reward each completion: right or wrong                                                     tasks.py, verify.py
        advantages within each group                                                               rl.py
        token step: theta, at the stored temperatures, phi fixed                                   rl.py
        temperature step: phi, at the stored hidden states, theta fixed                            rl.py

    python train.py                                                   Countdown on the embedded model, minutes on a laptop
    python train.py --preset qwen3-1.7b-math                          the paper's setting, on a GPU
    python train.py --model DIR --task problems.jsonl                 your model, your problems
    python train.py --schedule temperature --temperature-objective pass@8       an ablation is a flag

Different from the paper, which does not publish them: learning rates, the range of tau, the schedule.  See README.md.
"""

import copy
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

# Older torch has no gamma sampler for Apple's GPU: that op runs on the CPU.  Threads that spin starve each other.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from tqdm import tqdm

import baselines
import checkpoint
import config
import eval as evaluation
import log
import model
import rl
import sample
import tasks
import temperature_head
import tokenizer
import weights


def train(c: config.Config, parts: "Parts") -> None:
    vocabulary, training, held_out, transformer, policy, reference, optimizers, first_step, length = parts
    run, stop = Path(c.out), tasks.stop_ids(vocabulary)
    head = policy if isinstance(policy, temperature_head.TemperatureHead) else None  # the others do not learn
    token_settings, temperature_settings = step_settings(c)
    token_kind, temperature_kind = (
        c.advantage if objective == "mean" else objective for objective in (c.token_objective, c.temperature_objective)
    )
    logs = log.Log(run, vocabulary, first_step)

    def evaluate(policy, problems) -> dict:
        k, rows = c.eval_samples, c.rollout_rows
        return evaluation.evaluate(
            transformer, vocabulary, policy, problems, k, length, c.template, rows=rows
        ).summary()

    def evaluate_all() -> dict[str, dict]:
        policies = {c.policy: policy, "1.0": baselines.make("1.0"), "greedy": baselines.make("greedy")}
        return {name: evaluate(policy, held_out) for name, policy in policies.items()}

    if not c.resume:
        logs.write("before.json", evaluate_all())
    interrupted = Interrupt()
    progress = tqdm(range(first_step, c.steps), initial=first_step, total=c.steps, desc="train", disable=None)
    for step in progress:
        # ---- rollout: tau_t ~ pi_phi, y_t ~ pi_theta ----
        started = time.perf_counter()
        asked = [training[i] for i in checkpoint.batch_indices(len(training), c.prompts_per_step, step, c.seed)]
        if isinstance(policy, baselines.EAD):
            policy.training_step = step
        generator = checkpoint.random_state(c.seed, step, c.device)
        rollout = sample_in_parts(c, transformer, policy, [ids for _, ids in asked], length, stop, generator)
        # ---- reward: R(x, y) in {0, 1} ----
        problems = [problem for problem, _ in asked for _ in range(c.samples_per_prompt)]
        texts = [vocabulary.decode(ids) for ids in rollout.completions()]
        rewards = torch.tensor(tasks.rewards(problems, texts, rollout.finished.tolist()), device=c.device)
        rewards = rewards.view(c.prompts_per_step, c.samples_per_prompt)  # (P, G)
        sampled = time.perf_counter()
        # ---- coordinate ascent: two steps on the same rollout, each with the other side fixed ----
        metrics: dict[str, float] = {"step": step} | log.measure(rollout, rewards, problems, vocabulary)
        update_tokens, update_temperature = rl.sides(step, c.schedule, c.temperature_first)
        if update_tokens:
            advantage = rl.advantages(rewards, token_kind).flatten()  # (B,)
            told = rl.token_step(transformer, optimizers["token"], rollout, advantage, token_settings, reference)
            metrics |= {f"token/{name}": value for name, value in told.items()}
        if update_temperature and head is not None:
            advantage = rl.advantages(rewards, temperature_kind).flatten()  # (B,)
            told = rl.temperature_step(head, optimizers["temperature"], rollout, advantage, temperature_settings)
            metrics |= {f"temperature/{name}": value for name, value in told.items()}
        # ---- look, and save ----
        metrics |= {"seconds/rollout": sampled - started, "seconds/update": time.perf_counter() - sampled}
        if c.eval_every and (step + 1) % c.eval_every == 0 and step + 1 < c.steps:
            every = max(1, len(held_out) // c.eval_problems)  # spread over all: the first may be the easiest
            summary = evaluate(policy, held_out[::every][: c.eval_problems])
            metrics |= {f"eval/{name}": value for name, value in summary.items() if isinstance(value, float)}
        logs.metrics(metrics)
        if c.print_every and step % c.print_every == 0:
            logs.samples(step, rollout, problems, rewards, progress)
        progress.set_postfix(
            reward=f"{metrics['reward']:.3f}", tau=f"{metrics['tau/mean']:.2f}", entropy=f"{metrics['entropy']:.2f}",
            tokens_s=f"{int(rollout.mask.sum()) / (time.perf_counter() - started):,.0f}",
        )  # fmt: skip
        if (step + 1) % c.save_every == 0 or step + 1 == c.steps or interrupted.now:
            checkpoint.save(run, step + 1, transformer, policy, vocabulary, optimizers, vars(c))
        if interrupted.now:
            progress.close()
            logs.board.close()
            print(f"stopped after step {step + 1}; the same command with --resume goes on from there")
            return
    interrupted.done()
    if isinstance(policy, baselines.EAD):  # also where a resumed run has no step left to do
        policy.training_step = c.steps
    logs.write("after.json", evaluate_all())
    print(logs.report())


class Parts(NamedTuple):
    """What a run is made of, whole and checked before it begins."""

    vocabulary: tokenizer.Tokenizer
    training: list[tuple[tasks.Problem, list[int]]]  # with their prompt ids
    held_out: list[tasks.Problem]
    transformer: model.Transformer  # theta
    policy: object  # phi, or a policy that does not learn
    reference: model.Transformer | None  # the initial theta, for a KL penalty
    optimizers: dict[str, torch.optim.Optimizer]
    first_step: int
    max_new_tokens: int


def prepare(c: config.Config) -> Parts:
    """Load everything, or start from the newest checkpoint; all that a user can get wrong goes wrong here."""
    run, c.device = Path(c.out), model.choose_device(c.device)
    if c.resume:
        checkpoint.check_same(run, vars(c))
    source = checkpoint.whole_checkpoints(run)[-1] if c.resume else weights.find_folder(c.model)
    vocabulary = tokenizer.load(source)
    training, held_out = choose_problems(c, vocabulary)
    length = c.max_new_tokens or tasks.completion_length(training[0][0])
    transformer, policy, reference = load_policies(c, source)
    prompts = [ids for _, ids in training] + [tasks.render(p.problem, vocabulary, c.template) for p in held_out]
    sample.check_lengths(transformer, prompts, length)
    optimizers = {"token": torch.optim.AdamW(transformer.parameters(), lr=c.token_lr, weight_decay=0.0)}
    if isinstance(policy, temperature_head.TemperatureHead):
        optimizers["temperature"] = torch.optim.AdamW(policy.parameters(), lr=c.temperature_lr, weight_decay=0.0)
    first_step = checkpoint.resume(run, optimizers) if c.resume else checkpoint.begin(run)
    if not c.resume and held_out[0].kind != "countdown":
        tasks.write_jsonl(run / "held_out.jsonl", held_out)
    return Parts(vocabulary, training, held_out, transformer, policy, reference, optimizers, first_step, length)


def sample_in_parts(
    c: config.Config, transformer, policy, prompts: list[list[int]], length: int, stop: set[int], generator
):
    """The Rollout of a step, so many completions at a time as memory holds."""
    rows = c.rollout_rows or sample.rows_at_once(transformer, max(map(len, prompts)) + length)
    size = max(1, rows // c.samples_per_prompt)
    keep_hidden = isinstance(policy, temperature_head.TemperatureHead)
    parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    return sample.join(
        [
            sample.generate(transformer, policy, part, c.samples_per_prompt, length, stop, generator, keep_hidden)
            for part in parts
        ]
    )


def choose_problems(c: config.Config, vocabulary) -> tuple[list[tuple[tasks.Problem, list[int]]], list[tasks.Problem]]:
    """Training problems with their prompt ids, and held-out problems; no problem is in both, none has a long prompt."""
    problems = tasks.load(c.task, "train")
    if c.eval_task or problems[0].kind == "countdown":
        set_aside = tasks.load(c.eval_task or c.task, "test")
    else:
        set_aside = problems[:: max(2, len(problems) // c.final_problems)][: c.final_problems]
    texts = {problem.problem for problem in set_aside}

    def with_ids(chosen: list[tasks.Problem]) -> list[tuple[tasks.Problem, list[int]]]:
        rendered = [(problem, tasks.render(problem.problem, vocabulary, c.template)) for problem in chosen]
        return [(problem, ids) for problem, ids in rendered if len(ids) <= c.max_prompt_tokens]

    training = with_ids([problem for problem in problems if problem.problem not in texts])
    held_out = [problem for problem, _ in with_ids(set_aside[: c.final_problems])]
    if len(training) < c.prompts_per_step or not held_out:
        raise ValueError(
            f"{c.task}: {len(training)} training problems (a step asks {c.prompts_per_step}) and {len(held_out)} held-out "
            f"ones are left, without those in both and those of more than {c.max_prompt_tokens} prompt tokens"
        )
    return training, held_out


def load_policies(c: config.Config, source: Path):
    """The token policy, the temperature policy, and the initial token policy where there is a KL penalty."""
    transformer = model.load(source, c.device)  # master weights in float32: a step of 1e-6 must arrive
    transformer.compute_dtype = torch.bfloat16 if c.device.startswith("cuda") else None
    transformer.checkpointing = c.checkpointing
    reference = None
    if c.kl:
        reference = model.load(c.model, c.device) if c.resume else copy.deepcopy(transformer)
        reference.compute_dtype = transformer.compute_dtype
    if c.policy != "own":
        return transformer, baselines.make(c.policy), reference
    if (source / temperature_head.FILE).is_file():
        head = temperature_head.load(source, c.device)
        if (head.tau_min, head.tau_max) != (c.tau_min, c.tau_max):
            raise ValueError(
                f"{source} has a temperature head for [{head.tau_min}, {head.tau_max}]; go on with it by --tau-min "
                f"{head.tau_min} --tau-max {head.tau_max}, or remove {temperature_head.FILE} to begin anew"
            )
        return transformer, head, reference
    torch.manual_seed(c.seed)
    head = temperature_head.TemperatureHead(transformer.config.d_model, c.tau_min, c.tau_max)
    return transformer, head.to(c.device), reference


def step_settings(c: config.Config) -> tuple[rl.StepSettings, rl.StepSettings]:
    """For the token step, and for the temperature step."""
    tokens = rl.StepSettings(
        c.token_epochs, c.clip_low, c.clip_high, c.token_entropy, c.kl, c.max_grad_norm, c.micro_batch_tokens
    )
    return tokens, rl.StepSettings(
        c.temperature_epochs, c.clip_low, c.clip_high, c.temperature_entropy, 0.0, c.max_grad_norm, c.micro_batch_tokens
    )


class Interrupt:
    """The first Ctrl-C (or SIGTERM) ends the run after this step, saved; the second ends it at once."""

    def __init__(self):
        self.now = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.note)

    def note(self, number, frame) -> None:
        if self.now:
            os._exit(130)
        self.now = True
        print("\nstopping after this step; once more to stop at once", file=sys.stderr)

    def done(self) -> None:
        """From here on Ctrl-C is Ctrl-C again."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)


def main() -> None:
    try:
        try:
            c = config.parse(sys.argv[1:])
            config.validate(c)
            parts = prepare(c)
        except (ValueError, OSError) as error:  # a user's mistake; later ones are ours, and want their traceback
            print(f"train.py: {error}", file=sys.stderr)
            sys.exit(2)
        train(c, parts)
    except KeyboardInterrupt:  # before the first step or after the last: what there is to save is saved
        print("\ntrain.py: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
