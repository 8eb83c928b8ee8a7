"""The classification head of an encoder-only host: what it owns besides the adapter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from nacre.errors import CheckpointError
from nacre.models.classifier import Classifier
from nacre.models.fit import check_fit
from nacre.models.growing_head import GrowingHead
from nacre.models.label_head import LabelHead
from nacre.models.mlm_head import MlmHead, new_mlm_head
from nacre.models.named import HeadKind
from nacre.models.owner import ParameterGroup, stop_training
from nacre.models.task_heads import TaskHeads
from nacre.tasks.task import Task

HEADS: dict[HeadKind, type[GrowingHead] | type[TaskHeads]] = {"growing": GrowingHead, "per_task": TaskHeads}

MLM_PREFIX = "tokens."
"""What the names of the masked-LM head's tensors begin with."""


@final
class ClassificationHead:
    """The output layers of an encoder-only host, as an `Owner`: one over labels, and one over tokens (masked-LM head).

    The newest tasks train one of them: the rows of their labels or, of unlabeled text, the masked-LM head.

    Attributes:
        model: The classifier that computes with them.
        learns_text: Whether the newest tasks are unlabeled text.
    """

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.learns_text = False

    @property
    def kind(self) -> HeadKind:
        """Which kind of output layer over labels it has."""
        return next(kind for kind, layer in HEADS.items() if isinstance(self.model.head, layer))

    @property
    def labels(self) -> LabelHead:
        """The output layer over labels."""
        return self.model.head

    @property
    def mlm(self) -> MlmHead:
        """The masked-LM head, made if there is none."""
        if self.model.mlm_head is None:
            self.model.mlm_head = new_mlm_head(self.model.encoder).train(self.model.training)
        return self.model.mlm_head

    def use(self, kind: HeadKind) -> None:
        """Switch to this kind of output layer over labels, discarding one of another kind."""
        if kind != self.kind:
            like = next(self.model.encoder.parameters())
            self.model.head = HEADS[kind](int(self.model.config.hidden_size), like).train(self.model.training)

    def prepare(self, tasks: Sequence[Task], seed: int, rehearsed: Collection[str] = ()) -> None:
        """Open what these tasks train.

        Args:
            tasks: The tasks about to be learned.
            seed: The run's.
            rehearsed: Earlier tasks of which rows will be learned again, which matter to a head for each task.
        """
        self.learns_text = all(task.kind == "text" for task in tasks)
        if self.learns_text:
            self.mlm.open()
        else:
            self.labels.prepare(tasks, seed, rehearsed)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The group `head`: rows of the newest tasks' classes, or the masked-LM head; none before the first task."""
        parameters: tuple[nn.Parameter, ...] = self.mlm.own() if self.learns_text else self.labels.trained()
        return [ParameterGroup("head", parameters)] if parameters else []

    def tensors(self) -> dict[str, Tensor]:
        """What both layers have learned; the tensors themselves, detached, not copies."""
        mlm = {} if self.model.mlm_head is None else self.model.mlm_head.tensors()
        return self.labels.tensors() | {f"{MLM_PREFIX}{name}": tensor for name, tensor in mlm.items()}

    def values(self) -> dict[str, Any]:
        """Class names, the numbers of the newest, the tasks of a head for each; `text` once texts were learned."""
        learned = self.model.mlm_head is not None and self.model.mlm_head.learned
        return self.labels.values() | ({"text": self.learns_text} if learned else {})

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `values` gave, bit for bit. From two empty mappings: forget everything.

        Raises:
            CheckpointError: If they do not fit each other or this host.
        """
        _check_rows(values)
        forms = self.labels.forms(len(values.get("classes", ())))
        if "text" in values:
            forms |= {f"{MLM_PREFIX}{name}": form for name, form in self.mlm.forms().items()}
        check_fit("head", tensors, forms)
        self.learns_text = bool(values.get("text", False))
        self.labels.load(tensors, values)
        mlm = {name.removeprefix(MLM_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(MLM_PREFIX)}
        if mlm or self.model.mlm_head is not None:
            self.mlm.load(mlm)

    def freeze(self) -> None:
        """Between tasks nothing is trainable."""
        stop_training(self.parameter_groups())

    def remove(self) -> None:
        """Give the classifier back as it was: without classes, its masked-LM head as it came, or none if none came."""
        self.use("growing")
        self.load({}, {})
        if self.model.mlm_head is None:
            return
        if self.model.mlm_head.pretrained:
            self.model.mlm_head.restore()
        else:
            self.model.mlm_head = None


def _check_rows(values: Mapping[str, Any]) -> None:
    """Whether labels, tasks and the newest rows can be of one head."""
    classes, newest = values.get("classes", []), values.get("newest", [])
    tasks = values.get("tasks", classes)
    names = all(isinstance(name, str) for name in (*classes, *tasks))
    numbers = all(isinstance(number, int) and 0 <= number < len(classes) for number in newest)
    if not (names and numbers and len(tasks) == len(classes)):
        raise CheckpointError("The saved head is damaged: its labels, their tasks and the newest rows do not agree.")
