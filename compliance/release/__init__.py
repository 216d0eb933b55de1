"""Releases: the bundle that carries its evidence, and its offline verification."""
