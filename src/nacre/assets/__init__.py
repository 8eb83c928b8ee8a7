"""The embedded demo model and its card."""
