"""How far is the untrained head from a fixed temperature?  Without sampling noise, at states that the fixed one leads to.

    python -m study.start --model DIR --task words:1

The untrained head draws its temperature without looking, so tokens come from a mixture over temperatures.  The table compares
this mixture with the fixed temperature at its centre: entropy, and how often a token is drawn whose probability at
temperature 1 is below 1 in 1,000.  Of a large vocabulary that is what derails a completion.
"""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from torch import Tensor

import baselines
import model
import sample
import tasks
import tokenizer
from temperature_head import beta_log_prob
from token_policy import token_policy

UNLIKELY = 1e-3
LOW, HIGH = 0.1, 1.5
TOTALS = (4, 12, 20, 40, 80)  # a + b
CENTRES = ("0.8", "1.0")
GRID = 24


def mixture(logits: Tensor, centre: float, total: float, low: float = LOW, high: float = HIGH) -> Tensor:
    """(n, V) what is drawn under tau = low + z (high - low), z ~ Beta with mean at `centre` and a + b = total."""
    z = (torch.arange(GRID) + 0.5) / GRID
    mean = torch.tensor((centre - low) / (high - low))
    weights = beta_log_prob(mean * total, (1 - mean) * total, z).softmax(0)
    taus = (low + z * (high - low)).tolist()
    result = torch.zeros_like(logits)
    for weight, tau in zip(weights.tolist(), taus):
        if weight > 1e-6:
            result += weight * token_policy(logits, torch.full((len(logits),), tau)).exp()
    return result


def measure(p: Tensor, at_one: Tensor) -> tuple[float, float]:
    """Summed over the states: entropies in nats, and the mass of unlikely tokens."""
    return float(-(p * p.clamp_min(1e-30).log()).sum()), float(p[at_one < UNLIKELY].sum())


def states(transformer, vocabulary, task: str, centre: str, problems: int) -> Tensor:
    """h_t of completions at the fixed temperature, (n, d)."""
    asked = tasks.load(task, "tuning", problems)
    prompts = [tasks.render(problem, vocabulary) for problem in asked]
    stop = tasks.stop_of(vocabulary, tasks.stops_of(asked[0]))
    rollout = sample.generate(
        transformer, baselines.make(centre), prompts, 2, tasks.completion_length(asked[0]), tasks.stop_ids(vocabulary),
        torch.Generator().manual_seed(0), keep_reads=True, stop=stop,
    )  # fmt: skip
    return rollout.reads[rollout.mask]


@torch.no_grad()
def table(folder: str, task: str, problems: int) -> str:
    transformer, vocabulary = model.load(folder), tokenizer.load(folder)
    lines = ["| tau | entropy | of fixed | unlikely tokens | of fixed |", "|---|---|---|---|---|"]
    for centre in CENTRES:
        hidden = states(transformer, vocabulary, task, centre, problems)
        fixed = f"fixed {centre}"
        ways = {fixed: None} | {
            f"{LOW}..{HIGH} from {centre}, a + b = {total}": (float(centre), float(total)) for total in TOTALS
        }
        sums = dict.fromkeys(ways, (0.0, 0.0))
        for some in hidden.split(64):
            logits = transformer.unembed(some).float()
            at_one = logits.softmax(-1)
            for name, settings in ways.items():
                p = (logits / float(centre)).softmax(-1) if settings is None else mixture(logits, *settings)
                sums[name] = tuple(old + new for old, new in zip(sums[name], measure(p, at_one)))
        for name, (entropy, unlikely) in sums.items():
            shares = entropy / sums[fixed][0], unlikely / sums[fixed][1]
            each = entropy / len(hidden), unlikely / len(hidden)
            lines.append(f"| {name} | {each[0]:.3f} | {shares[0]:.3f} | {each[1]:.5f} | {shares[1]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The untrained head beside a fixed temperature.")
    parser.error = lambda message: parser.exit(2, f"start.py: {message}; --help lists the flags\n")
    parser.add_argument("--model", required=True, help="folder of the model, or its hub id")
    parser.add_argument("--task", default="words:1", help="a generated task [%(default)s]")
    parser.add_argument("--problems", type=int, default=12, help="tuning problems, two completions each [%(default)s]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        print(table(arguments.model, arguments.task, arguments.problems))
    except (ValueError, OSError) as error:
        parser.exit(2, f"start.py: {error}\n")


if __name__ == "__main__":
    main()
