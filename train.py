"""Train an introspective language model: tokens and temperatures, from verifiable rewards.

    repeat                                                                       (the paper's algorithm)
        ask P problems; sample G completions of each, every token after its own temperature        sample.py
        reward each completion: right or wrong                                                     tasks.py, verify.py
        advantages within each group                                                               rl.py
        token step: theta, at the stored temperatures, phi fixed                                   rl.py
        temperature step: phi, at the stored hidden states, theta fixed                            rl.py

    python train.py                                                   the embedded model: minutes on a laptop
    python train.py --task countdown                                  another task, on which tokens learn fast
    python train.py --preset qwen3-1.7b-math                          the paper's setting, on a GPU
    python train.py --model DIR --task problems.jsonl                 your model, your problems
    python train.py --schedule temperature --temperature-objective pass@8       an ablation is a flag

The paper does not publish learning rates, the range of tau and the schedule: ours are flags (config.py).
Checkpoints, evaluations, logs, signals and several processes are the run's business: trainer/run.py.
"""

import sys

from engine import environment  # noqa: F401  # isort: skip

import config
import rl
from engine import marginal
from trainer import faults, opening
from trainer.prepare import prepare
from trainer.run import Run


def train(c: config.Config, run: Run) -> None:
    """The paper's algorithm.  P prompts, G samples of each, B = P G rows."""
    policy, transformer = run.policy, run.transformer  # pi_phi, pi_theta
    temperature_step = {"sampled": rl.temperature_step, "marginal": marginal.temperature_step}[c.temperature_estimator]
    run.begin()
    for step in run.steps():
        update_tokens, update_temperature = rl.sides(step, c.schedule, c.temperature_first)
        update_temperature = update_temperature and policy.learns
        # ---- rollout: tau_t ~ pi_phi, y_t ~ pi_theta ----
        problems, prompts, generator = run.ask(step)
        policy.begin_step(step, generator)
        rollout = run.sample(prompts, generator, keep_reads=update_temperature)
        policy.end_step()
        # ---- reward: R(x, y), the same for both policies ----
        rewards = run.reward(problems, rollout)  # (P, G)
        # ---- advantages within each group ----
        of_token = rl.advantages(rewards, c.token_kind).flatten()  # (B,)
        of_temperature = rl.advantages(rewards, c.temperature_kind).flatten()  # (B,)
        if update_temperature:  # policies that learn without a gradient
            run.update("temperature", policy.learn, transformer, rollout, of_temperature)
        # ---- token step: theta moves, phi is fixed ----
        if update_tokens:
            run.update(
                "token", rl.token_step, transformer, run.optimizers["token"], rollout, of_token, run.token_settings,
                run.reference, run.gradient,
            )  # fmt: skip
        # ---- temperature step: phi moves, theta is fixed ----
        if update_temperature and "temperature" in run.optimizers:
            run.update(
                "temperature", temperature_step, policy, run.optimizers["temperature"], rollout, of_temperature,
                run.temperature_settings, run.gradient,
            )  # fmt: skip
        run.end_step(step, rollout)
    run.finish()


def main() -> None:
    faults.supervise(
        "train.py",
        lambda: prepare(config.parse(sys.argv[1:])),
        lambda run: opening.rehearse(run) if run.c.dry_run else train(run.c, run),
    )


if __name__ == "__main__":
    main()
