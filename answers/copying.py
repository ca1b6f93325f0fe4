def is_copied(answer, gold, problem): return False
