"""The charged evaluation: noised counts of each site, what follows from their sum, the operator's signed record."""
