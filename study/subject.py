"""A frozen model and a task, sampled under many policies, on chunks of problems, with a file of what is done.

A line of the file is one policy with one seed on one chunk of problems, with the successes of each problem.
"""

import copy
import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

import baselines
import model
import sample
import tasks
import temperature_head
import tokenizer
from problems import words
from study import tree
from study.real_table import read

CHUNK = 20  # problems sampled together
SAMPLES = 8


class Dealt(temperature_head.Policy):
    """The control: each completion's temperatures, as a head chose them, dealt out to other places of the same completion."""

    def __init__(self, head: temperature_head.Policy, rollout: sample.Rollout, width: int, generator: torch.Generator):
        self.min_p, self.top_p = head.min_p, head.top_p
        self.rows = torch.empty(0, dtype=torch.long)  # tree.generate says which rows it asks for
        self.table = torch.empty(len(rollout.mask), width)
        for row, mask in enumerate(rollout.mask):
            taus = rollout.temperatures[row, mask]
            dealt = [taus[torch.randperm(len(taus), generator=generator)] for _ in range(-(-width // len(taus)))]
            self.table[row] = torch.cat(dealt)[:width]

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None):
        return baselines.chosen(self.table[self.rows, step], tau_previous)


class Told(temperature_head.Policy):
    """A rule that is told where it is: `hot` behind a number that is no result, where an operator may come, else `cold`."""

    def __init__(self, vocabulary, hot: float, cold: float):
        pieces = [vocabulary.token_bytes(token) for token in range(vocabulary.vocab_size)]
        self.digit = torch.tensor([piece[-1:].isdigit() for piece in pieces])
        self.result, self.new = (torch.tensor([mark in piece for piece in pieces]) for mark in (b"=", b","))
        self.hot, self.cold = hot, cold
        self.rows = torch.empty(0, dtype=torch.long)  # tree.generate says which rows it asks for

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None):
        if step == 0:
            self.behind, self.computes = (torch.zeros(len(self.rows), dtype=torch.bool) for _ in range(2))
        choice = self.behind[self.rows] & ~self.computes[self.rows]
        return baselines.chosen(torch.where(choice, self.hot, self.cold), tau_previous)

    def see(self, step: int, tokens: torch.Tensor, temperatures: torch.Tensor) -> None:  # type: ignore[override]
        self.behind[self.rows] = self.digit[tokens]
        computes = (self.computes[self.rows] | self.result[tokens]) & ~self.new[tokens]
        self.computes[self.rows] = computes


@dataclass
class Subject:
    """A model, a task and the folder of their results."""

    folder: str
    task: str
    out: Path

    def __post_init__(self):
        self.transformer, self.vocabulary = model.load(self.folder), tokenizer.load(self.folder)
        tree.halve(self.transformer)
        first = tasks.load(self.task, "tuning", 1)[0]
        self.stops, self.length = tasks.stops_of(first), tasks.completion_length(first)
        self.classes = tasks.task_of(first).classes
        ends = [stop.encode() for stop in self.stops]  # of one byte each: a token has the whole of it or nothing
        pieces = [self.vocabulary.token_bytes(token) for token in range(self.vocabulary.vocab_size)]
        holds = {token for token, piece in enumerate(pieces) if any(end in piece for end in ends)}
        self.stop = tasks.stop_ids(self.vocabulary) | holds

    def prompts(self, problems) -> list[list[int]]:
        return [tasks.render(problem, self.vocabulary) for problem in problems]

    def rewards(self, problems, rollout: sample.Rollout) -> list[float]:
        texts = tasks.completion_texts(rollout, self.vocabulary, self.stops)
        return tasks.rewards(problems, texts, rollout.finished.tolist())

    def kinds(self, pieces: list[str]) -> list[str]:
        """The class of each token of a completion: that of its first character which is not form."""
        kinds, found = iter(self.classes("".join(pieces))), []
        for piece in pieces:
            own = [kind for _, kind in zip(piece, kinds)]
            found.append(next((kind for kind in own if kind != "format"), "format"))
        return found

    def by_class(self, rollout: sample.Rollout) -> dict[str, list[float]]:
        """{class: [sum of temperatures, tokens]}."""
        sums: dict[str, list[float]] = {}
        for ids, row, keep in zip(rollout.completions(), rollout.temperatures, rollout.mask):
            for kind, tau in zip(self.kinds([self.vocabulary.decode([token]) for token in ids]), row[keep].tolist()):
                found = sums.setdefault(kind, [0.0, 0])
                found[0], found[1] = found[0] + tau, found[1] + 1
        return sums

    def sample(
        self, file: str, split: str, count: int, named: dict, seeds: Iterable[int], samples: int = SAMPLES, skip: int = 0,
    ) -> None:  # fmt: skip
        """Every policy of `named` with every seed, on `count` problems of a split after the first `skip`, chunk by chunk.

        What is done is left out.  `named` is {name: policy}, or {name: function(seed) -> policy or None}, None for a seed
        that is not there.
        """
        problems, path = tasks.load(self.task, split, skip + count)[skip:], self.out / file
        done = {(row["policy"], row["seed"], row["chunk"], len(row["successes"])) for row in read(path)}
        each = {  # a copy: rules that remember what they saw are sampled for several seeds at once
            (n, seed): copy.copy(p) if isinstance(p, temperature_head.Policy) else p(seed)
            for seed in seeds
            for n, p in named.items()
        }
        for chunk in range(-(-count // CHUNK)):
            some = problems[chunk * CHUNK : (chunk + 1) * CHUNK]
            todo = {of: p for of, p in each.items() if p is not None and (*of, chunk, len(some)) not in done}
            if todo:
                rows = self.sample_chunk(some, todo, samples, chunk)
                found = [dict(policy=n, seed=seed, chunk=chunk, split=split, **row) for (n, seed), row in rows.items()]
                append(path, found)

    def sample_chunk(self, problems, named: dict, samples: int, chunk: int) -> dict[tuple[str, int], dict]:
        """Of each (policy, seed), and of each head with its temperatures dealt out anew, one line of results."""
        started, prompts = time.process_time(), self.prompts(problems)

        def drawn(wanted: dict) -> dict[tuple[str, int], sample.Rollout]:
            generators = [torch.Generator().manual_seed(1000 * seed + chunk) for _, seed in wanted]
            given = prompts, samples, self.length, self.stop, generators
            return dict(zip(wanted, tree.generate(self.transformer, list(wanted.values()), *given))) if wanted else {}

        rollouts, dealt = drawn(named), {}
        for (name, seed), policy in named.items():
            if isinstance(policy, temperature_head.TemperatureHead):
                deal = torch.Generator().manual_seed(1000 * seed + chunk)
                dealt[f"{name}, shuffled", seed] = Dealt(policy, rollouts[name, seed], self.length, deal)
        rollouts |= drawn(dealt)
        results, seconds = {}, (time.process_time() - started) / len(rollouts)
        for name, rollout in rollouts.items():
            repeated = [p for p in problems for _ in range(samples)]
            right = torch.tensor(self.rewards(repeated, rollout)).view(len(problems), samples)
            texts = tasks.completion_texts(rollout, self.vocabulary, self.stops)
            tokens = rollout.mask
            vote = {"majority": majority(texts, right)} if self.task.startswith("words") else {}
            results[name] = vote | dict(
                samples=samples, successes=right.sum(1).int().tolist(),
                tau=float(rollout.temperatures[tokens].mean()), entropy=float(rollout.entropies[tokens].mean()),
                tokens=int(tokens.sum()), truncated=int((~rollout.finished).sum()), classes=self.by_class(rollout),
                cpu_seconds=round(seconds, 2),
            )  # fmt: skip
        return results


def of_tree(transformer, head, prompts, samples, length, stop, generator) -> sample.Rollout:
    return tree.generate(transformer, [head], prompts, samples, length, stop, [generator], keep_reads=True)[0]


def majority(texts: list[str], right: torch.Tensor) -> list[int]:
    """Of each problem of words:n 1 where the answer that most of its samples give is right, right (P, G); of equals the first.

    >>> majority(["1. #### 1", "2. #### 2", "2. #### 2", "none"], torch.tensor([[0.0, 1.0, 1.0, 0.0]]))
    [1]
    """
    found, size = [], right.shape[1]
    for row, of_row in enumerate(right.tolist()):
        answers = [words.answer(text) for text in texts[row * size : (row + 1) * size]]
        votes = Counter(answer for answer in answers if answer is not None).most_common(1)
        found.append(int(any(one == 1 and answer == votes[0][0] for one, answer in zip(of_row, answers))))
    return found


def append(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:  # in one write: a head and its control are both there, or neither
        file.write("".join(json.dumps(row) + "\n" for row in rows))
