"""The papers' tasks and streams."""
