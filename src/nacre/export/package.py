"""A folder that `nacre.load_model` turns into a model of transformers that answers as the learner does.

DIR/
  package.json      what it is
  model/            the pretrained model and its tokenizer, as they were
  learner/          what was learned (`nacre.learning.checkpoint`)

It holds what no one weight can: gates, and slots of which a routing chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nacre.documents import parse_json
from nacre.errors import CheckpointError, ModelError
from nacre.events import only_warn
from nacre.export.exported import Exported, LoadedModel, check_writes, export
from nacre.files import read_text, to_json, user_path
from nacre.learning.learner import Learner
from nacre.models.batch import Batch
from nacre.models.families import Encoded
from nacre.models.loaded_as import LoadedAs
from nacre.models.loading import load_host_as

FILE, MODEL, LEARNER = "package.json", "model", "learner"
SCHEMA = "nacre.package/1"


def export_package(learner: Learner, folder: Path, rows: Sequence[Encoded]) -> Exported:
    """Write the package.

    Args:
        learner: What is exported.
        folder: A new folder.
        rows: To compare on (`exported.rows_of`).

    Raises:
        ModelError: If answers are not the model's own, or must be given the task, or if the folder, loaded again,
            answers otherwise by a single bit.
    """
    check_writes(learner, "package")
    _check(learner)

    def write(place: Path) -> None:
        bare = load_host_as(learner.host.name, learner.host.loaded_as)
        bare.body.save_pretrained(place / MODEL)  # type: ignore[operator]
        bare.tokenizer.save_pretrained(place / MODEL)
        learner.save(place / LEARNER)
        document: dict[str, Any] = {"schema": SCHEMA, "method": learner.method.name, "tasks": list(learner.state.tasks)}
        if not_as_usual := learner.host.loaded_as.document():
            document["loaded_as"] = not_as_usual
        (place / FILE).write_text(to_json(document) + "\n", encoding="utf-8")

    with learner.serving():
        return export("package", learner, folder, rows, write, [LoadedModel(load_model)], 0.0)


def load_model(folder: str | Path) -> nn.Module:
    """The model in a package, with `generate` and all else that transformers' models have.

        model = nacre.load_model("packaged")
        tokenizer = AutoTokenizer.from_pretrained("packaged/model")
        model.generate(**tokenizer("The match ended", return_tensors="pt"))

    It answers and is not trained further. No code of the folder's is run.

    Args:
        folder: What `nacre export --format package` wrote.

    Raises:
        CheckpointError: If it is no package, or is damaged.
    """
    path = user_path(folder)
    try:
        document = parse_json(read_text(path / FILE))
        known = isinstance(document, dict) and document.get("schema") == SCHEMA
    except FileNotFoundError:
        raise CheckpointError(f"'{path}' is no package: it has no {FILE}.") from None
    except (ValueError, UnicodeDecodeError):
        known = False
    if not known:
        raise CheckpointError(f"{path / FILE} is damaged, or of a newer version of nacre.")
    host = load_host_as(str(path / MODEL), LoadedAs.of(document.get("loaded_as", {})))
    learner = Learner.load(path / LEARNER, host)
    learner.on_event = only_warn
    _check(learner)
    return _answering(learner)


def _check(learner: Learner) -> None:
    """Refuse what a model alone cannot answer."""
    method = learner.method
    learner.check_usable()
    if method.readout is not None:
        raise ModelError(
            f"package: {method.display_name} answers by evidence beside the model, which `generate` does not know: "
            "serve the store, or use Learner.load."
        )
    if learner.traits["task identity at test"]:
        raise ModelError(
            f"package: {method.display_name} must be given the task of every input, for which `generate` has no place: "
            "serve the store, or use Learner.load."
        )
    if method.adapter.has_virtual_tokens:
        raise ModelError(
            f"package: {method.display_name} writes virtual tokens into inputs, which other tools do not: serve the "
            "store, or use Learner.load."
        )


def _answering(learner: Learner) -> nn.Module:
    """The learner's model; where there is a routing, it is asked for each call."""
    model: Any = learner.host.model
    model.eval()
    serving = learner.serving()
    serving.__enter__()
    model.nacre = (learner, serving)  # both live as long as the model
    if learner.router is None:
        return model  # type: ignore[no-any-return]
    family, forward, generate = learner.host.family, model.forward, model.generate

    def routed_forward(input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **more: Any) -> Any:
        if input_ids is None:
            return forward(input_ids, attention_mask, **more)
        with family.routed(_batch(input_ids, attention_mask)):
            return forward(input_ids, attention_mask, **more)

    def routed_generate(inputs: Tensor | None = None, **more: Any) -> Any:
        ids = more.get("input_ids", inputs)
        if ids is None or not isinstance(ids, Tensor):
            raise ModelError(f"{learner.method.display_name} chooses by what it reads: give generate() input_ids.")
        config = more.get("generation_config") or model.generation_config
        beams = {key: more.get(key, getattr(config, key, 1)) or 1 for key in ("num_beams", "num_return_sequences")}
        if max(beams.values()) > 1:
            raise ModelError("A routing chooses for each input once: num_beams and num_return_sequences must be 1.")
        with family.routed(_batch(ids, more.get("attention_mask"))):
            return generate(inputs, **more)

    model.forward, model.generate = routed_forward, routed_generate
    return model  # type: ignore[no-any-return]


def _batch(ids: Tensor, mask: Tensor | None) -> Batch:
    """Inputs of which nobody says whose they are."""
    mask = torch.ones_like(ids) if mask is None else mask
    return Batch({"input_ids": ids, "attention_mask": mask}, ("",) * len(ids))
