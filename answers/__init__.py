"""What verify.py stands on: extraction, spelling, grammar, values, and the sympy worker."""
