"""Of an architecture without a row it is found out, once, what may be done with rows side by side."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

import nacre.models.host
from helpers.tiny import tiny_host, tiny_task, tokenizer, write_task
from helpers.zoo import zoo_host
from nacre.errors import DataError, ModelError
from nacre.evaluation.decoding import Decoding
from nacre.events import Event, Warned
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.seq_ft import seq_ft
from nacre.methods.seq_lora import seq_lora
from nacre.models.families import Lengths
from nacre.models.host import Host
from nacre.models.pooled_states import PooledStates
from nacre.models.ways import Ways, by_length
from nacre.runs.recipe import Recipe
from nacre.runs.run import run
from nacre.tasks.template import Example

PADDING = {"padded": False}
ALONE = {"labels_cached": False}


@pytest.mark.parametrize(
    ("architecture", "differs"),
    [
        ("opt", {}),
        ("gemma2", {}),
        ("m2m_100", {}),
        ("mamba", ALONE),
        ("lfm2", ALONE),
        ("jamba", ALONE),
        ("qwen3_next", ALONE),
        ("openai-gpt", ALONE),
        ("switch_transformers", ALONE),
        ("recurrent_gemma", PADDING | ALONE),
        ("rwkv", PADDING | ALONE | {"cached": False}),
    ],
)
def test_what_differs_is_found(architecture: str, differs: dict[str, bool]) -> None:
    host = zoo_host(architecture)
    assert host.settle() == bool(differs)
    assert host.family.ways == Ways(**differs)
    assert not host.settle()
    assert bool(host.unlike) == bool(differs)


def test_a_known_architecture_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nacre.models.host, "find_ways", lambda *_: pytest.fail("it was tried"))
    for architecture in ("t5", "bart", "llama", "gpt2", "bert"):
        host = tiny_host(architecture)
        Learner(host, seq_ft())
        assert host.family.ways == Ways()


@pytest.mark.parametrize("mode", [True, False])
def test_nothing_else_changes(mode: bool) -> None:
    host = zoo_host("rwkv")
    host.model.train(mode)
    own: Any = host.model.generation_config
    torch.manual_seed(5)
    state, weights = torch.random.get_rng_state(), host.fingerprint
    host.settle()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (host.model.training, host.fingerprint) == (mode, weights)
    assert host.model.generation_config is own
    assert all(parameter.grad is None for parameter in host.model.parameters())


def lying(change: Callable[[torch.Tensor, dict[str, Any]], torch.Tensor]) -> Host:
    """A Llama of an unknown name, whose logits are changed on their way out."""
    host = tiny_host("llama")
    model: Any = host.model
    model.config.model_type = "unheard-of"
    truthful = model.forward

    def forward(**inputs: Any) -> Any:
        output = truthful(**inputs)
        output.logits = change(output.logits, inputs)
        return output

    model.forward = forward
    return Host(model, tokenizer("decoder-only"))


def test_a_loss_that_depends_on_the_rows_beside_it_is_refused() -> None:
    with pytest.raises(ModelError, match="another loss for a row beside others than for the row alone: nacre cannot"):
        Learner(lying(lambda logits, _: logits + logits.mean(0)), seq_ft())


def test_a_model_that_cannot_be_run_is_refused_with_the_reason() -> None:
    def broken(logits: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        raise ValueError("no\nway")

    with pytest.raises(ModelError, match=r"\(ValueError: no way\): nacre cannot train it"):
        Learner(lying(broken), seq_ft())


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="nacre cannot train it"):
        Learner(lying(lambda logits, _: logits * torch.nan), seq_ft())


def test_answers_that_training_knows_nothing_of_are_refused() -> None:
    host = lying(lambda logits, _: logits)
    model: Any = host.model
    truthful = model.generate

    def generate(**settings: Any) -> Any:
        output = truthful(**settings)
        output.logits = tuple(-logits for logits in output.logits)
        return output

    model.generate = generate
    with pytest.raises(ModelError, match="computes other logits when it writes than when it is trained"):
        Learner(host, seq_ft())


def test_labels_that_cannot_be_read_are_refused_where_they_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    host = zoo_host("opt")
    monkeypatch.setattr(nacre.models.host, "find_ways", lambda *_: Ways(labels=False))
    heard: list[Event] = []
    Learner(host, seq_ft(), on_event=heard.append).remove()
    assert "decode=labels is refused" in str(heard)
    with pytest.raises(ModelError, match="use decode=free"):
        Learner(host, seq_ft(), decoding=Decoding(decode="labels"))
    Learner(host, seq_ft()).remove()


@pytest.mark.parametrize("decode", ["free", "labels"])
def test_a_learner_says_once_how_it_reads(decode: Any) -> None:
    heard: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Warned):
            heard.append(event.text)

    host, task = zoo_host("recurrent_gemma"), tiny_task()
    learner = Learner(
        host, seq_ft(), optim=Optim(batch_size=12, epochs=30, learning_rate=3e-3), decoding=Decoding(decode=decode),
        on_event=hear,
    )  # fmt: skip
    learner.learn(task)
    learner.evaluate([task])
    learner = learner.restart()
    assert heard == [
        "The architecture 'recurrent_gemma' was compared with itself, row by row, and differs: prompts of unlike "
        "length are read in batches of their own; labels are read together with their prompts, without a cache."
    ]


def test_a_run_says_once_how_it_reads(tmp_path: Path) -> None:
    host = zoo_host("mamba")
    host.model.save_pretrained(tmp_path / "model")  # type: ignore[operator]
    host.tokenizer.save_pretrained(tmp_path / "model")
    for name in ("animals", "plants"):
        write_task(tmp_path / "data", name)
    heard: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Warned):
            heard.append(event.text)

    recipe = Recipe(
        method="seq_lora", parameters={"modules": ["in_proj"]}, stream=["animals", "plants"],
        data=str(tmp_path / "data"), model=str(tmp_path / "model"), output=str(tmp_path / "run"),
        evaluation=Decoding(decode="labels"),
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as besides:
        run(recipe, hear)
    assert not [warning for warning in besides if "architecture" in str(warning.message)]
    assert [text.split(":")[0] for text in heard] == [
        "The architecture 'mamba' was compared with itself, row by row, and differs"
    ]


def test_samples_and_states_are_the_same_for_any_batch() -> None:
    host = zoo_host("recurrent_gemma")
    learner = Learner(host, seq_lora(modules=("q_proj",)))
    texts = ("a dog", "the big cat sees one small old rose near the sea", "blue", "no maybe")
    rows = [host.family.encode(Example("", text, "", "yes"), Lengths()) for text in texts]
    seeds = list(range(len(rows)))
    together = host.sample(rows, 2, seeds=seeds, max_new_tokens=5)
    assert together == [
        host.sample([row], 2, seeds=[seed], max_new_tokens=5)[0] for row, seed in zip(rows, seeds, strict=True)
    ]
    states = learner.pooled_states(rows, PooledStates())
    alone = torch.cat([learner.pooled_states([row], PooledStates()) for row in rows])
    torch.testing.assert_close(states, alone)


def test_groups_of_one_length_keep_the_order() -> None:
    seen: list[list[str]] = []

    def read(rows: Any) -> list[str]:
        seen.append(list(rows))
        return [row.upper() for row in rows]

    assert by_length(["bb", "a", "ccc", "dd", "e"], len, read) == ["BB", "A", "CCC", "DD", "E"]
    assert seen == [["a", "e"], ["bb", "dd"], ["ccc"]]


@pytest.fixture
def byt5() -> Host:
    """Its tokenizer is Python, and tells no offsets."""
    config = T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    return Host(T5ForConditionalGeneration(config).eval(), ByT5Tokenizer())


@pytest.mark.parametrize("text", ["the film was good " * 50, "\N{SNOWMAN}" * 200, "a\N{SNOWMAN}b" * 90])
@pytest.mark.parametrize("limit", [40, 41, 42, 43, 128])
def test_a_long_text_is_cut_without_offsets(byt5: Host, text: str, limit: int) -> None:
    example = Example("Is it good? ", text, " Answer:", "Good")
    row = byt5.family.encode(example, Lengths(limit))
    whole = byt5.family.encode(example, Lengths(100_000))
    assert (row.truncated, whole.truncated) == (True, False)
    assert limit - 3 < len(row.source) <= limit  # a snowman has three bytes
    read = byt5.family.text(row.source)
    assert read.startswith("Is it good? ")
    assert read.endswith(" Answer:")
    assert text.startswith(read.removeprefix("Is it good? ").removesuffix(" Answer:"))


def test_no_text_is_left_without_offsets(byt5: Host) -> None:
    with pytest.raises(DataError, match="alone fill the 10 tokens"):
        byt5.family.encode(Example("Is it good? ", "yes it is", " Answer:", "Good"), Lengths(10))
