"""Train an introspective language model: tokens and temperatures, from verifiable rewards.

    repeat                                                                       (the paper's algorithm)
        ask P problems; sample G completions of each, every token after its own temperature        sample.py
        reward each completion: right or wrong                                                     tasks.py, verify.py
        advantages within each group                                                               rl.py
        token step: theta, at the stored temperatures, phi fixed                                   rl.py
        temperature step: phi, at the stored hidden states, theta fixed                            rl.py

    python train.py                                                   the embedded model, minutes on a laptop: temperatures learn
    python train.py --task countdown                                  another, whose tokens learn fast
    python train.py --preset qwen3-1.7b-math                          the paper's setting, on a GPU
    python train.py --model DIR --task problems.jsonl                 your model, your problems
    python train.py --schedule temperature --temperature-objective pass@8       an ablation is a flag

Different from the paper, which does not publish them: learning rates, the range of tau, the schedule.  See README.md.
"""

import contextlib
import copy
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

# Older torch has no gamma sampler for Apple's GPU: that op runs on the CPU.  Threads that spin starve each other.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from tqdm import tqdm

import baselines
import config
import eval as evaluation
import model
import policies
import rl
import sample
import tasks
import temperature_head
import tokenizer
from display import log
from engine import distributed
from files import weights
from trainer import checkpoint, faults


def train(c: config.Config, parts: "Parts") -> None:
    vocabulary, training, held_out, transformer, sampler, policy, reference, optimizers, first_step, length = parts
    run, stop, is_first = Path(c.out), tasks.stop_ids(vocabulary), distributed.is_first()
    token_settings, temperature_settings = step_settings(c)
    token_kind, temperature_kind = (
        c.advantage if objective == "mean" else objective for objective in (c.token_objective, c.temperature_objective)
    )
    logs = log.Log(run, vocabulary, first_step) if is_first else None

    def evaluate(policy, problems) -> dict:
        k, rows = c.eval_samples, c.rollout_rows
        return evaluation.evaluate(sampler, vocabulary, policy, problems, k, length, c.template, rows=rows).summary()

    def evaluate_all() -> dict[str, dict]:
        by_name = {c.policy: policy, "1.0": policies.make("1.0"), "greedy": policies.make("greedy")}
        return {name: evaluate(policy, held_out) for name, policy in by_name.items()}

    if is_first and not c.resume:
        logs.write("before.json", evaluate_all())
        logs.held_out("before", 0, sampler, policy, held_out, length, c.template)
    interrupted, guard = faults.Interrupt(), faults.Guard()
    progress = tqdm(
        range(first_step, c.steps), initial=first_step, total=c.steps, desc="train", disable=None if is_first else True
    )
    for step in progress:
        # ---- rollout: tau_t ~ pi_phi, y_t ~ pi_theta ----
        started = time.perf_counter()
        asked = [training[i] for i in checkpoint.batch_indices(len(training), c.prompts_per_step, step, c.seed)]
        asked = distributed.share(asked)  # torchrun: each process has its own problems
        generator = checkpoint.random_state(c.seed, step, c.device, distributed.rank())
        if isinstance(policy, (baselines.EAD, baselines.TAMPO)):
            policy.begin_step(step, generator)
        update_tokens, update_temperature = rl.sides(step, c.schedule, c.temperature_first)
        update_temperature = update_temperature and isinstance(policy, torch.nn.Module)  # the others do not learn
        prompts = [ids for _, ids in asked]
        rollout = sample_in_parts(c, sampler, policy, prompts, length, stop, generator, keep_hidden=update_temperature)
        if isinstance(policy, baselines.TAMPO):
            policy.end_step()
        # ---- reward: R(x, y) in {0, 1} ----
        problems = [problem for problem, _ in asked for _ in range(c.samples_per_prompt)]
        texts = [vocabulary.decode(ids) for ids in rollout.completions()]
        rewards = torch.tensor(tasks.rewards(problems, texts, rollout.finished.tolist()), device=c.device)
        rewards = rewards.view(len(asked), c.samples_per_prompt)  # (P, G)
        sampled = time.perf_counter()
        if is_first and c.print_every and step % c.print_every == 0:
            logs.samples(step, sampler, policy, rollout, problems, rewards, progress)
        # ---- coordinate ascent: two steps on the same rollout, each with the other side fixed ----
        metrics: dict[str, float] = {"step": step} | log.measure(rollout, rewards, problems, vocabulary)
        if update_tokens:
            advantage = rl.advantages(rewards, token_kind).flatten()  # (B,)
            told = guard.step(
                "token", rl.token_step, transformer, optimizers["token"], rollout, advantage, token_settings, reference
            )
            metrics |= {f"token/{name}": value for name, value in told.items()}
        if update_temperature:
            advantage = rl.advantages(rewards, temperature_kind).flatten()  # (B,)
            if isinstance(policy, baselines.TAMPO):
                told = guard.step("temperature", policy.learn, transformer, rollout, advantage)
            else:
                told = guard.step(
                    "temperature", rl.temperature_step,
                    policy, optimizers["temperature"], rollout, advantage, temperature_settings,
                )  # fmt: skip
            metrics |= {f"temperature/{name}": value for name, value in told.items()}
        # ---- look, and save: with several processes, the first looks and writes, and the others wait ----
        metrics |= {"seconds/rollout": sampled - started, "seconds/update": time.perf_counter() - sampled}
        metrics, is_best = distributed.mean(metrics), False
        if update_tokens:
            distributed.refresh(sampler, transformer)
        if is_first:
            if c.eval_every and (step + 1) % c.eval_every == 0 and step + 1 < c.steps:
                count = min(c.eval_problems, len(held_out))  # spread over all: the first may be the easiest
                some = [held_out[i * len(held_out) // count] for i in range(count)]
                metrics |= log.flat(evaluate(policy, some))
            logs.metrics(metrics)
            is_best = any(name.startswith("eval/") for name in metrics) and checkpoint.best_step(run) == step + 1
        tokens_per_second = distributed.size() * int(rollout.mask.sum()) / (time.perf_counter() - started)
        progress.set_postfix(
            reward=f"{metrics['reward']:.3f}", tau=f"{metrics['tau/mean']:.2f}", entropy=f"{metrics['entropy']:.2f}",
            tokens_s=f"{tokens_per_second:,.0f}",
        )  # fmt: skip
        ends = distributed.any_of(interrupted.now)
        if distributed.any_of((step + 1) % c.save_every == 0 or step + 1 == c.steps or is_best or ends):
            checkpoint.save(run, step + 1, transformer, policy, vocabulary, optimizers, vars(c), c.keep_checkpoints)
        if ends:
            progress.close()
            if is_first:
                logs.board.close()
                print(f"stopped after step {step + 1}; the same command with --resume goes on from there")
            return
    interrupted.done()
    if isinstance(policy, baselines.EAD):  # also where a resumed run has no step left to do
        policy.begin_step(c.steps)
    if is_first:
        logs.write("after.json", evaluate_all())
        logs.held_out("after", c.steps, sampler, policy, held_out, length, c.template)
        print(logs.report())


class Parts(NamedTuple):
    """What a run is made of, whole and checked before it begins."""

    vocabulary: tokenizer.Tokenizer
    training: list[tuple[tasks.Problem, list[int]]]  # with their prompt ids
    held_out: list[tasks.Problem]
    transformer: model.Transformer  # theta
    sampler: model.Transformer  # theta too, or where it is sharded a whole copy
    policy: Any  # phi, or a policy that does not learn
    reference: model.Transformer | None  # the initial theta, for a KL penalty
    optimizers: dict[str, torch.optim.Optimizer]
    first_step: int
    max_new_tokens: int


def prepare(c: config.Config) -> Parts:
    """Load everything, or start from the newest checkpoint; all that a user can get wrong goes wrong here."""
    run, c.device = Path(c.out), distributed.start(model.choose_device(c.device))
    checkpoint.lock(run)
    if c.resume:
        checkpoint.check_same(run, vars(c), vars(config.Config()))
    source = checkpoint.whole_checkpoints(run)[-1] if c.resume else weights.find_folder(c.model)
    vocabulary = tokenizer.load(source)
    if not tasks.stop_ids(vocabulary):
        raise ValueError(
            f"{source} names no end-of-text token (eos_token_id), so no completion could end and earn anything"
        )
    training, held_out = choose_problems(c, vocabulary)
    length = c.max_new_tokens or max(tasks.completion_length(p) for p in (training[0][0], held_out[0]))
    transformer, policy, reference = load_policies(c, source)
    model.choose_threads(transformer.config.d_model)
    sampler = distributed.shard(transformer, c.device) if c.shard else transformer
    prompts = [ids for _, ids in training] + [tasks.render(p.problem, vocabulary, c.template) for p in held_out]
    sample.check_lengths(transformer, prompts, length)
    how = dict(weight_decay=0.0, fused=c.device.startswith("cuda"))  # not fused it takes one more copy of all weights
    optimizers = {"token": torch.optim.AdamW(transformer.parameters(), lr=c.token_lr, **how)}
    if isinstance(policy, temperature_head.TemperatureHead):
        optimizers["temperature"] = torch.optim.AdamW(policy.parameters(), lr=c.temperature_lr, **how)
    first_step = (
        checkpoint.resume(run, optimizers) if c.resume else checkpoint.begin(run, transformer, c.keep_checkpoints)
    )
    if distributed.is_first() and not c.resume and held_out[0].kind not in tasks.GENERATED:
        tasks.write_jsonl(run / weights.HELD_OUT, held_out)
    return Parts(
        vocabulary, training, held_out, transformer, sampler, policy, reference, optimizers, first_step, length
    )


def sample_in_parts(
    c: config.Config, transformer, policy, prompts: list[list[int]], length: int, stop: set[int], generator, keep_hidden
):
    """The Rollout of a step, so many completions at a time as memory holds."""
    rows = c.rollout_rows or sample.rows_at_once(transformer, max(map(len, prompts)) + length)
    size = max(1, rows // c.samples_per_prompt)
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
    if c.eval_task:
        set_aside = tasks.load(c.eval_task, "test")
    elif problems[0].kind in tasks.GENERATED:
        set_aside = tasks.load(c.task, "test", c.final_problems)  # no split shares a problem with another
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
    # Master weights in float32: a step of 1e-6 must arrive.  What is sharded goes to its device a layer at a time.
    transformer = model.load(source, "cpu" if c.shard else c.device)
    transformer.compute_dtype = torch.bfloat16 if c.device.startswith("cuda") else None
    transformer.checkpointing = c.checkpointing
    reference = None
    if c.kl:
        reference = model.load(c.model, c.device) if c.resume else copy.deepcopy(transformer).to(c.device)
        reference.compute_dtype = transformer.compute_dtype
    if not policies.learns(c.policy):
        return transformer, policies.make(c.policy), reference
    if (source / temperature_head.FILE).is_file():
        policy = policies.make(c.policy, source, c.device)
        kind, settings, _ = policies.parse(c.policy)
        asked: dict = settings | {"kind": kind, "tau_min": c.tau_min, "tau_max": c.tau_max}
        holds: dict = {"kind": policy.kind} | policy.settings
        if different := [f"{name} {holds[name]}" for name in asked if holds.get(name, asked[name]) != asked[name]]:
            raise ValueError(
                f"{source} has a temperature policy of {', '.join(different)}: go on with it by the flags that say so "
                f"(--policy, --tau-min, --tau-max), or remove {temperature_head.FILE} to begin anew"
            )
        return transformer, policy, reference
    if c.resume:
        raise ValueError(f"{source / temperature_head.FILE}: missing; remove {source} to go on from the one before")
    torch.manual_seed(c.seed)
    policy = policies.begin(c.policy, transformer.config.d_model, c.tau_min, c.tau_max)
    return transformer, policy.to(c.device), reference


def step_settings(c: config.Config) -> tuple[rl.StepSettings, rl.StepSettings]:
    """For the token step, and for the temperature step."""
    at_once = c.micro_batch_tokens or (2048 if c.device == "cpu" else 16_384)
    tokens = rl.StepSettings(c.token_epochs, c.clip_low, c.clip_high, c.token_entropy, c.kl, c.max_grad_norm, at_once)
    tokens.by_temperature = c.token_weight == "tau"
    tokens.halved = c.shard  # processes that gather layers together cannot try a pass again alone
    return tokens, rl.StepSettings(
        c.temperature_epochs, c.clip_low, c.clip_high, c.temperature_entropy, 0.0, c.max_grad_norm, at_once
    )


def main() -> None:
    faults.outlive_the_terminal()
    faults.at_once()
    faults.keep_freed_memory()
    made = None  # the folder, where it was not there before
    try:
        try:
            c = config.parse(sys.argv[1:])
            config.validate(c)
            made = None if Path(c.out).exists() else Path(c.out)
            parts = prepare(c)
        except (ValueError, OSError) as error:  # a user's mistake
            if distributed.is_first_here():
                print(f"train.py: {error}", file=sys.stderr)
            if made is not None:
                with contextlib.suppress(OSError):  # it was not made, or another process has begun
                    made.rmdir()
            sys.exit(2)
        train(c, parts)
        distributed.stop()
    except KeyboardInterrupt:  # before the first step or after the last: what there is to save is saved
        print("\ntrain.py: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (reason := faults.explain(error)) is None:  # ours
            raise
        saved = checkpoint.whole_checkpoints(Path(c.out))
        then = f"the last good checkpoint is {saved[-1]}, and --resume goes on from it" if saved else "nothing is saved"
        print(f"\ntrain.py: {reason}; {then}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
