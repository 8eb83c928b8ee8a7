"""What nacre knows of model architectures: one row each. Adding an architecture is adding a row.

A model whose architecture has no row works where nothing has to be known of it: its linear maps can be named by their
modules' endings, and its labels are read one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

Role = Literal["query", "key", "value", "output", "ffn_in", "ffn_gate", "ffn_out"]
ROLES: tuple[Role, ...] = get_args(Role)

FamilyName = Literal["encoder-decoder", "decoder-only", "encoder-only"]

Positions = Literal["relative", "learned", "continuing"]
"""How a model can read a tree of labels as one sequence.

relative: its first decoder layer makes the position biases of all, by distance. learned: it adds learned positions to
the decoder's embeddings, by index. continuing: a decoder-only model takes positions and a mask for each query, also
behind a cache.
"""


@dataclass(frozen=True)
class RoleOf:
    """Modules whose dotted name ends like this have these roles.

    Attributes:
        ending: A regular expression.
        roles: Several for a fused map.
        cross: Whether they belong to a decoder's attention to the encoder.
    """

    ending: str
    roles: tuple[Role, ...]
    cross: bool = False

    def holds(self, module_name: str) -> bool:
        """Whether a module of this dotted name is meant."""
        return re.search(rf"(^|\.){self.ending}$", module_name) is not None


def _sliding_window(config: Any) -> tuple[int | None, ...]:
    return (getattr(config, "sliding_window", None),)


def _gpt_neo_windows(config: Any) -> tuple[int | None, ...]:
    """Its own causal mask, by index, has as many columns as it has positions; some layers look less far back."""
    local = "local" in config.attention_layers
    return (config.max_position_embeddings + 1, config.window_size if local else None)


@dataclass(frozen=True)
class Architecture:
    """One architecture, or several that are alike.

    Attributes:
        model_types: Its names, by `config.model_type`.
        family: How its hosts answer. Encoders may be made into decoders (`config.is_decoder`), which nacre refuses.
        roles: What each of its linear maps is for.
        label_tree: How it can read a tree of labels exactly; None: it cannot, and reads label by label.
        dropout_settings: What its configuration calls the dropout of its layers.
        windows: How many tokens its attention sees of a configuration, counted by index; None: all.
        decoder: The name of the decoder's stack among the model's modules.
        fused_by_head: Whether a fused map gives query, key and value head by head; otherwise one whole after the other.
    """

    model_types: tuple[str, ...]
    family: FamilyName
    roles: tuple[RoleOf, ...]
    label_tree: Positions | None
    dropout_settings: tuple[str, ...]
    windows: Callable[[Any], tuple[int | None, ...]] = _sliding_window
    decoder: str = "decoder"
    fused_by_head: bool = False

    def is_in_decoder(self, module_name: str) -> bool:
        """Whether a module of this dotted name lies in the decoder's stack."""
        return self.decoder in module_name.split(".")[:-1]


def _separate(query: str, key: str, value: str, output: str, *, cross: bool = False) -> tuple[RoleOf, ...]:
    endings: dict[Role, str] = {"query": query, "key": key, "value": value, "output": output}
    return tuple(RoleOf(ending, (role,), cross) for role, ending in endings.items())


_T5 = (
    *_separate(*(rf"SelfAttention\.{letter}" for letter in "qkvo")),
    *_separate(*(rf"EncDecAttention\.{letter}" for letter in "qkvo"), cross=True),
    RoleOf(r"DenseReluDense\.(wi|wi_1)", ("ffn_in",)),
    RoleOf(r"DenseReluDense\.wi_0", ("ffn_gate",)),
    RoleOf(r"DenseReluDense\.wo", ("ffn_out",)),
)
_BART = (
    *_separate(*(rf"self_attn\.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj"))),
    *_separate(*(rf"encoder_attn\.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")), cross=True),
    RoleOf("fc1", ("ffn_in",)),
    RoleOf("fc2", ("ffn_out",)),
)
_BERT = (
    *_separate(r"self\.query", r"self\.key", r"self\.value", r"attention\.output\.dense"),
    RoleOf(r"intermediate\.dense", ("ffn_in",)),
    RoleOf(r"layer\.\d+\.output\.dense", ("ffn_out",)),
)
_LLAMA = (
    *_separate(*(rf"self_attn\.{letter}_proj" for letter in "qkvo")),
    RoleOf(r"mlp\.up_proj", ("ffn_in",)),
    RoleOf(r"mlp\.gate_proj", ("ffn_gate",)),
    RoleOf(r"mlp\.down_proj", ("ffn_out",)),
)
_GPT2 = (
    RoleOf(r"attn\.c_attn", ("query", "key", "value")),
    RoleOf(r"attn\.c_proj", ("output",)),
    RoleOf(r"mlp\.c_fc", ("ffn_in",)),
    RoleOf(r"mlp\.c_proj", ("ffn_out",)),
)
_GPT_NEO = (
    *_separate(*(rf"attention\.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj"))),
    RoleOf(r"mlp\.c_fc", ("ffn_in",)),
    RoleOf(r"mlp\.c_proj", ("ffn_out",)),
)
_GPT_NEOX = (
    RoleOf(r"attention\.query_key_value", ("query", "key", "value")),
    RoleOf(r"attention\.dense", ("output",)),
    RoleOf(r"mlp\.dense_h_to_4h", ("ffn_in",)),
    RoleOf(r"mlp\.dense_4h_to_h", ("ffn_out",)),
)

_ROWS = (
    Architecture(("t5", "mt5"), "encoder-decoder", _T5, "relative", ("dropout_rate",)),
    Architecture(("umt5",), "encoder-decoder", _T5, None, ("dropout_rate",)),
    Architecture(
        ("bart", "mbart"), "encoder-decoder", _BART, "learned", ("dropout", "attention_dropout", "activation_dropout")
    ),
    Architecture(
        ("bert", "roberta", "xlm-roberta"),
        "encoder-only",
        _BERT,
        None,
        ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    ),
    Architecture(("llama", "mistral", "qwen2", "qwen3"), "decoder-only", _LLAMA, "continuing", ("attention_dropout",)),
    Architecture(("gpt2",), "decoder-only", _GPT2, "continuing", ("resid_pdrop", "embd_pdrop", "attn_pdrop")),
    Architecture(
        ("gpt_neo",),
        "decoder-only",
        _GPT_NEO,
        "continuing",
        ("resid_dropout", "embed_dropout", "attention_dropout"),
        windows=_gpt_neo_windows,
    ),
    Architecture(
        ("gpt_neox",),
        "decoder-only",
        _GPT_NEOX,
        "continuing",
        ("hidden_dropout", "attention_dropout"),
        fused_by_head=True,
    ),
)

ARCHITECTURES: dict[str, Architecture] = {name: row for row in _ROWS for name in row.model_types}
"""By `config.model_type`."""


def config_of(model: nn.Module) -> Any:
    """A Hugging Face model's configuration, which no type of torch's knows."""
    config: Any = model.config
    return config


def architecture_of(config: Any) -> Architecture | None:
    """The row of a configuration's architecture; None if there is none."""
    return ARCHITECTURES.get(str(getattr(config, "model_type", "")))


def model_types_of(family: FamilyName) -> tuple[str, ...]:
    """The architectures of a family that have a row."""
    return tuple(name for name, row in ARCHITECTURES.items() if row.family == family)


def dropout_settings_of(config: Any) -> tuple[str, ...]:
    """What a configuration calls its layers' dropout: of an architecture without a row, every name that one has."""
    row = architecture_of(config)
    rows = _ROWS if row is None else (row,)
    names = dict.fromkeys(name for row in rows for name in row.dropout_settings)
    return tuple(name for name in names if hasattr(config, name))
