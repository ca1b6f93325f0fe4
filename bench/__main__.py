"""`python -m bench`: tables.py."""

from bench.tables import main

if __name__ == "__main__":
    main()
