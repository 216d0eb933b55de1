"""Trust root: who may sign what, and when."""
