"""Outputs of linear maps: measured, grouped and masked."""
