"""The demo: public commands, driven as subprocesses, and the baselines of the harness."""
