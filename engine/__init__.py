"""Fast sampling and training.  The plain forms are in the core files, and tests compare the two."""
