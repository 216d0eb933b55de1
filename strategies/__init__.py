"""Federated mathematics and wire formats. No files, no sockets."""
