"""Soft prompts: what the host reads is what hand-made embeddings would be, in training, free answers and label scores
alike; earlier prompts stay as they are, and so do the answers that are given with them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.proofs import epi_like, progressive_prompts
from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.merged import merged_copy
from nacre.adapters.prompt import PlacedPrompt, Prompt, PromptPosition
from nacre.adapters.route import Route
from nacre.errors import CheckpointError, DataError, ModelError, RecipeError
from nacre.evaluation.decoding import Decoding
from nacre.functional.losses import IGNORED, token_loss_sum
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.measuring.probes.base_ability import BaseAbility
from nacre.measuring.probes.end_tasks import FineTuning
from nacre.method import Method
from nacre.models.families import Encoded
from nacre.models.loading import load_host
from nacre.models.pooled_states import PooledStates
from nacre.models.prefix import with_tokens_behind

OPTIM = Optim(batch_size=4, learning_rate=0.3, log_every=1, max_target_length=8)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]
TOKENS = 3


def shared(tokens: int = TOKENS, placeholders: int | None = None, position: PromptPosition = "before") -> Method:
    adapter = Prompt(tokens=tokens, placeholders=placeholders, position=position)
    return Method(title="Prompt tuning", sources=(), adapter=adapter)


@torch.enable_grad()
def learned(method: Method, architecture: str, count: int = 3) -> Learner:
    learner = Learner(tiny_host(architecture), method, seed=5, optim=OPTIM)
    for task in TASKS[:count]:
        learner.learn(task)
    return learner


def table(learner: Learner) -> Tensor:
    """[t, l, d]."""
    (tensor,) = learner.adapter.tensors().values()
    return tensor


@pytest.fixture(params=["t5", "bart", "llama", "gpt2", "roberta", "bert"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def by_hand(learner: Learner, rows: list[Encoded], prompt: Tensor) -> Tensor:
    """Logits of the positions that are to be written, each row alone, its embeddings put together by hand in a bare
    host: [n, V]; of an encoder-only host the classes' [n, C]."""
    family, found = learner.host.family, []
    bare = tiny_host(str(learner.host.name).removeprefix("tiny-"))
    words = (bare.body.get_encoder() if family.name == "encoder-decoder" else bare.body).get_input_embeddings()
    for row in rows:
        own = words(torch.tensor(row.source))
        if family.name == "encoder-decoder":
            parts = (own, prompt) if learner.method.adapter.virtual_tokens_behind else (prompt, own)
            embedded = torch.cat(parts)[None]
            target = torch.tensor([row.target])
            shifted = bare.body.prepare_decoder_input_ids_from_labels(labels=target)
            found.append(bare.body(inputs_embeds=embedded, decoder_input_ids=shifted).logits[0])
        elif family.name == "decoder-only":
            embedded = torch.cat([prompt, own, words(torch.tensor(row.target))])[None]
            found.append(bare.body(inputs_embeds=embedded).logits[0, -len(row.target) - 1 : -1])
        else:
            embedded = torch.cat([own[:1], prompt, own[1:]])[None]
            state = bare.body(inputs_embeds=embedded).last_hidden_state[:, 0]
            found.append(learner.host.model.head(state))
    return torch.cat(found)


@torch.no_grad()
def test_predictions_are_those_of_hand_made_embeddings(architecture: str) -> None:
    """For each task, with as many prompts as were there when it was learned, newest first."""
    learner = learned(progressive_prompts(), architecture)
    for number, task in enumerate(TASKS):
        rows = learner.encode(task.examples("test"))
        assert all(max(row.source) < len(learner.host.tokenizer) for row in rows), "rows hold words only"
        prompt = table(learner)[: number + 1].flip(0).flatten(0, 1)
        logits, labels = learner.predictions(rows)
        if learner.host.family.is_generative:
            logits = logits[labels != IGNORED]
        torch.testing.assert_close(logits, by_hand(learner, rows, prompt), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_a_prompt_behind_the_input_is_read_there(architecture: str) -> None:
    """Rows of unlike length share a batch: behind each stands the prompt, and then padding."""
    learner = learned(shared(position="after"), architecture)
    rows = learner.encode(TASKS[0].examples("test"))
    assert len({len(row.source) for row in rows}) > 1
    logits, labels = learner.predictions(rows)
    found = logits[labels != IGNORED]
    torch.testing.assert_close(found, by_hand(learner, rows, table(learner)[0]), atol=1e-5, rtol=1e-5)
    first = learner.host.family.prefix_of("")
    for ids, mask, row in zip(*learner.host.family.prompts(rows).values(), rows, strict=True):
        assert ids[mask.bool()].tolist() == [*row.source, *first]
    before = learned(shared(), architecture)
    before.adapter.load(learner.adapter.tensors(), {"slots": 3})
    logits, labels = before.predictions(rows)
    assert not torch.allclose(logits[labels != IGNORED], found, atol=1e-4), "the side is a part of the method"
    check_answers(learner, table(learner)[0])


@pytest.mark.parametrize("architecture", ["llama", "roberta"])
def test_a_prompt_behind_the_input_needs_an_encoder_decoder(architecture: str) -> None:
    with pytest.raises(ModelError, match="position=after: only an encoder-decoder model reads a prompt behind"):
        Learner(tiny_host(architecture), shared(position="after"))


def test_prompts_stand_behind_rows_padded_on_either_side() -> None:
    ids = torch.tensor([[7, 8, 0, 0], [0, 4, 5, 6]])
    tokens = torch.tensor([[90, 91], [90, 91]])
    found, mask = with_tokens_behind(ids, (ids > 0).long(), tokens)
    assert found[mask.bool()].tolist() == [7, 8, 90, 91, 4, 5, 6, 90, 91]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]


@torch.no_grad()
def test_free_answers_and_label_scores_read_the_prompts(architecture: str) -> None:
    learner = learned(progressive_prompts(), architecture)
    check_answers(learner, table(learner)[:2].flip(0).flatten(0, 1))


def check_answers(learner: Learner, prompt: Tensor) -> None:
    """Free answers to the second task and its label scores, against hand-made embeddings."""
    host, task = learner.host, TASKS[1]
    assert task.labels is not None
    examples = task.examples("test")

    def scores(label: str) -> Tensor:
        rows = learner.encode([replace(example, target=label) for example in examples])
        logits = by_hand(learner, rows, prompt)
        if not host.family.is_generative:
            return logits[:, rows[0].target[0]]
        targets = torch.tensor([token for row in rows for token in row.target])
        each = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        return torch.stack([part.sum() for part in each.split([len(row.target) for row in rows])])

    best = torch.stack([scores(label) for label in task.labels], 1).argmax(1).tolist()
    rows = learner.encode(examples)
    label_set = host.family.label_set(examples[0], task.labels, learner.lengths)
    assert host.classify(rows, label_set) == best
    if host.family.is_generative:  # the first word that is written, against hand-made embeddings
        first = by_hand(learner, [replace(row, target=row.target[:1]) for row in rows], prompt).argmax(-1)
        assert host.write(rows, 1) == [host.family.text([token]) for token in first.tolist()]


def test_old_answers_stay_bit_for_bit(architecture: str) -> None:
    """Later tasks change neither earlier prompts nor, given the task, a single bit of what is computed with them."""
    learner = learned(progressive_prompts(), architecture, 1)
    rows = learner.encode(TASKS[0].examples("test"))
    with torch.no_grad():
        before = learner.predictions(rows)[0]
    for number, task in enumerate(TASKS[1:], start=1):
        earlier = table(learner).clone()
        learner.learn(task)
        assert torch.equal(table(learner)[:number], earlier)
        with torch.no_grad():
            after = learner.predictions(rows)[0]
        if architecture in ("roberta", "bert"):
            assert before.shape == after.shape  # its one head goes on learning
        else:
            assert torch.equal(after, before)


def test_a_task_that_was_learned_again_is_read_with_its_last_prompts(architecture: str) -> None:
    learner = learned(progressive_prompts(), architecture, 2)
    learner.learn(TASKS[0], again=True)
    first = tiny_host(architecture).body.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    rows = [first + slot * TOKENS + row for slot in (2, 1, 0) for row in range(TOKENS)]
    assert learner.host.family.prefix_of(TASKS[0].name) == tuple(rows)
    assert learner.host.family.prefix_of(TASKS[1].name) == tuple(rows[TOKENS:])


@torch.no_grad()
def test_a_batch_may_hold_rows_of_several_tasks(architecture: str) -> None:
    learner = learned(progressive_prompts(), architecture)
    rows = [learner.encode(task.examples("test"))[0] for task in TASKS]
    together = learner.predictions(rows)
    alone = [learner.predictions([row]) for row in rows]
    if learner.host.family.is_generative:
        together = [together[0][together[1] != IGNORED]]  # type: ignore[assignment]
        alone = [[logits[labels != IGNORED]] for logits, labels in alone]  # type: ignore[misc]
    torch.testing.assert_close(together[0], torch.cat([each[0] for each in alone]), atol=1e-5, rtol=1e-5)


def test_the_order_of_prompts_matters_to_t5() -> None:
    learner = learned(progressive_prompts(), "t5", 2)
    adapter, rows = learner.adapter, learner.encode(TASKS[1].examples("test"))
    assert isinstance(adapter, PlacedPrompt)
    with torch.no_grad():
        before, _ = learner.predictions(rows)
        swapped = adapter.prompts.table().flip(0)
        adapter.load({f"{adapter.place}.prompts": swapped}, {"slots": 2})
        after, _ = learner.predictions(rows)
    assert not torch.equal(before, after)


def test_the_first_task_of_progressive_prompts_is_prompt_tuning(architecture: str) -> None:
    one, other = learned(progressive_prompts(), architecture, 1), learned(shared(), architecture, 1)
    assert torch.equal(table(one), table(other))
    assert one.answer([TASKS[0]]) == other.answer([TASKS[0]])


def test_it_starts_from_words_of_the_vocabulary() -> None:
    seen = []
    learner = Learner(tiny_host("llama"), shared(), seed=5, optim=OPTIM.model_copy(update={"learning_rate": 1e-30}))
    learner.learn(TASKS[0])
    words = tiny_host("llama").body.get_input_embeddings().weight  # type: ignore[operator]
    for row in table(learner)[0]:
        seen += [number for number, word in enumerate(words) if torch.equal(word, row)]
    assert len(seen) == TOKENS


def test_the_bare_host_and_its_states_know_no_prompt(architecture: str) -> None:
    learner = learned(progressive_prompts(), architecture)
    bare = Learner(tiny_host(architecture), shared(), optim=OPTIM)
    rows = learner.encode(TASKS[0].examples("test"))
    for pooling in ("mean", "first", "last"):
        states = PooledStates(pooling=pooling)  # type: ignore[arg-type]
        assert torch.equal(learner.pooled_states(rows, states), bare.pooled_states(rows, states))
    with torch.no_grad(), learner.bypassed():
        prompts = learner.host.family.prompts(rows)
        assert int(prompts["input_ids"].max()) < len(learner.host.tokenizer)


def test_the_task_must_be_given(architecture: str) -> None:
    learner = learned(progressive_prompts(), architecture, 2)
    assert learner.traits["task identity at test"]
    assert learner.traits["grows with tasks"]
    with pytest.raises(DataError, match=r"Progressive Prompts must be given the task of every input, and none was"):
        learner.predict(["Is it an animal ?"])
    asked = [example.input for example in TASKS[0].examples("test")]
    assert len(learner.predict(asked, task="animals")) == len(asked)
    one_for_all = learned(shared(), architecture, 2)
    assert not one_for_all.traits["task identity at test"]
    assert len(one_for_all.predict(asked)) == len(asked)


@torch.no_grad()
def test_a_route_chooses_prompts_row_by_row(architecture: str) -> None:
    """Of a shared table of six, each row has its own two, in its own order; label scores read a row several times."""
    learner = learned(shared(tokens=6, placeholders=2), architecture, 1)
    rows = learner.encode(TASKS[0].examples("test"))[:3]
    chosen = torch.tensor([[4, 1], [0, 5], [5, 0]])
    with learner.under(Route(prompts=chosen)):
        logits, labels = learner.predictions(rows)
        label_set = learner.host.family.label_set(TASKS[0].examples("test")[0], ["yes", "no"], learner.lengths)
        classes = learner.host.classify(rows, label_set)
    if learner.host.family.is_generative:
        logits = logits[labels != IGNORED]
    expected = torch.cat(
        [by_hand(learner, [row], table(learner)[0, own]) for row, own in zip(rows, chosen, strict=True)]
    )
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for row, own, best in zip(rows, chosen, classes, strict=True):
        with learner.under(Route(prompts=own[None])):
            assert learner.host.classify([row], label_set) == [best]


def test_only_chosen_prompts_get_gradients() -> None:
    learner = learned(shared(tokens=6, placeholders=2), "t5", 1)
    rows = learner.encode(TASKS[0].examples("test"))[:2]
    (group,) = learner.adapter.parameter_groups()
    (prompts,) = group.parameters
    prompts.requires_grad_(True)
    with learner.under(Route(prompts=torch.tensor([[4, 1], [1, 4]]))):
        token_loss_sum(*learner.predictions(rows)).backward()  # type: ignore[no-untyped-call]
    assert prompts.grad is not None
    assert [bool(row.abs().sum() > 0) for row in prompts.grad] == [False, True, False, False, True, False]


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (Route(weights=torch.ones(2, 1)), "there are no weights for them"),
        (Route(prompts=torch.zeros(2, 3, dtype=torch.long)), r"A route chooses 2 prompts for each row"),
        (Route(prompts=torch.zeros(2, 2)), r"given were \[2, 2\] of torch.float32"),
    ],
)
def test_routes_that_cannot_be_followed_are_refused(route: Route, message: str) -> None:
    learner = learned(shared(tokens=6, placeholders=2), "t5", 1)
    with pytest.raises(ModelError, match=message), learner.under(route):
        pass


def test_a_route_over_prompts_of_tasks_is_refused() -> None:
    route = Route(prompts=torch.zeros(2, TOKENS, dtype=torch.long))
    learner = learned(progressive_prompts(), "t5", 1)
    with pytest.raises(ModelError, match="The task says which prompts stand in front"), learner.under(route):
        pass
    fresh = Learner(tiny_host("t5"), shared(), optim=OPTIM)
    with pytest.raises(ModelError, match="no slot has been opened yet"), fresh.under(route):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 2**62}, "tokens: 4611686018427387904 is above 65,536"),
        ({"tokens": 0}, "tokens: 0 is not a positive number"),
        ({"concatenate": True}, "all tasks share one prompt here"),
        ({"placeholders": 11}, "placeholders: 11 is not a number of a shared prompt's 10 tokens"),
        ({"placeholders": 2, "slots": "per_task"}, "placeholders: 2 is not a number of a shared prompt's"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Prompt(**{"tokens": 10, **settings})  # type: ignore[arg-type]


def test_prompts_without_room_are_refused() -> None:
    """Positions are for prompts, text and target; 64 of them, of which the target takes 8."""
    method = Method(title="Long prompts", sources=(), adapter=Prompt(tokens=60))
    learner = Learner(tiny_host("llama"), method, optim=OPTIM)
    with pytest.raises(DataError, match=r"The 60 prompt tokens in front of an input of task 'animals' leave no room"):
        learner.learn(TASKS[0])


def test_text_gives_way_to_prompts_only_where_positions_end() -> None:
    """All methods read the same text, unless the host cannot hold it: T5 can."""
    long = replace(TASKS[0], train=tuple(replace(row, text="the dog " * 40) for row in TASKS[0].train))
    optim = OPTIM.model_copy(update={"max_source_length": 40})
    sizes = {}
    for architecture in ("t5", "llama"):
        learner = Learner(tiny_host(architecture), shared(tokens=30), optim=optim)
        learner.learn(long)
        rows = learner.encode(long.examples("train"))
        sizes[architecture] = max(len(row.source) for row in rows)
        assert learner.host.family.batch(rows)["input_ids"].shape[1] <= 80
    assert sizes == {"t5": 40, "llama": 64 - 8 - 30}


def test_tensors_that_do_not_fit_are_refused() -> None:
    learner = learned(progressive_prompts(), "t5", 2)
    tensors, values = learner.adapter.tensors(), learner.adapter.values()
    ((name, tensor),) = tensors.items()
    for wrong in ({}, {name: tensor[:1]}, {name: tensor[:, :2]}, {name: tensor, "more": tensor}):
        with pytest.raises(CheckpointError, match=r"prompts' is .*float32 \[2, 3, 16\] is needed|'more' has no place"):
            learner.adapter.load(wrong, values)


def test_only_the_encoder_of_t5_reads_prompts() -> None:
    """Its decoder shares the embedding, and its output layer the weight."""
    host = tiny_host("t5")
    shared_weight = host.body.get_input_embeddings().weight  # type: ignore[operator]
    learner = Learner(host, shared(), optim=OPTIM)
    assert isinstance(learner.adapter, PlacedPrompt)
    assert learner.adapter.place == "encoder.embed_tokens"
    assert host.body.decoder.embed_tokens is not learner.adapter.prompts  # type: ignore[union-attr]
    assert learner.adapter.prompts.weight is shared_weight


def test_copies_and_benchmarks_that_would_lose_the_prompt_are_refused() -> None:
    with pytest.raises(ModelError, match="A soft prompt cannot be merged"):
        merged_copy(learned(shared(), "roberta", 1).host.body)
    for method in (shared(), epi_like()):
        with pytest.raises(RecipeError, match="has learned is no part of the encoder's weights"):
            FineTuning(after="last").check(method)
    with pytest.raises(RecipeError, match="base_ability: Progressive Prompts must be given the task of every input"):
        BaseAbility().check(progressive_prompts())


def test_decode_labels_gives_labels(architecture: str) -> None:
    learner = Learner(
        tiny_host(architecture), progressive_prompts(), optim=OPTIM, decoding=Decoding(decode="labels", batch_size=4)
    )
    learner.learn(TASKS[0])
    learner.learn(TASKS[1])
    assert {answer for answers in learner.answer(TASKS[:2]) for answer in answers} <= {"yes", "no"}


@pytest.mark.skipif("NACRE_MODELS" not in os.environ, reason="needs real models: set NACRE_MODELS to their folder")
@pytest.mark.parametrize(("model", "rate"), [("minilm-l6", 0.05), ("minilm-b2b", 0.3), ("stories260k", 0.3)])
def test_a_prompt_teaches_a_real_model(model: str, rate: float) -> None:
    """Only the prompt is trained (and a classifier's head), and the loss on what was learned falls by half."""
    host = load_host(str(Path(os.environ["NACRE_MODELS"]) / model))
    losses = []
    optim = Optim(batch_size=12, learning_rate=rate, log_every=1, epochs=40, max_target_length=8)
    learner = Learner(host, shared(tokens=10), optim=optim, on_event=lambda event: losses.append(event))
    learner.learn(TASKS[0])
    steps = [event.loss for event in losses if hasattr(event, "loss")]
    assert steps[-1] < 0.5 * steps[0]
