"""What a folder holds of a learner: tensors by file and name, and a document of everything else.

A run's stage need not repeat what the stage before it holds. Its contents are then those that are new since, and its
document says under ``continues`` how the two belong together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nacre.files import to_json
from nacre.learning.continued import Plain, Print, new_items, new_rows, prints_of
from nacre.learning.snapshot import Snapshot, Tree
from nacre.migrations import LEARNER_SCHEMA

STATE = "state"
"""The file of the parts' tensors; the others have the names of owners."""

TENSOR = "$tensor"
"""In the document, ``{"$tensor": NAME}`` stands for a tensor of that file."""

GROWING = ("tasks", "owners", "parts", "forms", "calibrations")
"""The document's values that a stage may continue. The others are of one size at every stage."""

WORTH = 0.1
"""A stage continues another only where that saves this share of its bytes; otherwise it stays readable alone."""


@dataclass(frozen=True, eq=False)
class Outline:
    """What suffices to say later what is new since.

    Attributes:
        tasks: What the learner had learned.
        prints: Of its tensors, by file and name.
        plain: Its document's growing values.
    """

    tasks: list[str]
    prints: Mapping[str, Mapping[str, Print]]
    plain: Plain


@dataclass(frozen=True, eq=False)
class Contents:
    """What a folder holds of a learner, but for its manifest.

    Attributes:
        files: Tensors by name, by the file that they lie in.
        document: The content of ``state.json``.
    """

    files: Mapping[str, Mapping[str, Tensor]]
    document: Mapping[str, Any]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Contents:
        """All of a learner.

        Args:
            snapshot: The learner as a value. Tensors are copied only where they do not lie on the CPU, row after row.
        """
        tensors: dict[str, Tensor] = {}
        parts = {key: taken_out(tree, key, tensors) for key, tree in snapshot.parts.items()}
        owners = {name: owner.tensors for name, owner in snapshot.owners.items() if owner.tensors or name == "adapter"}
        document = {
            "schema": LEARNER_SCHEMA,
            "seed": snapshot.seed,
            "tasks": list(snapshot.tasks),
            "owners": {name: dict(owner.values) for name, owner in snapshot.owners.items()},
            "head": snapshot.head,
            "parts": parts,
            "method": dict(snapshot.method),
            "optim": dict(snapshot.optim),
            "decoding": dict(snapshot.decoding),
            "model": dict(snapshot.host),
            "forms": dict(snapshot.forms),
            "calibrations": dict(snapshot.calibrations),
        }
        files = {
            file: {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
            for file, tensors in (*owners.items(), (STATE, tensors))
        }
        return cls(files, json.loads(to_json(document)))  # as a file gives it: lists for tuples, keys in order

    def outline(self) -> Outline:
        """What a later stage is compared with."""
        return Outline(self.document["tasks"], {file: prints_of(each) for file, each in self.files.items()}, self.plain)

    def since(self, before: Outline, folder: str) -> tuple[Contents, Outline]:
        """What is new since the stage before, if leaving out the rest is worth it.

        Args:
            before: That stage's outline.
            folder: The name of its folder.

        Returns:
            The contents to write, and the outline of the whole ones.
        """
        tasks, earlier = self.document["tasks"], before.tasks
        if not earlier or tasks[: len(earlier)] != earlier or len(tasks) == len(earlier):
            return self, self.outline()  # the learner began anew
        names = list(dict.fromkeys([*self.files, *before.prints]))
        new = {file: new_rows(self.files.get(file, {}), before.prints.get(file, {})) for file in names}
        outline = Outline(self.document["tasks"], {file: each.prints for file, each in new.items()}, self.plain)
        plain, grown = new_items(self.plain, before.plain)
        continues = {
            "folder": folder,
            "after": {file: each.after for file, each in new.items() if each.after},
            "dropped": {file: each.dropped for file, each in new.items() if each.dropped},
            "grown": grown,
        }
        files = {file: each.tensors for file, each in new.items() if each.tensors or file in ("adapter", STATE)}
        rest = Contents(files, {**self.document, **plain, "continues": continues})
        return (rest if rest.size <= (1 - WORTH) * self.size else self), outline

    @property
    def plain(self) -> Plain:
        """The document's growing values."""
        return {key: self.document[key] for key in GROWING}

    @property
    def size(self) -> int:
        """Bytes that they take, about."""
        tensors = sum(tensor.nbytes for each in self.files.values() for tensor in each.values())
        return tensors + len(to_json(self.document))


def taken_out(tree: Tree, name: str, tensors: dict[str, Tensor]) -> Tree:
    """The tree with references in the place of its tensors.

    Args:
        tree: What a part remembers.
        name: Of the tree; its tensors' names begin with it.
        tensors: Receives them.
    """
    if isinstance(tree, Tensor):
        tensors[name] = tree
        return {TENSOR: name}
    if isinstance(tree, list):
        return [taken_out(value, f"{name}/{number}", tensors) for number, value in enumerate(tree)]
    if isinstance(tree, dict):
        return {key: taken_out(value, f"{name}/{key}", tensors) for key, value in tree.items()}
    return tree


def put_in(tree: Tree, tensors: Mapping[str, Tensor]) -> Tree:
    """The tree with its tensors in the place of references to them."""
    if isinstance(tree, list):
        return [put_in(value, tensors) for value in tree]
    if isinstance(tree, dict):
        if tree.keys() == {TENSOR}:
            return tensors[tree[TENSOR]]
        return {key: put_in(value, tensors) for key, value in tree.items()}
    return tree
