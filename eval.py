"""Evaluation: Avg@k, Pass@k and greedy accuracy, with intervals, for any temperature policy on any benchmark.

    Avg@k    mean reward of k samples of each problem
    Pass@k   1 - C(n - c, k) / C(n, k), with c of n samples right: the unbiased estimator of "any of k is right"
                                                                    (Chen et al., arXiv 2107.03374)
    greedy   tau = 0

Intervals are 95% over problems: the benchmark is a sample of problems, and a problem's draws are averaged (display/intervals.py).
Evaluation has its own generator, so it never changes training's random numbers.

    python eval.py --model runs/modular --policy own 0.7 greedy
    python eval.py --model Qwen/Qwen3-1.7B --benchmark math500 aime24 amc23 --samples 8 --max-new-tokens 3072
"""

import argparse
import json
import sys
from dataclasses import dataclass
from math import comb
from pathlib import Path

from engine import environment  # isort: skip
import numpy as np
import torch
from tqdm import tqdm

import baselines
import model
import sample
import tasks
import tokenizer
from display.intervals import of_problems
from display.terminal import visible
from engine.memory import rows_at_once
from files import weights


@dataclass
class Evaluation:
    """Rewards of P problems with n samples each, and means over sampled tokens or completions."""

    correct: np.ndarray  # (P, n) rewards
    temperature: float  # per token
    entropy: float  # H_t per token
    tokens: float  # per completion
    truncated: float  # share of completions

    @property
    def right(self) -> np.ndarray:
        """(P,) the number of right samples.  With --reward, rewards of at least 1/2 are right."""
        return (self.correct >= 0.5).sum(1)

    def summary(self) -> dict[str, float | list[float]]:
        """Avg@n, Pass@k for k = 2, 4, ... n, each with its interval under `name 95%`."""
        n = self.correct.shape[1]
        per_problem = {f"Avg@{n}": self.correct.mean(1)}
        for k in sorted(({2**i for i in range(1, n.bit_length()) if 2**i <= n} | {n}) - {1}):
            per_problem[f"Pass@{k}"] = np.array([pass_at_k(n, int(c), k) for c in self.right])
        result: dict[str, float | list[float]] = {"problems": len(self.correct), "samples": n}
        for name, values in per_problem.items():
            result[name] = float(values.mean())
            result[f"{name} 95%"] = list(of_problems(values))
        means = "temperature", "entropy", "tokens", "truncated"
        return result | {name: getattr(self, name) for name in means}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that k of n samples, drawn without replacement, include a right one.

    >>> pass_at_k(n=4, correct=1, k=2)
    0.5
    """
    return 1.0 - comb(n - correct, k) / comb(n, k)


def evaluate(
    transformer, vocabulary, policy, problems, samples: int, max_new_tokens: int, prompt="auto", seed=0, rows=0,
    own_reward=None,
) -> Evaluation:  # fmt: skip
    """Sample every problem `samples` times and check the answers.  A greedy policy samples once, as all its samples are equal.

    `rows` completions are sampled at a time; 0: as many as fit (engine.memory.rows_at_once).  The seed fixes every draw.
    """
    asked = [tasks.render(problem, vocabulary, prompt) for problem in problems]
    longest = sample.check_lengths(transformer, asked, max_new_tokens)  # before any work
    rows = rows or rows_at_once(transformer, longest + max_new_tokens)
    generator = torch.Generator(transformer.device).manual_seed(seed)
    samples = 1 if getattr(policy, "temperature", None) == 0 else samples
    eos, stop_texts = tasks.stop_ids(vocabulary), tasks.stops_of(problems[0], prompt)
    stop = tasks.stop_of(vocabulary, stop_texts)
    correct, sums = [], np.zeros(5)
    per_batch = max(1, rows // samples)
    starts = range(0, len(problems), per_batch)
    for start in tqdm(starts, desc="evaluate", leave=False, disable=None if len(starts) > 4 else True):
        batch = problems[start : start + per_batch]
        prompts = asked[start : start + per_batch]
        rollout = sample.generate(transformer, policy, prompts, samples, max_new_tokens, eos, generator, stop=stop)
        texts = tasks.completion_texts(rollout, vocabulary, stop_texts)
        repeated = [problem for problem in batch for _ in range(samples)]
        correct += tasks.rewards(repeated, texts, rollout.finished.tolist(), own_reward)
        of_tokens = [rollout.mask, rollout.temperatures, rollout.entropies]
        sums += [*(float(field.sum()) for field in of_tokens), float((~rollout.finished).sum()), len(texts)]
    tokens, temperature, entropy, truncated, count = sums
    correct = np.array(correct).reshape(len(problems), samples)
    return Evaluation(correct, temperature / tokens, entropy / tokens, tokens / count, truncated / count)


def table(summaries: dict[str, dict], metrics: list[str] | None = None) -> str:
    """A Markdown table with one row for each name: these metrics (default: all) with intervals, in percent.

    A greedy row has one sample of each problem.  Its accuracy is shown as Avg@k, because k equal samples give the same.
    """
    if metrics is None:
        named = dict.fromkeys(m for s in summaries.values() for m in s if f"{m} 95%" in s)
        metrics = [m for m in named if m != "Avg@1"] or ["Avg@1"]
    lines = [
        "| | problems | " + " | ".join(metrics) + " | tau | tokens | truncated |",
        "|---" * (len(metrics) + 5) + "|",
    ]
    for name, summary in summaries.items():
        cells = [name, f"{summary['problems']:,}"]
        for metric in metrics:
            found = metric if metric in summary else "Avg@1" if metric.startswith("Avg") else ""
            low, high = summary.get(f"{found} 95%", (0, 0))
            cells.append(f"{100 * summary[found]:.1f} [{100 * low:.1f}, {100 * high:.1f}]" if found in summary else "")
        cells += [f"{summary['temperature']:.2f}", f"{summary['tokens']:.0f}", f"{100 * summary['truncated']:.0f}%"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Avg@k, Pass@k and greedy accuracy of a model, by temperature policy.")
    parser.error = lambda message: parser.exit(2, f"eval.py: {message}; --help lists the flags\n")
    flag = parser.add_argument
    flag("--model", default="models/modular", help="a run's or Hugging Face folder, hub id or id@revision")
    flag("--benchmark", nargs="+", default=[], help="names or files (see tasks.py); default: a run's held-out problems")
    flag("--policy", nargs="+", default=[], help="own, greedy, 0.7, ead, edt:base=0.8,theta=0.2, mixture, 1.5+min_p=0.1; default: the run's, and greedy")  # fmt: skip
    flag("--samples", type=int, default=8, help="samples of each problem")
    flag("--problems", type=int, default=0, help="problems of each benchmark, drawn with --seed; 0: all, or 1,000 of a generated task")  # fmt: skip
    flag("--max-new-tokens", type=int, default=0, help="longest completion; 0: as the run was trained, else what a generated task needs, else 1024")  # fmt: skip
    flag("--template", default=None, help="auto, raw, plain, chat, chat-thinking, or a file with {problem}; default: as the run was trained")  # fmt: skip
    flag("--system", default=None, help="the system turn of a chat")
    flag("--instruction", default=None, help="text after the problem, in plain and chat")
    flag("--stop", default=None, help="a text that ends a completion, such as \\n")
    flag(
        "--reward",
        default="",
        help="your own reward, file.py:function; none: that of the run for its own problems, the task's for others",
    )
    flag("--rows", type=int, default=0, help="completions sampled at a time, at least --samples; 0: as many as fit half of the free memory")  # fmt: skip
    flag("--seed", type=int, default=0, help="fixes every draw")
    flag("--device", default="auto", help="auto, cpu, cuda or mps")
    flag("--out", default="", help="write the results as JSON to this file, with the right samples of each problem")
    environment.ready()
    arguments = parser.parse_args()
    try:
        results = run(arguments)
        if arguments.out:
            text = json.dumps({"arguments": vars(arguments), "results": results}, indent=1)
            Path(arguments.out).write_text(text + "\n", encoding="utf-8")
        print(visible(table(results)))
    except (ValueError, OSError) as error:
        print(visible(f"eval.py: {error}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\neval.py: interrupted", file=sys.stderr)
        sys.exit(130)


def own_benchmark(folder: Path, ran: dict) -> str:
    """The held-out problems of this run or embedded model.  ValueError: it has none."""
    if (file := folder / weights.HELD_OUT).is_file():  # a run on problems that cannot be generated again
        return str(file)
    known = {Path(of).parts: task for task, of in tasks.EMBEDDED.items()}.get(folder.resolve().parts[-2:], "")
    if ran:
        try:
            known = ran["eval_task"] or ran["task"] * (ran["task"].partition(":")[0] in tasks.GENERATED)
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"{folder / weights.RUN} is damaged; name the problems by --benchmark") from None
    if not known:
        raise ValueError(f"{folder} has no held-out problems of its own; name some by --benchmark")
    return known


def load(benchmark: str, count: int, seed: int) -> list[tasks.Problem]:
    """`count` problems of a benchmark; 0: all, or 1,000 of a generated task."""
    generated = benchmark.partition(":")[0] in tasks.GENERATED
    return tasks.load(benchmark, "test", count or (1000 if generated else None), seed)


def run(arguments) -> dict[str, dict]:
    """{"benchmark, policy": summary} for every pair that the command line names."""
    if arguments.samples < 1 or min(arguments.problems, arguments.rows, arguments.max_new_tokens) < 0:
        raise ValueError("--samples must be at least 1; --problems, --rows and --max-new-tokens at least 0")
    if arguments.out and not Path(arguments.out).absolute().parent.is_dir():
        raise ValueError(f"--out {arguments.out}: there is no such folder")
    if Path(arguments.out or "-").is_dir():
        raise ValueError(f"--out {arguments.out} is a folder; it must name a file")
    device = model.choose_device(arguments.device)
    folder = weights.find_folder(arguments.model)
    ran = weights.trained_with(folder)
    asked_how = {name: getattr(arguments, name) for name in ("template", "system", "instruction", "stop")}
    prompt = tasks.trained_prompt(ran, **asked_how)
    of_run = "" if arguments.benchmark else ran.get("reward", "")  # other benchmarks have answers of their own
    own_reward = tasks.load_reward(arguments.reward or of_run) if arguments.reward or of_run else None
    asked = arguments.benchmark or [own_benchmark(folder, ran)]
    benchmarks = {name: load(name, arguments.problems, arguments.seed) for name in asked}
    names = arguments.policy or [baselines.name_of(folder), "greedy"]
    by_name = {name: baselines.make(name, folder, device) for name in names}
    transformer, vocabulary = model.load(folder, device), tokenizer.load(folder)
    transformer.compute_dtype = torch.bfloat16 if device.startswith("cuda") else None
    model.choose_threads(transformer.config.d_model)
    stems = [Path(name).stem for name in benchmarks]
    results: dict[str, dict] = {}
    for benchmark, problems in benchmarks.items():
        length = arguments.max_new_tokens or ran.get("max_new_tokens") or tasks.completion_length(problems[0])
        for name, policy in by_name.items():
            evaluation = evaluate(
                transformer, vocabulary, policy, problems, arguments.samples, length, prompt,
                arguments.seed, arguments.rows, own_reward,
            )  # fmt: skip
            label = Path(benchmark).stem if stems.count(Path(benchmark).stem) == 1 else benchmark
            successes = {"successes": evaluation.right.tolist()}
            results[f"{label}, {name}"] = evaluation.summary() | successes
    return results


if __name__ == "__main__":
    main()
