"""Transparency log: RFC 6962 tree, C2SP checkpoints and cosignatures, durable store."""
