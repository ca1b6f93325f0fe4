"""A reward of one's own: `--reward file.py:function`, a Python function (text, problem, answer) -> float in [0, 1].

    # tags.py
    import re

    def in_tags(text: str, problem: str, answer: str) -> float:
        found = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
        return float(bool(found) and found[-1].strip() == answer)

The file is run as any program of the user's is: there is no sandbox.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path


class RewardError(ValueError):
    """The user's function failed, or returned something else than a number from 0 to 1."""


def load_reward(named: str) -> Callable[[str, str, str], float]:
    """The function that `file.py:function` names; RewardError where there is none."""
    file, _, name = named.rpartition(":")
    if not file.endswith(".py") or not Path(file).is_file():
        raise RewardError(f"reward {named!r}: no such file; it is named as file.py:function")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise RewardError(f"reward {named!r}: {file} fails ({one_line(error)})") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise RewardError(f"reward {named!r}: {file} has no function {name!r}")
    return function


def call(function: Callable, text: str, problem: str, answer: str) -> float:
    try:
        value = function(text, problem, answer)
    except (Exception, SystemExit) as error:
        raise RewardError(f"the reward fails for the problem {problem[:80]!r} ({one_line(error)})") from None
    try:
        if 0.0 <= float(value) <= 1.0:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise RewardError(f"the reward is {value!r} for the problem {problem[:80]!r}; it must be a number from 0 to 1")


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
