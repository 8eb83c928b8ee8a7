"""Pooled states of the bare host: two views of a row, the same in any batch and padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.route import Route
from nacre.errors import RecipeError
from nacre.events import Event, TrainingPrepared
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.inc_lora import inc_lora
from nacre.methods.seq_lora import seq_lora
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.pooled_states import PooledStates, pooled_states
from nacre.models.reader import reader_of
from nacre.parts.part import LearnerView, Reading, Routing

OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=8)
TASK = tiny_task("animals")
KINDS = [
    PooledStates(),
    PooledStates(text="bare"),
    PooledStates(1, "last", "bare"),
    PooledStates(-1, "first", "bare", drop_first=True),
    PooledStates("words", "mean", "bare", drop_first=True),
    PooledStates(-1, "max", "prompt", drop_first=True),
    PooledStates(1, final_norm=True),
    PooledStates(-1, "mean", "bare", final_norm=True),
]
EVERY = ["t5", "bart", "llama", "gpt2", "gpt_neo", "gpt_neox", "bert", "roberta"]


def rows_of(learner: Learner) -> list[Encoded]:
    return learner.encode(TASK.examples("test"))


def by_hand(host: Host, ids: list[int], states: PooledStates) -> Tensor:
    """One input, without padding, in float64."""
    reader = reader_of(host.body)
    whole = torch.tensor([ids])
    with torch.no_grad():
        if states.layer == "words":
            hidden = reader.get_input_embeddings()(whole)[0].double()
        else:
            read = reader(input_ids=whole, attention_mask=torch.ones_like(whole), output_hidden_states=True)
            hidden = read.hidden_states[states.layer][0]
            if states.final_norm and states.layer != -1:
                hidden = final_norm(reader)(hidden)
            hidden = hidden.double()
    hidden = hidden[1:] if states.drop_first else hidden
    return {"mean": hidden.mean(0), "last": hidden[-1], "first": hidden[0], "max": hidden.amax(0)}[states.pooling]


def final_norm(reader: nn.Module) -> nn.Module:
    """By its name; encoders that normalize in every block have none, and neither has BART's."""
    for name in ("final_layer_norm", "norm", "ln_f"):
        if isinstance(module := getattr(reader, name, None), nn.Module):
            return module
    return nn.Identity()


def same(found: Tensor, expected: Tensor) -> bool:
    """Whether vectors are the same to a millionth of their length."""
    return bool(((found.double() - expected.double()).norm(dim=1) <= 1e-6 * expected.double().norm(dim=1)).all())


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    # GPT-Neo does not scale its attention, which hardens a tiny host's so much that float32 itself is further off.
    [
        (name, dtype)
        for name in EVERY
        for dtype in (torch.float32, torch.float64)
        if name != "gpt_neo" or dtype.itemsize > 4
    ],
)
def test_a_row_has_the_same_states_in_any_batch(architecture: str, dtype: torch.dtype) -> None:
    learner = Learner(tiny_host(architecture, dtype), seq_lora(), optim=OPTIM)
    rows = rows_of(learner)
    assert len({len(row.source) for row in rows}) > 1, "some are padded"
    for states in KINDS:
        view = [learner.host.family.bare(row, learner.lengths) for row in rows] if states.text == "bare" else rows
        expected = torch.stack([by_hand(learner.host, list(row.source), states) for row in view])
        together = learner.pooled_states(rows, states)
        assert together.dtype == torch.float32
        assert same(together, expected)
        assert same(torch.cat([learner.pooled_states([row], states) for row in rows]), together)


@pytest.mark.parametrize("architecture", EVERY)
@pytest.mark.parametrize("width", [0, 3])
def test_padding_stands_on_either_side(architecture: str, width: int) -> None:
    host = tiny_host(architecture)
    learner = Learner(host, seq_lora(), optim=OPTIM)
    sources = [torch.tensor(row.source) for row in rows_of(learner)]
    most = max(map(len, sources)) + width

    def padded(side: str) -> dict[str, Tensor]:
        rooms = [most - len(ids) for ids in sources]
        sides = [(room, 0) if side == "left" else (0, room) for room in rooms]
        ids = torch.stack([F.pad(ids, own) for ids, own in zip(sources, sides, strict=True)])
        mask = torch.stack([F.pad(torch.ones_like(ids), own) for ids, own in zip(sources, sides, strict=True)])
        return {"input_ids": ids, "attention_mask": mask}

    sides = ["right"] if host.family.name == "encoder-only" or architecture == "bart" else ["right", "left"]
    for states in KINDS:
        expected = torch.stack([by_hand(host, ids.tolist(), states) for ids in sources])
        for side in sides:  # absolute positions of an encoder count padding on the left
            assert same(pooled_states(host, padded(side), states), expected)


def test_the_source_is_the_text_before_any_template() -> None:
    """The same whatever the instruction; a finished prompt is its own text; long ones are cut like inputs."""
    learner = Learner(tiny_host("llama"), seq_lora(), optim=OPTIM)
    other = replace(TASK, template=replace(TASK.template, instruction="What kind of thing ?", options=False))
    one, two = rows_of(learner), learner.encode(other.examples("test"))
    source = PooledStates(text="bare")
    assert torch.equal(learner.pooled_states(one, source), learner.pooled_states(two, source))
    assert not torch.allclose(learner.pooled_states(one, PooledStates()), learner.pooled_states(two, PooledStates()))
    unknown = [replace(row, example=None) for row in one]
    assert torch.equal(learner.pooled_states(unknown, source), learner.pooled_states(one, PooledStates()))
    short = Learner(tiny_host("llama"), seq_lora(), optim=Optim(max_source_length=20, max_target_length=8))
    long = replace(TASK.examples("test")[0], text="one two " * 20)
    assert len(short.host.family.bare(short.encode([long])[0], short.lengths).source) == 20


def test_the_only_token_is_not_dropped() -> None:
    host = tiny_host("gpt2")
    inputs = {"input_ids": torch.tensor([[5, 0], [5, 6]]), "attention_mask": torch.tensor([[1, 0], [1, 1]])}
    found = pooled_states(host, inputs, PooledStates(drop_first=True))
    both = pooled_states(host, inputs, PooledStates(pooling="first"))
    assert torch.equal(found[0], both[0])
    assert not torch.equal(found[1], both[1])


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_a_routing_may_ask_for_either_view(architecture: str) -> None:
    """In training and at test, and beside labels; the query is what a learner that learned nothing computes."""
    asked: list[tuple[Tensor, Tensor, tuple[str | None, ...]]] = []

    class Asking(Routing):
        def route(self, learner: LearnerView, reading: Reading) -> Route | None:
            source, prompt = reading.query(PooledStates(text="bare")), reading.query(PooledStates())
            asked.append((source, prompt, reading.inputs.texts))  # type: ignore[attr-defined]
            return None

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model)

    learner = Learner(tiny_host(architecture), inc_lora().with_routing(Asking()), optim=OPTIM, on_event=watch)
    learner.learn(TASK)
    learner.answer([TASK])
    bare = Learner(tiny_host(architecture), seq_lora(), optim=OPTIM)
    rows = {row.bare: row for split in ("train", "test") for row in bare.encode(TASK.examples(split))}
    for source, prompt, texts in asked:
        own = [rows[text] for text in texts]
        torch.testing.assert_close(source, bare.pooled_states(own, PooledStates(text="bare")), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(prompt, bare.pooled_states(own, PooledStates()), rtol=1e-5, atol=1e-5)
    assert len(asked) >= 4


@pytest.mark.parametrize("architecture", EVERY)
def test_a_stack_that_is_shortened_runs_no_block_above_and_is_whole_again(architecture: str) -> None:
    host = tiny_host(architecture)
    pristine, asked = list(host.model.state_dict()), []
    reader = reader_of(host.body)
    blocks = [module for name, module in reader.named_modules() if name.split(".")[-1].isdigit()]
    blocks = blocks[:: len(blocks) // 2]  # T5's hold a list of their own
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, number=number: asked.append(number))
    inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    pooled_states(host, inputs, PooledStates(1, final_norm=True))
    assert asked == [0]
    pooled_states(host, inputs, PooledStates(-1, final_norm=True))
    assert asked == [0, 0, 1]
    states = reader(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == 3, "transformers records every block afterwards"
    assert list(host.model.state_dict()) == pristine
    for layer in (0, 3, -3):
        with pytest.raises(RecipeError, match=f"layer: {layer} is not a block of this model, which has 2"):
            pooled_states(host, inputs, PooledStates(layer, final_norm=True))
    with pytest.raises(RecipeError, match="the word embeddings alone are no layer"):
        PooledStates("words", final_norm=True)
    assert list(host.model.state_dict()) == pristine
