"""Speed and memory side by side with others. `python -m bench`; results in BENCHMARKS.md."""
