"""Unlabeled text: what is hidden, what the loss is, that every method learns it and goes on exactly as it would."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.contract import HELD, VARIANTS, held_method, load, methods_first, refused, same_state, state_of
from helpers.texts import masked_model, masking_tokenizer, text_host, text_task, write_text
from helpers.tiny import tiny_host, tiny_task
from nacre.errors import DataError
from nacre.events import Event, RowsEncoded, StepTaken, Warned, ignore
from nacre.functional.token_masks import corrupted, hidden_positions
from nacre.learning.batches import Batches
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.models.chunks import chunked
from nacre.models.families import Lengths
from nacre.models.host import Host
from nacre.models.loading import load_host
from nacre.models.masked_text import TokenMasking
from nacre.records.reading import read_record
from nacre.registry import METHODS, build_method
from nacre.runs.plan import plan_of
from nacre.runs.recipe import Recipe
from nacre.runs.run import run
from nacre.tasks.reading.sources import load_tasks
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_source_length=16)
TASKS = [text_task(name) for name in ("farm", "fields", "ponds")]
MASKING = TokenMasking(mask=7, vocabulary=50, special=frozenset({0, 1, 2}))


# What is hidden


def test_a_share_of_the_tokens_is_hidden_and_filled_as_bert_says() -> None:
    """15 % are hidden; 80 % of those become the mask, 10 % another token, 10 % stay. Bounds of five deviations."""
    ids = tuple(10 + number % 30 for number in range(40_000))
    source, places = MASKING.draw(ids, seed=3)
    count = len(places)
    assert abs(count / len(ids) - 0.15) < 5 * math.sqrt(0.15 * 0.85 / len(ids))
    masks = sum(source[place] == 7 for place in places)
    kept = sum(source[place] == ids[place] for place in places)
    assert abs(masks / count - (0.8 + 0.1 / 50)) < 5 * math.sqrt(0.16 / count)
    assert abs(kept / count - (0.1 + 0.1 / 50)) < 5 * math.sqrt(0.09 / count)
    hidden = set(places)
    assert all(source[place] == ids[place] for place in range(len(ids)) if place not in hidden)
    others = [source[place] for place in places if source[place] not in (7, ids[place])]
    assert set(others) <= set(range(50))
    assert len(set(others)) > 40, "drawn from the whole vocabulary"


def test_special_tokens_are_never_hidden_and_every_text_hides_one_token_at_least() -> None:
    for seed in range(300):
        source, places = MASKING.draw((0, 11, 12, 1), seed)
        assert set(places) <= {1, 2}
        assert places
        assert source[0] == 0
        assert source[3] == 1
    assert MASKING.draw((0, 1, 2), 0) == ((0, 1, 2), ())


def test_places_and_fills_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        size = int(torch.randint(1, 9, (1,), generator=generator))
        maskable = torch.rand(size, generator=generator) < 0.7
        draws = torch.rand(size, generator=generator)
        expected = [i for i in range(size) if maskable[i] and draws[i] < 0.15]
        if not expected and maskable.any():
            expected = [min((i for i in range(size) if maskable[i]), key=lambda i: float(draws[i]))]
        places = hidden_positions(maskable, draws, 0.15)
        assert places.tolist() == expected
        ids = torch.randint(10, 20, (size,), generator=generator)
        fills, other = torch.rand(len(places), generator=generator), torch.full((len(places),), 30)
        filled = ids.tolist()
        for number, place in enumerate(expected):
            if fills[number] < 0.8:
                filled[place] = 7
            elif fills[number] < 0.9:
                filled[place] = 30
        assert corrupted(ids, places, fills, other, 7).tolist() == filled


def test_masks_are_a_function_of_seed_task_epoch_and_row() -> None:
    family = text_host().family
    rows = family.encode_all(TASKS[0].examples("train"), Lengths(16))

    def batches(seed: int = 1, where: str = "farm") -> Batches:
        return Batches(rows, seed, where, batch_size=4, epochs=2)

    one = batches()
    later = batches()
    assert later.at(one.steps_per_epoch + 1) == one.at(one.steps_per_epoch + 1), "whatever was asked before"
    assert one.at(0) == batches().at(0)
    drawn = {row.text.ids: row.text for step in range(one.steps_per_epoch) for row in one.at(step) if row.text}
    second = {
        row.text.ids: row.text for step in range(one.steps_per_epoch, one.steps) for row in one.at(step) if row.text
    }
    assert drawn.keys() == second.keys()
    changed = sum(drawn[ids].positions != second[ids].positions for ids in drawn)
    assert changed > len(drawn) / 2, "masking is dynamic"
    assert batches(seed=2).at(0) != one.at(0)
    assert batches(where="fields").at(0) != one.at(0)


def test_texts_are_joined_and_cut_as_in_the_released_code() -> None:
    texts = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10, 11]]
    assert list(chunked(texts, 4)) == [(1, 2, 3, 4), (5, 6, 7, 8)], "the rest is dropped"
    assert list(chunked(texts, 20)) == [tuple(range(1, 12))], "unless it is all there is"
    assert list(chunked([], 4)) == []
    many = [[number] for number in range(2_005)]
    assert list(chunked(many, 400)) == [tuple(range(first, first + 400)) for first in (0, 400, 1000, 1400)] + [
        tuple(range(2_000, 2_005))
    ], "a thousand texts are joined at a time"


# The loss


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("bare", [False, True])
def test_the_loss_is_the_one_of_transformers(architecture: str, bare: bool) -> None:
    """In float64, with padding: our sum over hidden tokens / their number, and the library with ``labels=``."""
    host = text_host(architecture, bare=bare, dtype=torch.float64)
    examples = TASKS[0].examples("train")
    rows = host.family.encode_all(examples[:2], Lengths(13)) + host.family.encode_all(examples[2:3], Lengths(40))
    assert len({len(row.source) for row in rows}) > 1
    batch = host.family.batch(rows)
    reference = masked_model(architecture, torch.float64)
    if bare:  # the head that nacre drew, put under the library's body
        head = host.family.head.mlm.body
        (name,) = [name for name, _ in reference.named_children() if name != reference.base_model_prefix]
        setattr(reference, name, head)
    labels = torch.full_like(batch["input_ids"], -100)
    for number, row in enumerate(rows):
        assert row.text is not None
        for place in row.text.positions:
            labels[number, place] = row.text.ids[place]
    expected = reference(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    count = sum(len(row.target) for row in rows)
    with torch.no_grad():
        ours = host.family.loss_sum(host.model, batch) / count
    assert abs(ours.item() - expected.item()) <= 1e-10


def test_the_output_layer_is_the_encoders_embedding_and_the_rest_of_the_head_is_learnt() -> None:
    learner = Learner(text_host(), build_method("inc_lora"), optim=OPTIM)
    learner.learn(TASKS[0])
    head = learner.host.family.head.mlm
    names = {name for name, _ in head.body.named_parameters()}
    assert "decoder.weight" in names
    assert set(learner.host.family.head.tensors()) == {f"tokens.{name}" for name in names if name != "decoder.weight"}
    assert head.body.decoder.weight is learner.host.body.embeddings.word_embeddings.weight
    pristine = masked_model().roberta.embeddings.word_embeddings.weight
    assert torch.equal(head.body.decoder.weight, pristine), "an adapter leaves the embeddings alone"
    full = Learner(text_host(), build_method("seq_ft"), optim=OPTIM)
    full.learn(TASKS[0])
    assert not torch.equal(full.host.body.embeddings.word_embeddings.weight, pristine), "full fine-tuning does not"


def test_a_head_that_is_drawn_is_always_the_same_one_and_says_so(tmp_path: Path) -> None:
    masked_model().base_model.save_pretrained(tmp_path)
    masking_tokenizer().save_pretrained(tmp_path)
    first, second = load_host(str(tmp_path)), load_host(str(tmp_path))
    assert not first.family.head.mlm.pretrained
    assert first.family.head.mlm.fingerprint == second.family.head.mlm.fingerprint
    masked_model().save_pretrained(tmp_path / "whole")
    masking_tokenizer().save_pretrained(tmp_path / "whole")
    whole = load_host(str(tmp_path / "whole"))
    assert whole.family.head.mlm.pretrained
    assert whole.family.head.mlm.fingerprint == text_host().family.head.mlm.fingerprint
    assert whole.fingerprint == first.fingerprint, "the head is no part of the encoder"


# Every method


@pytest.fixture(params=methods_first(HELD))
def method(request: pytest.FixtureRequest) -> Method:
    found = held_method(request.param)
    if refused(found, "roberta"):
        pytest.skip("the method needs a host that writes")
    if not found.traits["pre-training"]:
        pytest.skip("the method learns no unlabeled text, which it refuses")
    return found


def portions(method: Method, count: int = 3) -> list[tuple[Task, ...]]:
    found = [stage.tasks for stage in method.curriculum.stages(TASKS[:count])]
    return found if method.curriculum.continues else found[:1]


def test_every_method_goes_on_exactly_and_gives_the_host_back(method: Method, tmp_path: Path) -> None:
    host = text_host()
    pristine = {name: tensor.clone() for name, tensor in host.model.state_dict().items()}
    learner = Learner(host, method, seed=3, optim=OPTIM)
    before = learner.measure_text(TASKS[0])
    stages = portions(method)
    for tasks in stages[:2]:
        learner.learn(*tasks)
        assert not any(p.requires_grad for p in host.model.parameters())
    assert learner.measure_text(TASKS[0]) != before
    learner.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved", text_host(), method)
    assert loaded.measure_text(TASKS[0]) == learner.measure_text(TASKS[0])
    for tasks in stages[2:]:
        learner.learn(*tasks)
        loaded.learn(*tasks)
    assert same_state(loaded, learner)
    own, other = state_of(learner), state_of(loaded)
    assert own.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in own.items())
    learner.remove()
    assert list(host.model.state_dict()) == list(pristine)
    assert all(torch.equal(tensor, pristine[name]) for name, tensor in host.model.state_dict().items())


@pytest.mark.parametrize("name", [name for name in METHODS.names() if build_method(name).traits["pre-training"]])
def test_every_method_learns_text(name: str) -> None:
    method = build_method(*VARIANTS[name])
    learner = Learner(text_host(), method, optim=OPTIM.model_copy(update={"epochs": 6, "learning_rate": 2e-2}))
    before = learner.measure_text(TASKS[0])
    learner.learn(*portions(method, 1)[0])
    after = learner.measure_text(TASKS[0])
    assert after.perplexity < 0.5 * before.perplexity
    assert after.accuracy > before.accuracy


def test_the_head_learns_and_labels_come_after_text() -> None:
    """Text, then labels, then text: each head is trained on its own tasks and frozen on the other's."""
    learner = Learner(text_host(), build_method("inc_lora"), optim=OPTIM)

    def head(kind: str) -> dict[str, Tensor]:
        tensors = learner.host.family.head.tensors()
        return {
            name: tensor.clone() for name, tensor in tensors.items() if name.startswith("tokens.") == (kind == "text")
        }

    learner.learn(TASKS[0])
    text = head("text")
    learner.learn(tiny_task())
    assert all(torch.equal(tensor, text[name]) for name, tensor in head("text").items())
    labels = head("labels")
    assert labels["weight"].shape == (2, 16)
    learner.learn(TASKS[1])
    assert all(torch.equal(tensor, labels[name]) for name, tensor in head("labels").items())
    assert any(not torch.equal(tensor, text[name]) for name, tensor in head("text").items())
    assert set(learner.answer([tiny_task()])[0]) <= {"yes", "no"}


def test_replay_gives_back_texts() -> None:
    learner = Learner(text_host(), build_method("seq_lora+replay", {"replay": {"per_task": 3}}), optim=OPTIM)
    learner.learn(TASKS[0])
    kept = learner.state.parts["rehearsal"].kept[0]
    assert [texts[1] for texts in kept.examples] == [TASKS[0].train[row].text for row in kept.rows]
    seen: list[int] = []
    learner.on_event = lambda event: seen.append(event.rows) if isinstance(event, RowsEncoded) else None
    learner.learn(TASKS[1])
    words = masking_tokenizer()
    texts = [row.text for row in TASKS[1].train] + [texts[1] for texts in kept.examples]
    assert seen == [sum(len(words(text)["input_ids"]) for text in texts) // 16]


# Measuring


def test_a_score_is_what_a_loop_over_chunks_finds() -> None:
    host = text_host(dtype=torch.float64)
    learner = Learner(host, build_method("inc_lora"), optim=OPTIM)
    learner.learn(TASKS[0])
    found = learner.measure_text(TASKS[0])
    loss, right, count = 0.0, 0, 0
    for place, row in enumerate(host.family.encode_all(TASKS[0].examples("test"), Lengths(16))):
        shown = row.with_fresh_masks(0, "test", "farm", place)
        ids = torch.tensor([shown.source])
        with torch.no_grad():
            hidden = host.body(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
            probabilities = host.family.head.mlm(hidden).softmax(-1)
        for token, where in zip(shown.target, shown.text.positions, strict=True):
            loss -= math.log(probabilities[where, token])
            right += int(probabilities[where].argmax() == token)
            count += 1
    assert abs(found.perplexity - math.exp(loss / count)) <= 1e-10
    assert found.accuracy == right / count
    assert sum(found.tokens) == count
    assert sum(found.right) == right


def test_what_is_hidden_in_a_test_row_depends_on_the_task_alone() -> None:
    scores = {
        Learner(text_host(), build_method(name), seed=seed, optim=OPTIM).measure_text(TASKS[0])
        for name, seed in (("inc_lora", 0), ("seq_ft", 5))
    }
    assert len(scores) == 1


def test_a_decoder_learns_text_by_its_next_tokens() -> None:
    learner = Learner(text_host("llama"), build_method("inc_lora"), optim=OPTIM.model_copy(update={"epochs": 6}))
    before = learner.measure_text(TASKS[0])
    learner.learn(TASKS[0])
    found = learner.measure_text(TASKS[0])
    assert found.perplexity < 0.6 * before.perplexity
    double = Learner(text_host("llama", dtype=torch.float64), build_method("inc_lora"), optim=OPTIM)
    loss, count = 0.0, 0
    words = double.host.tokenizer
    ids = [token for row in TASKS[0].test for token in words(row.text)["input_ids"]]
    for start in range(0, len(ids) - 15, 16):
        chunk = torch.tensor([ids[start : start + 16]])
        with torch.no_grad():
            logs = double.host.model(input_ids=chunk).logits[0].log_softmax(-1)
        loss -= sum(float(logs[place, chunk[0, place + 1]]) for place in range(15))
        count += 15
    assert abs(double.measure_text(TASKS[0]).perplexity - math.exp(loss / count)) <= 1e-10


# Wrong use


def test_text_and_labels_do_not_share_a_step() -> None:
    learner = Learner(text_host(), build_method("joint"), optim=OPTIM)
    with pytest.raises(DataError, match="one after the other"):
        learner.learn(TASKS[0], tiny_task())


def test_a_task_of_text_has_neither_labels_nor_targets() -> None:
    rows = (Row("a dog", ""),)
    with pytest.raises(DataError, match="row has 'yes'"):
        Task("t", (Row("a dog", "yes"),), rows, rows, Template(), kind="text").check()
    with pytest.raises(DataError, match="unlabeled text but has labels"):
        Task("t", rows, rows, rows, Template(), labels=("yes",), kind="text").check()
    with pytest.raises(DataError, match="target is empty"):
        Task("t", rows, rows, rows, Template()).check()


def test_who_cannot_learn_text_says_so() -> None:
    with pytest.raises(DataError, match="no mask token"):
        Learner(tiny_host("roberta"), build_method("inc_lora"), optim=OPTIM).learn(TASKS[0])
    with pytest.raises(DataError, match="encoder-decoder host"):
        Learner(tiny_host("t5"), build_method("inc_lora"), optim=OPTIM).learn(TASKS[0])
    learner = Learner(text_host(), build_method("inc_lora"), optim=OPTIM)
    with pytest.raises(DataError, match="no answers"):
        learner.evaluate(TASKS[:1])
    with pytest.raises(DataError, match="evaluate"):
        learner.measure_text(tiny_task())


def test_rows_of_text_are_read_and_wrong_ones_are_named(tmp_path: Path) -> None:
    write_text(tmp_path, "farm")
    (task,) = load_tasks(["farm"], tmp_path)
    assert task.kind == "text"
    assert task.labels is None
    assert [row.text for row in task.train] == [row.text for row in TASKS[0].train]
    assert task.examples("test")[0].input == task.test[0].text
    file = tmp_path / "farm" / "train.jsonl"
    for line, message in (
        ({"words": "a"}, "line 2: there is no field 'text'"),
        ({"text": " "}, "line 2: field 'text' is empty"),
        ({"text": 3}, "line 2: field 'text' must be"),
    ):
        file.write_text(json.dumps({"text": "a dog"}) + "\n" + json.dumps(line) + "\n")
        with pytest.raises(DataError, match=message):
            load_tasks(["farm"], tmp_path)


# A run


def recipe_of(tmp_path: Path, output: str, **more: object) -> Recipe:
    if not (tmp_path / "data").exists():
        for task in TASKS[:2]:
            write_text(tmp_path / "data", task.name)
        masked_model().base_model.save_pretrained(tmp_path / "model")
        masking_tokenizer().save_pretrained(tmp_path / "model")
    return Recipe.model_validate(
        {
            "method": "seq_ft+migu",
            "stream": ["farm", "fields"],
            "data": str(tmp_path / "data"),
            "model": str(tmp_path / "model"),
            "output": str(tmp_path / output),
            "optim": OPTIM.model_dump(),
            **more,
        }
    )


def test_a_run_on_text_fills_the_matrix_with_token_accuracy_and_perplexity(tmp_path: Path) -> None:
    told: list[str] = []
    record = run(
        recipe_of(tmp_path, "run"), lambda event: told.append(event.text) if isinstance(event, Warned) else None
    )
    assert record.metric == "token_accuracy"
    assert record.perplexity is not None
    assert all(value is not None and value > 1 for row in record.perplexity for value in row)
    assert all(value is not None and 0 <= value <= 1 for row in record.matrix for value in row)
    assert record.valid_answers[1] == [None, None]
    assert record.protocol["text"]["predicted"] == "0.15 of the tokens, hidden"
    assert len(told) == 1
    assert "head" in told[0]
    assert read_record(tmp_path / "run" / "results.json") == record
    again = run(recipe_of(tmp_path, "again"), ignore)
    assert (again.matrix, again.perplexity) == (record.matrix, record.perplexity)


def test_an_interrupted_run_on_text_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = run(recipe_of(tmp_path, "whole"), ignore)

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, StepTaken) and event.step == 3 and (tmp_path / "cut" / "tasks" / "01-farm").exists():
            raise Stop

    with pytest.raises(Stop):
        run(recipe_of(tmp_path, "cut"), stop)
    record = run(recipe_of(tmp_path, "cut"), ignore)
    assert (record.matrix, record.perplexity) == (whole.matrix, whole.perplexity)
    for name in ("adapter", "head", "state"):
        file = Path("tasks") / "02-fields" / f"{name}.safetensors"
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_plan_leaves_the_steps_of_text_open(tmp_path: Path) -> None:
    plan = plan_of(recipe_of(tmp_path, "planned"))
    assert [stage.steps for stage in plan.stages] == [None, None]
    assert [stage.rows for stage in plan.stages] == [24, 24]


@pytest.mark.parametrize("bare", [False, True])
def test_removing_gives_the_masked_lm_head_back_as_it_came(bare: bool) -> None:
    """Its bits, what of it the user had frozen, and none at all where none came."""
    model = masked_model()
    model.lm_head.dense.weight.requires_grad_(False)
    host = Host(model.base_model if bare else model, masking_tokenizer())
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in host.model.named_parameters()}
    learner = Learner(host, build_method("inc_lora"), optim=OPTIM)
    learner.learn(TASKS[0])
    learner.remove()
    after = dict(host.model.named_parameters())
    assert after.keys() == before.keys()
    heads = [name for name in after if not name.startswith("encoder.")]
    assert all(torch.equal(after[name], before[name][0]) for name in heads)
    assert all(after[name].requires_grad == before[name][1] for name in heads)
    Learner(host, build_method("inc_lora"), optim=OPTIM).learn(TASKS[0])
