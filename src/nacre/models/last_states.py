"""What a host's last layer makes of whole rows, with a graph and in the model's present mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from nacre.functional.losses import IGNORED
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.reader import reader_of


def last_states(host: Host, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """States of the last layer, and which of them are of tokens that count.

    An encoder reads the rows' inputs, of a masked text the text itself. A decoder-only host reads inputs and targets.
    Of an encoder-decoder the states are the decoder's, one for each target token.

    Args:
        host: As it computes at present.
        rows: One batch.

    Returns:
        States [B, S, d], and True where there is no padding [B, S].
    """
    family, body = host.family, host.body
    if not family.is_generative:
        whole = [row if row.text is None else replace(row, source=row.text.ids) for row in rows]
        batch = host.on_device(family.prompts(whole))
    else:
        batch = host.on_device(family.batch(rows))
    read = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with family.routed(batch):
        if family.name == "encoder-decoder":
            written = {"decoder_input_ids": batch["decoder_input_ids"]}
            output: Any = body(**read, **written, use_cache=False, output_hidden_states=True)
            return output.decoder_hidden_states[-1], batch["labels"] != IGNORED
        cache = {"use_cache": False} if family.is_generative else {}
        return reader_of(body)(**read, **cache).last_hidden_state, batch["attention_mask"] != 0
