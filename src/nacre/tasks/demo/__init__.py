"""The stream "demo": four small classification tasks written by a seeded grammar, and unlabelled text like them.

Nothing here was fetched: the word lists and sentence patterns are nacre's own. A labelled text has two or three
sentences. The clue to its label is one of many words in one of several patterns, stands at any place, and often beside
clues to *other* tasks: a mood is told in a kitchen, a place at a match. Up to a third of a task's clues are held back
from its training rows; who answers those has learned the task and kept what the host knows about words.
"""

from nacre.tasks.demo.exercises import answers_a_label
from nacre.tasks.demo.plans import LABELS
from nacre.tasks.demo.rows import ROWS, demo_tasks
from nacre.tasks.demo.unlabelled import unlabelled_text

__all__ = ["LABELS", "ROWS", "answers_a_label", "demo_tasks", "unlabelled_text"]
