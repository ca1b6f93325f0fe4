"""What verify.py stands on: extraction, spelling, units, grammar, trees, comparison, values, the sympy worker, and copies."""
