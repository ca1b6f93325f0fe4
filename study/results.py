"""A trial's result on disk: one JSON file in the trial's folder, and all results of a study in one small file."""

import gzip
import hashlib
import json
import os
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

from study.trials import ALL, Trial, folder_of

CURVES = ("reward", "groups_with_signal")  # metrics of training that are kept


class Asked(NamedTuple):
    """The problems that a trial is evaluated on, how often each is sampled, and where it runs."""

    split: str
    problems: int
    skip: int = 0  # problems left out before these
    device: str = "cpu"
    samples: int = 8

    def __str__(self) -> str:
        skipped = f" after the first {self.skip}" * (self.skip > 0)
        where = f" on {self.device}" * (self.device != "cpu")
        often = f" with {self.samples} samples" * (self.samples != 8)
        return f"{self.problems} {self.split} problems{skipped}{often}{where}"


def write(result: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "result.json.new"
    new.write_text(json.dumps(result))
    os.replace(new, folder / "result.json")


def weights_of(base: str) -> str:
    """16 digits of the SHA-256 of a base model's weights."""
    files = sorted(Path(base).glob("model*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def problems_of(result: dict) -> Asked:
    """What it was evaluated on; KeyError or TypeError where it is no result."""
    successes = result["evaluations"]["own"]["successes"]
    of = result.get("split", "test"), len(successes), result.get("skip", 0), result.get("device", "cpu")
    return Asked(*of, result.get("samples", 8))  # older results do not name all


def read(study: Path) -> dict[str, dict[str, list[dict]]]:
    """regime -> method -> the results of its seeds, from a folder of trials or a file that `keep` wrote.

    ValueError for a damaged file, and for trials of one regime that cannot be compared."""
    try:
        if study.is_file():
            texts = gzip.decompress(study.read_bytes()).decode().splitlines()
        else:
            texts = [file.read_text() for file in sorted(study.glob("*/*/seed-*/result.json"))]
        results = [json.loads(text) for text in texts]
    except (EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"damaged ({error})") from None
    found: dict[str, dict[str, list[dict]]] = {}
    counts: dict[str, set[tuple[int, int]]] = {}  # of each regime: problems, and problems left out before them
    bases: dict[str, set[str]] = {}  # of each regime: the base weights
    try:
        for result in results:
            trial, own, _ = result["trial"], result["evaluations"]["own"], result["metrics"]
            found.setdefault(trial["regime"], {}).setdefault(trial["method"], []).append(result)
            counts.setdefault(trial["regime"], set()).add((len(own["successes"]), result.get("skip", 0)))
            bases.setdefault(trial["regime"], set()).add(result.get("weights", ""))
    except (KeyError, TypeError):
        raise ValueError("holds a result that no trial of the study wrote") from None
    for regime, several in counts.items():
        if len(several) > 1:
            numbers = sorted(number for number, _ in several)
            raise ValueError(f"trials of {regime} are of different numbers of problems, {numbers}, or of others")
        if len(bases[regime]) > 1:
            raise ValueError(f"trials of {regime} started from different base models")
    return {regime: found[regime] for regime in ALL if regime in found}


def keep(found: dict[str, dict[str, list[dict]]], file: Path) -> None:
    """Every trial in one file: its settings, each problem's successes, two curves.  Two kilobytes a trial of 1,000 problems.

    The tables and pictures made from it are the same.  Only those of the temperatures need the trained heads, which are not kept.
    """
    with (
        open(file, "wb") as opened,
        gzip.GzipFile("", "wb", fileobj=opened, mtime=0) as packed,
    ):  # without date and name, so that the same trials give the same bytes
        for result in (result for methods in found.values() for results in methods.values() for result in results):
            curves = [{name: row[name] for name in CURVES} for row in result["metrics"]]
            base = Path(result["trial"].get("base", "")).name  # not the path on this machine
            trial = result["trial"] | {"base": base}
            packed.write((json.dumps(result | {"trial": trial, "metrics": curves}) + "\n").encode())


def restore(file: Path, todo: list[Trial], root: Path, asked: Asked) -> None:
    """Write the kept trials of `file` into the study's folder, so that they count as done.

    A kept trial counts where its settings, problems, device and base weights are those of a trial of `todo`.  A trial that
    another one has yet to start from runs again: its weights are needed, and were not kept.
    """
    methods = [results for of_regime in read(file).values() for results in of_regime.values()]
    kept = {(r["trial"]["regime"], r["trial"]["method"], r["trial"]["seed"]): r for results in methods for r in results}
    weights = {trial.base: weights_of(trial.base) for trial in todo}

    def same(trial: Trial, result: dict) -> bool:
        settings = result["trial"] | {"base": trial.base} == trial._asdict()  # the base may lie in another folder
        return settings and problems_of(result) == asked and result.get("weights") == weights[trial.base]

    of_todo = [(trial, kept[trial[:3]]) for trial in todo if trial[:3] in kept]
    used = {trial[:3]: result for trial, result in of_todo if same(trial, result)}
    if len(used) < len(of_todo):
        other = "have other settings, problems, device or base weights, or do not say which: they do not count"
        print(f"python -m study: {len(of_todo) - len(used)} trials of {file} {other}", file=sys.stderr)
    needed = {(trial.regime, trial.after, trial.seed) for trial in todo if trial.after and trial[:3] not in used}
    for trial in todo:
        folder = folder_of(trial, root)
        if trial[:3] in used and trial[:3] not in needed and not (folder / "result.json").is_file():
            write(used[trial[:3]], folder)
