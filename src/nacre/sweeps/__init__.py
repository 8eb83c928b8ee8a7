"""Grids of runs: every combination of some settings, with a learning rate that was chosen first, on several engines."""
