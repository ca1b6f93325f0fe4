"""What a learned temperature is, token by token, and what it reads in the hidden state.

Every sampled token of some completions, with its class (operator, operand, result, format; first and later digits), its
temperature, the entropy of the model's own distribution (after a cut, where there is one), and whether the likeliest token
would have been wrong.  `figures` sums it up as one number a seed.  Intervals are 95%, Student's over the seeds.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import baselines
import model
import sample
import tasks
import tokenizer
from display.curves import smooth
from display.intervals import student
from models import pretrain
from problems.traces import trace_classes
from token_policy import token_policy


def over_seeds(values: list[float]) -> str:
    """Mean and 95% half-width over seeds, as text.

    >>> over_seeds([1.0, 2.0, 3.0])
    '2.00 +-2.48'
    """
    mean, seeds = float(np.mean(values)), len(values)
    if seeds < 2:
        return f"{mean:.2f}"
    return f"{mean:.2f} +-{student(seeds - 1) * float(np.std(values, ddof=1)) / seeds**0.5:.2f}"


def difficulty(problem: tasks.Problem) -> float:
    """Share of all plans that miss the target."""
    ends = [end for end, _ in pretrain.plans_of(problem)]
    return 1 - ends.count(int(problem.answer)) / len(ends)


@torch.no_grad()
def look(folder: Path, problems: list[tasks.Problem], seed: int) -> dict[str, np.ndarray]:
    """Every sampled token of 4 completions a problem: its class, temperature, entropy, hidden state, and so on.

    `mean_tau` is E[tau_t | h_t, tau_{t-1}] = (1 - P(c_t)) tau_{t-1} + P(c_t) E[tau_t | c_t], and `pull` is |onehot - p_tau|^2: over
    tau^2 that is the squared gradient of log pi_theta with respect to the logits; as it is, that of tau log pi_theta (rl.token_step).
    """
    transformer, vocabulary = model.load(folder), tokenizer.load(folder)
    model.choose_threads(transformer.config.d_model)
    name = baselines.name_of(folder)  # with what it cuts
    head = baselines.make(name if baselines.learns(name) else "own", folder)
    generator = torch.Generator().manual_seed(seed)
    prompts = [tasks.render(problem.problem, vocabulary) for problem in problems]
    length, stop = tasks.completion_length(problems[0]), tasks.stop_ids(vocabulary)
    hard = [difficulty(problem) for problem in problems]
    columns: dict[str, list] = {
        name: [] for name in ("kind", "tau", "entropy", "wrong", "difficulty", "mean_tau", "pull")
    }
    states, of_layers = [], []
    for start in range(0, len(problems), 128):
        rollout = sample.generate(transformer, head, prompts[start : start + 128], 4, length, stop, generator, True)
        layers = read_layers(transformer, rollout.tokens)
        for row in range(len(rollout.tokens)):
            keep = rollout.mask[row].clone()
            ids = rollout.tokens[row][keep].tolist()
            ids = ids[:-1] if rollout.finished[row] else ids
            text = vocabulary.decode(ids)
            if len(text) != len(ids):
                continue  # not one character a token: nothing the classes know
            keep[int(rollout.prompt_lengths[row]) + len(ids) :] = False
            hidden = rollout.reads[row][keep]
            gate, alpha, beta = head(hidden)
            taus = rollout.temperatures[row][keep]
            before = torch.cat((taus.new_tensor([head.tau_initial]), taus[:-1]))  # tau_{t-1}
            drawn = head.tau_min + alpha / (alpha + beta) * (head.tau_max - head.tau_min)
            columns["mean_tau"] += torch.lerp(before, drawn, torch.sigmoid(gate)).tolist()
            columns["kind"] += places(text)
            columns["tau"] += taus.tolist()
            margin = None if rollout.margins is None else rollout.margins[row][keep]
            columns["pull"] += pull(transformer.unembed(hidden), taus, torch.tensor(ids), margin).tolist()
            columns["entropy"] += rollout.entropies[row][keep].tolist()
            columns["wrong"] += argmax_is_wrong(transformer, hidden, problems[start + row // 4], text)
            columns["difficulty"] += [hard[start + row // 4]] * len(ids)
            states.append(hidden)
            of_layers.append(layers[row, keep.nonzero()[:, 0] - 1])
    found = {name: np.array(values) for name, values in columns.items()}
    return found | {"hidden": torch.cat(states).float().numpy(), "layers": torch.cat(of_layers).float().numpy()}


def pull(logits: torch.Tensor, taus: torch.Tensor, ids: torch.Tensor, margin=None) -> torch.Tensor:
    """(N,) |onehot - p_tau|^2 of the tokens drawn: logits (N, V), taus, ids and where there was a cut its margin (N,).

    >>> pull(torch.tensor([[0.0, 0.0], [0.0, 9.0]]), torch.tensor([1.0, 0.1]), torch.tensor([0, 0]))  # a coin; against all odds
    tensor([0.5000, 2.0000])
    """
    p_tau = token_policy(logits, taus, margin, ids).exp()
    return (F.one_hot(ids, p_tau.shape[1]) - p_tau).square().sum(-1)


def share_of_pull(pulls: np.ndarray, taus: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """What the chosen tokens have of the squared gradient of the logits, as it is and weighted by tau.

    >>> share_of_pull(np.array([1.0, 1.0]), np.array([0.5, 1.0]), np.array([True, False]))  # the cold one of two alike
    (0.8, 0.5)
    """
    even = pulls / taus**2
    return float(even[chosen].sum() / even.sum()), float(pulls[chosen].sum() / pulls.sum())


def read_layers(transformer, tokens: torch.Tensor) -> torch.Tensor:
    """(B, T, layers + 1, d_model): the embedding, and the residual stream after each layer."""
    seen = [transformer.embed(tokens)]
    hooks = [layer.register_forward_hook(lambda module, given, out: seen.append(out)) for layer in transformer.layers]
    transformer(tokens)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen, dim=2)


def places(text: str) -> list[str]:
    """Class of each character, digits by whether they begin their number.

    >>> places("3*15=45;")
    ['operand, first digit', 'operator', 'operand, first digit', 'operand, later digit', 'format', 'result, first digit', 'result, later digit', 'format']
    """
    classes = trace_classes(text)
    return [
        kind
        if kind in ("operator", "format")
        else f"{kind}, {'later' if i and text[i - 1].isdigit() else 'first'} digit"
        for i, kind in enumerate(classes)
    ]


def argmax_is_wrong(transformer, hidden: torch.Tensor, problem: tasks.Problem, text: str) -> list[float]:
    """1 where the likeliest token is not the right digit of a result (given what stands before it), 0 where it is, nan elsewhere."""
    likeliest = transformer.unembed(hidden).argmax(-1).tolist()
    verdicts = [float("nan")] * len(text)
    for match, result in tasks.task_of(problem).steps(problem, text):
        exact, shown = str(result), match.group(4)
        if exact[0] == "-":
            continue  # cannot be written, so no digit is right
        start = match.end() - len(shown)
        for i in range(len(shown)):
            if i >= len(exact) or shown[:i] != exact[:i]:
                break  # off the right result already: no digit is right from here on
            verdicts[start + i] = float(likeliest[start + i] != ord(exact[i]))
    return verdicts


def explained(target: np.ndarray, features: np.ndarray) -> float:
    """R^2 on the second half of a ridge regression fitted on the first: how much of the target the features tell."""
    features = np.column_stack([features, np.ones(len(features))])
    half = len(target) // 2
    gram = features[:half].T @ features[:half] + 1e-3 * half / 1000 * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features[:half].T @ target[:half])
    rest = target[half:]
    return float(1 - ((rest - features[half:] @ weights) ** 2).mean() / rest.var())


COLUMNS = (
    "tau",
    "entropy (nats)",
    "correlation of tau and entropy",
    "share of the pull on the logits",
    "the same, by tau",
)
Figures = dict[str, dict[str, list[float]]]  # of each class of token, and of each question: a number a seed


def figures(looks: list[dict[str, np.ndarray]]) -> Figures:
    """What the looks of several seeds say, as one number a seed: by class of token, and what explains the temperature."""
    kinds = sorted(set(looks[0]["kind"]))
    found: Figures = {}
    for kind in [*kinds, "all"]:
        columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
        for x in looks:
            of = np.full(len(x["kind"]), True) if kind == "all" else x["kind"] == kind
            told = [float(x[name][of].mean()) for name in ("tau", "entropy")]
            told.append(float(np.corrcoef(x["mean_tau"][of], x["entropy"][of])[0, 1]))
            for name, value in zip(columns, [*told, *share_of_pull(x["pull"], x["tau"], of)]):
                columns[name].append(value)
        found[kind] = columns
    questions: dict[str, list[float]] = {}
    for x in looks:
        answers = {
            f"tau at a digit of a result where the likeliest token is {name}": float(
                x["tau"][x["wrong"] == value].mean()
            )
            for name, value in (("right", 0.0), ("wrong", 1.0))
        }
        choice = x["kind"] == "operator"
        slope = float(np.corrcoef(x["difficulty"][choice], x["mean_tau"][choice])[0, 1])
        answers["correlation of an operator's tau with the problem's difficulty (share of plans that miss)"] = slope
        one_hot = np.stack([x["kind"] == kind for kind in kinds], axis=1).astype(float)
        entropy = np.column_stack([x["entropy"], x["entropy"] ** 2])
        features = {
            "the entropy": entropy,
            "the token's class": one_hot,
            "class and entropy": np.column_stack([one_hot, entropy]),
        }
        features["h_t, linearly"] = x["hidden"]
        features |= {
            f"the stream after layer {i}, linearly": x["layers"][:, i] for i in range(x["layers"].shape[1] - 1)
        }
        share = "share of the variance of E[tau given h, tau before] explained by "
        answers |= {share + name: explained(x["mean_tau"], of) for name, of in features.items()}
        for name, value in answers.items():
            questions.setdefault(name, []).append(value)
    return found | {"questions": questions}


def save(found: Figures, file: Path) -> None:
    """As JSON, three digits a number, so that a test can hold documents to them."""
    rounded = {kind: {name: [round(x, 3) for x in values] for name, values in of.items()} for kind, of in found.items()}
    file.write_text(json.dumps(rounded, indent=1) + "\n")


def load(file: Path) -> Figures:
    return json.loads(file.read_text())


def tables(found: Figures) -> str:
    """Markdown of `figures`: means over the seeds with their intervals, and the temperature of each seed."""
    lines = ["| token | " + " | ".join(COLUMNS) + " | tau, of each seed |", "|---" * (len(COLUMNS) + 2) + "|"]
    for kind in [name for name in found if name != "questions"]:
        cells = [over_seeds(column) for column in found[kind].values()]
        lines.append(
            f"| {kind} | " + " | ".join(cells) + f" | {', '.join(f'{tau:.2f}' for tau in found[kind]['tau'])} |"
        )
    lines += ["", "| question | answer |", "|---|---|"]
    lines += [f"| {name} | {over_seeds(answers)} |" for name, answers in found["questions"].items()]
    return "\n".join(lines)


def picture(looks: list[dict[str, np.ndarray]], metrics: list[list[dict]], out: Path) -> None:
    """Temperature over training, by class of token, and against entropy.  `metrics`: of each seed's training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = sorted(set(looks[0]["kind"]))
    figure, (over_time, by_kind, by_entropy) = plt.subplots(1, 3, figsize=(16, 4.2), constrained_layout=True)
    for kind in ("operator", "operand", "result", "format"):
        curves = np.array([smooth([row.get(f"tau/{kind}", np.nan) for row in rows])[0] for rows in metrics])
        drawn = over_time.plot(curves.mean(0), label=kind)[0]
        over_time.fill_between(
            range(curves.shape[1]), curves.min(0), curves.max(0), color=drawn.get_color(), alpha=0.15
        )
    over_time.set(xlabel="step", ylabel="tau", title="over training: mean, least and most of the seeds", ylim=(0, None))
    over_time.legend(fontsize=8)
    by_kind.violinplot([np.concatenate([x["tau"][x["kind"] == kind] for x in looks]) for kind in kinds], showmeans=True)
    by_kind.set_xticks(range(1, len(kinds) + 1), [kind.replace(", ", "\n") for kind in kinds], fontsize=8)
    by_kind.set(ylabel="tau", title="temperature by token class")
    for kind in kinds:
        pick = np.concatenate([np.flatnonzero(looks[0]["kind"] == kind)])[:400]
        by_entropy.scatter(looks[0]["entropy"][pick], looks[0]["mean_tau"][pick], s=5, label=kind)
    by_entropy.set(
        xlabel="entropy at tau = 1 (nats)",
        ylabel="E[tau given h, tau before]",
        title="temperature against entropy, seed 0",
    )
    by_entropy.legend(fontsize=7)
    figure.savefig(out, dpi=110)
    plt.close(figure)
