"""Processes for programs that a model has written: what they give up, and how one is asked for answers.

Nothing here imports anything of nacre or of another package: these files run in processes without either.
"""

PASSED = b"passed"
"""The judge's verdict on a program that passes."""
