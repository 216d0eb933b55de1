"""Data sources: loading rows from the disk of the site."""
