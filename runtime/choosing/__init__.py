"""Which audio tokens are kept: the methods, their scores and budgets."""
