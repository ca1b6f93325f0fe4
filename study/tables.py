"""Every table of what is kept in study/kept: `python -m study tables`.  RESULTS.md has the few that matter.

trials-*.jsonl.gz    trials, as `python -m study.findings --keep` writes them
look-*.json          what learned temperatures read, as `--keep-look` writes it
default-*.json       a default run before and after: the tables of before.json and after.json, of each seed
"""

import json
from pathlib import Path

import eval as evaluation
from study import findings, introspect
from study.compare import Methods
from study.results import read

KEPT = Path(__file__).parent / "kept"


def studies() -> dict[str, dict[str, Methods]]:
    """The kept trials of each study, by its name."""
    return {file.name.removeprefix("trials-").partition(".")[0]: read(file) for file in sorted(KEPT.glob("*.jsonl.gz"))}


def every_table() -> str:
    kept = studies()
    parts = {"Primary endpoints": findings.primary_table(kept)}
    parts["The same against rules that cut"] = findings.primary_table(kept, cuts=True)
    parts |= {f"Trials: {name}": findings.tables(found) for name, found in kept.items()}
    parts |= {file.stem: introspect.tables(introspect.load(file)) for file in sorted(KEPT.glob("look-*.json"))}
    for file in sorted(KEPT.glob("default-*.json")):
        parts[file.stem] = evaluation.table(json.loads(file.read_text()), ["Avg@8", "Pass@8"])
    return "# Every table of the kept trials\n" + "".join(f"\n## {name}\n\n{text}\n" for name, text in parts.items())
