"""What a run measures beside its tasks."""
