"""Tasks: how rows become inputs and losses."""
