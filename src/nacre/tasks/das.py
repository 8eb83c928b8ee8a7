"""The DAS benchmark: six unlabelled domains that are learnt one after the other, and an end task for each.

Sources: Ke et al., Continual Pre-training of Language Models (arXiv 2302.03241); ContinualLM's ``sequences/posttrain``
(its first line is MIGU's order 7), ``dataloader/data.py`` and ``utils/model.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nacre.errors import DataError
from nacre.tasks.fields import as_label, is_text
from nacre.tasks.sources import material_of
from nacre.tasks.tables import Record, Table
from nacre.tasks.task import SPLITS, Row, Split, Task
from nacre.tasks.template import Template


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


def load_end_task(end: EndTask, data: str, separator: str) -> Task:
    """The end task, found under ``data`` like any task, with the training and test rows of the released code.

    separator: the token between aspect and sentence, as the tokenizer writes it. The task has no validation rows: the
    released code chooses nothing on any, and tests on them.
    ``DataError`` with file and line for a row without the fields it needs, or with a label that is none.
    """
    found = material_of(end.name, data, alone=False)
    rows = {split: [_row(end, table, one, separator) for one in table.records] for split, table in found.tables.items()}
    labels = found.card.labels or tuple(sorted({row.target for row, _ in rows["train"]}))
    for split, read in rows.items():
        for record, (row, _) in zip(found.tables[split].records, read, strict=True):
            if row.target not in labels:
                raise DataError(
                    f"{found.tables[split].at(record)}: label '{row.target}' is not in the label set "
                    f"({', '.join(labels)})."
                )
    train, test = _released_splits(end, rows, labels)
    if not train or not test:
        raise DataError(f"{found.where}: no {'training' if not train else 'test'} rows are left after the split.")
    source: dict[str, Any] = {
        "layout": found.layout,
        "files": {split: dict(found.tables[split].origin) for split in SPLITS if split in found.tables},
        "license": found.card.license,
    }
    template = Template(answer_cue="")
    return Task(end.name, train, (), test, template, labels, "macro_f1", source)


def _released_splits(
    end: EndTask, rows: dict[Split, list[tuple[Row, str]]], labels: Sequence[str]
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Training and test rows; rows: each with its product."""
    if end.moved is None:
        return tuple(row for row, _ in rows["train"]), tuple(row for row, _ in rows["test"])
    if end.product is None:
        train = [row for row, _ in rows["train"]]
        test = [row for split in ("test", "validation") for row, _ in rows.get(split, [])]
    else:
        everything = [one for split in SPLITS for one in rows.get(split, [])]
        train = [row for row, product in everything if product == end.product]
        test = [row for row, product in everything if product != end.product]
    quota = len(train) * end.moved // (100 * len(labels))
    taken: Counter[str] = Counter()
    kept: list[Row] = []
    for row in train:
        if taken[row.target] < quota:
            taken[row.target] += 1
            test.append(row)
        else:
            kept.append(row)
    return tuple(kept), tuple(test)


def _row(end: EndTask, table: Table, record: Record, separator: str) -> tuple[Row, str]:
    """A row and its product."""
    label = as_label(record.values.get("label"))
    if not label:
        raise DataError(f"{table.at(record)}: field 'label' must be a string or a number that is not empty.")
    text = _text(table, record, "text")
    if end.aspect:
        text = f"{_text(table, record, 'aspect')} {separator} {text}"
    return Row(text, label), _text(table, record, "product") if end.product else ""


def _text(table: Table, record: Record, name: str) -> str:
    value = record.values.get(name)
    if not isinstance(value, str) or not value.strip() or not is_text(value):
        raise DataError(f"{table.at(record)}: field '{name}' must be a string that is not empty.")
    return value
