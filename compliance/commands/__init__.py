"""Command groups of the `residency` command that need neither Flower nor torch."""
