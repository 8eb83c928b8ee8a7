"""The DAS benchmark: six unlabeled domains, learned one after the other, and an end task for each.

Sources: Ke et al., Continual Pre-training of Language Models (arXiv 2302.03241); ContinualLM's `sequences/posttrain`
(its first line is MIGU's order 7), `dataloader/data.py` and `utils/model.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EndTask:
    """The classification that measures a domain: a copy of the model is fine-tuned on it.

    Attributes:
        corpus: The domain's task of unlabeled text.
        name: The end task's name.
        epochs: The number of epochs, as released.
        f1: Which F1 the papers' tables report. For ChemProt it is the micro-F1, which equals the accuracy if every
            answer is a label.
        aspect: Whether a row names the word that the question is about; the text is then "aspect SEP sentence".
        moved: The percentage of training rows that become test rows: the first ones of every class, equally many from
            each. The validation rows become test rows, too. None keeps the splits and ignores the validation rows.
        product: The product whose rows are the training rows, before any are moved; those of other products are test
            rows.
    """

    corpus: str
    name: str
    epochs: int
    f1: Literal["macro", "micro"] = "macro"
    aspect: bool = False
    moved: int | None = None
    product: str | None = None


_ALL = (
    EndTask("corpus_restaurant", "asc_restaurant", epochs=5, aspect=True),
    EndTask("corpus_acl", "acl_arc", epochs=10, moved=10),
    EndTask("corpus_ai", "scierc", epochs=5, moved=30),
    EndTask("corpus_phone", "asc_phone", epochs=15, aspect=True, moved=30, product="Nokia6610"),
    EndTask("corpus_pubmed", "chemprot", epochs=10, f1="micro", moved=50),
    EndTask("corpus_camera", "asc_camera", epochs=15, aspect=True, moved=20, product="CanonG3"),
)

END_TASKS: dict[str, EndTask] = {end.corpus: end for end in _ALL}
"""The end tasks by corpus, in the order of order 7."""

ORDER_7 = tuple(END_TASKS)
"""The corpora in MIGU's order 7."""
