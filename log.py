"""What a run leaves for its reader: metrics and event files, sample completions, the table before and after.

metrics.jsonl, tensorboard/     a line (an event) a step
samples.jsonl                   completions with the temperature of every token; also printed now and then
before.json, after.json         evaluations on the held-out problems; table.md shows them side by side
"""

import json
import sys
from pathlib import Path

import torch

import eval as evaluation
import plot
import sample
import tasks


def measure(rollout: sample.Rollout, rewards: torch.Tensor, problems: list[tasks.Problem], vocabulary) -> dict:
    """What a rollout shows: rewards (P, G), lengths, entropy, temperatures (for Countdown, by what the token is)."""
    taus, has_signal = rollout.temperatures[rollout.mask], ~(rewards == rewards[:, :1]).all(1)
    metrics = {
        "reward": float(rewards.mean()),
        "groups_with_signal": float(has_signal.float().mean()),
        "tokens": float(rollout.mask.sum(1).float().mean()),
        "truncated": float((~rollout.finished).float().mean()),
        "entropy": float(rollout.entropies[rollout.mask].mean()),
        "changed": float(rollout.changed[rollout.mask].float().mean()),
        "tau/mean": float(taus.mean()),
        "tau/std": float(taus.std()),
    }
    if problems[0].kind == "countdown":
        of_kind: dict[str, list[float]] = {}
        for ids, row, keep in zip(rollout.completions(), rollout.temperatures, rollout.mask):
            pieces = [vocabulary.decode([token]) for token in ids]
            kinds = iter(tasks.countdown_classes("".join(pieces)))
            for piece, tau in zip(pieces, row[keep].tolist()):  # a token counts as what its first character is
                kind = [next(kinds) for _ in piece][:1]
                of_kind.setdefault(kind[0] if kind else "format", []).append(tau)
        metrics |= {f"tau/{kind}": sum(values) / len(values) for kind, values in sorted(of_kind.items())}
    return metrics


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

    def samples(self, step: int, rollout: sample.Rollout, problems, rewards: torch.Tensor, progress) -> None:
        """The step's first right and first wrong completion, with the temperature of every token."""
        of_rows = rewards.flatten().tolist()
        for reward in (1.0, 0.0):
            if reward not in of_rows:
                continue
            row = of_rows.index(reward)
            ids = rollout.tokens[row][rollout.mask[row]].tolist()
            taus = rollout.temperatures[row][rollout.mask[row]].tolist()
            pieces = [self.vocabulary.token_bytes(i).decode("utf-8", "replace") for i in ids]
            entry = dict(step=step, problem=problems[row].problem, reward=reward, pieces=pieces, taus=taus)
            with open(self.run / "samples.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            line = sample.show(pieces, taus, colours=sys.stdout.isatty())
            progress.write(f"step {step}  {'right' if reward else 'wrong'}  {entry['problem'][:60]} {line}")

    def write(self, name: str, summaries: dict) -> None:
        (self.run / name).write_text(json.dumps(summaries, indent=1) + "\n", encoding="utf-8")

    def report(self) -> str:
        """Draw the pictures, write table.md, and say what to look at."""
        rows = {}
        for when in ("before", "after"):
            for name, summary in json.loads((self.run / f"{when}.json").read_text(encoding="utf-8")).items():
                rows[f"{when}, {name}"] = summary
        samples = max(summary["samples"] for summary in rows.values())
        table = evaluation.table(rows, [f"Avg@{samples}", f"Pass@{samples}"])
        (self.run / "table.md").write_text(table + "\n", encoding="utf-8")
        self.board.close()
        curves, completions = plot.picture(self.run), plot.heat_map(self.run)
        return f"\n{table}\n\npicture: {curves}\ncompletions by temperature: {completions}"
