"""How the embedded base models were made: small models in Qwen3's format, trained on the traces of an imperfect demonstrator.

Reinforcement learning needs a model that knows the form of an answer and is often wrong.  The demonstrator makes the mistakes
that real text contains:

    plans     most plans ignore the target (`aimless`)
    habits    it prefers +, uses - less often, and * rarely
    slips     a result is wrong by a dropped carry or by one, and the trace continues with it

So the right temperature differs by token.  Operators and operands are choices, where habit hides the right answer.  Digits of a
result are computations, where every deviation is a mistake.

The repository contains one base model for each of these tasks, models/countdown/ and models/modular/:

    python -m models.pretrain                                                           countdown, some minutes on one core
    python -m models.pretrain --task modular --steps 3000 --out runs/base_modular       modular, 20 minutes
"""

import argparse
import json
import math
import os
import random
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve each other
import torch
import torch.nn.functional as F
from tqdm import tqdm

import model
import tasks
import tokenizer
from problems import countdown, modular

END_OF_TEXT = "<|endoftext|>"
DEMONSTRATED = ("countdown", "modular")
HABITS = {"+": 0.80, "-": 0.15, "*": 0.05}


def slip(result: int, draw: random.Random) -> int:
    """A wrong result as people write it: a dropped carry, or off by one."""
    if result >= 10 and draw.random() < 0.5:
        return result - 10
    return max(result + draw.choice((-1, 1)), 0)


def same_slip(result: int, draw: random.Random) -> int:
    """With `--same-slip` each result has only one wrong value.  It is likelier, so a low temperature removes it less."""
    return result - 10 if result >= 10 else result + 1


def plans_of(problem: tasks.Problem):
    """Every plan for a problem, as (the number it ends at, plan)."""
    if problem.kind == "modular":
        return modular.plans(problem.problem)
    return countdown.plans(tuple(int(number) for number in problem.problem.split("=")[0].split(",")))


def demonstrate_modular(problem: tasks.Problem, draw: random.Random, aimless: float, slips: float, slip=slip) -> str:
    """`demonstrate` for the modular task, where a plan is three operations."""
    now, operand, target = modular.read(problem.problem)
    aimed, steps = draw.random() >= aimless, []
    found = [names for end, names in modular.plans(problem.problem) if not aimed or end == target]
    weights = [math.prod(HABITS[name] for name in names) for names in found]
    for name in draw.choices(found, weights)[0]:
        right = modular.OPERATIONS[name](now, operand[name])
        shown = slip(right, draw) % modular.MODULUS if draw.random() < slips else right
        steps.append(f"{now}{name}{operand[name]}={shown}")
        now = shown
    return ",".join(steps) + ";"


def demonstrate(problem: tasks.Problem, draw: random.Random, aimless: float, slips: float, slip=slip) -> str:
    """One trace such as `3*5=15,15+7=22;`.  `aimless` and `slips` are the demonstrator's error rates."""
    if problem.kind == "modular":
        return demonstrate_modular(problem, draw, aimless, slips, slip)
    numbers = [int(number) for number in problem.problem.split("=")[0].split(",")]
    pool = [(number, number) for number in numbers]  # (value in the plan, value as written); they differ after a slip
    aimed = []
    if draw.random() >= aimless:  # one of the plans that reach the target, by habit
        found = [plan for end, plan in countdown.plans(tuple(numbers)) if end == int(problem.answer)]
        weights = [math.prod(HABITS[operation] for _, operation, _, _ in plan) for plan in found]
        aimed = list(draw.choices(found, weights)[0])
    steps = []
    while len(pool) > 1:
        planned = None
        if aimed:
            a, operation, b, planned = aimed.pop(0)
            a, b = (pool.pop([plan for plan, _ in pool].index(value))[1] for value in (a, b))
        else:
            a, b = (pool.pop(draw.randrange(len(pool)))[1] for _ in range(2))
            allowed = [name for name in HABITS if name != "-" or a >= b]
            operation = draw.choices(allowed, [HABITS[name] for name in allowed])[0]
        if operation == "-" and a < b:  # a slip made the plan impossible: swap them
            a, b = b, a
        right = countdown.OPERATIONS[operation](a, b)
        shown = slip(right, draw) if draw.random() < slips else right
        pool.append((shown if planned is None else planned, shown))
        steps.append(f"{a}{operation}{b}={shown}")
    return ",".join(steps) + ";"


def batches(
    problems: list[tasks.Problem], vocabulary, size: int, draw: random.Random, aimless: float, slips: float, slip=slip
):
    """Yield inputs and targets (size, T).  The target is -100 for prompt and padding, which have no loss."""
    end = next(iter(vocabulary.eos_ids))
    while True:
        inputs, targets = [], []
        for problem in draw.choices(problems, k=size):
            prompt = tasks.render(problem.problem, vocabulary)
            trace = vocabulary.encode(demonstrate(problem, draw, aimless, slips, slip)) + [end]
            inputs.append(torch.tensor(prompt + trace[:-1]))
            targets.append(torch.tensor([-100] * (len(prompt) - 1) + trace))
        pad = torch.nn.utils.rnn.pad_sequence
        yield pad(inputs, batch_first=True), pad(targets, batch_first=True, padding_value=-100)


def new_model(vocabulary_size: int, seed: int, width: int = 96, layers: int = 4) -> model.Transformer:
    """A new model of Qwen3's architecture: 0.4 million parameters at a width of 96.  The width is a multiple of 24."""
    torch.manual_seed(seed)
    transformer = model.Transformer(
        model.Config(
            vocab_size=vocabulary_size, d_model=width, n_layers=layers, n_heads=4, n_kv_heads=2, d_head=width // 4,
            d_mlp=width * 8 // 3, max_length=256, qk_norm=True, tied=True,
        )
    )  # fmt: skip
    for name, parameter in transformer.named_parameters():
        if parameter.dim() > 1:
            # As in GPT-2, projections into the residual stream start smaller.
            deep = name.endswith(("o.weight", "down.weight"))
            torch.nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * layers) if deep else 1))
    return transformer


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer with one token for each byte, and one for the end of text."""
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.byte_level_file([END_OF_TEXT]), indent=1) + "\n")
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 256}, indent=2) + "\n")


def pretrain(arguments, problems: list[tasks.Problem]) -> None:
    out, start = Path(arguments.out), time.time()
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        vocabulary = tokenizer.load(folder)
    wrong = arguments.aimless, arguments.slips, same_slip if arguments.same_slip else slip
    stream = batches(problems, vocabulary, arguments.batch_size, random.Random(arguments.seed), *wrong)
    transformer = new_model(vocabulary.vocab_size, arguments.seed, arguments.width, arguments.layers)
    transformer.to(arguments.device)
    transformer.compute_dtype = torch.bfloat16 if arguments.device.startswith("cuda") else None
    transformer.original_config = {"eos_token_id": 256, "pad_token_id": 256}
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=arguments.lr, betas=(0.9, 0.98), weight_decay=0.01)
    warm = arguments.steps // 20 + 1
    progress = tqdm(range(arguments.steps), desc=f"{sum(p.numel() for p in transformer.parameters()):,} parameters")
    for step in progress:
        rate = min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / arguments.steps)))
        for group in optimizer.param_groups:
            group["lr"] = arguments.lr * rate
        inputs, targets = (batch.to(arguments.device) for batch in next(stream))
        with transformer.autocast():
            hidden = transformer(inputs)
        loss = F.cross_entropy(transformer.unembed(hidden).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    write_tokenizer(out)
    model.save(transformer, out)
    print(f"wrote {out} after {time.time() - start:.0f} s; last loss {loss.item():.3f} nats a token")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make the embedded base models again, or one for Countdown with more numbers."
    )
    parser.error = lambda message: parser.exit(2, f"pretrain.py: {message}; --help lists the flags\n")
    parser.add_argument("--out", default="runs/base", help="folder to write, in Hugging Face format")
    parser.add_argument("--task", default="countdown", help="countdown (of three numbers), countdown:4, modular")
    parser.add_argument("--aimless", type=float, default=0.75, help="share of plans that ignore the target")
    parser.add_argument("--slips", type=float, default=0.25, help="share of results that are wrong")
    parser.add_argument("--same-slip", action="store_true", help="each result has only one wrong value")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=128, help="traces a step")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--width", type=int, default=96, help="d_model, a multiple of 24")
    parser.add_argument("--layers", type=int, default=4, help="number of layers, of 4 heads each")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps")
    parser.add_argument("--seed", type=int, default=0, help="fixes the weights and the demonstrator")
    arguments = parser.parse_args()
    if not arguments.out:
        parser.exit(2, "pretrain.py: --out is empty; name the folder to write\n")
    if (Path(arguments.out) / "config.json").exists():
        parser.exit(2, f"pretrain.py: {arguments.out} already contains a model; choose another --out\n")
    if not (0 <= arguments.aimless <= 1 and 0 <= arguments.slips <= 1):
        parser.exit(2, "pretrain.py: --aimless and --slips must be from 0 to 1\n")
    if min(arguments.steps, arguments.batch_size, arguments.layers) < 1 or arguments.lr <= 0:
        parser.exit(2, "pretrain.py: --steps, --batch-size and --layers must be at least 1, and --lr above 0\n")
    if arguments.width < 24 or arguments.width % 24:
        parser.exit(2, f"pretrain.py: --width {arguments.width} is not a multiple of 24\n")
    try:
        arguments.device = model.choose_device(arguments.device)
    except ValueError as error:
        parser.exit(2, f"pretrain.py: --device: {error}\n")
    model.choose_threads(arguments.width)
    try:
        problems = tasks.load(arguments.task) if arguments.task.partition(":")[0] in DEMONSTRATED else []
    except ValueError:
        problems = []
    if not problems or problems[0].problem.count(",") > 4:  # six numbers have too many plans
        which = "countdown, countdown:2 to countdown:5, modular"
        parser.exit(2, f"pretrain.py: --task {arguments.task!r} is none of: {which}\n")
    try:
        Path(arguments.out).mkdir(parents=True, exist_ok=True)
        pretrain(arguments, problems)
    except OSError as error:
        parser.exit(2, f"pretrain.py: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\npretrain.py: interrupted; no model was written\n")


if __name__ == "__main__":
    main()
