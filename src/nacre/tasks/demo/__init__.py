"""The stream "demo": four small classification tasks written by a seeded grammar, and unlabeled text like them.

The word lists and sentence patterns are nacre's own. A labeled text has two or three sentences. The clue to its label
is one of many words in one of several patterns, may be anywhere in the text, and is often next to clues to *other*
tasks: a text about a mood may mention a kitchen. Up to a third of a task's clues never occur in its training rows; a
model that answers those has learned the task and kept what the host knows about words.
"""

from nacre.tasks.demo.exercises import answers_a_label
from nacre.tasks.demo.plans import LABELS
from nacre.tasks.demo.rows import ROWS, demo_tasks
from nacre.tasks.demo.unlabelled import unlabelled_text

__all__ = ["LABELS", "ROWS", "answers_a_label", "demo_tasks", "unlabelled_text"]
