"""`python -m bench`: speed and memory beside transformers' generate and TRL's GRPOTrainer, on the same weights.

    python -m bench                    one CPU thread, models of 0.9 and 43 million parameters: ten to twenty minutes
    python -m bench --device cuda      Qwen3-0.6B, 1.7B and 4B with random weights: under ten minutes

The tables go to the terminal as Markdown and to --out as JSON. If transformers or trl is not installed, its columns are left
out (pip install trl). timing.py says how times are taken.
"""

import argparse
import json
import platform
from pathlib import Path

import torch

import model
from bench.rollouts import decode_roofline, head_overhead, rollouts, scaling
from bench.steps import log_prob_choices, step_memory, training_step

CASES = {
    "groups of 8": (8, 8, 128, 64, False),
    "ragged": (8, 8, 128, 64, True),
    "no groups": (64, 1, 128, 64, False),
}


def on_cpu(repeats: int, quick: bool) -> dict[str, list[dict]]:
    if quick:
        small = {name: (2, samples // 4 + 1, 8, 6, ragged) for name, (_, samples, _, _, ragged) in CASES.items()}
        return {
            "Rollouts": rollouts("quick", "cpu", 1, small),
            "The head in a decode step": head_overhead("quick", "cpu", 1, 8),
            "Training step": training_step("quick", "cpu", 1, 2, 4, 6, 5),
            "Log-probs and their gradient": log_prob_choices(64, 16, 1000, 1),
            "Scaling": scaling("quick", "cpu", 1, [(1, 1, 4, 4), (2, 4, 4, 8)]),
        }
    both = ("tiny", "small")
    grid = [(p, 8, 128, 64) for p in (1, 8, 32)] + [(8, 1, 128, 64), (8, 8, 512, 64), (8, 8, 128, 256)]
    return {
        "Rollouts": [row for shape in both for row in rollouts(shape, "cpu", repeats, CASES)],
        "The head in a decode step": [row for shape in both for row in head_overhead(shape, "cpu", repeats)],
        "Training step": [row for shape in both for row in training_step(shape, "cpu", repeats)],
        "Log-probs and their gradient": log_prob_choices(4096, 256, 151_936, max(1, repeats // 2)),
        "Scaling": scaling("tiny", "cpu", max(1, repeats // 2), grid),
    }


def on_cuda(repeats: int, quick: bool) -> dict[str, list[dict]]:
    shapes = ("quick",) if quick else ("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b")
    cases = {"64 x 8": (64, 8, 128, 128, False), "ragged": (64, 8, 128, 128, True)}
    tables: dict[str, list[dict]] = {}

    def add(title: str, function, *arguments) -> None:
        """Add the rows of one measurement, and free its memory before the next."""
        try:
            rows = function(*arguments)
        except torch.OutOfMemoryError:  # a smaller card: the other tables are still useful
            rows = [{"model": arguments[0], "note": "out of memory"}]
        tables.setdefault(title, []).extend(rows)
        torch.cuda.empty_cache()

    for shape in shapes:
        add("Decode against the roofline", decode_roofline, shape, 64, 8, 128, 128)
        if shape in shapes[1:2]:  # longer: more keys and values for the same weights
            add("Decode against the roofline", decode_roofline, shape, 64, 8, 512, 512, 1)
        add("Training step", training_step, shape, "cuda", 1, 8, 8, 128, 128)
        add("Memory of a training step", step_memory, shape)
    add("Rollouts", rollouts, shapes[min(1, len(shapes) - 1)], "cuda", 2, cases)
    grid = [(p, 8, 128, 128) for p in (1, 8, 64)] + [(64, 1, 128, 128), (64, 8, 512, 128)]
    add("Scaling", scaling, shapes[0], "cuda", 1, grid)
    return tables


def markdown(tables: dict[str, list[dict]]) -> str:
    """
    >>> print(markdown({"Speed": [{"model": "tiny", "tokens/s": 1234.5, "ratio": 2.345}]}))
    ## Speed
    <BLANKLINE>
    | model | tokens/s | ratio |
    |---|---|---|
    | tiny | 1,234 | 2.35 |
    <BLANKLINE>
    """
    lines = []
    for title, rows in tables.items():
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines += [f"## {title}", "", "| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
        for row in rows:
            cells = (row.get(name, "") for name in names)
            shown = (
                f"{x:,.0f}" if isinstance(x, float) and x >= 100 else f"{x:.3g}" if isinstance(x, float) else str(x)
                for x in cells
            )
            lines.append("| " + " | ".join(shown) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure speed and memory beside transformers and TRL, on the same weights."
    )
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message}; --help lists the flags\n")
    parser.add_argument("--device", default="cpu", help="cpu (one thread) or cuda [cpu]")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each measurement; medians are printed [5]")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to check that everything runs")
    parser.add_argument("--out", default="", help="write the tables to this JSON file too")
    arguments = parser.parse_args()
    if Path(arguments.out or "-").is_dir():
        parser.error(f"--out {arguments.out} is a folder: name a file")
    try:
        device = model.choose_device(arguments.device)
        if device not in ("cpu", "cuda") or arguments.repeats < 1:
            raise ValueError("--device must be cpu or cuda, and --repeats at least 1")
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    tables = (on_cuda if device == "cuda" else on_cpu)(arguments.repeats, arguments.quick)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, one thread"
    facts = {"machine": name, "torch": torch.__version__, "python": platform.python_version()}
    print(f"{facts['machine']}, torch {facts['torch']}, Python {facts['python']}\n\n{markdown(tables)}")
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(facts | {"tables": tables}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
