"""The typed files of a run, and comparisons between runs."""
