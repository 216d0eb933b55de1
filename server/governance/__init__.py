"""The governance plane: what sites and operator tell one another outside of a run."""
