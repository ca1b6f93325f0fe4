"""The experiment: every method, every seed, the tables and pictures. `python -m study`; results in RESULTS.md."""
