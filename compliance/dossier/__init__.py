"""Evidence for an article or control: what the logs of a study show for it, with proofs, and what they do not."""
