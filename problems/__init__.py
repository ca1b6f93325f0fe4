"""Where problems come from: one file for each generated task."""
