"""Tables and pictures of a folder of trials.

python -m study.findings runs/study          findings.md, frontier.png and temperature.png, in that folder
python -m study.findings runs/study --keep FILE.gz      and all trials in one small file, which it reads as well
python -m study.findings study/kept/trials-{countdown,modular,modular-first}.jsonl.gz
                                             when.png, of several studies: when does a learned temperature pay?
"""

import argparse
import sys
from pathlib import Path

import tasks
import temperature_head
from study import frontier, introspect
from study.compare import Methods
from study.results import keep, read
from study.tables import of_study, primary_table

LEARNED = "frozen", "head, mean"  # whose temperatures are looked at


def words(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m study.findings", description="Tables and pictures of the trials.")
    parser.error = refuse
    add = parser.add_argument
    add(
        "study",
        nargs="+",
        help="a folder of trials, such as runs/study, or a file that --keep wrote; of several: when.png only",
    )
    add("--out", default="", help="folder of the tables and pictures [the study's own, or runs/findings]")
    add("--keep", default="", help="also write the trials to this one file, such as study/kept/trials.jsonl.gz")
    add(
        "--look",
        nargs=2,
        default=LEARNED,
        metavar=("REGIME", "METHOD"),
        help="whose temperatures [frozen 'head, mean']",
    )
    add("--keep-look", default="", help="also write the figures of these temperatures to this file")
    add("--problems", type=int, default=400, help="number of test problems on which temperatures are looked at")
    return parser.parse_args(given)


def refuse(message: str) -> None:
    print(f"python -m study.findings: {message}", file=sys.stderr)
    raise SystemExit(2)


def look(found: dict[str, Methods], root: Path, asked: argparse.Namespace, out: Path) -> str:
    """The tables of the temperatures, and their picture; empty where no trained head lies in the folder."""
    regime, method = asked.look
    folders = sorted((root / regime / method.replace(" ", "-").replace(",", "")).glob("seed-*"))
    folders = [f for f in folders if all((f / name).is_file() for name in (temperature_head.FILE, "result.json"))]
    if not folders:
        if tuple(asked.look) != LEARNED:
            raise ValueError(f"holds no finished trial of {method!r} in {regime!r} with a head of its own")
        return ""
    there = {folder.name for folder in folders}
    results = [result for result in found[regime][method] if f"seed-{result['trial']['seed']}" in there]
    problems = tasks.load(results[0]["trial"]["flags"]["task"], "test", asked.problems)
    looks = [introspect.look(folder, problems, seed) for seed, folder in enumerate(folders)]
    introspect.picture(looks, [result["metrics"] for result in results], out / "temperature.png")
    figures = introspect.figures(looks)
    if asked.keep_look:
        introspect.save(figures, Path(asked.keep_look))
    return f"### Temperatures of {method} ({regime})\n\n{introspect.tables(figures)}\n"


def main() -> None:
    asked = words(sys.argv[1:])
    if len(asked.study) > 1 and (asked.keep or tuple(asked.look) != LEARNED):
        refuse("--keep and --look are for one study")
    studies: dict[str, dict[str, Methods]] = {}
    root = Path()
    try:
        for root in map(Path, asked.study):
            name = root.name.removeprefix("trials-").partition(".")[0]
            if name in studies:
                raise ValueError("another of these has this name")
            studies[name] = found = read(root)
            if not found:
                raise ValueError("holds no result.json of a trial")
            if len(asked.study) > 1 and not frontier.comparable(found):
                raise ValueError("holds no fixed temperatures on frozen tokens, to which others are compared")
        out = Path(asked.out or (root if root.is_dir() and len(studies) == 1 else "runs/findings"))
        out.mkdir(parents=True, exist_ok=True)
        if asked.keep:
            keep(found, Path(asked.keep))
        if len(studies) > 1:
            frontier.when(studies, out / "when.png")
            return print(f"wrote {out / 'when.png'}")
        text = f"{primary_table(studies)}\n\n{of_study(found)}\n\n{look(found, root, asked, out)}"
    except (OSError, ValueError) as error:
        refuse(f"{root}: {error}")
    frontier.picture(found, out / "frontier.png")
    (out / "findings.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
