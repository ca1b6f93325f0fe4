"""`python -m bench`: see report.py."""

from bench.report import main

if __name__ == "__main__":
    main()
