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
import json
import os
import signal
import sys
import time
from pathlib import Path

# Apple's GPU lacks the gamma sampler: that one op runs on the CPU.  Threads that spin while waiting starve each other.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from tqdm import tqdm

import baselines
import checkpoint
import config
import eval as evaluation
import model
import plot
import rl
import sample
import tasks
import temperature_head
import tokenizer
import weights


def held_out(c: config.Config, problems: list[tasks.Problem]) -> tuple[list[tasks.Problem], list[tasks.Problem]]:
    """(training problems, held-out problems): no problem is in both."""
    if c.eval_task or problems[0].kind == "countdown":
        held = tasks.load(c.eval_task or c.task, "test", c.final_problems)
    else:
        held = problems[:: max(2, len(problems) // c.final_problems)][: c.final_problems]
    asked = {problem.problem for problem in held}
    return [problem for problem in problems if problem.problem not in asked], held


def main() -> None:
    try:
        c = config.parse(sys.argv[1:])
        config.validate(c)
        train(c)
    except (ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)


def train(c: config.Config) -> None:
    # ---- what is there: the model, its vocabulary, the problems ----
    if c.device == "auto":
        c.device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    run = Path(c.out)
    if c.resume:
        checkpoint.check_same(run, vars(c))
    source = str(checkpoint.whole_checkpoints(run)[-1] if c.resume else weights.find_folder(c.model))
    vocabulary = tokenizer.load(source)
    training, held = held_out(c, tasks.load(c.task, "train"))
    prompts_of = {p: tasks.render(p.problem, vocabulary, c.template) for p in training}
    training = [p for p in training if len(prompts_of[p]) <= c.max_prompt_tokens]
    if len(training) < c.prompts_per_step:
        raise ValueError(
            f"{c.task}: {len(training)} problems have at most {c.max_prompt_tokens} prompt tokens, "
            f"and a step asks {c.prompts_per_step}; raise --max-prompt-tokens"
        )
    transformer = model.load(source, c.device)  # master weights in float32: a step of 1e-6 must arrive
    transformer.compute_dtype = torch.bfloat16 if c.device == "cuda" else None
    transformer.checkpointing = c.checkpointing
    torch.manual_seed(c.seed)
    if c.policy != "own":
        policy = baselines.make(c.policy)
    elif (Path(source) / temperature_head.FILE).is_file():
        policy = temperature_head.load(source, c.device)
    else:
        policy = temperature_head.TemperatureHead(transformer.config.d_model, c.tau_min, c.tau_max).to(c.device)
    head = policy if c.policy == "own" else None
    reference = copy.deepcopy(model.load(c.model, c.device) if c.resume else transformer) if c.kl else None

    # ---- the two sides ----
    optimizers = {"token": torch.optim.AdamW(transformer.parameters(), lr=c.token_lr, weight_decay=0.0)}
    if head is not None:
        optimizers["temperature"] = torch.optim.AdamW(head.parameters(), lr=c.temperature_lr, weight_decay=0.0)
    shared = dict(
        clip_low=c.clip_low,
        clip_high=c.clip_high,
        max_grad_norm=c.max_grad_norm,
        micro_batch_tokens=c.micro_batch_tokens,
    )
    token_settings = rl.StepSettings(c.token_epochs, entropy_bonus=c.token_entropy, kl_penalty=c.kl, **shared)
    temperature_settings = rl.StepSettings(c.temperature_epochs, entropy_bonus=c.temperature_entropy, **shared)
    token_kind = c.advantage if c.token_objective == "mean" else c.token_objective
    temperature_kind = c.advantage if c.temperature_objective == "mean" else c.temperature_objective
    stop = tasks.stop_ids(vocabulary)

    run.mkdir(parents=True, exist_ok=True)
    if not c.resume:  # what a run left that was killed before its first checkpoint
        for name in ("metrics.jsonl", "samples.jsonl"):
            (run / name).unlink(missing_ok=True)
    first_step = checkpoint.resume(run, optimizers) if c.resume else 0
    log = Log(run, c, vocabulary)

    def evaluate(policy, problems) -> dict:
        return evaluation.evaluate(
            transformer, vocabulary, policy, problems, c.eval_samples, c.max_new_tokens, c.template, 1, c.rollout_rows
        ).summary()

    def before_or_after() -> dict[str, dict]:
        named = {"own" if head is not None else c.policy: policy, "1.0": baselines.make("1.0")}
        return {name: evaluate(p, held) for name, p in (named | {"greedy": baselines.make("greedy")}).items()}

    if not c.resume:
        log.write("before.json", before_or_after())
    interrupted = Interrupt()
    progress = tqdm(range(first_step, c.steps), initial=first_step, total=c.steps, desc="train", disable=None)
    for step in progress:
        # ---- rollout: tau_t ~ pi_phi, y_t ~ pi_theta ----
        started = time.perf_counter()
        problems = [training[i] for i in checkpoint.batch_indices(len(training), c.prompts_per_step, step, c.seed)]
        generator = checkpoint.random_state(c.seed, step, c.device)
        if isinstance(policy, baselines.EAD):
            policy.training_step = step
        at_once = max(1, c.rollout_rows // c.samples_per_prompt)
        rollout = sample.join(
            [
                sample.generate(
                    transformer, policy, [prompts_of[p] for p in problems[start : start + at_once]],
                    c.samples_per_prompt, c.max_new_tokens, stop, generator, keep_hidden=head is not None,
                )
                for start in range(0, len(problems), at_once)
            ]
        )  # fmt: skip
        # ---- reward: R(x, y) in {0, 1} ----
        asked = [problem for problem in problems for _ in range(c.samples_per_prompt)]
        texts = [vocabulary.decode(ids) for ids in rollout.completions()]
        rewards = torch.tensor(tasks.rewards(asked, texts, rollout.finished.tolist()), device=c.device)
        rewards = rewards.view(c.prompts_per_step, c.samples_per_prompt)  # (P, G)
        sampled = time.perf_counter()
        # ---- coordinate ascent: two steps on the same rollout, each with the other side fixed ----
        update_tokens, update_temperature = rl.sides(step, c.schedule, c.temperature_first)
        metrics: dict[str, float] = {"step": step}
        if update_tokens:
            advantage = rl.advantages(rewards, token_kind).flatten()
            done = rl.token_step(transformer, optimizers["token"], rollout, advantage, token_settings, reference)
            metrics |= {f"token/{name}": value for name, value in done.items()}
        if update_temperature and head is not None:
            advantage = rl.advantages(rewards, temperature_kind).flatten()
            done = rl.temperature_step(head, optimizers["temperature"], rollout, advantage, temperature_settings)
            metrics |= {f"temperature/{name}": value for name, value in done.items()}
        # ---- look ----
        metrics |= measure(rollout, rewards, asked, texts)
        metrics |= {"seconds/rollout": sampled - started, "seconds/update": time.perf_counter() - sampled}
        if c.eval_every and (step + 1) % c.eval_every == 0 and step + 1 < c.steps:
            every = max(
                1, len(held) // c.eval_problems
            )  # spread over all: Countdown's first problems are its commonest
            summary = evaluate(policy, held[::every][: c.eval_problems])
            metrics |= {f"eval/{name}": value for name, value in summary.items() if isinstance(value, float)}
        log.metrics(metrics)
        if c.print_every and step % c.print_every == 0:
            log.samples(step, rollout, asked, rewards, progress)
        progress.set_postfix(
            reward=f"{metrics['reward']:.3f}", tau=f"{metrics['tau/mean']:.2f}", entropy=f"{metrics['entropy']:.2f}",
            tokens_s=f"{int(rollout.mask.sum()) / (time.perf_counter() - started):,.0f}",
        )  # fmt: skip
        if (step + 1) % c.save_every == 0 or step + 1 == c.steps or interrupted.now:
            checkpoint.save(run, step + 1, transformer, policy, vocabulary, optimizers, vars(c))
        if interrupted.now:
            progress.close()
            print(f"stopped after step {step + 1}; `--resume --out {run}` goes on from there")
            return
    log.write("after.json", before_or_after())
    log.close()
    print(report(run))


def measure(rollout: sample.Rollout, rewards: torch.Tensor, asked: list[tasks.Problem], texts: list[str]) -> dict:
    """What a rollout shows: rewards, lengths, temperatures (for Countdown, by what the token is), entropy."""
    taus, mixed = rollout.temperatures[rollout.mask], ~(rewards == rewards[:, :1]).all(1)
    metrics = {
        "reward": float(rewards.mean()),
        "groups_with_signal": float(mixed.float().mean()),
        "tokens": float(rollout.mask.sum(1).float().mean()),
        "truncated": float((~rollout.finished).float().mean()),
        "entropy": float(rollout.entropies[rollout.mask].mean()),
        "changed": float(rollout.changed[rollout.mask].float().mean()),
        "tau/mean": float(taus.mean()),
        "tau/std": float(taus.std()),
    }
    if asked[0].kind == "countdown":
        sums: dict[str, list[float]] = {}
        for text, row, keep in zip(texts, rollout.temperatures.tolist(), rollout.mask.tolist()):
            drawn = [tau for tau, sampled in zip(row, keep) if sampled]
            for name, tau in zip(tasks.countdown_classes(text), drawn):
                sums.setdefault(name, []).append(tau)
        metrics |= {f"tau/{name}": sum(values) / len(values) for name, values in sorted(sums.items())}
    return metrics


class Log:
    """metrics.jsonl and TensorBoard for curves, samples.jsonl and the terminal for completions."""

    def __init__(self, run: Path, c: config.Config, vocabulary):
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import, so not for --help

        self.run, self.c, self.vocabulary = run, c, vocabulary
        self.board = SummaryWriter(str(run / "tensorboard"))

    def metrics(self, metrics: dict[str, float]) -> None:
        with open(self.run / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        for name, value in metrics.items():
            if name != "step":
                self.board.add_scalar(name, value, metrics["step"])

    def samples(self, step: int, rollout: sample.Rollout, asked, rewards: torch.Tensor, progress) -> None:
        """The first problem's first right and first wrong completion."""
        right = rewards.flatten().tolist()
        rows = {value: index for index, value in reversed(list(enumerate(right)))}
        with open(self.run / "samples.jsonl", "a", encoding="utf-8") as file:
            for reward, row in sorted(rows.items(), reverse=True):
                ids = rollout.tokens[row][rollout.mask[row]].tolist()
                taus = rollout.temperatures[row][rollout.mask[row]].tolist()
                pieces = [self.vocabulary.token_bytes(i).decode("utf-8", "replace") for i in ids]
                entry = {"step": step, "problem": asked[row].problem, "reward": reward, "pieces": pieces, "taus": taus}
                file.write(json.dumps(entry) + "\n")
                line = sample.show(pieces, taus, colours=sys.stdout.isatty())
                progress.write(f"step {step}  {'right' if reward else 'wrong'}  {asked[row].problem[:60]} {line}")

    def write(self, name: str, summaries: dict) -> None:
        (self.run / name).write_text(json.dumps(summaries, indent=1) + "\n", encoding="utf-8")

    def close(self) -> None:
        self.board.close()


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


def report(run: Path) -> str:
    """The before/after table, and where the picture is."""
    rows = {}
    for when in ("before", "after"):
        for name, summary in json.loads((run / f"{when}.json").read_text(encoding="utf-8")).items():
            rows[f"{when}, {name}"] = summary
    samples = max(summary["samples"] for summary in rows.values())
    text = evaluation.table(rows, [f"Avg@{samples}", f"Pass@{samples}"])
    (run / "table.md").write_text(text + "\n", encoding="utf-8")
    return f"\n{text}\n\npicture: {plot.picture(run)}\ncompletions by temperature: {plot.heat_map(run)}"


if __name__ == "__main__":
    main()
