"""A run on disk: saved atomically, resumed exactly.

    runs/modular/                         a Hugging Face model folder, equal to the last checkpoint
        config.json, model.safetensors (and its index), tokenizer.json, generation_config.json
        temperature_head.safetensors      phi
        trainer_state.pt                  both optimizers, the step, the length of metrics.jsonl
        run.json                          the configuration it ran with
        metrics.jsonl, samples.jsonl      one object a line
        checkpoints/step-000100/          the same files, whole: what --resume reads

A checkpoint is written under a temporary name and then renamed, so a kill leaves the previous one whole.  The run's folder holds hard
links to the last checkpoint's large files, and copies of the small ones.  The last few checkpoints are kept, and the best in
evaluation.  Random numbers, data order and schedule are functions of (seed, step), so nothing of them is saved: see `random_state`
and `batch_indices`.
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
LEFT_BEHIND = {"checkpoints", "before.json", weights.HELD_OUT, *LOGS, "tensorboard"}  # by an early kill


def random_state(seed: int, step: int, device="cpu", process: int = 0) -> torch.Generator:
    """The generator of one training step.  It is the same in a resumed run."""
    name = f"{seed} step {step}" + (f" process {process}" if process else "")
    return torch.Generator(device).manual_seed(random.Random(name).getrandbits(60))


def batch_indices(problems: int, per_step: int, step: int, seed: int) -> list[int]:
    """The problems of this step.  Each epoch has its own order, and asks every problem once.

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
    """Write `checkpoints/step-N` after N steps, and publish it in the run's folder.

    Keep the last `keep` checkpoints, this one included, and the best one.  faults.Stopped: the disk is full.
    """
    final = run / "checkpoints" / f"step-{step:06d}"
    new = final.with_name(f".{final.name}.{os.getpid()}")
    # All processes gather; the first one writes.
    theta = distributed.whole(transformer.state_dict())
    states = distributed.whole({name: optimizer.state_dict() for name, optimizer in optimizers.items()})
    if distributed.is_first() and not final.is_dir():
        try:
            write(new, step, transformer, theta, head, vocabulary, states, config)
        except Exception as error:  # for a full disk safetensors and torch.save raise errors of their own
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
    """Remove all but the last `keep` checkpoints and the best one."""
    best = best_step(run)
    for old in whole_checkpoints(run)[:-keep]:
        if old.name != f"step-{best:06d}":
            shutil.rmtree(old)


def write(new: Path, step: int, transformer, theta: dict, head, vocabulary, states: dict, config: dict) -> None:
    """Write all files of a checkpoint to a new folder, and flush them to the disk."""
    run = new.parent.parent
    shutil.rmtree(new, ignore_errors=True)
    model.save(transformer, new, theta)
    vocabulary.save(new)
    # Only the end of a completion: a base model's own top-p or temperature would distort the policy's.
    ends = {"eos_token_id": sorted(tasks.stop_ids(vocabulary))}
    (new / "generation_config.json").write_text(json.dumps(ends) + "\n", encoding="utf-8")
    if isinstance(head, torch.nn.Module):  # a policy that learns
        head.save(new)
    (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    logs = {name: (run / name).stat().st_size for name in LOGS if (run / name).exists()}
    torch.save({"step": step, "optimizers": states, "log_bytes": logs}, new / STATE)
    for file in [*(run / name for name in logs), *new.iterdir(), new]:
        sync(file)


def sync(file: Path) -> None:
    """Flush to the disk.  A folder too, or a power failure could undo a rename.  Windows cannot open folders, and need not."""
    if file.is_dir() and sys.platform == "win32":
        return
    opened = os.open(file, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def checkpoint_bytes(transformer) -> int:
    """Bytes of the float32 weights and Adam's two moments.  The rest is small."""
    return 12 * sum(parameter.numel() for parameter in transformer.parameters())


def best_step(run: Path) -> int:
    """The number of steps with the highest Avg@k in metrics.jsonl, the latest of equals; -1 without an evaluation."""
    best, highest = -1, -1.0
    if (run / LOGS[0]).exists():
        for line in (run / LOGS[0]).read_text(encoding="utf-8").splitlines():
            metrics = json.loads(line)
            score = next((value for name, value in metrics.items() if re.fullmatch(r"eval/Avg@\d+", name)), -1.0)
            if score >= highest and score >= 0:
                best, highest = metrics["step"] + 1, score
    return best


def publish(run: Path, checkpoint: Path) -> None:
    """Put this checkpoint's files into the run's folder, with one atomic rename each.

    Large files are hard links.  JSON files are copies: an editor that writes in place would change the checkpoint too."""
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
    """Complete checkpoints, oldest first.  The name of an incomplete one starts with a dot."""
    folders = (folder for folder in (run / "checkpoints").glob("step-*") if folder.name[5:].isdigit())
    return sorted(folders, key=lambda folder: int(folder.name[5:]))


def clean(run: Path) -> None:
    """Remove the unfinished files of a killed run."""
    for folder in (run / "checkpoints").glob(".step-*"):
        shutil.rmtree(folder)
    for link in run.glob(".*.*.[0-9]*"):  # of `publish`
        link.unlink()


def begin(run: Path, transformer, keep: int) -> int:
    """Make the folder of a new run.  Remove what a run killed before its first checkpoint left there."""
    if not distributed.is_first():
        return 0
    run.mkdir(parents=True, exist_ok=True)
    clean(run)
    for name in (*LOGS, "before.json", weights.HELD_OUT):
        (run / name).unlink(missing_ok=True)
    needed, free = (keep + 2) * checkpoint_bytes(transformer), shutil.disk_usage(run).free
    if free < needed:
        raise ValueError(
            f"{run}: {keep} checkpoints, the best and a temporary one need {needed / 2**20:,.0f} MB, but the disk has "
            f"{free / 2**20:,.0f} free: choose --out on another disk, or a lower --keep-checkpoints"
        )
    return 0


LOCKS: dict[Path, int] = {}  # the folders that this process locked; the system unlocks them when it ends
NEW: list[Path] = []  # folders that `lock` made


def remove_new_folders() -> None:
    """Remove the folder of a run that could not begin."""
    for folder in NEW:
        with contextlib.suppress(OSError):  # another process has begun in it
            if not [file for file in folder.iterdir() if file.name != LOCK]:
                if opened := LOCKS.pop(folder.resolve(), None):
                    os.close(opened)
                (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def lock(run: Path) -> None:
    """Lock the run's folder.  ValueError: another process is training there.  PermissionError: it is not writable."""
    if not distributed.is_first():
        return
    if not run.exists():
        NEW.append(run)
    run.mkdir(parents=True, exist_ok=True)
    if not os.access(run, os.W_OK):
        raise PermissionError(f"{run}: this folder cannot be written")
    if run.resolve() in LOCKS:
        return
    opened = os.open(run / LOCK, os.O_RDWR | os.O_CREAT)  # a file, because Windows cannot open folders
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
    except (ImportError, OSError):  # the system or file system has no locks
        pass
    LOCKS[run.resolve()] = opened


def resume(run: Path, optimizers: dict) -> int:
    """Restore the optimizers from the newest checkpoint and cut the logs back to it -> the number of steps done.

    prepare.py loads the weights from the checkpoint's folder, like those of any model.
    """
    newest = whole_checkpoints(run)[-1]
    try:
        state = torch.load(newest / STATE, map_location="cpu", weights_only=True)
        for name, optimizer in optimizers.items():
            distributed.load_optimizer(optimizer, state["optimizers"][name])
        step, logs = int(state["step"]), dict(state["log_bytes"])
    except Exception as error:  # a damaged file raises many types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{newest / STATE}: not a whole checkpoint ({reason}); remove {newest}") from None
    if not distributed.is_first():
        return step
    clean(run)
    publish(run, newest)
    for name in ("after.json", "table.md", "report.html", "run.png", "heat_map.png"):  # of the run's earlier end
        (run / name).unlink(missing_ok=True)
    for name in LOGS:
        if (run / name).exists():  # cut to whole lines: a power failure may have cut the last one
            whole = (run / name).read_bytes()[: logs.get(name, 0)]
            os.truncate(run / name, whole.rfind(b"\n") + 1)
    return step


# Settings that a resumed run may change.  Only `rollout_rows` changes its draws: it is allowed for runs that ran out of memory.
MAY_CHANGE = {"resume", "steps", "out", "device", "rollout_rows", "micro_batch_tokens", "checkpointing", "shard"} | {
    "eval_every", "eval_problems", "print_every", "save_every", "keep_checkpoints",
}  # fmt: skip


def configuration(run: Path) -> dict:
    """The settings of the newest checkpoint.  They are the defaults of a resumed run."""
    file = whole_checkpoints(run)[-1] / CONFIG
    try:
        return {} | json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not a configuration ({error}); remove {file.parent}") from None


def check_same(run: Path, config: dict, defaults: dict) -> None:
    """ValueError: a resumed run's settings differ from those it started with, other than in MAY_CHANGE.

    A setting that did not exist when the run started has its default."""
    before = defaults | configuration(run)
    different = [name for name in config if name not in MAY_CHANGE and config[name] != before[name]]
    if different:
        changes = ", ".join(f"{name} was {before[name]!r} and is {config[name]!r}" for name in different)
        raise ValueError(f"{run}: cannot resume with another configuration ({changes})")
