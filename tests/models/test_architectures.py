"""One row an architecture: what is asked of it is in the row, and nothing of it elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import AutoConfig

import nacre.models
from helpers.tiny import ARCHITECTURES as TINY
from helpers.tiny import tiny_host
from nacre.models.architectures import ARCHITECTURES, architecture_of, dropout_settings_of
from nacre.models.roles import find_linears


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_dropout_settings_are_those_of_the_configuration(model_type: str) -> None:
    config = AutoConfig.for_model(model_type)
    assert dropout_settings_of(config) == ARCHITECTURES[model_type].dropout_settings


def test_an_architecture_without_a_row_has_every_dropout_that_a_row_names() -> None:
    config = AutoConfig.for_model("opt")
    assert architecture_of(config) is None
    assert set(dropout_settings_of(config)) == {"dropout", "attention_dropout"}


@pytest.mark.parametrize("architecture", TINY)
def test_a_host_is_of_the_family_that_its_row_says(architecture: str) -> None:
    host, row = tiny_host(architecture), ARCHITECTURES[architecture]
    assert host.family.name == row.family
    decoder = {name for name in find_linears(host.body, ("query",)) if row.is_in_decoder(name)}
    assert bool(decoder) == (row.family == "encoder-decoder")


def test_no_other_file_of_the_room_names_an_architecture() -> None:
    folder = Path(nacre.models.__path__[0])
    quoted = re.compile("|".join(rf'"{re.escape(name)}"' for name in ARCHITECTURES))
    found = {file.name for file in folder.glob("*.py") if quoted.search(file.read_text())}
    assert found == {"architectures.py"}
