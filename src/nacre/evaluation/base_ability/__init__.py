"""Pretrained ability, measured by published benchmarks."""
