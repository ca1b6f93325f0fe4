"""What a run writes for its reader: metrics, sample completions, the table before and after.

metrics.jsonl, tensorboard/     one line, one event a step
samples.jsonl                   completions with every choice at every token; some are printed too
before.json, after.json         evaluations on the held-out problems; table.md shows them side by side
report.html, run.png            pictures of all this: report.py
"""

import json
import sys
import threading
from pathlib import Path

import torch

import eval as evaluation
import sample
import tasks
import verify
from display import curves, report, terminal
from problems.prompts import after_thinking
from temperature_head import TemperatureHead
from token_policy import token_policy

# How many held-out completions are looked at before and after training: with fewer, none may change its outcome.
LOOKS, TOKENS_LOOKED_AT = 128, 16_384


def measure(rollout: sample.Rollout, rewards: torch.Tensor, problems: list[tasks.Problem], vocabulary) -> dict:
    """The metrics of a rollout: rewards (P, G), lengths, entropy, temperatures; of a generated task also by kind of token."""
    taus = rollout.temperatures[rollout.mask]
    entropies = rollout.entropies[rollout.mask]
    metrics = {
        "reward": float(rewards.mean()),
        "tokens": float(rollout.mask.sum(1).float().mean()),
        "truncated": float((~rollout.finished).float().mean()),
        "entropy": float(entropies.mean()),
        "changed": float(rollout.changed[rollout.mask].float().mean()),
        "tau/mean": float(taus.mean()),
        "tau/std": float(taus.std()),
    }
    ordered = taus.sort().values
    metrics |= {f"tau_quantile/{q}": float(ordered[(len(ordered) - 1) * q // 100]) for q in (5, 25, 50, 75, 95)}
    for low, high in zip(curves.ENTROPY_BINS, (*curves.ENTROPY_BINS[1:], float("inf"))):
        if len(inside := taus[(entropies >= low) & (entropies < high)]):
            metrics[f"tau_by_entropy/{low}"] = float(inside.mean())
    if task := tasks.task_of(problems[0]):
        of_kind: dict[str, list[float]] = {}
        completions = rollout.completions()
        text = {token: vocabulary.decode([token]) for token in set().union(*completions)}
        for ids, row, keep in zip(completions, rollout.temperatures, rollout.mask):
            pieces = [text[token] for token in ids]
            kinds = iter(task.classes("".join(pieces)))
            for piece, tau in zip(pieces, row[keep].tolist()):  # a token counts as what its first character is
                kind = [next(kinds) for _ in piece][:1]
                of_kind.setdefault(kind[0] if kind else "format", []).append(tau)
        metrics |= {f"tau/{kind}": sum(values) / len(values) for kind, values in sorted(of_kind.items())}
    return metrics


def learned(before: dict, after: dict) -> list[str]:
    """One line: how many problems the greedy answers gained and lost, so that nobody has to guess whether the tokens learned.

    >>> learned({"solved": [1, 0, 0]}, {"solved": [0, 1, 1]})
    ['greedy answers: 2 problems solved that were not before, 1 no longer, of 3']
    """
    pairs = list(zip(before.get("solved", ()), after.get("solved", ())))
    gained, lost = sum(now > then for then, now in pairs), sum(now < then for then, now in pairs)
    said = f"greedy answers: {gained:,} problems solved that were not before, {lost:,} no longer, of {len(pairs):,}"
    return [said] if pairs else []


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


def extracted(problem: tasks.Problem, text: str) -> str | None:
    """The answer that a completion gives, right or wrong; None if it gives none.

    >>> extracted(tasks.Problem("3,5,7=22:", "22", "countdown"), "3*5=15,15+7=23;")
    '23'
    """
    if task := tasks.task_of(problem):
        steps = [match for match, _ in task.steps(problem, text)]
        return steps[-1][4] if steps else None
    return verify.extract_answer(after_thinking(text))


def looked_at(problems: list[tasks.Problem], length: int) -> list[tasks.Problem]:
    """The held-out problems of which a completion is kept before and after training, spread over all of them."""
    count = min(len(problems), LOOKS, max(4, TOKENS_LOOKED_AT // length))
    return [problems[i * len(problems) // count] for i in range(count)]


@torch.no_grad()
def describe(transformer, policy, vocabulary, rollout: sample.Rollout, row: int, alternatives: int = 4) -> dict:
    """Every choice at every token of one completion, as lists with one entry a token.

    The gate and the Beta come from what the policy read, which the rollout stores. The likeliest tokens are not stored: they
    take one more forward pass over this completion, by the weights that drew it.
    """
    part = rollout.rows(torch.tensor([row]))
    keep, taus, drawn = part.mask[0], part.temperatures[part.mask], part.tokens[part.mask]
    margins = None if part.margins is None else part.margins[part.mask]
    with transformer.autocast():
        hidden = transformer(part.tokens)[0, :-1][keep[1:]]  # (N, d) the states that drew a token
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
        finished=bool(part.finished[0]),
        pieces=[text(token) for token in part.tokens[0][keep].tolist()],
        taus=rounded(taus),
        changed=part.changed[0][keep].tolist(),
        entropies=rounded(part.entropies[0][keep]),
        probabilities=rounded(part.token_log_probs[0][keep].exp()),
        alternatives=[  # without tokens that were cut
            [[text(token), round(p, 4)] for token, p in zip(tokens, row) if p]
            for tokens, row in zip(ids.tolist(), probabilities.exp().tolist())
        ],
    )
    if isinstance(policy, TemperatureHead) and part.reads is not None:
        gate, a, b = policy(part.reads[0][keep.cpu()].to(hidden.device))
        entry |= dict(
            gates=rounded(torch.sigmoid(gate)), a=rounded(a), b=rounded(b), range=[policy.tau_min, policy.tau_max]
        )
    return entry


def open_board(folder: Path, first_step: int):
    """TensorBoard's writer; None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import, so not for --help
    except ImportError as error:
        print(f"no TensorBoard files are written: {error}", file=sys.stderr)
        return None

    def quiet(failed, otherwise=threading.excepthook) -> None:
        """A full disk ends the run in one line: the writer's thread hands its error on, and need not print it too."""
        if not isinstance(failed.exc_value, OSError):
            otherwise(failed)

    threading.excepthook = quiet
    return SummaryWriter(str(folder), purge_step=first_step)


class Log:
    """metrics.jsonl and TensorBoard for curves, samples.jsonl and the terminal for completions."""

    def __init__(self, run: Path, vocabulary, first_step: int):
        self.run, self.vocabulary = run, vocabulary
        self.board = open_board(run / "tensorboard", first_step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def metrics(self, metrics: dict[str, float]) -> None:
        with open(self.run / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        for name, value in metrics.items():
            if name != "step" and self.board is not None:
                self.board.add_scalar(name, value, metrics["step"])

    def entry(self, transformer, policy, rollout, row: int, problem: tasks.Problem, text: str, reward: float) -> dict:
        """One completion as a row of samples.jsonl: problem, gold answer, the answer given, reward, and every token."""
        told = dict(problem=problem.problem, answer=problem.answer, extracted=extracted(problem, text), reward=reward)
        return told | describe(transformer, policy, self.vocabulary, rollout, row)

    def samples(self, step: int, transformer, policy, rollout, problems, texts, rewards, progress) -> None:
        """The step's first best and first worst completion, with the temperature of every token."""
        for row in [rewards.index(reward) for reward in sorted({max(rewards), min(rewards)}, reverse=True)]:
            entry = self.entry(transformer, policy, rollout, row, problems[row], texts[row], rewards[row])
            self.append(dict(step=step) | entry)
            line = terminal.show(entry["pieces"], entry["taus"], colours=sys.stdout.isatty())
            asked, given, gold = (
                terminal.visible(entry[name] or "none")[:60] for name in ("problem", "extracted", "answer")
            )
            verdict = terminal.verdict(entry["reward"])
            progress.write(f"step {step}  {verdict}  {asked} {line}  (answer {given}, gold {gold})")

    def held_out(self, when: str, step: int, transformer, policy, rollout, problems, texts, rewards) -> None:
        """Completions of held-out problems, before or after training."""
        for row, told in enumerate(zip(problems, texts, rewards)):
            self.append(dict(step=step, when=when) | self.entry(transformer, policy, rollout, row, *told))

    def append(self, entry: dict) -> None:
        with open(self.run / "samples.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def write(self, name: str, summaries: dict) -> None:
        (self.run / name).write_text(json.dumps(summaries, indent=1) + "\n", encoding="utf-8")

    def report(self) -> str:
        """Draw the pictures, write table.md, and say what to look at."""
        rows = {}
        for when in ("before", "after"):
            for name, summary in curves.read_json(self.run / f"{when}.json").items():
                rows[f"{when}, {name}"] = summary
        samples = max(summary["samples"] for summary in rows.values())
        table = evaluation.table(rows, [f"Avg@{samples}", f"Pass@{samples}"])
        (self.run / "table.md").write_text(table + "\n", encoding="utf-8")
        self.close()
        names = ("report", "curves", "completions by temperature")
        drawn = [f"{name}: {file}" for name, file in zip(names, report.draw(self.run))]
        told = learned(rows.get("before, greedy", {}), rows.get("after, greedy", {}))
        return "\n".join(["", table, "", *told, *drawn])
