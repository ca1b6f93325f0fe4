"""How far could a temperature by kind of token come?  A rule that is told the kinds, which no policy is, with the best three numbers.

    operand     the first token of a step, and what follows an operator
    operator    may come: a digit of the left operand stands already
    result      from `=` to the end of the step

    python -m study.oracle --task countdown --problems 1000 --seeds 5 --kept study/kept/trials-countdown.jsonl.gz
    python -m study.oracle --task modular --problems 5000 --tuning 1000 --seeds 3 --kept study/kept/trials-modular.jsonl.gz
    python -m study.oracle ... --keep study/kept/trials-told-modular.jsonl.gz         keeps the rule's trials and the heads'

Where the rule is level with a learned temperature, that temperature is worth no more than telling the kinds apart.  Tokens are
those of the base model.  In a regime in which both learn, tokens learn under the rule, for as long as under other methods.  The
three numbers are the best of 60 settings on the tuning problems, tokens frozen, by the sum of both metrics and by Avg@8 alone.
"""

import argparse
import itertools
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from torch import Tensor
from tqdm import tqdm

import eval as evaluation
import model
import tasks
import tokenizer
from baselines import chosen
from study import experiment as study
from study import tables, trials
from study.results import keep, read, weights_of
from study.trials import Trial
from temperature_head import Action, Policy
from trainer import faults

OPERANDS, OPERATORS, RESULTS = (0.1, 0.3, 0.6, 0.9, 1.2), (0.6, 0.9, 1.2, 1.5), (0.1, 0.3, 0.5)
GRID = list(itertools.product(OPERANDS, OPERATORS, RESULTS))
LEFT, OPERATOR, RIGHT, RESULT = range(4)


def follows(place: int, text: str) -> int:
    """The place after a token, from the place that it was written at."""
    if text.isdigit():
        return OPERATOR if place == LEFT else place
    places = dict.fromkeys("+-*", RIGHT) | {"=": RESULT, ",": LEFT, ";": LEFT}
    return places.get(text, place)


class Told(Policy):
    """A temperature policy as baselines.py has them, and with `see`, which sampling calls with every token."""

    tau_initial = 1.0

    def __init__(self, vocabulary, operand: float, operator: float, result: float):
        self.of_place = torch.tensor([operand, operator, operand, result])
        texts = [vocabulary.decode([token]) for token in range(vocabulary.vocab_size)]
        self.after = torch.tensor([[follows(place, text) for text in texts] for place in range(4)])
        self.stop = torch.tensor(sorted(tasks.stop_ids(vocabulary)))
        self.places = torch.empty(0, dtype=torch.long)  # of each row that is still written

    def act(self, hidden: Tensor, tau_previous: Tensor, *, logits=None, step=None, generator=None) -> Action:
        if step == 0:
            self.places = torch.full((len(hidden),), LEFT)
        return chosen(self.of_place[self.places], tau_previous)

    def see(self, step: int, token: Tensor, temperature: Tensor) -> None:  # type: ignore[override]
        going = ~torch.isin(token, self.stop)
        self.places = self.after[self.places, token][going]


def result_of(transformer, vocabulary, policy, problems: list[tasks.Problem], seed: int) -> dict:
    """As study.py's results are, so that tables.py and frontier.py can tell of it."""
    of = evaluation.evaluate(
        transformer, vocabulary, policy, problems, 8, tasks.completion_length(problems[0]), seed=seed
    )
    own = of.summary() | {"successes": of.correct.sum(1).astype(int).tolist()}
    return {"evaluations": {"own": own}, "metrics": []}


def trained(policy: Told, task: str, base: str, regime: str, seed: int):
    """The base model after its tokens have learned under the rule, with the flags that the other rules have in this regime."""
    size = trials.FULL._replace(task="countdown:3" if task == "countdown" else task, base=base)
    trial = next(t for t in trials.planned(size, [regime]) if t.method == "EDT")._replace(seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        study.learn(trial, Path(folder) / "run", Path(base), policy_of=lambda vocabulary: policy)
        return model.load(Path(folder) / "run")


def heads_of(kept: str, task: str, problems: int, regime: str) -> dict[str, list[dict]]:
    """The heads of a regime among kept trials, which have to be of the same problems."""
    found = read(Path(kept))
    heads = {
        f"{name} ({other})": results
        for other in (("frozen", "frozen-long") if regime == "frozen" else (regime,))
        for name, results in found.get(other, {}).items()
        if name in ("head, mean", "head, pass@8") or "every step" in name and not name.endswith(", min-p")
    }
    if not heads:
        raise ValueError(f"{kept} holds no head of the regime {regime}, or is not there")
    for result in (result for results in heads.values() for result in results):
        of, count = result["trial"]["task"], len(result["evaluations"]["own"]["successes"])
        if (of.removesuffix(":3"), count, result.get("skip", 0)) != (task.removesuffix(":3"), problems, 0):
            raise ValueError(f"{kept} holds trials of {count} problems of {of}, not of the first {problems} of {task}")
    return heads


def run(task: str, base: str, problems: int, tuning: int, seeds: int, kept: str, regime: str, file: str = "") -> None:
    heads = heads_of(kept, task, problems, regime) if kept else {}
    frozen, vocabulary = model.load(base), tokenizer.load(base)
    model.choose_threads(frozen.config.d_model)
    to_choose_by, test = tasks.load(task, "tuning", tuning), tasks.load(task, "test", problems)
    scores = {}
    for setting in tqdm(GRID, desc="settings", disable=None):
        told = result_of(frozen, vocabulary, Told(vocabulary, *setting), to_choose_by, 0)["evaluations"]["own"]
        scores[setting] = told["Avg@8"], told["Avg@8"] + told["Pass@8"]
    methods: dict[str, list[dict]] = {}
    columns = {"told": 1, "told, for Avg@8": 0}
    for seed, name in tqdm(list(itertools.product(range(seeds), columns)), desc="trials", disable=None):
        best = max(scores, key=lambda setting: scores[setting][columns[name]])
        policy = Told(vocabulary, *best)
        transformer = frozen if regime == "frozen" else trained(policy, task, base, regime, seed)
        label = f"{name}: operand {best[0]}, operator {best[1]}, result {best[2]}"
        trial = Trial(regime, label, seed, "told", None, base=base, task=task)._asdict()
        told = {"trial": trial, "weights": weights_of(base)} | result_of(transformer, vocabulary, policy, test, seed)
        methods.setdefault(label, []).append(told)
    print(tables.accuracy_table(methods | heads))
    if file:
        same = {name.removesuffix(f" ({regime})"): of for name, of in heads.items() if name.endswith(f" ({regime})")}
        keep({regime: methods | same}, Path(file))
    if heads:
        print("\n" + tables.less_table(heads, {name.partition(":")[0]: of for name, of in methods.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description="What a rule that is told the kinds of tokens reaches.")
    parser.error = lambda message: parser.exit(2, f"oracle.py: {message}; --help lists the flags\n")
    parser.add_argument("--task", default="modular", help="a generated task: modular, countdown, countdown:4 [modular]")
    parser.add_argument("--base", default="", help="folder of the model [the one that comes along for the task]")
    parser.add_argument("--problems", type=int, default=1000, help="so many test problems [1000]")
    parser.add_argument("--tuning", type=int, default=573, help="so many tuning problems, to choose by [573]")
    parser.add_argument("--seeds", type=int, default=3, help="so many seeds [3]")
    parser.add_argument("--kept", default="", help="kept trials, whose heads it is compared with")
    parser.add_argument("--keep", default="", help="write the rule's trials, and the heads', to this file")
    regimes = ["frozen", *trials.TOKEN_LR]
    parser.add_argument(
        "--regime", default="frozen", help=f"what learns, as in study.py: {', '.join(regimes)} [frozen]"
    )
    arguments = parser.parse_args()
    if min(arguments.problems, arguments.tuning, arguments.seeds) < 1:
        parser.error("--problems, --tuning and --seeds are at least 1")
    if arguments.regime not in regimes:
        parser.error(f"--regime {arguments.regime!r} is none of: {', '.join(regimes)}")
    base = arguments.base or tasks.EMBEDDED.get(arguments.task, "")
    if not base or arguments.task.partition(":")[0] not in tasks.GENERATED:
        parser.error(f"--task {arguments.task!r} is not generated, or no model comes along for it: --base names one")
    try:
        run(
            arguments.task, base, arguments.problems, arguments.tuning, arguments.seeds, arguments.kept, arguments.regime, arguments.keep,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        parser.exit(2, f"oracle.py: {error}\n")
    except faults.Stopped as error:
        parser.exit(1, f"\noracle.py: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\noracle.py: interrupted\n")


if __name__ == "__main__":
    main()
