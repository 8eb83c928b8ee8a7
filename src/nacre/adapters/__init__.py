"""Adapters: what is trained in a host, and how the tasks' parameters combine."""
