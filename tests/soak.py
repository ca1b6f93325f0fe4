"""A long run: does its memory grow, and what does saving cost?

    python tests/soak.py --steps 500

The run of `--task countdown` from its embedded model, with its evaluations on the way, printed completions and a checkpoint every 50 steps.
Resident memory is read after every step; its slope is that of a line through the last four fifths of the run, when caches are
full.  Saving is `checkpoint.save` as wall time, with its fsync, over all of the steps.  test_injection.py takes a few steps.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin starve each other
import numpy as np

import train
from display import log
from trainer import checkpoint


def resident_mebibytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(flags: list[str], run: Path) -> dict[str, float]:
    """Trains in this process; memory in MiB (its slope: per 100 steps), and the share of the time that saving took."""
    memory, saving = [], []
    write, save = log.Log.metrics, checkpoint.save

    def metrics(self, values):
        write(self, values)
        memory.append(resident_mebibytes())

    def timed(*arguments):
        started = time.perf_counter()
        save(*arguments)
        saving.append(time.perf_counter() - started)

    log.Log.metrics, checkpoint.save, sys.argv = metrics, timed, ["train.py", *flags, "--out", str(run)]
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        train.main()
    settled = np.array(memory[len(memory) // 5 :])
    return {
        "steps": len(memory),
        "MiB at a fifth": float(settled[0]),
        "MiB at the end": float(settled[-1]),
        "slope, MiB in 100 steps": 100 * float(np.polyfit(np.arange(len(settled)), settled, 1)[0]),
        "checkpoints": len(saving),
        "saving, % of the run": 100 * sum(saving) / (time.perf_counter() - started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and the cost of saving, over a long run.")
    parser.add_argument("--steps", type=int, default=500, help="training steps")
    arguments = parser.parse_args()
    base = str(HERE.parent / "models/countdown")
    flags = ["--steps", str(arguments.steps), "--device", "cpu", "--task", "countdown", "--model", base]
    if arguments.steps < 50:
        flags += [
            "--prompts-per-step",
            "2",
            "--samples-per-prompt",
            "2",
            "--final-problems",
            "2",
            "--eval-samples",
            "2",
        ]
    with tempfile.TemporaryDirectory() as work:
        for name, value in soak(flags, Path(work) / "run").items():
            print(f"{name}: {value:.3g}")


if __name__ == "__main__":
    main()
