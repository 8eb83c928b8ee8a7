"""What works in other training loops."""
