"""Draw a run: its report, its curves, its completions by temperature.

    python plot.py runs/modular                                     report.html, run.png and heat_map.png, in its folder
    python plot.py runs/modular --frontier fixed.json               with the points of eval.py --out fixed.json

The work is done in display/: curves.py, heat_map.py, report.py.
"""

import argparse
import sys
from pathlib import Path

from display import curves, report, terminal


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a run: report.html, run.png and heat_map.png in its folder.")
    parser.error = lambda message: parser.exit(2, f"plot.py: {message}; --help lists the flags\n")
    parser.add_argument("run", help="the folder of a run, such as runs/modular")
    parser.add_argument(
        "--frontier", nargs="+", default=[], help="files that eval.py --out wrote: more points to compare"
    )
    arguments = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")  # a problem's text may hold what no terminal can show
    run, evaluations = Path(arguments.run), {}
    try:
        for file in map(Path, arguments.frontier):
            if not isinstance(found := curves.read_json(file).get("results"), dict):
                raise ValueError(f"{file}: not a file that eval.py --out has written")
            where = f"{file.stem}, " if len(arguments.frontier) > 1 else ""
            evaluations |= {where + name: summary for name, summary in found.items()}
        for file in report.draw(run, evaluations):
            print(terminal.visible(str(file)))
        for row in curves.read(run / "samples.jsonl")[-4:] if (run / "samples.jsonl").is_file() else []:
            completion = terminal.show(row["pieces"], row["taus"], sys.stdout.isatty())
            print(f"step {row['step']}  {terminal.visible(row['problem'])[:60]} {completion}")
        return
    except (ValueError, OSError) as error:
        code, said = 2, str(error)
    except KeyboardInterrupt:
        code, said = 130, "interrupted"
    except (KeyError, TypeError, AttributeError, IndexError) as error:  # JSON that no run has written
        code, said = 2, f"{run}: its files are not as a run left them ({type(error).__name__}: {error})"
    print(f"plot.py: {terminal.visible(said)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
