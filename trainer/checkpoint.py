"""A run on disk: saved atomically, resumed exactly.

    runs/modular/                         a Hugging Face model folder, with what the last checkpoint held
        config.json, model.safetensors (and its index), tokenizer.json, generation_config.json
        temperature_head.safetensors      phi
        trainer_state.pt                  both optimizers, the step, the length of metrics.jsonl
        run.json                          the configuration it ran with
        metrics.jsonl, samples.jsonl      one object a line
        checkpoints/step-000100/          the same files, whole: what --resume reads

A checkpoint is written beside its place and renamed into it, so that a kill leaves the one before whole; the folder's own
files are hard links to it, but for the small ones.  The last few are kept, and the one that did best in evaluation.  Nothing
about randomness, data order or schedule is saved, because all are functions of (seed, step): see `random_state` and
`batch_indices`.
"""

import contextlib
import errno
import json
import os
import random
import re
import shutil
import sys
from pathlib import Path

import torch

import model
import tasks
from engine import distributed
from files import weights
from trainer import faults

LOCK = ".train.lock"  # also the sign that train.py made a folder
STATE, CONFIG, LOGS = "trainer_state.pt", weights.RUN, ("metrics.jsonl", "samples.jsonl")
LEFT_BEHIND = {"checkpoints", "before.json", weights.HELD_OUT, *LOGS, "tensorboard"}  # before the first checkpoint


def random_state(seed: int, step: int, device="cpu", process: int = 0) -> torch.Generator:
    """The generator of one training step; the same whether the run was resumed before it or not."""
    name = f"{seed} step {step}" + (f" process {process}" if process else "")
    return torch.Generator(device).manual_seed(random.Random(name).getrandbits(60))


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
    """Write `checkpoints/step-N`, where N steps are done, and show it as the run's folder.

    The last `keep` stay, this one among them, and the best.  Raises faults.Stopped where the disk is full.
    """
    final = run / "checkpoints" / f"step-{step:06d}"
    new = final.with_name(f".{final.name}.{os.getpid()}")
    # From all processes, where there are several; the first one writes.
    theta = distributed.whole(transformer.state_dict())
    states = distributed.whole({name: optimizer.state_dict() for name, optimizer in optimizers.items()})
    if distributed.is_first() and not final.is_dir():
        try:
            write(new, step, transformer, theta, head, vocabulary, states, config)
        except Exception as error:  # safetensors and torch.save each have their own for a full disk
            shutil.rmtree(new, ignore_errors=True)
            needed, free = checkpoint_bytes(transformer), shutil.disk_usage(run).free
            if free < needed or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise faults.Stopped(
                    f"no room for a checkpoint of {needed / 2**20:,.0f} MB in {run} ({free / 2**20:,.0f} MB free)"
                ) from None
            raise
        os.replace(new, final)
        sync(final.parent)
        publish(run, final)
        drop_old(run, keep)
    distributed.wait()


def drop_old(run: Path, keep: int) -> None:
    """All but the last `keep` checkpoints, and the best one."""
    best = best_step(run)
    for old in whole_checkpoints(run)[:-keep]:
        if old.name != f"step-{best:06d}":
            shutil.rmtree(old)


def write(new: Path, step: int, transformer, theta: dict, head, vocabulary, states: dict, config: dict) -> None:
    """All files of a checkpoint, in a new folder, on the disk and not in its cache."""
    run = new.parent.parent
    shutil.rmtree(new, ignore_errors=True)
    model.save(transformer, new, theta)
    vocabulary.save(new)
    # Only what ends a completion: a base model's own top-p or temperature would be applied on top of the policy's.
    ends = {"eos_token_id": sorted(tasks.stop_ids(vocabulary))}
    (new / "generation_config.json").write_text(json.dumps(ends) + "\n", encoding="utf-8")
    if isinstance(head, torch.nn.Module):  # one that learns
        head.save(new)
    (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    logs = {name: (run / name).stat().st_size for name in LOGS if (run / name).exists()}
    torch.save({"step": step, "optimizers": states, "log_bytes": logs}, new / STATE)
    for file in [*(run / name for name in logs), *new.iterdir(), new]:
        sync(file)


def sync(file: Path) -> None:
    """To the disk: a folder too, or a rename in it could be lost with the power.  (Windows opens no folder, and needs none.)"""
    if file.is_dir() and sys.platform == "win32":
        return
    opened = os.open(file, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def checkpoint_bytes(transformer) -> int:
    """Weights and Adam's two moments of them, in float32; the rest is small."""
    return 12 * sum(parameter.numel() for parameter in transformer.parameters())


def best_step(run: Path) -> int:
    """The steps done when an evaluation during the run had its highest Avg@k, by metrics.jsonl; -1 where there is none.

    The later one of two that are equal.
    """
    best, highest = -1, -1.0
    if (run / LOGS[0]).exists():
        for line in (run / LOGS[0]).read_text(encoding="utf-8").splitlines():
            metrics = json.loads(line)
            score = next((value for name, value in metrics.items() if re.fullmatch(r"eval/Avg@\d+", name)), -1.0)
            if score >= highest and score >= 0:
                best, highest = metrics["step"] + 1, score
    return best


def publish(run: Path, checkpoint: Path) -> None:
    """Make the run's folder show this checkpoint's files, one atomic rename each.

    The large ones are links; small ones are copies, since an editor that writes in place would change the checkpoint's."""
    for file in checkpoint.iterdir():
        link = run / f".{file.name}.{os.getpid()}"
        link.unlink(missing_ok=True)
        try:
            (shutil.copyfile if file.suffix == ".json" else os.link)(file, link)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, link)
        os.replace(link, run / file.name)
        link.unlink(missing_ok=True)  # a rename between two links of one file does nothing


def whole_checkpoints(run: Path) -> list[Path]:
    """Oldest first; what was being written when a run was killed starts with a dot and is not among them."""
    folders = (folder for folder in (run / "checkpoints").glob("step-*") if folder.name[5:].isdigit())
    return sorted(folders, key=lambda folder: int(folder.name[5:]))


def clean(run: Path) -> None:
    """Remove what was being written when a run was killed."""
    for folder in (run / "checkpoints").glob(".step-*"):
        shutil.rmtree(folder)
    for link in run.glob(".*.*.[0-9]*"):  # publish's
        link.unlink()


def begin(run: Path, transformer, keep: int) -> int:
    """Make the folder of a new run, without what is left of one that was killed before its first checkpoint."""
    if not distributed.is_first():
        return 0
    run.mkdir(parents=True, exist_ok=True)
    clean(run)
    for name in (*LOGS, "before.json", weights.HELD_OUT):
        (run / name).unlink(missing_ok=True)
    needed, free = (keep + 2) * checkpoint_bytes(transformer), shutil.disk_usage(run).free
    if free < needed:
        raise ValueError(
            f"{run}: {keep} checkpoints, the best and one being written take {needed / 2**20:,.0f} MB, and the disk has "
            f"{free / 2**20:,.0f}: --out another disk, or a lower --keep-checkpoints"
        )
    return 0


LOCKS: dict[Path, int] = {}  # the folders of this process, which the system unlocks when it ends in any way
NEW: list[Path] = []  # folders that `lock` has made


def remove_new_folders() -> None:
    """Leave nothing behind where a run could not begin."""
    for folder in NEW:
        with contextlib.suppress(OSError):  # another process has begun in it
            if not [file for file in folder.iterdir() if file.name != LOCK]:
                if opened := LOCKS.pop(folder.resolve(), None):
                    os.close(opened)
                (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def lock(run: Path) -> None:
    """ValueError where another process is training in this folder; PermissionError where it cannot be written."""
    if not distributed.is_first():
        return
    if not run.exists():
        NEW.append(run)
    run.mkdir(parents=True, exist_ok=True)
    if not os.access(run, os.W_OK):
        raise PermissionError(f"{run}: this folder cannot be written")
    if run.resolve() in LOCKS:
        return
    opened = os.open(run / LOCK, os.O_RDWR | os.O_CREAT)  # a file: not every system opens folders
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(opened, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(opened)
        raise ValueError(f"{run}: another process is training in this folder") from None
    except (ImportError, OSError):  # a system, or a file system, without locks
        pass
    LOCKS[run.resolve()] = opened


def resume(run: Path, optimizers: dict) -> int:
    """Restore the optimizers from the newest whole checkpoint, cut the logs back to it, and return the steps it has done.

    The weights are loaded from the checkpoint's folder, as those of any model.
    """
    newest = whole_checkpoints(run)[-1]
    try:
        state = torch.load(newest / STATE, map_location="cpu", weights_only=True)
        for name, optimizer in optimizers.items():
            distributed.load_optimizer(optimizer, state["optimizers"][name])
        step, logs = int(state["step"]), dict(state["log_bytes"])
    except Exception as error:  # of many types, from a file that is cut or foreign
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{newest / STATE}: not a whole checkpoint ({reason}); remove {newest}") from None
    if not distributed.is_first():
        return step
    clean(run)
    publish(run, newest)
    for name in ("after.json", "table.md", "report.html", "run.png", "heat_map.png"):  # of the run's earlier end
        (run / name).unlink(missing_ok=True)
    for name in LOGS:
        if (run / name).exists():  # to whole lines, as it may have lost its end with the power
            whole = (run / name).read_bytes()[: logs.get(name, 0)]
            os.truncate(run / name, whole.rfind(b"\n") + 1)
    return step


# What a resumed run may change.  Only `rollout_rows` moves its draws: it is here for those who ran out of memory.
MAY_CHANGE = {"resume", "steps", "out", "device", "rollout_rows", "micro_batch_tokens", "checkpointing", "shard"} | {
    "eval_every", "eval_problems", "print_every", "save_every", "keep_checkpoints",
}  # fmt: skip


def configuration(run: Path) -> dict:
    """What the newest checkpoint ran with; its values are a resumed run's defaults."""
    file = whole_checkpoints(run)[-1] / CONFIG
    try:
        return {} | json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not a configuration ({error}); remove {file.parent}") from None


def check_same(run: Path, config: dict, defaults: dict) -> None:
    """ValueError where a resumed run's configuration differs from the one it started with, in more than its limits.

    A setting that is newer than the run has no value there: its default is what the run did."""
    before = defaults | configuration(run)
    different = [name for name in config if name not in MAY_CHANGE and config[name] != before[name]]
    if different:
        changes = ", ".join(f"{name} was {before[name]!r} and is {config[name]!r}" for name in different)
        raise ValueError(f"{run}: cannot resume with another configuration ({changes})")
