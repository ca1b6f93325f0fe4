"""What a person looks at: the log of a run, its pictures, its report."""
