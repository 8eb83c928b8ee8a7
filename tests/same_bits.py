"""Runs whose results must stay the same to the bit, and what is kept of each: hashes and the matrix.

    python tests/same_bits.py record     writes tests/fixtures/same_bits.json with what the code computes now
    python tests/same_bits.py add        writes the runs that it lacks, and leaves the others as they are
    python tests/same_bits.py compare    runs everything again and names each difference

The runs: on the demo stream the methods of the first record, alone and with ``+migu`` and ``+replay`` where they can
have them, and with fewer rows those that came later, on a T5, a Llama and a BERT; on ``order1``, if NACRE_DATA and
NACRE_MODELS say where it lies, three methods with a real model.

Bits depend on the processor's instructions and on the libraries. ``numerics`` hashes what they make of fixed inputs, so
that a comparison on another machine is recognized and not mistaken for a change of nacre's.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from helpers.contract import tensors_in
from nacre.cli.main import main
from nacre.errors import NacreError
from nacre.learning import checkpoint
from nacre.registry import METHODS, build_method

RECORD = Path(__file__).parent / "fixtures" / "same_bits.json"
LITERAL = "lb_cl, start to the letter"
FAMILIES = ("t5", "llama", "bert")
REAL = ("am_lora", "lb_cl", "inc_lora")
SETTINGS = ("--limit-train", "160", "--limit-test", "40", "--set", "optim.learning_rate=2e-3", "--set", "matrix=seen")
FEW_ROWS = ("--limit-train", "48", "--limit-test", "12", *SETTINGS[4:])
LATER: dict[str, tuple[str, ...]] = {  # methods that the first record has not, with settings that fit the tiny models
    "adapter": ("reduction=2",),
    "any_ssr": ("blocks=1", "dimension=100"),
    "code_lora": ("fusion=full",),
    "das": ("importance_rows=16",),
    "de_lora": (),
    "demix": ("reduction=2",),
    "der_pp": ("capacity=16", "rows=4"),
    "ella": ("strength=1.0",),
    "epi": (),
    "gain_lora": ("energy=0.9",),
    "hat": (),
    "hat_adapter": ("reduction=2",),
    "inf_lora": ("energy=0.9",),
    "klda": ("dimension=100",),
    "am_lora+gaussian_routing": (),
    "inc_lora+gaussian_routing+evidence": ("evidence.offset=0.5",),
    "knn": ("per_pair=5",),
    "l2p": ("pool=4", "prompt_length=2", "select=2", "diversify=frequency"),
    "latent_lora": ("rank=8",),
    "lda": ("unit=task",),
    "nacre": ("offset=0.5",),
    "lfpt5": ("prompt_length=4", "draws=4", "max_length=32"),
    "mocl": (),
    "moe_lora": ("experts=3",),
    "n_lora": ("strength=0.01",),
    "nearest_mean": (),
    "osf": ("share=[0.3,0.5,0.6,0.7]",),
    "prog_prompt": ("prompt_length=3", "bottleneck=8"),
    "ridge": ("dimension=100",),
    "sapt_lora": ("fraction=0.2", "inputs=real"),
    "sapt_lora, inputs written": ("fraction=0.2", "generator_steps=20", "max_length=32"),
    "seq_ft+soft_mask": ("soft_mask.importance_rows=16",),
    "seq_lora+der": ("der.capacity=16", "der.rows=4"),
    "seq_lora+distill": (),
    "seq_lora+hat": (),
    "slao": (),
}
WRITES = ("lfpt5", "sapt_lora, inputs written")  # need a host that writes


@dataclass(frozen=True)
class Case:
    """One run: its name in the record, and the command's arguments but for the output folder."""

    name: str
    arguments: tuple[str, ...]


def cases(models: Path) -> Iterator[Case]:
    """Every run that can be made here. models: a folder for the tiny models, which are written once."""
    for family in FAMILIES:
        model = "demo" if family == "t5" else str(_tiny_model(family, models))
        for method in methods():
            arguments = ("--method", method, "--model", model, *SETTINGS)
            if method.startswith("lb_cl") or "orthogonal" in method:
                arguments += ("--set", "rank=2")  # so small a host leaves no room for four tasks of rank 8
            yield Case(f"{family} {method}", arguments)
            if method == "lb_cl":
                yield Case(f"{family} {LITERAL}", (*arguments, "--set", "sigma=average"))
        for method, settings in LATER.items():
            if family != "bert" or method not in WRITES:
                own = [argument for setting in settings for argument in ("--set", setting)]
                yield Case(
                    f"{family} {method}", ("--method", method.partition(",")[0], "--model", model, *FEW_ROWS, *own)
                )
    data, real = os.environ.get("NACRE_DATA"), os.environ.get("NACRE_MODELS")
    if data and real:
        for method in REAL:
            yield Case(
                f"minilm-b2b order1 {method}",
                (
                    "--method", method, "--stream", "order1", "--data", f"{data}/long_sequence",
                    "--model", f"{real}/minilm-b2b", "--limit-train", "64", "--limit-test", "16",
                    "--set", "optim.max_source_length=128", "--set", "matrix=seen",
                ),
            )  # fmt: skip


@cache
def methods() -> tuple[str, ...]:
    """Every method, alone and with each of the two modifiers that it can have."""
    return tuple(
        name
        for method in METHODS_RECORDED or METHODS.names()
        for name in (method, f"{method}+migu", f"{method}+replay")
        if _can_be_built(name)
    )


METHODS_RECORDED = (
    "am_lora", "ewc", "inc_lora", "independent", "joint", "lb_cl", "lora_replay", "o_lora", "replay", "seq_ft",
    "seq_lora",
)  # fmt: skip
"""The methods there were when the record was first made."""


def _can_be_built(name: str) -> bool:
    try:
        build_method(name)
    except NacreError:
        return False
    return True


def _tiny_model(family: str, models: Path) -> Path:
    folder = models / family
    if folder.exists():
        return folder
    tokenizer = AutoTokenizer.from_pretrained(str(files("nacre") / "assets" / "demo-t5"))
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 512, "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (
            LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.2))
            if family == "llama"
            else BertModel(BertConfig(**sizes, initializer_range=0.1), add_pooling_layer=False)
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Carry a run out. Returns its matrix and the hashes of its predictions and of its last learner's tensors.

    Without an adapter, they are those that its parts remember.
    """
    argv = sys.argv
    sys.argv = ["nacre", "run", *case.arguments, "--output", str(folder)]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{case.name}: nacre run ended with exit code {stop.code}") from None
    finally:
        sys.argv = argv
    learner = checkpoint.read(sorted((folder / "tasks").iterdir())[-1])
    hashes = {name: hash_of(owner.tensors) for name, owner in learner.owners.items() if owner.tensors}
    return {
        "matrix": json.loads((folder / "results.json").read_text())["matrix"],
        "predictions": _hash_of_predictions(folder),
        "adapter": hashes.get("adapter") or hash_of(dict(tensors_in(dict(learner.parts), "parts"))),
        "head": hashes.get("head"),
        **{name: value for name, value in hashes.items() if name not in ("adapter", "head")},
    }


def hash_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, types, shapes and bytes, in order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _hash_of_predictions(folder: Path) -> str:
    """sha256 over the answers to every test row, stage by stage and task by task."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("tasks/*/predictions/*.jsonl.gz")):
        digest.update(f"{file.parent.parent.name}/{file.name}\n".encode())
        for line in gzip.decompress(file.read_bytes()).decode().splitlines():
            digest.update(f"{json.loads(line)['answer']}\n".encode())
    return digest.hexdigest()


def numerics() -> str:
    """sha256 over what this machine's libraries make of fixed inputs: products, their gradients, softmax, AdamW."""
    generator = torch.Generator().manual_seed(0)
    digest = hashlib.sha256(torch.__version__.encode())
    for rows, inner, columns in ((3, 16, 16), (40, 64, 64), (160, 384, 1536), (7, 32, 4000)):
        x = torch.randn(rows, inner, generator=generator)
        weight = torch.nn.Parameter(torch.randn(columns, inner, generator=generator))
        optimizer = torch.optim.AdamW([weight], lr=1e-3, fused=True)
        loss = torch.nn.functional.gelu(x @ weight.T).softmax(-1).log().square().mean()
        loss.backward()
        optimizer.step()
        for tensor in (loss.detach().reshape(1), weight.detach()):
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def record(but: Collection[str] = ()) -> dict[str, Any]:
    """Make every run but those of these names. Returns what is kept of them."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for number, case in enumerate(cases(Path(place) / "models")):
            if case.name not in but:
                found[case.name] = measure(case, Path(place) / str(number))
    return {"numerics": numerics(), "runs": found}


def added(before: dict[str, Any]) -> dict[str, Any]:
    """A record with the runs that it lacks, of which all else stays.

    Raises:
        RuntimeError: Here they would get other bits than where it was made.
    """
    if numerics() != before["numerics"]:
        raise RuntimeError("this machine's processor or libraries round otherwise than those of the record")
    return {**before, "runs": {**before["runs"], **record(before["runs"])["runs"]}}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two records, a line each; runs that only one of them has are left out."""
    return [
        f"{name}: {what}"
        for name in before["runs"].keys() & after["runs"].keys()
        for what, value in before["runs"][name].items()
        if after["runs"][name][what] != value
    ]


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    now = added(json.loads(RECORD.read_text())) if sys.argv[1:] == ["add"] else record()
    if sys.argv[1:] in (["record"], ["add"]):
        RECORD.parent.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    else:
        lines = differences(json.loads(RECORD.read_text()), now)
        print("\n".join(lines) or f"{len(now['runs'])} runs: no difference")
        sys.exit(1 if lines else 0)
