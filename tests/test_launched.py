"""What a launcher's configuration may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from nacre.errors import RecipeError
from nacre.launcher import OF_MPI, asks_for_sharding, launched


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, (0, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2", "PMI_SIZE": "2"}, (1, 2)),
    ],
)
def test_a_process_knows_its_place(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: tuple[int, int]
) -> None:
    for name in ("RANK", "WORLD_SIZE", *OF_MPI):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched() == found


@pytest.mark.parametrize("variable", ["WORLD_SIZE", *OF_MPI])
def test_processes_without_a_number_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv(variable, "2")
    with pytest.raises(RecipeError, match="2 processes were started by something else"):
        launched()


def test_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert not asks_for_sharding()


def test_accelerate_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "false")
    assert asks_for_sharding()
    assert "ACCELERATE_USE_FSDP" not in os.environ


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "asks for DeepSpeed, which nacre does not use"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "asks for Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "several kinds of parallelism"),
        ({"ACCELERATE_USE_FSDP": "true"}, "set fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "set fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
    ],
)
def test_what_nacre_does_not_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=sentence):
        asks_for_sharding()


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[1] / "recipes" / "accelerate").iterdir()), ids=lambda file: file.stem
)
def test_accelerate_reads_the_configurations(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `accelerate launch` makes of each, as the launched processes find it."""
    arguments = launch_command_parser().parse_args(["--config_file", str(file), "-m", "nacre"])
    arguments, config, _ = _validate_launch_command(arguments)
    assert config is not None
    assert arguments.num_processes == (2 if "two" in file.stem else 8)
    assert arguments.use_fsdp == (file.stem == "sharded")
    assert arguments.use_fsdp or arguments.multi_gpu  # otherwise it starts one process
    assert not arguments.cpu
    if arguments.use_fsdp:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", str(arguments.fsdp_version))
        monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", str(arguments.fsdp_offload_params).lower())
        assert asks_for_sharding()
