"""Speed and memory beside other libraries. `python -m bench` measures; BENCHMARKS.md has the results."""
