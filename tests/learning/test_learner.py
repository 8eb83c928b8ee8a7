"""What a person does with a learner: asking, measuring, saving, and the mistakes that are made with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import nacre
from helpers.tiny import outputs, perturb, tiny_host, tiny_task
from nacre.adapters.prompt import Prompt
from nacre.errors import DataError, ModelError, NacreError, TrainingError
from nacre.evaluation.decoding import Decoding
from nacre.evaluation.scoring import TaskScore, score
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.migrations import upgraded_learner
from nacre.models.host import Host
from nacre.registry import build_method
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template, Turn

OPTIM = Optim(batch_size=4, learning_rate=0.05, max_target_length=8)
ANIMALS, BIRDS = tiny_task(), tiny_task("birds", labels=("yes", "no", "maybe"))
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ 'What' if m.role == 'user' else 'Answer' }} : {{ m.content }} "
    "{{ eos_token if m.role == 'assistant' }}{% endfor %}{% if add_generation_prompt %}Answer : {% endif %}"
)


def learner_of(method: str = "inc_lora", architecture: str = "t5", **settings: Any) -> Learner:
    return Learner(tiny_host(architecture), build_method(method), optim=OPTIM, **settings)


def learned(method: str = "inc_lora", architecture: str = "t5", **settings: Any) -> Learner:
    learner = learner_of(method, architecture, **settings)
    learner.learn(ANIMALS)
    return learner


def chat_host() -> Host:
    host = tiny_host("llama")
    host.tokenizer = host.family.tokenizer = type(host.tokenizer)(
        tokenizer_object=host.tokenizer.backend_tokenizer,
        **{name: str(token) for name, token in host.tokenizer.special_tokens_map.items()},
        chat_template=CHAT,
    )
    return host


def chat_task() -> Task:
    row = Row("the big dog", "yes", turns=(Turn("user", "the big dog", learned=False),))
    rows = (row, replace(row, target="no"))
    return Task("talk", rows, rows, rows, Template())


# Asking


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("decode", ["free", "labels"])
def test_a_task_is_asked_as_its_rows_were(architecture: str, decode: Any, tmp_path: Path) -> None:
    """The same answers as `answer` gives to the rows, from a learner in memory and from a saved one."""
    learner = learned(architecture=architecture, decoding=Decoding(decode=decode))
    learner.learn(BIRDS)
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", host=tiny_host(architecture))
    for task in (ANIMALS, BIRDS):
        texts = [row.text for row in task.test]
        (expected,) = learner.answer([task])
        for asked in (learner, loaded):
            assert asked.ask(task.name, texts) == expected
            assert asked.ask(task.name, texts[0]) == expected[0]


def test_a_task_of_conversations_is_asked_by_messages(tmp_path: Path) -> None:
    learner = Learner(chat_host(), build_method("inc_lora"), optim=OPTIM)
    learner.learn(chat_task())
    perturb(learner.host.model)
    (expected,) = learner.answer([chat_task()])
    messages = [{"role": "user", "content": "the big dog"}]
    assert learner.ask("talk", "the big dog") == expected[0]
    assert learner.ask("talk", [messages, "the big dog"]) == expected
    assert learner.predict([messages]) == expected[:1]
    learner.save(tmp_path / "saved")
    assert Learner.load(tmp_path / "saved", host=chat_host()).ask("talk", [messages]) == expected[:1]


def test_a_learner_that_an_older_version_saved_says_so(tmp_path: Path) -> None:
    learned().save(tmp_path / "saved")
    document = json.loads((tmp_path / "saved" / "state.json").read_text())
    del document["forms"]
    assert upgraded_learner(document, (), tmp_path)["forms"] == {}
    (tmp_path / "saved" / "state.json").write_text(json.dumps(document))
    (tmp_path / "saved" / checkpoint.MANIFEST).unlink()
    checkpoint.write_manifest(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", host=tiny_host("t5"))
    with pytest.raises(DataError, match="older version saved this learner, without how the task is asked"):
        loaded.ask("animals", "the dog")


def test_one_prompt_is_one_prompt() -> None:
    learner = learned()
    prompts = ["Is it an animal ? dog", "Is it an animal ? lamp"]
    assert learner.predict(prompts[0]) == learner.predict(prompts)[0]
    assert learner.predict([]) == []


def test_one_task_is_measured_as_several_are() -> None:
    learner = learned()
    assert learner.evaluate(ANIMALS) == learner.evaluate([ANIMALS])[0] == learner.evaluate((ANIMALS,))[0]


# The model


@pytest.mark.parametrize("method", ["seq_lora", "inc_lora", "lb_cl"])
@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2"])
def test_the_model_is_saved_merged_or_not_at_all(method: str, architecture: str, tmp_path: Path) -> None:
    learner = learned(method, architecture)
    perturb(learner.host.model)
    with pytest.raises(ModelError, match=r"save_pretrained cannot write: use learner\.save\(folder\), or"):
        learner.host.model.save_pretrained(tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    learner.merged().save_pretrained(tmp_path / "merged")
    kind = AutoModelForSeq2SeqLM if architecture == "t5" else AutoModelForCausalLM
    model, loading = kind.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    batch = learner.host.family.batch(learner.encode(ANIMALS.examples("test")))
    again = Host(model.eval(), learner.host.tokenizer)
    torch.testing.assert_close(outputs(again, batch), outputs(learner.host, batch), atol=1e-4, rtol=1e-4)
    learner.remove()
    learner.host.model.save_pretrained(tmp_path / "pretrained")
    before = tiny_host(architecture).model.state_dict()
    assert all(
        torch.equal(value, before[name])
        for name, value in kind.from_pretrained(tmp_path / "pretrained").state_dict().items()
    )


def test_full_fine_tuning_saves_as_it_always_did(tmp_path: Path) -> None:
    learner = learned("seq_ft")
    learner.host.model.save_pretrained(tmp_path / "tuned")
    again, merged = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "tuned"), learner.merged()
    for name, value in learner.host.model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert torch.equal(value, merged.state_dict()[name])


def test_a_soft_prompt_is_no_part_of_the_weights(tmp_path: Path) -> None:
    learner = Learner(tiny_host("t5"), Method(title="Prompts", sources=(), adapter=Prompt(tokens=2)), optim=OPTIM)
    learner.learn(ANIMALS)
    with pytest.raises(ModelError, match="save_pretrained cannot write"):
        learner.host.model.save_pretrained(tmp_path / "broken")
    with pytest.raises(ModelError, match="A soft prompt cannot be merged"):
        learner.merged()
    learner.remove()
    learner.host.model.save_pretrained(tmp_path / "pretrained")


def test_what_depends_on_the_input_cannot_be_merged() -> None:
    with pytest.raises(ModelError, match="no one weight holds that"):
        learned("am_lora").merged()


# Mistakes


def interrupted() -> Learner:
    learner = learned()

    def stop(event: object) -> None:
        raise KeyboardInterrupt

    learner.on_event = stop
    with pytest.raises(KeyboardInterrupt):
        learner.learn(BIRDS)
    return learner


def removed() -> Learner:
    learner = learned()
    learner.remove()
    return learner


USES: dict[str, Callable[[Learner], object]] = {
    "learn": lambda learner: learner.learn(BIRDS),
    "evaluate": lambda learner: learner.evaluate([ANIMALS]),
    "answer": lambda learner: learner.answer([ANIMALS]),
    "measure_text": lambda learner: learner.measure_text(replace(ANIMALS, kind="text")),
    "predict": lambda learner: learner.predict(["dog"]),
    "ask": lambda learner: learner.ask("animals", "dog"),
    "snapshot": lambda learner: learner.snapshot(),
    "merged": lambda learner: learner.merged(),
}


@pytest.mark.parametrize("use", USES)
def test_a_learner_that_is_over_answers_nothing(use: str) -> None:
    with pytest.raises(TrainingError, match="Learning 'birds' stopped halfway"):
        USES[use](interrupted())
    with pytest.raises(TrainingError, match="This learner was removed from its model"):
        USES[use](removed())


def test_removing_twice_leaves_the_next_learner_alone() -> None:
    first = learned()
    first.remove()
    second = Learner(first.host, build_method("inc_lora"), optim=OPTIM)
    second.learn(ANIMALS)
    first.remove()
    with pytest.raises(ModelError, match="already carries a learner"):
        Learner(first.host, build_method("inc_lora"))


def test_nothing_happens_where_there_is_nothing_to_learn() -> None:
    learner = learned()
    before = learner.snapshot()
    for task, kind, says in (
        (replace(BIRDS, train=()), DataError, "Task 'birds' has no rows to train on"),
        (ANIMALS, TrainingError, "Task 'animals' has been learned already"),
        (replace(BIRDS, name="animals"), TrainingError, "give other rows a name of their own"),
    ):
        with pytest.raises(kind, match=says):
            learner.learn(task)
        assert learner.snapshot().differences(before) == []
    learner.learn(BIRDS)
    learner.learn(ANIMALS, again=True)
    assert learner.state.tasks == ["animals", "birds", "animals"]
    with pytest.raises(TrainingError, match="has been learned already"):
        learner_of("joint").learn(ANIMALS, ANIMALS)


MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "a path for a host": (
        lambda: Learner("path", method=build_method("inc_lora")),
        TypeError,
        r"needs a host first, not a str: Learner\(load_host\(NAME\), method\)",
    ),
    "a method's name": (
        lambda: Learner(tiny_host("t5"), "inc_lora"),
        TypeError,
        r"needs a method behind the host, not a str: .*build_method\(NAME\)",
    ),
    "a method in the host's place": (
        lambda: Learner(build_method("inc_lora"), tiny_host("t5")),
        TypeError,
        "needs a host first, not a Method",
    ),
    "a conversation alone": (
        lambda: learned().predict([{"role": "user", "content": "dog"}]),
        DataError,
        r"one conversation alone stands in a list: predict\(\[messages\]\)",
    ),
    "a number for a prompt": (lambda: learned().predict([3]), DataError, "A prompt is a text or a list of messages"),
    "messages without a role": (
        lambda: learned().predict([[{"content": "dog"}]]),
        DataError,
        "Message 1 of a prompt needs the texts 'role' and 'content'",
    ),
    "messages for a task of texts": (
        lambda: learned().ask("animals", [[{"role": "user", "content": "dog"}]]),
        DataError,
        "The task's rows are texts",
    ),
    "a task that is not known": (
        lambda: learned().ask("animal", "dog"),
        DataError,
        "no such task has been learned. Did you mean animals",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_sentence(what: str) -> None:
    do, kind, says = MISTAKES[what]
    with pytest.raises(kind, match=says) as caught:
        do()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, (NacreError, TypeError))


# What is shown


def test_what_is_shown_is_short() -> None:
    learner = learner_of("am_lora")
    assert repr(learner) == "Learner(am_lora in tiny-t5, seed 0; learned: nothing yet)"
    assert repr(learned()) == "Learner(inc_lora in tiny-t5, seed 0; learned: animals)"
    assert repr(learner.host) == "Host(tiny-t5, encoder-decoder)"
    assert repr(ANIMALS) == "Task(animals: 12 train, 4 validation, 6 test rows; 2 labels; exact_match)"
    assert repr(replace(ANIMALS, labels=None)).endswith("; free text; exact_match)")
    half = score(ANIMALS, ["yes"] * 5 + ["blue"])
    assert repr(half) == "TaskScore(value=0.5, accuracy=0.5, valid=0.8333; 6 answers)"
    assert repr(TaskScore(0.25, 0.0, None, ("a",), (False,), None)) == "TaskScore(value=0.25, accuracy=0; 1 answers)"
    for name in ("am_lora+migu", "seq_ft", "o_lora"):
        method = build_method(name)
        assert repr(method).startswith(f"Method({name}: ")
        assert len(repr(method)) < 120
        assert all(part.key in repr(method) for part in method.parts)
    assert "Method(By hand: " in repr(replace(build_method("inc_lora"), name="", title="By hand"))


def test_public_names_are_listed_without_torch() -> None:
    assert set(nacre.__all__) <= set(dir(nacre))
    assert nacre.Decoding is Decoding
    script = "import sys, nacre; names = dir(nacre); print('Learner' in names, 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False"]
