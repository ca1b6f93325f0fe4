"""A run on disk: saved atomically, resumed exactly.

    runs/countdown/                       a Hugging Face model folder, with what the last checkpoint held
        config.json, model.safetensors, tokenizer.json, generation_config.json
        temperature_head.safetensors      phi
        trainer_state.pt                  both optimizers, the step, the length of metrics.jsonl
        run.json                          the configuration it ran with
        metrics.jsonl, samples.jsonl      one object a line
        checkpoints/step-000100/          the same files, whole: what --resume reads

A checkpoint is written beside its place and renamed into it, so that a kill leaves the one before whole; the folder's own
files are hard links to it.  Nothing about randomness or data order is saved, because both are functions of (seed, step):
see `random_state` and `batch_indices`.
"""

import json
import os
import random
import shutil
from pathlib import Path

import torch

import model
import temperature_head

STATE, CONFIG, LOGS = "trainer_state.pt", "run.json", ("metrics.jsonl", "samples.jsonl")


def random_state(seed: int, step: int, device="cpu") -> torch.Generator:
    """The generator of one training step; the same whether the run was resumed before it or not."""
    return torch.Generator(device).manual_seed(random.Random(f"{seed} step {step}").getrandbits(60))


def batch_indices(problems: int, per_step: int, step: int, seed: int) -> list[int]:
    """Which problems step `step` asks: epochs are shuffled anew, and none is skipped or asked twice in one.

    >>> sorted(batch_indices(6, 3, 0, seed=1) + batch_indices(6, 3, 1, seed=1))
    [0, 1, 2, 3, 4, 5]
    """
    indices: list[int] = []
    while len(indices) < per_step:
        epoch, place = divmod(step * per_step + len(indices), problems)
        order = random.Random(f"{seed} epoch {epoch}").sample(range(problems), problems)
        indices += order[place : place + per_step - len(indices)]
    return indices


def save(run: Path, step: int, transformer, head, vocabulary, optimizers: dict, config: dict, keep: int = 2) -> None:
    """Write `checkpoints/step-N`, where N steps are done, show it as the run's folder, and drop all but the last `keep`."""
    final = run / "checkpoints" / f"step-{step:06d}"
    if final.is_dir():
        return
    new = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    model.save(transformer, new)
    vocabulary.save(new)
    # Only what ends a completion: a base model's own top-p or temperature would be applied on top of the policy's.
    ends = {"eos_token_id": sorted(vocabulary.eos_ids)}
    (new / "generation_config.json").write_text(json.dumps(ends) + "\n", encoding="utf-8")
    if isinstance(head, temperature_head.TemperatureHead):
        head.save(new)
    (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    logs = {name: (run / name).stat().st_size for name in LOGS if (run / name).exists()}
    states = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
    torch.save({"step": step, "optimizers": states, "log_bytes": logs}, new / STATE)
    for file in new.iterdir():
        with open(file, "rb+") as opened:
            os.fsync(opened.fileno())
    os.replace(new, final)
    publish(run, final)
    for old in whole_checkpoints(run)[:-keep]:
        shutil.rmtree(old)


def publish(run: Path, checkpoint: Path) -> None:
    """Make the run's folder show this checkpoint's files, one atomic rename each."""
    for file in checkpoint.iterdir():
        link = run / f".{file.name}.{os.getpid()}"
        link.unlink(missing_ok=True)
        try:
            os.link(file, link)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, link)
        os.replace(link, run / file.name)
        link.unlink(missing_ok=True)  # a rename between two links of one file does nothing


def whole_checkpoints(run: Path) -> list[Path]:
    """Oldest first; what was being written when a run was killed starts with a dot and is not among them."""
    return sorted((run / "checkpoints").glob("step-*"))


def begin(run: Path) -> int:
    """Make the folder of a new run, without what is left of one that was killed before its first checkpoint."""
    run.mkdir(parents=True, exist_ok=True)
    for name in LOGS:
        (run / name).unlink(missing_ok=True)
    return 0


def resume(run: Path, optimizers: dict) -> int:
    """Restore the optimizers from the newest whole checkpoint, cut the logs back to it, and return the steps it has done.

    The weights are loaded from the checkpoint's folder, as those of any model.
    """
    newest = whole_checkpoints(run)[-1]
    publish(run, newest)
    try:
        state = torch.load(newest / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, from a file that is cut or foreign
        reason = str(error).splitlines()[0]
        raise ValueError(f"{newest / STATE}: not a whole checkpoint ({reason}); remove {newest}") from None
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    for name in LOGS:
        if (run / name).exists():
            os.truncate(run / name, state["log_bytes"].get(name, 0))
    return state["step"]


# What a resumed run may change.  Only `rollout_rows` moves its draws: it is here for those who ran out of memory.
MAY_CHANGE = {"resume", "steps", "out", "device", "rollout_rows", "micro_batch_tokens", "checkpointing"} | {
    "eval_every", "eval_problems", "print_every", "save_every",
}  # fmt: skip


def configuration(run: Path) -> dict:
    """What the newest checkpoint ran with; its values are a resumed run's defaults."""
    return json.loads((whole_checkpoints(run)[-1] / CONFIG).read_text(encoding="utf-8"))


def check_same(run: Path, config: dict) -> None:
    """ValueError where a resumed run's configuration differs from the one it started with, in more than its limits."""
    before = configuration(run)
    different = [name for name in config if name not in MAY_CHANGE and config[name] != before.get(name)]
    if different:
        changes = ", ".join(f"{name} was {before.get(name)!r} and is {config[name]!r}" for name in different)
        raise ValueError(f"{run}: cannot resume with another configuration ({changes})")
