"""What of nacre works in other training loops."""
