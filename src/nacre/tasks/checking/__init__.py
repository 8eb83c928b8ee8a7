"""Checks of a stream's rows before they are learned."""
