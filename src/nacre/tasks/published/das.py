"""The DAS benchmark: six unlabelled domains that are learnt one after the other, and an end task for each.

Sources: Ke et al., Continual Pre-training of Language Models (arXiv 2302.03241); ContinualLM's ``sequences/posttrain``
(its first line is MIGU's order 7), ``dataloader/data.py`` and ``utils/model.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EndTask:
    """What a domain is measured by: a classification that a copy of the model is fine-tuned on.

    corpus: the domain's task of unlabelled text. epochs: as released. f1: which F1 the papers' tables hold; of
    ChemProt it is the micro-F1, which is the accuracy where every answer is a label.
    aspect: whether a row names the word that the question is about; the text is "aspect SEP sentence" then.
    moved: in percent, the share of the training rows that goes to the test rows, in equal parts from every class, the
        first rows of it; the validation rows go there, too. None: the splits as they are, validation rows unused.
    product: whose rows are all training rows, before any are moved; those of other products are test rows.
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
"""By corpus, in order 7."""

ORDER_7 = tuple(END_TASKS)
