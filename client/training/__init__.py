"""Differentially private training on one site."""
