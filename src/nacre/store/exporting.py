"""A version in the files of other tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nacre.errors import RecipeError
from nacre.events import ignore
from nacre.export.exported import Exported, rows_of
from nacre.export.gguf import export_gguf
from nacre.export.merged import export_merged
from nacre.export.package import export_package
from nacre.export.peft_adapter import export_peft
from nacre.files import user_path
from nacre.learning.learner import Learner
from nacre.models.families import Encoded
from nacre.models.quiet import quiet_transformers
from nacre.store.learners import learner_of
from nacre.store.rows import test_rows_of
from nacre.store.store import Store

FORMATS: Mapping[str, Callable[[Learner, Path, Sequence[Encoded]], Exported]] = {
    "merged": export_merged,
    "peft": export_peft,
    "package": export_package,
    "gguf": export_gguf,
}


@quiet_transformers()
def export_version(store: Store, name: str, kind: str, output: str | Path) -> Exported:
    """Write a version as other tools read it, load it again, and compare it on the test rows that were kept.

    Args:
        store: Where.
        name: The version's.
        kind: One of `FORMATS`.
        output: A new folder.

    Raises:
        RecipeError: If there is no such format, or if something is there.
        ModelError: If the version cannot be written so exactly.
    """
    if kind not in FORMATS:
        raise RecipeError(f"--format {kind}: {', '.join(FORMATS)} are possible.")
    folder = user_path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"Output '{folder}' holds other things; choose a new or empty folder.")
    version = store.read(name)
    tasks = [test_rows_of(store, entry) for entry in version.tasks]
    learner = learner_of(store, name, ignore)
    examples = [example for task in tasks if task is not None for example in task.examples("test")]
    return FORMATS[kind](learner, folder, rows_of(learner, examples))
