"""Processes for programs that a model has written: what they may not do, and how they answer.

Nothing here imports anything of nacre or of another package: these files run in processes without either.
"""

PASSED = b"passed"
"""The judge's verdict on a program that passes."""
