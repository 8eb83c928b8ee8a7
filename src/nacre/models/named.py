"""What a recipe may call a model and its head; read without torch."""

from typing import Literal

DEMO = "demo"
"""The model that comes with the package."""

HeadKind = Literal["growing", "per_task"]
"""`growing`: one head over all labels seen so far. `per_task`: a head for each task, whose task must be given."""
