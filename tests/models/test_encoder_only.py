"""Encoder-only hosts: one row a class, rows that grow with the tasks' labels, and answers that are labels."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel, RobertaConfig, RobertaForCausalLM

from helpers.tiny import FAMILIES, outputs, perturb, tiny_host, tiny_task, tokenizer, write_task
from nacre.errors import DataError, ModelError
from nacre.evaluation.decoding import Decoding, token_budget
from nacre.events import Event, RowMeasured, StepTaken, TrainingPrepared, ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.classifier import Classifier
from nacre.models.families import Encoded, Lengths
from nacre.models.growing_head import GrowingHead
from nacre.models.host import Host
from nacre.models.loading import load_host
from nacre.registry import build_method
from nacre.runs.recipe import Recipe
from nacre.runs.run import run
from nacre.tasks.task import Row, Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1)
FIRST = tiny_task("animals", labels=("yes", "no"))
SECOND = tiny_task("fish", labels=("maybe", "no"))  # shares "no"


def learner_of(method: str = "inc_lora", architecture: str = "roberta", **optim: object) -> Learner:
    return Learner(tiny_host(architecture), build_method(method), seed=4, optim=OPTIM.model_copy(update=optim))


def head_of(learner: Learner) -> GrowingHead:
    head = learner.host.model.head
    assert isinstance(head, GrowingHead)
    return head


# Classes and rows


def test_classes_grow_with_the_labels_and_shared_labels_share_their_row() -> None:
    learner = learner_of()
    assert head_of(learner).classes == []
    learner.learn(FIRST)
    assert head_of(learner).classes == ["yes", "no"]
    learner.learn(SECOND)
    assert head_of(learner).classes == ["yes", "no", "maybe"]
    assert head_of(learner).newest.tolist() == [2, 1]  # in the order of the task's own labels
    assert head_of(learner).weight.shape == (3, 16)
    encode = learner.host.family.encode_target
    assert [encode(row, Lengths())[0] for row in SECOND.examples("test")[:2]] == [2, 1]


def test_rows_of_other_classes_stay_as_they_are_and_those_of_the_task_move() -> None:
    learner = learner_of(weight_decay=0.1)
    learner.learn(FIRST)
    before = {name: tensor.clone() for name, tensor in head_of(learner).tensors().items()}
    learner.learn(SECOND)
    after = head_of(learner).tensors()
    for name in ("weight", "bias"):
        assert torch.equal(after[name][0], before[name][0]), "'yes' is none of the second task's labels"
        assert not torch.equal(after[name][1], before[name][1]), "'no' is trained on"


def test_frozen_rows_compete() -> None:
    """Their logits stand in the softmax: what the loss would be without them is another number."""
    learner = learner_of()
    learner.learn(FIRST)
    learner.learn(tiny_task("plants", labels=("maybe",)))  # alone, a single class would have no loss at all
    family = learner.host.family
    batch = family.batch(learner.encode(tiny_task("plants", labels=("maybe",)).examples("train")))
    with torch.no_grad():
        assert learner.host.model(batch["input_ids"], batch["attention_mask"]).logits.shape == (12, 3)
        assert family.loss_sum(learner.host.model, batch) > 1e-3


def test_only_the_tasks_rows_are_trainable() -> None:
    learner = learner_of()
    learner.learn(FIRST)
    groups: list[tuple[str, int]] = []
    learner.on_event = lambda event: groups.extend(event.groups) if isinstance(event, TrainingPrepared) else None
    learner.learn(tiny_task("plants", labels=("maybe", "yes", "no")))
    assert dict(groups)["head"] == 3 * (16 + 1)
    groups.clear()
    learner.learn(tiny_task("worms", labels=("maybe",)))
    assert dict(groups)["head"] == 16 + 1
    assert learner.stored_parameters() == learner.adapter.stored_parameters() + 3 * (16 + 1)


def test_a_new_row_depends_on_seed_and_label_only() -> None:
    one, two, other = (GrowingHead(8, torch.zeros(())) for _ in range(3))
    one.grow(["yes", "no"], seed=1)
    two.grow(["maybe"], seed=1)
    two.grow(["no", "no"], seed=1)
    other.grow(["no"], seed=2)
    assert torch.equal(one.weight[1], two.weight[1])
    assert two.classes == ["maybe", "no"]
    assert not torch.equal(one.weight[0], one.weight[1])
    assert not torch.equal(one.weight[1], other.weight[0])
    assert one.weight.abs().max() <= 8**-0.5
    assert one.weight.abs().max() > 0.5 * 8**-0.5
    assert torch.equal(one.bias, torch.zeros(2))


def test_a_shared_row_goes_on_from_where_it_was() -> None:
    head = GrowingHead(3, torch.zeros(()))
    head.grow(["yes", "no"], seed=0)
    with torch.no_grad():
        head.trained_weight.fill_(2.0)
        head.trained_bias.fill_(5.0)
    head.grow(["maybe", "no"], seed=0)
    assert torch.equal(head.weight[:2], torch.full((2, 3), 2.0))
    assert torch.equal(head.trained_weight[1], torch.full((3,), 2.0))
    assert head.bias.tolist() == [5.0, 5.0, 0.0]


def test_the_head_is_at_least_as_exact_as_float32() -> None:
    host = tiny_host("roberta", torch.bfloat16)
    learner = Learner(host, build_method("inc_lora"), optim=OPTIM)
    learner.learn(FIRST)
    assert {tensor.dtype for tensor in host.family.head.tensors().values()} == {torch.float32}
    assert tiny_host("roberta", torch.float64).model.head.weight.dtype == torch.float64


def test_mixed_precision_learns_and_leaves_the_forward_as_it_was() -> None:
    learner = learner_of(mixed_precision="bf16")
    AcceleratorState._reset_state()  # accelerate keeps one precision for a whole process
    try:
        learner.learn(FIRST)
    finally:
        AcceleratorState._reset_state()
    assert learner.host.model.forward.__func__ is Classifier.forward
    assert all(learner.answer([FIRST])[0])


# Loss and answers


@pytest.mark.parametrize("architecture", FAMILIES["encoder-only"])
def test_the_loss_and_its_gradients_against_plain_cross_entropy(architecture: str) -> None:
    """In float64, from the encoder's own hidden states, row by row; shares no code with the family."""
    host = tiny_host(architecture, torch.float64)
    family, head = host.family, host.model.head
    head.grow(["yes", "no", "maybe"], seed=1)
    head.grow(["no", "maybe"], seed=1)
    rows = [family.encode(example, Lengths()) for task in (FIRST, SECOND) for example in task.examples("train")]
    weight = head.weight.detach().clone().requires_grad_()
    bias = head.bias.detach().clone().requires_grad_()
    names = {"yes": 0, "no": 1, "maybe": 2}
    answers = [names[row.target] for task in (FIRST, SECOND) for row in task.train]
    expected = torch.zeros((), dtype=torch.float64)
    for row, answer in zip(rows, answers, strict=True):
        state = host.body(input_ids=torch.tensor([row.source])).last_hidden_state[0, 0].detach()
        scores = [weight[number] @ state + bias[number] for number in range(3)]
        expected = expected - scores[answer] + torch.log(sum(torch.exp(score) for score in scores))
    expected.backward()
    found = family.loss_sum(host.model, family.batch(rows))
    found.backward()
    assert math.isclose(found.item(), expected.item(), rel_tol=1e-10)
    assert head.newest.tolist() == [1, 2]
    for gradient, naive in ((head.trained_weight.grad, weight.grad), (head.trained_bias.grad, bias.grad)):
        assert gradient is not None
        assert naive is not None
        assert (gradient - naive[1:]).norm() <= 1e-10 * naive[1:].norm()


@pytest.mark.parametrize("architecture", FAMILIES["encoder-only"])
def test_padding_does_not_change_the_loss(architecture: str) -> None:
    host = tiny_host(architecture, torch.float64)
    host.model.head.grow(["yes", "no"], seed=0)
    short, long = Encoded((3, 6, 7, 1), (0,), False), Encoded((3, 6, 7, 8, 9, 10, 11, 1), (1,), False)
    with torch.no_grad():
        together = host.family.loss_sum(host.model, host.family.batch([short, long])).item()
        apart = sum(host.family.loss_sum(host.model, host.family.batch([row])).item() for row in (short, long))
    assert math.isclose(together, apart, rel_tol=1e-10)


def test_a_step_divides_by_the_number_of_rows() -> None:
    """One class a row counts as one target token, so that the step's loss is the mean over its rows."""
    losses: list[float] = []
    learner = learner_of(batch_size=12)

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            with torch.no_grad():
                batch = learner.host.family.batch(learner.encode(FIRST.examples("train")))
                losses.append(learner.host.family.loss_sum(learner.host.model, batch).item() / 12)
        if isinstance(event, StepTaken):
            losses.append(event.loss)

    learner.on_event = watch
    learner.learn(FIRST)
    assert math.isclose(losses[0], losses[1], rel_tol=1e-5)


@pytest.mark.parametrize("method", ["seq_ft", "am_lora"])
def test_accumulation_does_not_change_the_gradients(method: str) -> None:
    """Micro-batches of three and one of twelve, in float64; the rows of the head included."""

    def gradients(accumulation: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def watch(event: Event) -> None:
            if isinstance(event, TrainingPrepared):
                perturb(learner.host.model, size=0.01)
            if isinstance(event, StepTaken):
                for group in learner.trainable():
                    found.update({f"{group.name} {i}": p.grad.clone() for i, p in enumerate(group.parameters)})

        parameters = {} if method == "seq_ft" else {"dropout": 0.0}
        optim = Optim(batch_size=12, accumulation=accumulation, max_grad_norm=None, log_every=1)
        host = tiny_host("roberta", torch.float64)
        learner = Learner(host, build_method(method, parameters), optim=optim, on_event=watch)
        learner.learn(FIRST)
        return found

    whole, parts = gradients(1), gradients(4)
    assert whole["head 0"].norm() > 0
    norm = torch.stack([tensor.norm() for tensor in whole.values()]).norm()
    difference = torch.stack([(tensor - parts[name]).norm() for name, tensor in whole.items()]).norm()
    assert difference <= 1e-12 * norm


def test_the_answer_is_the_most_likely_class_of_all() -> None:
    learner = learner_of()
    learner.learn(FIRST)
    learner.learn(SECOND)
    examples = [*FIRST.examples("test"), *SECOND.examples("test")]
    expected = []
    for row in learner.encode(examples):
        state = learner.host.body(input_ids=torch.tensor([row.source])).last_hidden_state[0, 0]
        scores = head_of(learner).weight @ state + head_of(learner).bias
        expected.append(["yes", "no", "maybe"][max(range(3), key=lambda number: scores[number].item())])
    assert [answer for answers in learner.answer([FIRST, SECOND]) for answer in answers] == expected
    assert learner.predict([example.input for example in examples]) == expected


def test_a_host_that_has_seen_no_class_answers_nothing() -> None:
    learner = learner_of()
    assert learner.answer([FIRST]) == [[""] * 6]
    assert learner.predict(["the dog"]) == [""]
    score = learner.evaluate([FIRST])[0]
    assert (score.accuracy, score.valid) == (0.0, 0.0)


def test_no_token_budget_is_needed() -> None:
    host = tiny_host("roberta")
    assert token_budget(host, [FIRST], Lengths(), Decoding(max_new_tokens=9)) == 1


def test_an_encoder_learns_what_an_animal_is() -> None:
    """From answers at chance on rows like those it learnt to nearly all of them right, with both tasks' classes."""
    learner = learner_of("seq_lora", epochs=40)
    task = tiny_task("animals", rows=32)
    learner.learn(replace(task, test=task.train))
    assert learner.evaluate([replace(task, test=task.train)])[0].accuracy >= 0.9


# What cannot be learnt


def test_free_text_is_refused_and_the_learner_stays_as_it_was(tmp_path: Path) -> None:
    learner = learner_of()
    learner.learn(FIRST)
    with pytest.raises(DataError, match=r"Task 'story' has no labels, and an encoder-only host \(roberta\) cannot"):
        learner.learn(replace(SECOND, name="story", labels=None))
    learner.save(tmp_path / "saved")
    learner.learn(SECOND)
    assert learner.state.tasks == ["animals", "fish"]


def test_a_row_that_has_none_of_the_labels_is_named() -> None:
    task = replace(FIRST, train=(*FIRST.train[:2], Row("the dog", "perhaps")))
    with pytest.raises(DataError, match=r"Task 'animals', train row 3: label 'perhaps' is not in the label set"):
        learner_of().learn(task)


def test_a_batch_without_a_known_class_is_an_error() -> None:
    host = tiny_host("roberta")
    with pytest.raises(DataError, match="not a label of any task learned so far"):
        host.family.batch([host.family.encode(FIRST.examples("train")[0], Lengths())])


def test_a_run_on_free_text_writes_nothing(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    write_task(tmp_path / "data", "story")
    (tmp_path / "data" / "story" / "task.json").write_text(json.dumps({"labels": None}))
    recipe = Recipe(
        method="seq_lora",
        stream=["story"],
        data=str(tmp_path / "data"),
        model=str(tiny_model("roberta")),
        output=str(tmp_path / "run"),
    )
    with pytest.raises(DataError, match="'story' has no labels"):
        run(recipe, ignore)
    assert not (tmp_path / "run").exists()


# Saving, restoring, removing


@pytest.mark.parametrize("method", ["seq_ft", "am_lora"])
def test_saved_heads_come_back_bit_for_bit(tmp_path: Path, method: str) -> None:
    """The rows, their order, which of them are the newest, and so the same future; frozen rows included."""
    learner = learner_of(method)
    learner.learn(FIRST)
    learner.learn(SECOND)
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("roberta"))
    assert loaded.host.family.head.values() == {"classes": ["yes", "no", "maybe"], "newest": [2, 1]}
    assert [(group.name, group.size) for group in loaded.trainable()] == [
        (group.name, group.size) for group in learner.trainable()
    ]
    third = tiny_task("worms", labels=("yes",))
    for one in (learner, loaded):
        one.learn(third)
    for name, tensor in learner.host.family.head.tensors().items():
        assert torch.equal(tensor, loaded.host.family.head.tensors()[name])
    assert loaded.answer([FIRST, SECOND]) == learner.answer([FIRST, SECOND])


def test_a_learner_that_has_learnt_nothing_can_be_saved(tmp_path: Path) -> None:
    learner_of().save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "head.safetensors").exists()
    assert Learner.load(tmp_path / "saved", tiny_host("roberta")).host.family.head.tensors() == {}


def test_hosts_that_write_save_no_head(tmp_path: Path) -> None:
    learner = learner_of(architecture="t5")
    learner.learn(FIRST)
    learner.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "head.safetensors").exists()
    assert json.loads((tmp_path / "saved" / "state.json").read_text())["owners"].keys() == {"adapter"}
    assert "head" not in {group.name for group in learner.trainable()}


@pytest.mark.parametrize("method", ["seq_ft", "inc_lora"])
def test_removing_takes_the_head_away(method: str) -> None:
    host, untouched = tiny_host("roberta"), tiny_host("roberta")
    inputs = host.family.prompts([host.family.encode(row, Lengths()) for row in FIRST.examples("test")])
    learner = Learner(host, build_method(method), optim=OPTIM)
    learner.learn(FIRST)
    assert host.family.head.tensors()
    learner.remove()
    assert torch.equal(outputs(host, inputs), outputs(untouched, inputs))
    assert host.write([host.family.encode(FIRST.examples("test")[0], Lengths())], 1) == [""]
    state, pristine = host.model.state_dict(), untouched.model.state_dict()
    assert list(state) == list(pristine)
    assert all(torch.equal(tensor, pristine[name]) for name, tensor in state.items())


def test_the_fingerprint_is_of_the_encoder() -> None:
    host = tiny_host("roberta")
    before = host.fingerprint
    host.model.head.grow(["yes"], seed=0)
    assert host.fingerprint == before


# Curricula


def learnt(method: str, tasks: Sequence[Task], host: Host) -> tuple[dict[str, Tensor], list[str]]:
    learner = Learner(host, build_method(method), seed=4, optim=OPTIM)
    learner.learn(*tasks)
    return {name: tensor.clone() for name, tensor in host.family.head.tensors().items()}, list(host.model.head.classes)


def test_joint_learns_the_classes_of_all_tasks() -> None:
    tensors, classes = learnt("joint", [FIRST, SECOND], tiny_host("roberta"))
    assert classes == ["yes", "no", "maybe"]
    start = GrowingHead(16, torch.zeros(()))
    start.grow(classes, seed=4)
    assert not (tensors["weight"] == start.weight).all(dim=1).any(), "every row was trained"


def test_a_fresh_learner_on_the_same_host_knows_no_class() -> None:
    """As in ``independent``: the second copy is what it would be on a host that has never learnt."""
    host = tiny_host("roberta")
    first = Learner(host, build_method("independent"), seed=4, optim=OPTIM)
    first.learn(FIRST)
    first.remove()
    again, classes = learnt("independent", [SECOND], host)
    alone, _ = learnt("independent", [SECOND], tiny_host("roberta"))
    assert classes == ["maybe", "no"]
    assert all(torch.equal(tensor, alone[name]) for name, tensor in again.items())


@pytest.mark.parametrize("method", ["inc_lora", "seq_ft", "joint", "independent"])
def test_runs_from_a_folder(method: str, tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """Load, learn, measure, write, and take up again after the last task: the whole journey."""
    for name, labels in (("animals", ("yes", "no")), ("fish", ("maybe", "no"))):
        write_task(tmp_path / "data", name, labels)
    recipe = Recipe(
        method=method,
        stream=["animals", "fish"],
        data=str(tmp_path / "data"),
        model=str(tiny_model("roberta")),
        optim=Optim(learning_rate=1e-2, epochs=4, batch_size=4),
        output=str(tmp_path / "straight"),
    )
    straight = run(recipe, ignore)
    assert straight.matrix[0] == [0.0, 0.0]
    assert straight.protocol["decoding"] == "the most likely of all classes learnt so far"
    assert max(score for row in straight.matrix for score in row if score is not None) > 0

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, RowMeasured) and event.number == 1:
            raise Stop

    halted = recipe.model_copy(update={"output": str(tmp_path / "halted")})
    if method != "joint":  # which has one stage only
        with pytest.raises(Stop):
            run(halted, stop)
    assert run(halted, ignore).matrix == straight.matrix
    last = sorted((tmp_path / "straight" / "tasks").iterdir())[-1].name
    for file in ("head.safetensors", "adapter.safetensors"):
        there, here = (tmp_path / place / "tasks" / last / file for place in ("straight", "halted"))
        assert there.read_bytes() == here.read_bytes()


# Where hosts come from


@pytest.mark.parametrize("architecture", FAMILIES["encoder-only"])
def test_folders_load_with_their_weights_and_without_a_pooler(
    architecture: str, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    expected, host = tiny_host(architecture), load_host(str(tiny_model(architecture)))
    assert host.family.name == "encoder-only"
    assert isinstance(host.model, Classifier)
    assert host.fingerprint == expected.fingerprint
    assert host.folder == tiny_model(architecture)
    row = host.family.encode(FIRST.examples("test")[0], Lengths())
    assert row == expected.family.encode(FIRST.examples("test")[0], Lengths())


def test_a_folder_with_a_pooler_in_half_precision_loads_as_a_sentence_encoder_does(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    words = tokenizer("encoder-only")
    saved = BertModel(BertConfig(vocab_size=len(words), **sizes)).half()
    saved.save_pretrained(tmp_path / "bert")
    words.save_pretrained(tmp_path / "bert")
    host = load_host(str(tmp_path / "bert"))
    loaded = host.body.state_dict()
    assert not any("pooler" in name for name in loaded)
    assert all(torch.equal(loaded[name], t.float()) for name, t in saved.state_dict().items() if "pooler" not in name)
    learner = Learner(host, build_method("am_lora"), optim=OPTIM)
    learner.learn(FIRST)
    assert set(learner.answer([FIRST])[0]) <= {"yes", "no"}


def test_a_bare_encoder_can_be_given_and_is_given_back() -> None:
    encoder = tiny_host("bert").body
    pristine = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    learner = Learner(Host(encoder, tokenizer("encoder-only")), build_method("seq_ft"), optim=OPTIM)
    learner.learn(FIRST)
    assert learner.host.body is encoder
    learner.remove()
    assert all(torch.equal(tensor, pristine[name]) for name, tensor in encoder.state_dict().items())
    assert list(encoder.state_dict()) == list(pristine)


def test_an_encoder_with_a_pooler_is_refused() -> None:
    encoder = BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ModelError, match=r"BertModel has a pooler, .*add_pooling_layer=False"):
        Host(encoder, tokenizer("encoder-only"))


def test_an_encoder_made_into_a_decoder_is_decoder_only() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = RobertaForCausalLM(RobertaConfig(vocab_size=60, is_decoder=True, **sizes))
    assert Host(model, tokenizer("decoder-only")).family.name == "decoder-only"


def test_a_pretrained_sentence_encoder_learns() -> None:
    folder = Path(os.environ.get("NACRE_DATA", "")).parent / "models" / "minilm-l6"
    if "NACRE_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("the small pretrained models lie beside NACRE_DATA, which is not set")
    host = load_host(str(folder))
    assert host.family.source_limit(Lengths()) == 512
    plain = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([host.family.source_ids("A dog sleeps.")])
    with torch.no_grad():
        assert torch.equal(host.body(ids).last_hidden_state, plain(ids).last_hidden_state)
    task = tiny_task("animals", rows=16)
    task = replace(task, test=task.train)
    learner = Learner(host, build_method("seq_lora"), optim=Optim(batch_size=8, learning_rate=2e-3, epochs=6))
    learner.learn(task)
    assert learner.evaluate([task])[0].accuracy >= 0.9
