"""What a run leaves for its reader: metrics and event files, sample completions, the table before and after.

metrics.jsonl, tensorboard/     a line (an event) a step
samples.jsonl                   completions with all that was chosen at every token; some are printed too
before.json, after.json         evaluations on the held-out problems; table.md shows them side by side
report.html, run.png            pictures of all this: plot.py
"""

import json
import sys
from pathlib import Path

import torch

import eval as evaluation
import plot
import sample
import tasks
from display.terminal import show
from temperature_head import TemperatureHead
from token_policy import token_policy

ENTROPY_BINS = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)  # nats; lower ends of the bins in which temperatures are averaged


def measure(rollout: sample.Rollout, rewards: torch.Tensor, problems: list[tasks.Problem], vocabulary) -> dict:
    """What a rollout shows: rewards (P, G), lengths, entropy, temperatures (for generated tasks, by what the token is)."""
    taus, has_signal = rollout.temperatures[rollout.mask], ~(rewards == rewards[:, :1]).all(1)
    entropies = rollout.entropies[rollout.mask]
    metrics = {
        "reward": float(rewards.mean()),
        "groups_with_signal": float(has_signal.float().mean()),
        "tokens": float(rollout.mask.sum(1).float().mean()),
        "truncated": float((~rollout.finished).float().mean()),
        "entropy": float(entropies.mean()),
        "changed": float(rollout.changed[rollout.mask].float().mean()),
        "tau/mean": float(taus.mean()),
        "tau/std": float(taus.std()),
    }
    ordered = taus.sort().values
    metrics |= {f"tau_quantile/{q}": float(ordered[(len(ordered) - 1) * q // 100]) for q in (5, 25, 50, 75, 95)}
    for low, high in zip(ENTROPY_BINS, (*ENTROPY_BINS[1:], float("inf"))):
        if len(inside := taus[(entropies >= low) & (entropies < high)]):
            metrics[f"tau_by_entropy/{low}"] = float(inside.mean())
    if problems[0].kind in tasks.GENERATED:
        of_kind: dict[str, list[float]] = {}
        completions = rollout.completions()
        text = {token: vocabulary.decode([token]) for token in set().union(*completions)}
        for ids, row, keep in zip(completions, rollout.temperatures, rollout.mask):
            pieces = [text[token] for token in ids]
            kinds = iter(tasks.trace_classes("".join(pieces)))
            for piece, tau in zip(pieces, row[keep].tolist()):  # a token counts as what its first character is
                kind = [next(kinds) for _ in piece][:1]
                of_kind.setdefault(kind[0] if kind else "format", []).append(tau)
        metrics |= {f"tau/{kind}": sum(values) / len(values) for kind, values in sorted(of_kind.items())}
    return metrics


def flat(summary: dict) -> dict[str, float]:
    """An evaluation as metrics: its figures, and the ends of their intervals.

    >>> flat({"Avg@8": 0.5, "Avg@8 95%": [0.4, 0.6], "samples": 8})
    {'eval/Avg@8': 0.5, 'eval/Avg@8 low': 0.4, 'eval/Avg@8 high': 0.6}
    """
    figures = {name: value for name, value in summary.items() if isinstance(value, float)}
    for name in list(figures):
        if f"{name} 95%" in summary:
            figures[f"{name} low"], figures[f"{name} high"] = summary[f"{name} 95%"]
    return {f"eval/{name}": value for name, value in figures.items()}


@torch.no_grad()
def describe(transformer, policy, vocabulary, rollout: sample.Rollout, row: int, alternatives: int = 4) -> dict:
    """All that was chosen at every token of one completion: lists of one entry a token.

    What a rollout does not store (the gate, the Beta's parameters, the likeliest tokens) takes one more forward pass over
    this completion, by the weights that drew it.
    """
    part = rollout.rows(torch.tensor([row]))
    keep, taus = part.mask[0], part.temperatures[part.mask]
    with transformer.autocast():
        hidden = transformer(part.tokens)[0, :-1][keep[1:]]  # (N, d) the states that drew a token
    drawn, margins = part.tokens[part.mask], None if part.margins is None else part.margins[part.mask]
    likeliest = [  # log-probs and ids, (n, alternatives) each; a long completion of a large vocabulary in parts
        token_policy(
            transformer.unembed(hidden[some]), taus[some], None if margins is None else margins[some], drawn[some]
        ).topk(alternatives)
        for some in torch.arange(len(hidden), device=hidden.device).split(512)
    ]
    probabilities, ids = (torch.cat(columns) for columns in zip(*likeliest))

    def text(token: int) -> str:
        return vocabulary.token_bytes(token).decode("utf-8", "replace")

    def rounded(values: torch.Tensor) -> list:
        return [round(value, 4) for value in values.tolist()]

    entry = dict(
        pieces=[text(token) for token in part.tokens[0][keep].tolist()],
        taus=rounded(taus),
        changed=part.changed[0][keep].tolist(),
        entropies=rounded(part.entropies[0][keep]),
        probabilities=rounded(part.token_log_probs[0][keep].exp()),
        alternatives=[  # without those that are out
            [[text(token), round(p, 4)] for token, p in zip(tokens, row) if p]
            for tokens, row in zip(ids.tolist(), probabilities.exp().tolist())
        ],
    )
    if isinstance(policy, TemperatureHead):
        gate, a, b = policy(part.reads[0][keep.cpu()].to(hidden.device) if part.reads is not None else hidden)
        entry |= dict(
            gates=rounded(torch.sigmoid(gate)), a=rounded(a), b=rounded(b), range=[policy.tau_min, policy.tau_max]
        )
    return entry


class Log:
    """metrics.jsonl and TensorBoard for curves, samples.jsonl and the terminal for completions."""

    def __init__(self, run: Path, vocabulary, first_step: int):
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import, so not for --help

        self.run, self.vocabulary = run, vocabulary
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=first_step)

    def metrics(self, metrics: dict[str, float]) -> None:
        with open(self.run / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        for name, value in metrics.items():
            if name != "step":
                self.board.add_scalar(name, value, metrics["step"])

    def samples(self, step: int, transformer, policy, rollout, problems, rewards: torch.Tensor, progress) -> None:
        """The step's first right and first wrong completion, with the temperature of every token."""
        of_rows = rewards.flatten().tolist()
        for row in [of_rows.index(reward) for reward in (1.0, 0.0) if reward in of_rows]:
            entry = dict(step=step, problem=problems[row].problem, reward=of_rows[row])
            entry |= describe(transformer, policy, self.vocabulary, rollout, row)
            self.append(entry)
            line = show(entry["pieces"], entry["taus"], colours=sys.stdout.isatty())
            progress.write(f"step {step}  {'right' if of_rows[row] else 'wrong'}  {entry['problem'][:60]} {line}")

    def held_out(self, when: str, step: int, transformer, policy, problems, length: int, template: str) -> None:
        """One completion of each of four held-out problems, as they fall, for a look before and after."""
        asked = problems[:: max(1, len(problems) // 4)][:4]
        prompts = [tasks.render(problem.problem, self.vocabulary, template) for problem in asked]
        generator = torch.Generator(transformer.device).manual_seed(0)  # never moves the randomness of training
        stop = tasks.stop_ids(self.vocabulary)
        rollout = sample.generate(transformer, policy, prompts, 1, length, stop, generator)
        texts = [self.vocabulary.decode(ids) for ids in rollout.completions()]
        rewards = tasks.rewards(asked, texts, rollout.finished.tolist())
        for row, (problem, reward) in enumerate(zip(asked, rewards)):
            entry = dict(step=step, when=when, problem=problem.problem, reward=reward)
            self.append(entry | describe(transformer, policy, self.vocabulary, rollout, row))

    def append(self, entry: dict) -> None:
        with open(self.run / "samples.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def write(self, name: str, summaries: dict) -> None:
        (self.run / name).write_text(json.dumps(summaries, indent=1) + "\n", encoding="utf-8")

    def report(self) -> str:
        """Draw the pictures, write table.md, and say what to look at."""
        rows = {}
        for when in ("before", "after"):
            for name, summary in plot.read_json(self.run / f"{when}.json").items():
                rows[f"{when}, {name}"] = summary
        samples = max(summary["samples"] for summary in rows.values())
        table = evaluation.table(rows, [f"Avg@{samples}", f"Pass@{samples}"])
        (self.run / "table.md").write_text(table + "\n", encoding="utf-8")
        self.board.close()
        page, curves, completions = plot.draw(self.run)
        return f"\n{table}\n\nreport: {page}\ncurves: {curves}\ncompletions by temperature: {completions}"
