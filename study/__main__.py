"""`python -m study`: see experiment.py."""

from study.experiment import main

if __name__ == "__main__":
    main()
