"""What keeps a long run safe: checkpoints, exact resume, signals, numbers that are not finite, memory."""
