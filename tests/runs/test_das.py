"""DAS, order 7: the end tasks' rows, copies that leave the learner alone, and a run from texts to F1."""

from __future__ import annotations

import copy
import json
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from helpers.command import Call
from helpers.contract import VARIANTS, same_state, state_of
from helpers.proofs import PROOFS
from helpers.texts import masked_model, masking_tokenizer, text_host, text_task, write_text
from helpers.tiny import perturb
from nacre.adapters.merged import merged_copy
from nacre.adapters.site import Site
from nacre.errors import CheckpointError, DataError, RecipeError
from nacre.events import Event, ProbeStarted, ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.measuring.probes.end_tasks import FineTuning
from nacre.measuring.probes.end_tasks_measurement import fine_tuned
from nacre.records.end_tasks import EndResult, average
from nacre.records.reading import read_record
from nacre.records.run import RunRecord
from nacre.registry import build_method
from nacre.runs.recipe import Recipe
from nacre.runs.run import run
from nacre.tasks.published.das import END_TASKS, ORDER_7, EndTask
from nacre.tasks.published.streams import get_stream
from nacre.tasks.reading.end_tasks import load_end_task
from nacre.tasks.reading.sources import load_tasks
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_source_length=16)
QUICK = FineTuning(seeds=(1, 2), epochs=1, learning_rate=1e-2, batch_size=4, max_source_length=16)
LABELS = {"asc_restaurant": ["positive", "negative", "neutral"], "asc_phone": ["positive", "negative"]}


def write_end_task(data: Path, name: str, counts: tuple[int, int, int] = (12, 2, 6)) -> None:
    """Rows of the schema of the released files, as JSON lines."""
    labels = LABELS.get(name, ["Uses", "Extends"])
    folder = data / name
    folder.mkdir(parents=True)
    things = ("dog", "cow", "stone")
    for split, count in zip(("train", "validation", "test"), counts, strict=True):
        lines = []
        for number in range(count):
            row = {"text": f"the {things[number % len(labels)]} likes the sea", "label": labels[number % len(labels)]}
            if name.startswith("asc"):
                row["aspect"] = things[number % len(labels)]
            if name == "asc_phone":
                row["product"] = "Nokia6610" if number % 3 else "Nokia6600"
            lines.append(json.dumps(row))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "task.json").write_text(json.dumps({"kind": "classification", "labels": labels, "metric": "macro-F1"}))


def end_task(rows: int = 12) -> Task:
    labels = ("yes", "no")
    made = tuple(Row(f"the {('dog', 'stone')[number % 2]} likes the sea", labels[number % 2]) for number in range(rows))
    return Task("acl_arc", made, (), made[:6], Template(answer_cue=""), labels, "macro_f1")


# Rows


def test_order_7_is_the_first_line_of_the_released_sequences() -> None:
    expected = [f"corpus_{name}" for name in ("restaurant", "acl", "ai", "phone", "pubmed", "camera")]
    assert list(get_stream("das").tasks) == list(ORDER_7) == expected


def test_aspect_tasks_show_the_aspect_before_the_sentence(tmp_path: Path) -> None:
    write_end_task(tmp_path, "asc_restaurant")
    task = load_end_task(END_TASKS["corpus_restaurant"], str(tmp_path), "</s>")
    assert task.train[0].text == "dog </s> the dog likes the sea"
    assert (len(task.train), len(task.test), task.validation) == (12, 6, ())
    assert task.labels == ("positive", "negative", "neutral")
    assert task.examples("test")[0].input == task.test[0].text, "no prompt around it"
    words = masking_tokenizer()
    assert words(task.train[0].text)["input_ids"].count(words.eos_token_id) == 2, "one token, not letters"


def test_first_rows_of_every_class_and_the_validation_rows_go_to_test(tmp_path: Path) -> None:
    write_end_task(tmp_path, "acl_arc", counts=(50, 3, 4))
    task = load_end_task(END_TASKS["corpus_acl"], str(tmp_path), "</s>")
    whole = [
        Row(line["text"], line["label"])
        for split in ("train", "validation", "test")
        for line in map(json.loads, (tmp_path / "acl_arc" / f"{split}.jsonl").read_text().splitlines())
    ]
    train, validation, test = whole[:50], whole[50:53], whole[53:]
    # floor(50 * 0.1 / 2) = 2 of each class; the classes alternate
    assert list(task.test) == [*test, *validation, *train[:4]]
    assert list(task.train) == train[4:]


def test_a_product_is_trained_on_and_the_others_are_tested_on(tmp_path: Path) -> None:
    write_end_task(tmp_path, "asc_phone", counts=(30, 3, 6))
    task = load_end_task(END_TASKS["corpus_phone"], str(tmp_path), "</s>")
    own = 20 + 2 + 4
    quota = own * 30 // 200
    assert (len(task.train), len(task.test)) == (own - 2 * quota, 13 + 2 * quota)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "a", "label": "Uses"}, "line 1: field 'aspect' must be"),
        ({"text": "a", "aspect": "b", "label": "Uses"}, "line 1: label 'Uses' is not in the label set"),
        ({"text": "a", "aspect": "b", "label": None}, "line 1: field 'label' must be"),
        ({"text": "", "aspect": "b", "label": "positive"}, "line 1: field 'text' must be"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, line: dict[str, str], message: str) -> None:
    write_end_task(tmp_path, "asc_restaurant")
    (tmp_path / "asc_restaurant" / "train.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=message):
        load_end_task(END_TASKS["corpus_restaurant"], str(tmp_path), "</s>")


# Copies


def copied_variants() -> list[str]:
    """Of what is learned as a part of the encoder's weights; copies of others are refused."""
    methods = {name: build_method(*VARIANTS[name]) for name in VARIANTS}
    return [
        name
        for name, method in methods.items()
        if method.traits["pre-training"]
        and not (method.curriculum.needs_task_at_test or method.adapter.has_virtual_tokens)
        and (method.routing is None or (method.routing.needs_task_at_test and method.adapter.copied_by_task))
    ]


@pytest.mark.parametrize("variant", copied_variants())
def test_a_copy_computes_the_same_and_leaves_the_learner_bit_for_bit(variant: str) -> None:
    """Every method: the copy's hidden states are the learner's, all its parameters get gradients, and fine-tuning it
    moves nothing of the learner, neither tensors nor flags, hooks, state or the caller's random numbers."""
    method = build_method(*VARIANTS[variant])
    learner = Learner(text_host(), method, optim=OPTIM)
    for stage in method.curriculum.stages([text_task("farm"), text_task("fields")]):
        learner.learn(*stage.tasks)
    perturb(learner.host.model)
    body = learner.host.body
    tensors = {name: tensor.clone() for name, tensor in learner.host.model.state_dict().items()}
    adapter = state_of(learner)
    flags = [parameter.requires_grad for parameter in learner.host.model.parameters()]
    twin = Learner(text_host(), method, optim=OPTIM)
    twin.state = copy.deepcopy(learner.state)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    batch = learner.host.family.prompts(learner.encode(end_task().examples("test")))
    merged = merged_copy(body)
    with torch.no_grad():
        ours, theirs = merged(**batch).last_hidden_state, body(**batch).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)
    assert any(isinstance(module, Site) for module in merged.modules()) == variant.startswith(
        ("am_lora", "adapter", "hat_adapter", "demix", "moe_lora")
    )
    assert not {id(p) for p in merged.parameters()} & {id(p) for p in body.parameters()}
    assert all(parameter.requires_grad for parameter in merged.parameters())

    result = fine_tuned(learner, END_TASKS["corpus_acl"], end_task(), QUICK, seed=1)
    assert 0 <= result.accuracy <= 1
    assert torch.equal(torch.rand(3), expected)
    assert [parameter.requires_grad for parameter in learner.host.model.parameters()] == flags
    assert all(torch.equal(value, tensors[name]) for name, value in learner.host.model.state_dict().items())
    assert all(torch.equal(value, adapter[name]) for name, value in state_of(learner).items())
    assert same_state(learner, twin)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in learner.host.model.modules())


@pytest.mark.parametrize("variant", ["hat", "hat_adapter", "hat_adapter-binary", "seq_lora+hat", "demix"])
def test_where_the_task_is_given_the_copy_is_of_the_end_tasks_domain(variant: str) -> None:
    """Two domains: each copy's states are the learner's under that domain's name, and stay so whoever is asked."""
    learner = Learner(text_host(), build_method(*VARIANTS[variant]), optim=OPTIM)
    for name in ("corpus_acl", "corpus_ai"):
        learner.learn(text_task(name))
    body = learner.host.body
    batch = learner.host.family.prompts(learner.encode(end_task().examples("test")))
    states, copies = {}, {}
    for name in ("corpus_acl", "corpus_ai", "corpus_camera"):
        with learner.as_task(name), torch.no_grad():
            states[name] = body(**batch).last_hidden_state
            copies[name] = merged_copy(body)
    assert not torch.allclose(states["corpus_acl"], states["corpus_ai"], atol=1e-3)
    assert torch.equal(states["corpus_camera"], states["corpus_ai"]), "a domain that was never learned: the newest"
    for name, copied in copies.items():
        with torch.no_grad():
            assert torch.allclose(copied(**batch).last_hidden_state, states[name], atol=1e-5)
        copied(**batch).last_hidden_state.square().sum().backward()
        assert all(parameter.grad is not None for parameter in copied.parameters())
    read: dict[str, Tensor] = {}
    for corpus in ("corpus_acl", "corpus_ai"):
        first: list[Tensor] = []

        def watch(module: object, args: object, output: Any, first: list[Tensor] = first) -> None:
            first.append(output.last_hidden_state.detach())

        def hooked(model: Any, watch: Any = watch) -> Any:
            copied = merged_copy(model)
            copied.register_forward_hook(watch)
            return copied

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nacre.measuring.probes.end_tasks_measurement.merged_copy", hooked)
            fine_tuned(learner, EndTask(corpus, "acl_arc", 1), end_task(), QUICK, seed=1)
        read[corpus] = first[0]
    assert not torch.allclose(read["corpus_acl"], read["corpus_ai"], atol=1e-3)


def test_what_no_copy_can_hold_is_refused() -> None:
    for method in (PROOFS["epi_like"](), PROOFS["progressive_prompts"]()):
        with pytest.raises(RecipeError, match="no part of the encoder's weights"):
            QUICK.check(method)
    QUICK.check(build_method("hat_adapter"))


def test_a_copy_is_exact_in_float64_and_trained_whole() -> None:
    learner = Learner(text_host(dtype=torch.float64), build_method("lb_cl", {"rank": 2}), optim=OPTIM)
    learner.learn(text_task("farm"))
    learner.learn(text_task("fields"))
    perturb(learner.host.model)
    merged = merged_copy(learner.host.body)
    batch = learner.host.family.prompts(learner.encode(end_task().examples("test")))
    with torch.no_grad():
        difference = merged(**batch).last_hidden_state - learner.host.body(**batch).last_hidden_state
    assert difference.abs().max() <= 1e-10
    seen: dict[str, Tensor] = dict(merged.named_parameters())
    merged(**batch).last_hidden_state.square().sum().backward()
    unused = {name for name, parameter in seen.items() if parameter.grad is None}
    assert unused == set()


def test_an_end_task_depends_on_its_seed_and_learns() -> None:
    learner = Learner(text_host(), build_method("seq_ft"), optim=OPTIM)
    learner.learn(text_task())
    end = EndTask("corpus_acl", "acl_arc", epochs=12)
    settings = QUICK.model_copy(update={"epochs": None})
    one, again = (fine_tuned(learner, end, end_task(), settings, seed=3) for _ in range(2))
    assert one.answers == again.answers
    assert one.accuracy == 1
    assert one.macro_f1 == 1
    short = [fine_tuned(learner, end, end_task(), QUICK, seed=seed).answers for seed in range(4)]
    assert len({tuple(answers) for answers in short}) > 1


def test_scores_are_sklearns_and_chemprot_counts_by_its_micro_f1() -> None:
    learner = Learner(text_host(), build_method("seq_ft"), optim=OPTIM)
    learner.learn(text_task())
    task = end_task()
    for f1 in ("macro", "micro"):
        result = fine_tuned(learner, EndTask("c", "acl_arc", 1, f1), task, QUICK, seed=1)
        gold = [row.target for row in task.test]
        assert result.macro_f1 == pytest.approx(f1_score(gold, result.answers, average="macro", zero_division=0))
        assert result.f1 == pytest.approx(f1_score(gold, result.answers, average=f1, zero_division=0))
        assert result.accuracy == sum(map(str.__eq__, gold, result.answers)) / len(gold)


def test_averages_are_over_tasks_first_and_then_over_seeds() -> None:
    def result(task: str, seed: int, f1: float) -> EndResult:
        return EndResult(
            after="c", corpus="c", task=task, seed=seed, train_rows=1, test_rows=1, accuracy=f1, macro_f1=f1, f1=f1,
            seconds=0.0, answers=[],
        )  # fmt: skip

    found = average("c", [result("a", 1, 0.2), result("b", 1, 0.4), result("a", 2, 0.6), result("b", 2, 0.8)])
    assert found.f1 == pytest.approx(0.5)
    assert found.f1_deviation == pytest.approx(statistics.stdev([0.3, 0.7]))
    assert average("c", [result("a", 1, 0.2)]).f1_deviation is None


# Runs


def recipe_of(tmp_path: Path, output: str, **more: object) -> Recipe:
    data = tmp_path / "data"
    if not data.exists():
        for corpus, end in (("corpus_restaurant", "asc_restaurant"), ("corpus_acl", "acl_arc")):
            write_text(data, corpus)
            write_end_task(data, end)
        masked_model().save_pretrained(tmp_path / "model")
        masking_tokenizer().save_pretrained(tmp_path / "model")
    document = {
        "method": "inc_lora",
        "stream": ["corpus_restaurant", "corpus_acl"],
        "data": str(data),
        "model": str(tmp_path / "model"),
        "output": str(tmp_path / output),
        "optim": OPTIM.model_dump(),
        "end_tasks": QUICK.model_dump(),
    }
    return Recipe.model_validate(document | more)


def test_a_run_measures_every_end_task_with_every_seed_after_the_last_domain(tmp_path: Path) -> None:
    record = run(recipe_of(tmp_path, "run"), ignore)
    assert record.end_tasks is not None
    assert [(one.after, one.task, one.seed) for one in record.end_tasks.results] == [
        ("corpus_acl", task, seed) for task in ("asc_restaurant", "acl_arc") for seed in (1, 2)
    ]
    (mean,) = record.end_tasks.averages
    by_seed = [statistics.fmean(one.f1 for one in record.end_tasks.results if one.seed == seed) for seed in (1, 2)]
    assert mean.f1 == pytest.approx(statistics.fmean(by_seed))
    assert read_record(tmp_path / "run" / "results.json") == record
    assert [task["name"] for task in record.protocol["end tasks"]["tasks"]] == ["asc_restaurant", "acl_arc"]
    files = sorted(path.name for path in (tmp_path / "run" / "end_tasks" / "02-corpus_acl").iterdir())
    assert files == [f"{task}-seed{seed}.json" for task in ("acl_arc", "asc_restaurant") for seed in (1, 2)]


def test_the_command_prints_perplexity_and_end_tasks(tmp_path: Path, nacre: Call) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_of(tmp_path, "run").yaml())
    outcome = nacre("run", file)
    assert outcome.code == 0
    record = read_record(tmp_path / "run" / "results.json")
    assert record.perplexity is not None
    assert record.end_tasks is not None
    assert "inc_lora: perplexity" in outcome.out
    assert f"{record.perplexity[-1][-1]:.4g}" in outcome.out
    assert "end tasks, in %" in outcome.out
    assert f"{100 * record.end_tasks.averages[0].f1_deviation:.1f}" in outcome.out
    assert "after corpus_acl: acl_arc, seed 2: F1" in outcome.out


def test_an_interrupted_run_goes_on_at_the_next_end_task_and_finds_the_same(tmp_path: Path) -> None:
    each = {"end_tasks": QUICK.model_copy(update={"after": "each"}).model_dump()}
    whole = run(recipe_of(tmp_path, "whole", **each), ignore)
    assert whole.end_tasks is not None
    assert [one.after for one in whole.end_tasks.averages] == ["corpus_restaurant", "corpus_acl"]
    started: list[tuple[object, ...]] = []

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, ProbeStarted):
            started.append(tuple(event.values.values()))
            if len(started) == 4:
                raise Stop

    with pytest.raises(Stop):
        run(recipe_of(tmp_path, "cut", **each), stop)
    assert len(started) == 4
    record = run(recipe_of(tmp_path, "cut", **each), stop)
    assert len(started) == 4 + 8 - 3, "three were done"
    assert record.end_tasks is not None

    def numbers(record: RunRecord) -> list[dict[str, object]]:
        assert record.end_tasks is not None
        return [one.model_dump(exclude={"seconds"}) for one in record.end_tasks.results]

    assert numbers(record) == numbers(whole)


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    run(recipe_of(tmp_path, "run"), ignore)
    (tmp_path / "run" / "results.json").unlink()
    file = tmp_path / "run" / "end_tasks" / "02-corpus_acl" / "acl_arc-seed1.json"
    file.write_text(file.read_text()[:40])
    with pytest.raises(CheckpointError, match=r"acl_arc-seed1\.json is damaged"):
        run(recipe_of(tmp_path, "run"), ignore)


def test_a_result_of_another_learner_is_refused(tmp_path: Path) -> None:
    for name, seed in (("run", 1), ("other", 2)):
        run(recipe_of(tmp_path, name, seed=seed), ignore)
    (tmp_path / "run" / "results.json").unlink()
    file = Path("end_tasks") / "02-corpus_acl" / "acl_arc-seed1.json"
    shutil.copy(tmp_path / "other" / file, tmp_path / "run" / file)
    with pytest.raises(CheckpointError, match=r"acl_arc-seed1\.json was measured on another learner.*delete it"):
        run(recipe_of(tmp_path, "run", seed=1), ignore)
    (tmp_path / "run" / file).unlink()
    run(recipe_of(tmp_path, "run", seed=1), ignore)


def test_das_measures_end_tasks_unless_told_otherwise(tmp_path: Path) -> None:
    completed = Recipe(method="seq_ft", stream="das").completed().end_tasks
    assert completed == FineTuning()
    assert completed.seeds == (2021, 111, 222, 333, 444)
    assert Recipe(method="seq_ft").completed().end_tasks is None
    never = {"end_tasks": {"after": "never"}}
    assert run(recipe_of(tmp_path, "never", **never), ignore).end_tasks is None


def test_what_has_no_end_task_says_so_before_anything_is_written(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "run")
    write_text(tmp_path / "data", "farm")
    with pytest.raises(RecipeError, match="'farm' has no end task"):
        run(recipe.model_copy(update={"stream": ["farm"]}), ignore)
    with pytest.raises(RecipeError, match="not with a last one to copy"):
        run(recipe.model_copy(update={"method": "independent"}), ignore)
    text_host("llama").model.save_pretrained(tmp_path / "llama")
    text_host("llama").tokenizer.save_pretrained(tmp_path / "llama")
    with pytest.raises(RecipeError, match="encoder-only host"):
        run(recipe.model_copy(update={"model": str(tmp_path / "llama")}), ignore)
    assert not (tmp_path / "run").exists()


# The real rows


@pytest.fixture
def real() -> str:
    if "NACRE_DATA" not in os.environ:
        pytest.skip("NACRE_DATA is not set")
    return str(Path(os.environ["NACRE_DATA"]) / "das")


def test_real_end_tasks_have_the_published_numbers_of_rows(real: str) -> None:
    """Of the two product tasks the data at hand lack two rows and one."""
    published = {
        "asc_restaurant": (3452, 1120, 3),
        "acl_arc": (1520, 421, 6),
        "scierc": (2260, 2388, 7),
        "asc_phone": (239, 553 - 2, 2),
        "chemprot": (2667, 7398, 13),
        "asc_camera": (230, 626 - 1, 2),
    }
    found = {end.name: load_end_task(end, real, "</s>") for end in END_TASKS.values()}
    counts = {name: (len(task.train), len(task.test), len(task.labels or ())) for name, task in found.items()}
    assert counts == published


def test_order_7_runs_on_real_rows(real: str, tmp_path: Path) -> None:
    """All six domains and end tasks with small caps."""
    assert all(task.kind == "text" for task in load_tasks(list(ORDER_7), real))
    masked_model().save_pretrained(tmp_path / "model")
    masking_tokenizer().save_pretrained(tmp_path / "model")
    recipe = Recipe(
        method="seq_ft+migu",
        stream="das",
        data=real,
        model=str(tmp_path / "model"),
        output=str(tmp_path / "run"),
        limit_train=6,
        limit_test=3,
        matrix="last",
        optim=OPTIM.model_copy(update={"max_source_length": 40}),
        end_tasks=QUICK.model_copy(update={"seeds": (1,), "limit_train": 16, "limit_test": 8, "max_source_length": 40}),
    )
    record = run(recipe, ignore)
    assert record.tasks == list(ORDER_7)
    assert record.end_tasks is not None
    assert [one.task for one in record.end_tasks.results] == [end.name for end in END_TASKS.values()]
    assert all(one.train_rows == 16 for one in record.end_tasks.results)
