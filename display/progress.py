"""How far a run is: a bar on a terminal, plain lines in a log file (nohup, Slurm).  Imports nothing local."""

import sys
import time
from collections.abc import Iterator

from tqdm import tqdm


def duration(seconds: float) -> str:
    """
    >>> duration(40), duration(150), duration(9000)
    ('40 s', '2 min', '2.5 h')
    """
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds // 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def line(done: int, steps: int, metrics: dict[str, float], tokens_per_second: float, seconds_left: float) -> str:
    """
    >>> line(120, 300, {"reward": 0.0718, "tau/mean": 0.431}, 5312.0, 200.0)
    'step 120 of 300: reward 0.072, tau 0.43, 5,312 tokens/s, 3 min left'
    """
    figures = f"reward {metrics['reward']:.3f}, tau {metrics['tau/mean']:.2f}, {tokens_per_second:,.0f} tokens/s"
    return f"step {done} of {steps}: {figures}, {duration(seconds_left)} left"


class Progress:
    """Iterate over the steps that are left to do; `tell` shows the figures of each.

    On a terminal it moves a bar on standard error. Elsewhere it prints a line on standard output, at the first step and at
    every multiple of `every`.
    """

    def __init__(self, first_step: int, steps: int, shown: bool = True, every: int = 10):
        self.first_step, self.steps, self.shown, self.every = first_step, steps, shown, every
        disable = not (shown and sys.stderr.isatty())
        self.bar = tqdm(range(first_step, steps), initial=first_step, total=steps, desc="train", disable=disable)
        self.started, self.done = time.perf_counter(), first_step

    def __iter__(self) -> Iterator[int]:
        return iter(self.bar)

    def tell(self, metrics: dict[str, float], tokens_per_second: float) -> None:
        """Call it once at the end of each step."""
        self.done += 1
        if not self.bar.disable:
            self.bar.set_postfix(
                reward=f"{metrics['reward']:.3f}", tau=f"{metrics['tau/mean']:.2f}",
                entropy=f"{metrics['entropy']:.2f}", tokens_s=f"{tokens_per_second:,.0f}",
            )  # fmt: skip
        elif self.shown and (self.done % self.every == 0 or self.done == self.first_step + 1):
            each = (time.perf_counter() - self.started) / (self.done - self.first_step)
            left = each * (self.steps - self.done)
            print(line(self.done, self.steps, metrics, tokens_per_second, left), flush=True)

    def write(self, text: str) -> None:
        """Print a line above the bar."""
        self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
