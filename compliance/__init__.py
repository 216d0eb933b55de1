"""Compliance: trust, studies, law, privacy ledger, transparency log, release. Neither Flower nor torch."""

__version__ = "0.1.0"
