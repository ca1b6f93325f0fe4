"""What a head learned on real text, and what the frozen model alone says about whether it could pay.

    python -m study.look --model DIR --task words:1                        the model: choices beside mistakes
    python -m study.look --model DIR --task words:1 --head RUN             and the temperatures of the head in this folder

**Choices beside mistakes.**  The model reads the right line of each tuning problem.  Where a token of it is not the likeliest, a
lower temperature takes the right line away: how likely is it beside the likeliest?  Where it is, a higher temperature brings
mistakes: how likely is the likeliest other token beside it?  A head pays where classes differ in these two.
"""

import argparse
import json
import os
import random
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import numpy as np
import torch

import tasks
import temperature_head
from models import pretrain
from problems import words
from problems.problem import Problem, distinct
from study.frozen import ScaledHead
from study.introspect import explained
from study.subject import Subject, of_tree

KINDS = ("operand", "operator", "result", "format")
EDGES = (0.05, 0.25, 0.75, 1.5)  # of entropy, in nats
LEAST = 20  # occurrences of a token that is named


def with_lines(task: str, count: int) -> list[Problem]:
    """Tuning problems, each with a right completion as its answer."""
    if not task.startswith("words"):
        asked = tasks.load(task, "tuning", count)
        lines = [pretrain.demonstrate(problem, random.Random(i), 0.0, 0.0) for i, problem in enumerate(asked)]
        return [Problem(problem.problem, line) for problem, line in zip(asked, lines)]
    steps = int(task.partition(":")[2] or "3")

    def one(draw: random.Random) -> tuple[str, Problem]:
        question, line = words.draw_problem(draw, steps)
        return question, Problem(question, f" {line}")

    return distinct(one, "tuning", count, f"words tuning {steps}")


@torch.no_grad()
def choices(subject: Subject, count: int) -> dict[str, dict[str, float]]:
    """Of each class, over the tokens of the right lines: how many; the share where the right token is not the likeliest, and its
    probability over the likeliest's there; where it is, the likeliest other token's probability over its own.  Means of ratios."""
    found: dict[str, dict[str, list[float]]] = {kind: defaultdict(list) for kind in KINDS}
    for problem in with_lines(subject.task, count):
        ids = tasks.render(problem.problem, subject.vocabulary)
        own = subject.vocabulary.encode(problem.answer)
        with torch.autocast("cpu", torch.bfloat16):  # as in the tree
            hidden = subject.transformer(torch.tensor([ids + own]))[0, len(ids) - 1 : -1]
        top = subject.transformer.unembed(hidden).float().softmax(-1)
        for kind, token, p in zip(subject.kinds([subject.vocabulary.decode([t]) for t in own]), own, top):
            best, other = p.topk(2).values.tolist()
            missed = token != int(p.argmax())
            found[kind]["missed"].append(float(missed))
            found[kind]["useful" if missed else "mistake"].append(float(p[token]) / best if missed else other / best)
    return {
        kind: {"tokens": len(of["missed"])} | {name: float(np.mean(of[name] or [np.nan])) for name in ("missed", "useful", "mistake")}
        for kind, of in found.items()
    }  # fmt: skip


@torch.no_grad()
def look(subject: Subject, head, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Every token of 8 completions a tuning problem: its text, class, temperature, E[tau | h, tau before], entropy, verdict."""
    columns: dict[str, list] = {name: [] for name in ("piece", "kind", "tau", "mean_tau", "entropy", "right")}
    problems = tasks.load(subject.task, "tuning", count)
    for start in range(0, count, 20):
        some, generator = problems[start : start + 20], torch.Generator().manual_seed(seed + start)
        given = subject.prompts(some), 8, subject.length, subject.stop, generator
        rollout = of_tree(subject.transformer, head, *given)
        rights = subject.rewards([problem for problem in some for _ in range(8)], rollout)
        for row, ids in enumerate(rollout.completions()):
            keep = rollout.mask[row].nonzero()[: len(ids), 0]
            gate, alpha, beta = head(rollout.reads[row, keep])
            taus = rollout.temperatures[row, keep]
            before = torch.cat((taus.new_tensor([head.tau_initial]), taus))[: len(taus)]
            drawn = head.tau_min + alpha / (alpha + beta) * (head.tau_max - head.tau_min)
            pieces = [subject.vocabulary.decode([token]) for token in ids]
            columns["piece"] += pieces
            columns["kind"] += subject.kinds(pieces)
            columns["tau"] += taus.tolist()
            columns["mean_tau"] += torch.lerp(before, drawn, torch.sigmoid(gate)).tolist()
            columns["entropy"] += rollout.entropies[row, keep].tolist()
            columns["right"] += [rights[row]] * len(ids)
    return {name: np.array(values) for name, values in columns.items()}


def figures(of: dict[str, np.ndarray]) -> dict:
    """What `look` found, as numbers: by class and entropy, by token, and what explains the temperature."""
    bins = np.digitize(of["entropy"], EDGES)
    by_entropy = {
        kind: [
            float(of["tau"][here].mean()) if (here := (of["kind"] == kind) & (bins == i)).sum() >= LEAST else None
            for i in range(len(EDGES) + 1)
        ]
        for kind in KINDS
    }
    by_class = {
        kind: {
            name: float(of[name][of["kind"] == kind].mean()) for name in ("tau", "entropy")
        } | {"tokens": int((of["kind"] == kind).sum())}
        for kind in KINDS
        if (of["kind"] == kind).any()
    }  # fmt: skip
    pieces, counts = np.unique(of["piece"], return_counts=True)
    means = sorted((float(of["tau"][of["piece"] == p].mean()), str(p)) for p in pieces[counts >= LEAST])
    one_hot = np.stack([of["kind"] == kind for kind in KINDS], axis=1).astype(float)
    entropy = np.column_stack([of["entropy"], of["entropy"] ** 2])
    order = np.random.default_rng(0).permutation(len(one_hot))
    told = {"entropy": entropy, "class": one_hot, "class and entropy": np.column_stack([one_hot, entropy])}
    share = {name: explained(of["mean_tau"][order], features[order]) for name, features in told.items()}
    taus = {"right": of["tau"][of["right"] == 1], "wrong": of["tau"][of["right"] != 1]}
    verdicts = {name: float(some.mean()) if len(some) else float("nan") for name, some in taus.items()}
    hot, cold = means[::-1][:10], means[:10]
    return dict(by_class=by_class, by_entropy=by_entropy, hot=hot, cold=cold, explained=share, verdicts=verdicts)


def tables(of_model: dict, of_head: dict | None) -> str:
    """Markdown of `choices` and of `figures`."""
    lines = ["| token | tokens | right one is not the likeliest | its probability over the likeliest's | else: likeliest mistake's over its own |",
             "|---|---|---|---|---|"]  # fmt: skip
    for kind, of in of_model.items():
        lines.append(
            f"| {kind} | {of['tokens']} | {100 * of['missed']:.0f}% | {of['useful']:.2f} | {of['mistake']:.2f} |"
        )
    if of_head is None:
        return "\n".join(lines)
    names = [f"below {EDGES[0]}", *(f"{a} to {b}" for a, b in zip(EDGES, EDGES[1:])), f"above {EDGES[-1]}"]
    lines += ["", "| token | tau | entropy | " + " | ".join(f"tau, entropy {name}" for name in names) + " |"]
    lines += ["|---" * (3 + len(names)) + "|"]
    for kind, of in of_head["by_class"].items():
        cells = ["" if tau is None else f"{tau:.2f}" for tau in of_head["by_entropy"][kind]]
        lines.append(f"| {kind} | {of['tau']:.2f} | {of['entropy']:.2f} | " + " | ".join(cells) + " |")
    for name in ("hot", "cold"):
        lines += ["", f"{name}: " + ", ".join(f"`{piece!r}` {tau:.2f}" for tau, piece in of_head[name])]
    explained_by = ", ".join(f"{name} {100 * value:.0f}%" for name, value in of_head["explained"].items())
    lines += ["", f"variance of the temperature explained by: {explained_by}"]
    lines += ["", "mean tau of right and wrong completions: {right:.2f}, {wrong:.2f}".format(**of_head["verdicts"])]
    return "\n".join(lines)


LABELS = {
    "modular": "three steps modulo 100, 0.4M", "countdown": "Countdown, 0.4M", "smollm2": "SmolLM2-135M, `words:1`",
    "qwen": "Qwen2.5-Coder-0.5B, `words:3`",
}  # fmt: skip


def beside(of_models: dict[str, dict]) -> str:
    """Markdown: `choices` of several models side by side, by their names in LABELS."""
    lines = ["| model | right operator is not the likeliest | its probability over the likeliest's | likeliest wrong operand over "
             "the right one | the same of results | right digit of a result is not the likeliest |", "|---|---|---|---|---|---|"]  # fmt: skip
    for name in LABELS.keys() & of_models.keys():
        operand, operator, result = (of_models[name][kind] for kind in ("operand", "operator", "result"))
        figures = f"{operator['useful']:.2f} | {operand['mistake']:.2f} | {result['mistake']:.2f}"
        lines.append(
            f"| {LABELS[name]} | {100 * operator['missed']:.0f}% | {figures} | {100 * result['missed']:.0f}% |"
        )
    return "\n".join(lines[:2] + sorted(lines[2:]))


def main() -> None:
    parser = argparse.ArgumentParser(description="What a head learned on real text.")
    parser.error = lambda message: parser.exit(2, f"look.py: {message}; --help lists the flags\n")
    parser.add_argument("--model", required=True, help="folder of the model, or its hub id")
    parser.add_argument("--task", default="words:1", help="a generated task [%(default)s]")
    parser.add_argument("--head", default="", help="folder of a head")
    parser.add_argument("--problems", type=int, default=100, help="tuning problems [%(default)s]")
    parser.add_argument("--keep", default="", help="also write the figures to this file, as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.task.partition(":")[0] not in tasks.GENERATED:
        parser.error(f"--task is one of {', '.join(tasks.GENERATED)}, whose right completions are known")
    try:
        subject = Subject(asked.model, asked.task, Path())
        head = None
        if asked.head:
            kinds = {"scaled": ScaledHead, "own": temperature_head.TemperatureHead}
            head = temperature_head.load(asked.head, kinds=kinds)
            if head.settings["d_model"] != (size := subject.transformer.config.d_model):
                raise ValueError(f"{asked.head} was made for hidden states of another size than this model's {size}")
    except (ValueError, OSError) as error:
        parser.exit(2, f"look.py: {error}\n")
    of_model = choices(subject, asked.problems)
    of_head = figures(look(subject, head, asked.problems)) if head is not None else None
    if asked.keep:
        Path(asked.keep).write_text(json.dumps(dict(model=of_model, head=of_head), indent=1) + "\n")
    print(tables(of_model, of_head))


if __name__ == "__main__":
    main()
