"""A run: what train.py's loop calls, so that the loop reads as the algorithm.

It draws problems, samples in parts that fit the memory, rewards, guards each update, evaluates, logs, saves, and stops at a signal.
With several processes each has its own problems.  The first process evaluates and writes, and the others wait.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import baselines
import config
import eval as evaluation
import model
import rl
import tasks
import tokenizer
from display import log
from display.progress import Progress
from engine import distributed, marginal
from engine.gradient import FastGradient
from sample import Rollout, generate, join
from trainer import checkpoint, faults, opening

PATIENCE = 20  # steps without a signal before a warning


@dataclass
class Run:
    c: config.Config
    vocabulary: tokenizer.Tokenizer
    training: list[tuple[tasks.Problem, list[int]]]  # with their prompt ids
    held_out: list[tasks.Problem]
    said: str  # how many problems there are, in words
    transformer: model.Transformer  # theta
    sampler: model.Transformer  # theta too; with --shard a whole copy of it
    policy: Any  # phi, or a rule
    reference: model.Transformer | None  # the initial theta, for a KL penalty
    optimizers: dict[str, torch.optim.Optimizer]  # "token", and "temperature" where phi learns by gradient
    first_step: int
    max_new_tokens: int

    def __post_init__(self):
        c = self.c
        self.folder, self.is_first, self.eos = Path(c.out), distributed.is_first(), tasks.stop_ids(self.vocabulary)
        self.stop_texts = tasks.stops_of(self.training[0][0], c.prompt) if self.training else ()
        self.stop = tasks.stop_of(self.vocabulary, self.stop_texts)
        self.own_reward = tasks.load_reward(c.reward) if c.reward else None
        common = dict(clip_low=c.clip_low, clip_high=c.clip_high, max_grad_norm=c.max_grad_norm)
        self.token_settings = rl.StepSettings(
            c.token_epochs,
            entropy_bonus=c.token_entropy,
            kl_penalty=c.kl,
            by_temperature=c.token_weight == "tau",
            **common,
        )
        self.temperature_settings = rl.StepSettings(c.temperature_epochs, entropy_bonus=c.temperature_entropy, **common)
        at_once = c.micro_batch_tokens or (2048 if c.device == "cpu" else 16_384)
        self.gradient = FastGradient(at_once, retries=0 if c.shard else 1)
        self.guard, self.metrics, self.stopped = faults.Guard(), {}, False
        self.without_signal = 0

    # ---- before and after the steps --------------------------------------------------------------------------------

    def begin(self) -> None:
        if self.is_first:
            print(opening.announce(self), flush=True)
            if self.first_step >= self.c.steps:
                print(f"all {self.c.steps} steps are done; only the evaluation after training runs again")
        self.logs = log.Log(self.folder, self.vocabulary, self.first_step) if self.is_first else None
        if self.is_first and not self.c.resume:
            self.logs.write("before.json", self.evaluate_all())
            self.look("before", 0)
        self.interrupted = faults.Interrupt()

    def steps(self) -> Iterator[int]:
        """The remaining steps.  A signal ends them after the current step."""
        self.progress = Progress(self.first_step, self.c.steps, shown=self.is_first, every=self.c.log_every)
        for step in self.progress:
            yield step
            if self.stopped:
                self.progress.close()
                return

    def finish(self) -> None:
        if self.stopped:
            if self.is_first:
                self.logs.close()
                print(f"stopped after step {self.metrics['step'] + 1}; continue with the same command and --resume")
            return
        self.interrupted.done()
        self.policy.begin_step(self.c.steps)  # EAD depends on the training step: evaluate it at the end
        self.policy.end_step()
        if self.is_first:
            self.logs.write("after.json", self.evaluate_all())
            self.look("after", self.c.steps)
            print(self.logs.report())

    # ---- one step --------------------------------------------------------------------------------------------------

    def ask(self, step: int) -> tuple[list[tasks.Problem], list[list[int]], torch.Generator]:
        """P problems, their prompts, and the step's generator."""
        self.started = time.perf_counter()
        indices = checkpoint.batch_indices(len(self.training), self.c.prompts_per_step, step, self.c.seed)
        asked = distributed.share([self.training[i] for i in indices])
        generator = checkpoint.random_state(self.c.seed, step, self.c.device, distributed.rank())
        self.metrics = {"step": step}
        return [problem for problem, _ in asked], [ids for _, ids in asked], generator

    def sample(self, prompts: list[list[int]], generator, keep_reads: bool) -> Rollout:
        """The rollout of a step, as many completions at a time as fit in memory."""
        c = self.c
        size = max(1, c.rollout_rows // c.samples_per_prompt)
        parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        stored = keep_reads or self.prints()  # the log shows what the policy chose from what it read
        shared = c.samples_per_prompt, self.max_new_tokens, self.eos, generator, stored
        rollout = join([generate(self.sampler, self.policy, part, *shared, stop=self.stop) for part in parts])
        self.guard.rollout(rollout)
        if keep_reads and "temperature" in self.optimizers and c.temperature_estimator == "marginal":
            rollout = marginal.explain(self.sampler, self.policy, rollout)
        return rollout

    def prints(self) -> bool:
        """Does this step print completions?"""
        return self.is_first and self.c.print_every > 0 and self.metrics["step"] % self.c.print_every == 0

    def verdicts(self, problems: list[tasks.Problem], rollout: Rollout) -> tuple[list[str], list[float]]:
        """The text and the reward of each completion."""
        texts = tasks.completion_texts(rollout, self.vocabulary, self.stop_texts)
        return texts, tasks.rewards(problems, texts, rollout.finished.tolist(), self.own_reward)

    def reward(self, problems: list[tasks.Problem], rollout: Rollout) -> torch.Tensor:
        """R(x, y) in {0, 1}, (P, G)."""
        repeated = [problem for problem in problems for _ in range(self.c.samples_per_prompt)]
        texts, of_rows = self.verdicts(repeated, rollout)
        rewards = torch.tensor(of_rows, device=self.c.device).view(len(problems), self.c.samples_per_prompt)
        self.sampled = time.perf_counter()
        if self.prints():
            shown = self.sampler, self.policy, rollout, repeated, texts, of_rows, self.progress
            self.logs.samples(self.metrics["step"], *shown)
        self.metrics |= log.measure(rollout, rewards, repeated, self.vocabulary)
        kinds = self.c.token_kind, self.c.temperature_kind
        signal = torch.stack([rl.advantages(rewards, kind).ne(0).any(1) for kind in kinds]).any(0)  # (P,)
        self.metrics["groups_with_signal"] = float(signal.float().mean())
        return rewards

    def update(self, side: str, step, *arguments) -> None:
        """One side's step, guarded against numbers that are not finite.  Its metrics get the side's name as a prefix."""
        told = self.guard.step(side, step, *arguments)
        self.metrics |= {f"{side}/{name}": value for name, value in told.items()}

    def end_step(self, step: int, rollout: Rollout) -> None:
        """Evaluate, log and save, when they are due."""
        c, now = self.c, time.perf_counter()
        self.metrics |= {"seconds/rollout": self.sampled - self.started, "seconds/update": now - self.sampled}
        self.metrics, is_best = distributed.mean(self.metrics), False
        distributed.refresh(self.sampler, self.transformer)
        if self.is_first:
            if c.eval_every and (step + 1) % c.eval_every == 0 and step + 1 < c.steps:
                count = min(c.eval_problems, len(self.held_out))  # evenly spaced: the first may be the easiest
                some = [self.held_out[i * len(self.held_out) // count] for i in range(count)]
                self.metrics |= log.flat(self.evaluate(self.policy, some).summary())
            self.logs.metrics(self.metrics)
            is_best = any(name.startswith("eval/") for name in self.metrics)
            is_best = is_best and checkpoint.best_step(self.folder) == step + 1
        tokens_per_second = distributed.size() * int(rollout.mask.sum()) / (time.perf_counter() - self.started)
        self.progress.tell(self.metrics, tokens_per_second)
        self.warn()
        self.stopped = distributed.any_of(self.interrupted.now)
        if distributed.any_of((step + 1) % c.save_every == 0 or step + 1 == c.steps or is_best or self.stopped):
            state = self.transformer, self.policy, self.vocabulary, self.optimizers, c.settings(), c.keep_checkpoints
            checkpoint.save(self.folder, step + 1, *state)

    def warn(self) -> None:
        """Warn about a run that cannot learn."""
        self.without_signal = 0 if self.metrics["groups_with_signal"] else self.without_signal + 1
        if self.is_first and self.without_signal and self.without_signal % PATIENCE == 0:
            self.progress.write(
                f"warning: no group had a signal for {self.without_signal} steps: all samples of each problem earn the same "
                f"(reward {self.metrics['reward']:.3f}, truncated {self.metrics['truncated']:.2f}).  Compare the printed "
                "completions with their gold answers.  Try easier problems, larger groups, more --max-new-tokens, or few-shot "
                "examples (--template FILE)"
            )

    # ---- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(self, policy, problems: list[tasks.Problem]) -> evaluation.Evaluation:
        c = self.c
        return evaluation.evaluate(
            self.sampler, self.vocabulary, policy, problems, c.eval_samples, self.max_new_tokens, c.prompt,
            rows=c.rollout_rows, own_reward=self.own_reward,
        )  # fmt: skip

    def evaluate_all(self) -> dict[str, dict]:
        by_name = {self.c.policy: self.policy, "1.0": baselines.make("1.0"), "greedy": baselines.make("greedy")}
        found = {name: self.evaluate(policy, self.held_out) for name, policy in by_name.items()}
        solved = {"solved": found["greedy"].right.tolist()}  # the report says how many of these the tokens changed
        return {name: of.summary() | (solved if name == "greedy" else {}) for name, of in found.items()}

    def look(self, when: str, step: int) -> None:
        """Write completions of some held-out problems to the log, before and after."""
        asked = log.looked_at(self.held_out, self.max_new_tokens)
        prompts = [tasks.render(problem, self.vocabulary, self.c.prompt) for problem in asked]
        generator = torch.Generator(self.sampler.device).manual_seed(0)  # training's generator is not used
        shared = 1, self.max_new_tokens, self.eos, generator
        rollout = generate(self.sampler, self.policy, prompts, *shared, keep_reads=True, stop=self.stop)
        self.logs.held_out(when, step, self.sampler, self.policy, rollout, asked, *self.verdicts(asked, rollout))
