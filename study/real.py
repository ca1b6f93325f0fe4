"""The study on real open weights, tokens frozen: question, sizes, endpoints and what was found stand in REAL.md.

    python -m study.real problems --task words:1              hashes of the problem sets
    python -m study.real tune  --model DIR --task words:1     rules on the tuning problems
    python -m study.real train --model DIR --task words:1     heads on the training problems
    python -m study.real test  --model DIR --task words:1     everything on the test problems
    python -m study.real table --model DIR --task words:1     tables of what there is

Every command adds lines to files in --out and goes on where they end.  A line of `tune.jsonl` and `test.jsonl` is one policy
with one seed on one chunk of problems, with the successes of each problem; of `heads.jsonl` one training step.
"""

import argparse
import hashlib
import json
import os
import time
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
from study import tree
from study.frozen import ScaledHead, Settings, train
from study.real_table import best_of, table

CHUNK = 20  # problems sampled together
SAMPLES = 8
FIXED = ["0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]
RULES: dict[str, list[str]] = {  # four settings each, to be chosen from on tuning problems
    "min-p": ["0.8+min_p=0.1", "1.0+min_p=0.05", "1.0+min_p=0.2", "1.5+min_p=0.2"],
    "top-p": ["0.8+top_p=0.9", "1.0+top_p=0.7", "1.0+top_p=0.9", "1.5+top_p=0.7"],
    "EDT": ["edt:base=0.8,theta=0.1", "edt:base=1.0,theta=0.1", "edt:base=1.0,theta=0.5", "edt:base=1.2,theta=0.5"],
    "EAD": [f"ead:tokens_per_unit=1,growth=0,warm_tokens=0,d_0={d},tau_max={t}" for d in (12, 25) for t in (0.7, 1.2)],
    "mixture": [f"mixture:low={low},high={high}" for low, high in ((0.2, 0.8), (0.2, 1.0), (0.4, 0.8), (0.4, 1.0))],
}  # fmt: skip
RANGE = dict(tau_min=0.1, tau_max=1.5, tau_initial=0.8)
HEAD = RANGE | dict(concentration=20.0, scale="standard")
LEARNING = dict(prompts=8, samples=8, epochs=4, learning_rate=1e-3)
HEADS = {
    "head, mean": Settings(objective="dr_grpo", **LEARNING),
    "head, pass@8": Settings(objective="pass@4", **LEARNING),
}


class Dealt(temperature_head.Policy):
    """The control: each completion's temperatures, as a head chose them, dealt out to other places of the same completion."""

    def __init__(self, rollout: sample.Rollout, width: int, generator: torch.Generator):
        self.rows = torch.empty(0, dtype=torch.long)  # tree.generate says which rows it asks for
        self.table = torch.empty(len(rollout.mask), width)
        for row, mask in enumerate(rollout.mask):
            taus = rollout.temperatures[row, mask]
            dealt = [taus[torch.randperm(len(taus), generator=generator)] for _ in range(-(-width // len(taus)))]
            self.table[row] = torch.cat(dealt)[:width]

    def act(self, hidden, tau_previous, *, logits=None, step=None, generator=None):
        return baselines.chosen(self.table[self.rows, step], tau_previous)


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
        ends = [
            stop.encode() for stop in self.stops
        ]  # of one byte each, so that a token has the whole of it or nothing
        pieces = [self.vocabulary.token_bytes(token) for token in range(self.vocabulary.vocab_size)]
        holds = {token for token, piece in enumerate(pieces) if any(end in piece for end in ends)}
        self.stop = tasks.stop_ids(self.vocabulary) | holds

    def prompts(self, problems) -> list[list[int]]:
        return [tasks.render(problem, self.vocabulary) for problem in problems]

    def rewards(self, problems, rollout: sample.Rollout) -> list[float]:
        texts = tasks.completion_texts(rollout, self.vocabulary, self.stops)
        return tasks.rewards(problems, texts, rollout.finished.tolist())

    def by_class(self, rollout: sample.Rollout) -> dict[str, list[float]]:
        """{class: [sum of temperatures, tokens]} of the tokens by what their first character is."""
        sums: dict[str, list[float]] = {}
        task = tasks.task_of(tasks.load(self.task, "tuning", 1)[0])
        for ids, row, keep in zip(rollout.completions(), rollout.temperatures, rollout.mask):
            pieces = [self.vocabulary.decode([token]) for token in ids]
            kinds = iter(task.classes("".join(pieces)))
            for piece, tau in zip(pieces, row[keep].tolist()):
                own = [kind for _, kind in zip(piece, kinds)]
                found = sums.setdefault(next((kind for kind in own if kind != "format"), "format"), [0.0, 0])
                found[0], found[1] = found[0] + tau, found[1] + 1
        return sums

    def sample(self, file: str, split: str, count: int, named: dict, seeds: int, samples: int = SAMPLES) -> None:
        """Every policy of `named` on `count` problems of a split, seed by seed and chunk by chunk; what is done is left out.

        `named` is {name: policy}, or {name: function(seed) -> policy or None}, None for a seed that is not there.
        """
        problems, path = tasks.load(self.task, split, count), self.out / file
        done = {(row["policy"], row["seed"], row["chunk"]) for row in read(path)}
        for seed in range(seeds):
            for chunk in range(-(-count // CHUNK)):
                some = problems[chunk * CHUNK : (chunk + 1) * CHUNK]
                todo = {
                    n: p if isinstance(p, temperature_head.Policy) else p(seed)
                    for n, p in named.items()
                    if (n, seed, chunk) not in done
                }
                todo = {name: policy for name, policy in todo.items() if policy is not None}
                if todo:
                    rows = self.sample_chunk(some, todo, samples, 1000 * seed + chunk)
                    append(
                        path, [dict(policy=n, seed=seed, chunk=chunk, split=split, **row) for n, row in rows.items()]
                    )

    def sample_chunk(self, problems, named: dict, samples: int, seed: int) -> dict[str, dict]:
        """Of each policy, and of each head with its temperatures dealt out anew, one line of results."""
        started, prompts = time.process_time(), self.prompts(problems)
        rollouts: dict[str, sample.Rollout] = {}
        for dealt in (False, True):
            if dealt:
                deal = torch.Generator().manual_seed(seed)
                trained = [n for n, policy in named.items() if isinstance(policy, ScaledHead) and n in HEADS]
                wanted = {f"{n}, shuffled": Dealt(rollouts[n], self.length, deal) for n in trained}
            else:
                wanted = named
            if wanted:
                generators = [torch.Generator().manual_seed(seed) for _ in wanted]
                of_all = tree.generate(
                    self.transformer, list(wanted.values()), prompts, samples, self.length, self.stop, generators
                )
                rollouts |= dict(zip(wanted, of_all))
        results, seconds = {}, (time.process_time() - started) / len(rollouts)
        for name, rollout in rollouts.items():
            right = torch.tensor(self.rewards([p for p in problems for _ in range(samples)], rollout))
            tokens = rollout.mask
            results[name] = dict(
                samples=samples, successes=right.view(len(problems), samples).sum(1).int().tolist(),
                tau=float(rollout.temperatures[tokens].mean()), entropy=float(rollout.entropies[tokens].mean()),
                tokens=int(tokens.sum()), truncated=int((~rollout.finished).sum()), classes=self.by_class(rollout),
                cpu_seconds=round(seconds, 2),
            )  # fmt: skip
        return results

    def train(self, name: str, seed: int, steps: int) -> None:
        """A head of HEADS; its folder is there when it is done, and until then it begins anew."""
        folder = self.out / f"{name.replace(', ', '-')}-{seed}"
        if folder.is_dir():
            return
        torch.manual_seed(seed)
        head = ScaledHead(self.transformer.config.d_model, **HEAD)
        problems = tasks.load(self.task, "train", 4000)
        asked = list(zip(problems, self.prompts(problems)))
        started, curve = time.process_time(), []
        how = self.transformer, head, asked, self.rewards, self.stop, self.length, HEADS[name], seed, of_tree
        for step, (seen, reward, tau, signal) in zip(range(1, steps + 1), train(*how)):
            line = dict(head=name, seed=seed, completions=seen, reward=reward, tau=tau, signal=signal)
            curve.append(line | dict(cpu_seconds=round(time.process_time() - started, 1)))
            print(json.dumps(curve[-1]), flush=True)
            if step == steps:
                break
        append(self.out / "heads.jsonl", curve)
        folder.mkdir(parents=True)
        head.save(folder)

    def head(self, name: str):
        """A function from the seed to the trained head, None where there is none yet."""

        def load(seed: int):
            folder = self.out / f"{name.replace(', ', '-')}-{seed}"
            return temperature_head.load(folder, kinds={"scaled": ScaledHead}) if folder.is_dir() else None

        return load

    def mean_of(self, name: str):
        """A function from the seed to a fixed temperature: the head's mean over the tokens of the test problems."""

        def fixed(seed: int):
            rows = [row for row in read(self.out / "test.jsonl") if (row["policy"], row["seed"]) == (name, seed)]
            total = sum(row["tokens"] for row in rows)
            return baselines.Fixed(sum(row["tau"] * row["tokens"] for row in rows) / total) if total else None

        return fixed


def of_tree(transformer, head, prompts, samples, length, stop, generator) -> sample.Rollout:
    return tree.generate(transformer, [head], prompts, samples, length, stop, [generator], keep_reads=True)[0]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def append(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="The study on real open weights, tokens frozen.")
    parser.error = lambda message: parser.exit(2, f"real.py: {message}; --help lists the flags\n")
    parser.add_argument(
        "what", choices=["problems", "tune", "train", "test", "table"], help="see the top of study/real.py"
    )
    parser.add_argument("--model", default="", help="folder of the model, or its hub id")
    parser.add_argument("--task", default="words:1", help="a generated task [%(default)s]")
    parser.add_argument("--out", default="", help="folder of the results [runs/real-MODEL-TASK]")
    parser.add_argument("--problems", type=int, default=0, help="problems [40 for tune, 200 for test]")
    parser.add_argument("--steps", type=int, default=24, help="training steps of 64 completions [%(default)s]")
    parser.add_argument("--seeds", type=int, default=3, help="seeds [%(default)s]")
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS), help="train only these [all]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    name = f"real-{Path(arguments.model).name.lower()}-{arguments.task.replace(':', '')}"
    out = Path(arguments.out or f"runs/{name}")
    if arguments.what == "problems":
        for split, count in (("tuning", arguments.problems or 40), ("test", arguments.problems or 200)):
            texts = "\n".join(problem.problem for problem in tasks.load(arguments.task, split, count))
            print(
                f"{arguments.task}, the first {count} {split} problems: {hashlib.sha256(texts.encode()).hexdigest()[:16]}"
            )
        return
    if arguments.what == "table":
        print(table(read(out / "tune.jsonl"), read(out / "test.jsonl")))
        return
    if not arguments.model:
        parser.error("--model names the model")
    try:
        subject = Subject(arguments.model, arguments.task, out)
    except (ValueError, OSError) as error:
        parser.exit(2, f"real.py: {error}\n")
    rules = {setting: baselines.make(setting) for settings in RULES.values() for setting in settings}
    fixed = {name: baselines.make(name) for name in FIXED}
    if arguments.what == "tune":
        subject.sample("tune.jsonl", "tuning", arguments.problems or 40, fixed | rules, 1)
    elif arguments.what == "train":
        for seed in range(arguments.seeds):
            for head in arguments.heads:
                subject.train(head, seed, arguments.steps)
    else:
        chosen = best_of(read(out / "tune.jsonl"), RULES)
        named = fixed | {"greedy": baselines.make("greedy")} | {setting: rules[setting] for setting in chosen}
        count = arguments.problems or 200
        subject.sample(
            "test.jsonl", "test", count, named | {head: subject.head(head) for head in HEADS}, arguments.seeds
        )
        means = {f"{head}, its mean": subject.mean_of(head) for head in HEADS}
        subject.sample("test.jsonl", "test", count, means, arguments.seeds)


if __name__ == "__main__":
    main()
