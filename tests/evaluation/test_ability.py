"""Base ability: lm-eval over our rows and hosts against the definitions, programs in their process, and runs."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedTokenizerFast

from helpers import tiny
from helpers.command import Call, assert_one_line_error
from helpers.tiny import WORDS, tiny_host, tiny_task, write_task
from nacre.adapters.prompt import Prompt, PromptPosition
from nacre.errors import CheckpointError, DataError, ModelError, RecipeError
from nacre.evaluation.base_ability import harness, measure, programs
from nacre.evaluation.base_ability.benchmarks import ABILITIES, PUBLISHED, AbilityTask, load_ability_tasks
from nacre.evaluation.base_ability.measure import measure_ability, trial_of
from nacre.evaluation.base_ability.programs import Limits, containment, run_program
from nacre.evaluation.base_ability.scores import AbilityScore, score_of
from nacre.events import Event, ProbeStarted, ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.measuring.probes.stored import read_result
from nacre.method import Method
from nacre.models.host import Host
from nacre.models.loading import load_host
from nacre.records.reading import read_record
from nacre.records.run import RunRecord
from nacre.registry import build_method
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

CHOICES = ("hellaswag", "winogrande", "arc_challenge")
QUICK = Limits(cpu_seconds=1, wall_seconds=4.0)


def sentence(draw: random.Random, length: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(length))


def write_abilities(folder: Path, rows: int, seed: int = 0) -> Path:
    """The four benchmarks in the schema of the delivered files: words at random, and two easy problems."""
    draw = random.Random(seed)
    for name, count in (("hellaswag", 4), ("winogrande", 2), ("arc_challenge", 5)):
        lines = []
        for _ in range(rows):
            text = sentence(draw, draw.randint(4, 20))
            text = f"{text} _ {sentence(draw, 3)}." if name == "winogrande" else text
            choices = list({sentence(draw, draw.randint(1, 6)): None for _ in range(count)})
            lines.append({"text": text, "choices": choices, "label": "ABCDE"[draw.randrange(len(choices))]})
        write_rows(folder, name, lines)
    write_rows(folder, "humaneval", PROBLEMS)
    return folder


def write_rows(folder: Path, name: str, rows: Sequence[Any]) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


PROBLEMS = [
    {
        "task_id": "own/0",
        "entry_point": "longest",
        "input": 'from typing import List\n\n\ndef longest(words: List[str]) -> str:\n    """The longest word."""\n',
        "output": (
            "    best = ''\n    for word in words:\n        if len(word) > len(best):\n            best = word\n"
            "    return best\n"
        ),
        "test": (
            "\ndef check(candidate):\n    assert candidate(['a', 'bcd', 'ef']) == 'bcd'\n"
            "    assert candidate([]) == ''\n"
        ),
    },
    {
        "task_id": "own/1",
        "entry_point": "digest",
        "input": 'def digest(text):\n    """md5 of a text, in hexadecimal."""\n',
        "output": "    import hashlib\n    return hashlib.md5(text.encode()).hexdigest()\n",
        "test": "\ndef check(candidate):\n    assert candidate('a') == '0cc175b9c0f1b6a831c399e269772661'\n",
    },
]


def delivered() -> Path:
    """The folder of the benchmarks' own rows."""
    if "NACRE_DATA" not in os.environ:
        pytest.skip("NACRE_DATA is not set")
    return Path(os.environ["NACRE_DATA"]) / "base_ability"


def texts_of(task: AbilityTask) -> str:
    return json.dumps([dict(document) for document in task.documents]).replace("\\n", " ") + " Question : Answer"


def word_host(architecture: str, texts: str, positions: int = 512) -> Host:
    """A random host in float64 that knows every word of the texts, so that no two choices look the same to it."""
    core = Tokenizer(models.WordLevel({}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    words = [word for word, _ in core.pre_tokenizer.pre_tokenize_str(texts)]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*tiny.SPECIAL, *words]))}
    family = "encoder-decoder" if architecture in tiny.FAMILIES["encoder-decoder"] else "decoder-only"
    core = Tokenizer.from_str(tiny.tokenizer(family).backend_tokenizer.to_str())
    core.model = models.WordLevel(vocabulary, unk_token="<unk>")
    known = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    config = tiny.configurations(len(vocabulary))[architecture]
    for setting in ("num_layers", "num_decoder_layers", "num_hidden_layers", "encoder_layers", "decoder_layers"):
        if hasattr(config, setting):
            setattr(config, setting, 1)  # a thousand texts are read one by one
    if hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = positions
    kind = AutoModelForSeq2SeqLM if family == "encoder-decoder" else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.from_config(config).to(torch.float64).eval()
    return Host(model, PreTrainedTokenizerFast(tokenizer_object=core, **known), name=f"words-{architecture}")


@torch.no_grad()
def log_likelihood(host: Host, context: str, continuation: str, positions: int) -> float:
    """From the definition: the sum of the softmax's logarithms at the continuation's tokens, one text at a time."""
    model, words, prefix = host.model, host.tokenizer, list(host.family.prefix_of(""))
    if host.family.name == "encoder-decoder":
        read = words(context)["input_ids"][-positions:]
        source = torch.tensor([read + prefix if host.family.prefix_is_behind else prefix + read])
        target = words(continuation, add_special_tokens=False)["input_ids"]
        start = [getattr(model.config, "decoder_start_token_id", None), *target[:-1]]
        logits = model(input_ids=source, decoder_input_ids=torch.tensor([start])).logits[0]
    else:
        before, whole = words(context)["input_ids"], words(context + continuation)["input_ids"]
        target = whole[len(before) :]
        read = whole[-(positions + 1) :][:-1]
        logits = model(input_ids=torch.tensor([prefix + read])).logits[0, -len(target) :]
    chosen = logits.double().log_softmax(-1)[range(len(target)), target]
    return math.fsum(chosen.tolist())


def pairs_of(name: str, row: dict[str, Any]) -> list[tuple[str, str]]:
    """Context and continuation of each choice, as the benchmarks' papers have them."""
    text, choices = row["text"], row["choices"]
    if name == "winogrande":
        before, after = text.split("_", 1)
        return [(before + choice, " " + after.strip()) for choice in choices]
    context = f"Question: {text}\nAnswer:" if name == "arc_challenge" else text
    return [(context, " " + choice) for choice in choices]


def rows_of(folder: Path, name: str, count: int) -> list[dict[str, Any]]:
    from nacre.tasks.reading.tables import read_table

    file = next(path for path in (folder / name).glob("test.jsonl*"))
    return [dict(record.values) for record in read_table(file).records[:count]]


def best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda index: (values[index], -index))


def check_against_definition(host: Host, folder: Path, name: str, positions: int, within: float) -> AbilityScore:
    (task,) = load_ability_tasks([name], str(folder), 100)
    found = measure_ability(host, task, batch_size=16)
    rows = rows_of(folder, name, 100)
    assert found.rows == len(rows)
    direct = [[log_likelihood(host, *pair, positions) for pair in pairs_of(name, row)] for row in rows]
    assert found.log_likelihoods is not None
    for ours, theirs in zip(found.log_likelihoods, direct, strict=True):
        assert ours == pytest.approx(theirs, abs=within)
    right = {"acc": [best(one) == "ABCDE".index(row["label"]) for one, row in zip(direct, rows, strict=True)]}
    if name != "winogrande":
        lengths = [[len(choice) for choice in row["choices"]] for row in rows]
        normed = [[ll / n for ll, n in zip(*both, strict=True)] for both in zip(direct, lengths, strict=True)]
        right["acc_norm"] = [best(one) == "ABCDE".index(row["label"]) for one, row in zip(normed, rows, strict=True)]
    assert found.right == right
    for metric, values in right.items():
        assert found.scores[metric].value == pytest.approx(sum(values) / len(rows))
        assert found.scores[metric].standard_error == pytest.approx(statistics.stdev(values) / len(rows) ** 0.5)
    return found


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize(("rows", "architecture"), [("written", "llama"), ("written", "t5"), ("delivered", "llama")])
def test_lm_eval_decides_as_a_direct_computation_does(rows: str, architecture: str, name: str, tmp_path: Path) -> None:
    """On 100 of each benchmark's own items, and 25 that are always there: likelihoods, decisions, accuracies."""
    folder = delivered() if rows == "delivered" else write_abilities(tmp_path / "ability", 25)
    (task,) = load_ability_tasks([name], str(folder), 100)
    host = word_host(architecture, texts_of(task))
    assert check_against_definition(host, folder, name, 512, within=1e-9).truncated == 0


@pytest.mark.long
@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("model", ["stories260k", "minilm-b2b"])
def test_it_does_so_with_pretrained_models(model: str, name: str) -> None:
    """In float32: batches round otherwise than single rows do, by less than what the decisions hang on."""
    folder = delivered()
    host = load_host(str(folder.parent.parent / "models" / model))
    check_against_definition(host, folder, name, harness.positions(host), within=1e-3)


def prompted(host: Host, position: PromptPosition = "before") -> Learner:
    """A learner with a soft prompt of four tokens, far from any word."""
    method = Method(title="Prompt tuning", sources=(), adapter=Prompt(tokens=4, position=position))
    optim = Optim(batch_size=4, learning_rate=0.3, max_target_length=8)
    learner = Learner(host, method, optim=optim)
    learner.learn(replace(tiny_task(), labels=None))  # a host with the words of others knows no label
    return learner


@pytest.mark.parametrize(
    ("architecture", "position"), [("llama", "before"), ("t5", "before"), ("bart", "before"), ("t5", "after")]
)
def test_a_soft_prompt_stands_beside_every_text(architecture: str, position: PromptPosition, tmp_path: Path) -> None:
    folder = write_abilities(tmp_path / "ability", 25)
    (task,) = load_ability_tasks(["hellaswag"], str(folder), 100)
    host = word_host(architecture, texts_of(task), positions=40)
    plain = measure_ability(host, task).log_likelihoods
    learner = prompted(host, position)
    if architecture != "t5":
        assert harness.positions(host) == 36
    assert check_against_definition(host, folder, "hellaswag", 36, within=1e-9).log_likelihoods != plain
    learner.remove()
    assert measure_ability(host, task).log_likelihoods == plain


def test_inputs_that_are_too_long_lose_their_beginning(tmp_path: Path) -> None:
    folder = write_abilities(tmp_path / "ability", 25)
    (task,) = load_ability_tasks(["hellaswag"], str(folder))
    for architecture in ("llama", "bart"):
        host = word_host(architecture, texts_of(task), positions=12)
        assert harness.positions(host) == 12
        found = check_against_definition(host, folder, "hellaswag", 12, within=1e-9)
        assert 0 < found.truncated < 100
    assert harness.positions(word_host("t5", texts_of(task))) == 2048


def test_a_choice_without_room_or_without_tokens_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path, "hellaswag", [{"text": "the dog", "choices": ["likes " * 20, "sees"], "label": "A"}])
    (task,) = load_ability_tasks(["hellaswag"], str(tmp_path))
    with pytest.raises(DataError, match=r"the choice 'likes likes .* has 20 tokens in 'words-llama', which takes 1 to"):
        measure_ability(word_host("llama", texts_of(task), positions=12), task)


def test_equal_likelihoods_choose_the_first_and_by_length_the_longest(tmp_path: Path) -> None:
    """Every word is as likely as any other, and every choice is one word."""
    choices = ["cat", "spoon", "sky", "stone"]
    write_rows(tmp_path, "arc_challenge", [{"text": "the", "choices": choices, "label": label} for label in "AABBCD"])
    (task,) = load_ability_tasks(["arc_challenge"], str(tmp_path))
    host = tiny_host("llama")
    with torch.no_grad():
        host.model.lm_head.weight.zero_()
    found = measure_ability(host, task)
    assert found.log_likelihoods is not None
    assert {value for row in found.log_likelihoods for value in row} == {found.log_likelihoods[0][0]}
    assert found.right["acc"] == [True, True, False, False, False, False], "the base rate of A"
    assert found.right["acc_norm"] == [False, False, True, True, False, False], "the longest, and of two the first"


def test_winogrande_has_no_measure_by_length(tmp_path: Path) -> None:
    (task,) = load_ability_tasks(["winogrande"], str(write_abilities(tmp_path, 4)))
    assert list(measure_ability(tiny_host("gpt2"), task).scores) == ["acc"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5", "bart"])
@pytest.mark.parametrize("method", ["inc_lora", "seq_ft", "am_lora"])
def test_the_adapters_are_on_and_nothing_else_changes(architecture: str, method: str, tmp_path: Path) -> None:
    (task,) = load_ability_tasks(["hellaswag"], str(write_abilities(tmp_path, 6)))
    host = tiny_host(architecture)
    plain = measure_ability(host, task).log_likelihoods
    learner = Learner(host, build_method(method, {}), optim=Optim(epochs=1, batch_size=4, learning_rate=0.05))
    learner.learn(tiny_task())
    learner.host.model.train()
    tensors = {name: tensor.clone() for name, tensor in host.model.state_dict().items()}
    owners = [(name, id(p)) for name, p in host.model.named_parameters(remove_duplicate=False)]
    words, variables, drawn = copy.deepcopy(host.tokenizer.__dict__), dict(os.environ), torch.random.get_rng_state()
    adapted = measure_ability(host, task).log_likelihoods
    assert plain is not None
    assert adapted is not None
    moved = [abs(a - b) for both in zip(plain, adapted, strict=True) for a, b in zip(*both, strict=True)]
    assert min(moved) > 1e-4
    assert host.model.training, "as it was found"
    assert owners == [(name, id(p)) for name, p in host.model.named_parameters(remove_duplicate=False)]
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in host.model.state_dict().items())
    assert os.environ == variables
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert {key: value for key, value in host.tokenizer.__dict__.items() if key != "_tokenizer"} == {
        key: value for key, value in words.items() if key != "_tokenizer"
    }
    learner.remove()
    assert measure_ability(host, task).log_likelihoods == plain


def test_a_tokenizer_without_padding_or_with_an_end_token_behind_every_text(tmp_path: Path) -> None:
    """Neither is a reason to measure something else: the end token would stand between context and choice."""
    (task,) = load_ability_tasks(["winogrande"], str(write_abilities(tmp_path, 20)))
    plain = measure_ability(tiny_host("llama", torch.float64), task).log_likelihoods
    host = tiny_host("llama", torch.float64)
    core = json.loads(host.tokenizer.backend_tokenizer.to_str())
    core["post_processor"]["single"].append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    closing = Tokenizer.from_str(json.dumps(core))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=closing, eos_token="</s>", bos_token="<s>", unk_token="<unk>")
    assert tokenizer("the dog")["input_ids"][-1] == 1
    found = measure_ability(Host(host.model, tokenizer), task).log_likelihoods
    assert tokenizer.pad_token is None
    assert plain is not None
    assert found is not None
    assert [value for row in found for value in row] == pytest.approx([value for row in plain for value in row])


@pytest.mark.parametrize(
    ("architecture", "soft_prompt"),
    [("llama", None), ("t5", None), ("llama", "before"), ("t5", "before"), ("t5", "after")],
)
def test_answers_are_the_likeliest_token_after_token(
    architecture: str, soft_prompt: PromptPosition | None, tmp_path: Path
) -> None:
    """Whatever the model's own generation settings say, and as far as its positions go. Two prompts of unlike length
    are read together, with a soft prompt, if there is one."""
    (task,) = load_ability_tasks(["humaneval"], str(write_abilities(tmp_path, 1)))
    host = word_host(architecture, texts_of(task), positions=90)
    if soft_prompt:
        prompted(host, soft_prompt)
    prefix = host.family.prefix_of("")
    assert len(prefix) == 4 * bool(soft_prompt)
    host.model.generation_config = GenerationConfig(
        do_sample=True, repetition_penalty=9.0, max_length=3, bos_token_id=3, eos_token_id=1, decoder_start_token_id=0
    )
    budget = harness.room(host, task, 8)
    samples, cut = harness.samples_of(host, task, 2, budget)
    assert (budget, cut) == (8, 0)
    for document, sample in zip(task.documents, samples, strict=True):
        words = host.tokenizer(document["prompt"])["input_ids"]
        ids, written = [*words, *prefix] if soft_prompt == "after" else [*prefix, *words], [0] * (architecture == "t5")
        for _ in range(8):
            with torch.no_grad():
                if architecture == "t5":
                    logits = host.model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([written])).logits
                else:
                    logits = host.model(input_ids=torch.tensor([[*ids, *written]])).logits
            written.append(int(logits[0, -1].argmax()))
            if written[-1] == host.tokenizer.eos_token_id:
                break
        assert sample["filtered_resps"] == [host.tokenizer.decode(written, skip_special_tokens=True)]
    assert host.model.generation_config.repetition_penalty == 9.0
    longest = max(len(host.tokenizer(document["prompt"])["input_ids"]) for document in task.documents)
    if architecture == "llama":
        assert harness.room(host, task, 1024) == 90 - len(prefix) - longest
        assert harness.room(word_host("llama", texts_of(task), positions=20), task, 1024) == 10


def test_a_programs_first_space_is_kept() -> None:
    """Tokenizers in the manner of SentencePiece drop a decoded text's first space, which here is indentation."""
    vocabulary = {token: number for number, token in enumerate(["<unk>", "</s>", "▁▁▁", "▁return", "▁x"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )  # Llama's
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")
    assert tokenizer.decode([2, 3, 4]) == "   return x"
    model = harness._model_class()(Host(tiny_host("llama").model, tokenizer), 1, 8)
    assert model.tok_decode([2, 3, 4]) == "    return x"
    assert model.tok_decode([2, 3, 4, 1]) == "    return x", "special tokens stay out"


# Rows


def test_the_hub_names_are_those_of_lm_eval() -> None:
    root = Path(str(harness.lm_eval("").__file__)).parent / "tasks"
    files = {
        "hellaswag": "hellaswag/hellaswag", "winogrande": "winogrande/default", "arc_challenge": "arc/arc_challenge",
        "humaneval": "humaneval/humaneval",
    }  # fmt: skip
    for name, source in PUBLISHED.items():
        text = (root / f"{files[name]}.yaml").read_text()
        if name == "arc_challenge":
            text += (root / "arc/arc_easy.yaml").read_text()
        assert f"dataset_path: {source.dataset}\n" in text
        assert source.configuration is None or f"dataset_name: {source.configuration}\n" in text
        assert f"{source.split}_split: {source.split}" in text
    stops = re.findall(r'^    - "(.*)"$', (root / "humaneval/humaneval.yaml").read_text(), re.MULTILINE)
    assert [stop.replace("\\n", "\n") for stop in stops] == list(harness.STOPS)


def published_rows(name: str) -> list[dict[str, Any]]:
    """Two rows in the schema of the Hugging Face dataset."""
    return {
        "hellaswag": [
            {
                "ind": 4, "activity_label": "Removing ice", "ctx_a": "Then, the dog [step] sees the  sea.",
                "ctx_b": "the cat", "ctx": "", "split": "val", "split_type": "indomain", "source_id": "a",
                "endings": ["likes [substeps] it.", "is red.", "is a [title] cow.", "sees."], "label": "3",
            },
        ],
        "winogrande": [
            {
                "sentence": "the dog sees the cat because _ is big.", "option1": "the dog", "option2": "the cat",
                "answer": "2",
            },
        ],
        "arc_challenge": [
            {
                "id": "M", "question": "What is red ?", "answerKey": "3",
                "choices": {"text": ["grass", "sky", "blood"], "label": ["1", "2", "3"]},
            },
        ],
        "humaneval": [
            {
                "task_id": "HumanEval/0", "prompt": "def one():\n", "canonical_solution": "    return 1\n",
                "test": "def check(c):\n    assert c() == 1\n", "entry_point": "one",
            },
        ],
    }[name]  # fmt: skip


REQUESTS = {
    "hellaswag": [
        ("Removing ice: Then, the dog sees the sea. The cat", " likes it."),
        ("Removing ice: Then, the dog sees the sea. The cat", " is red."),
        ("Removing ice: Then, the dog sees the sea. The cat", " is a. cow."),
        ("Removing ice: Then, the dog sees the sea. The cat", " sees."),
    ],
    "winogrande": [
        ("the dog sees the cat because the dog", " is big."),
        ("the dog sees the cat because the cat", " is big."),
    ],
    "arc_challenge": [("Question: What is red ?\nAnswer:", f" {choice}") for choice in ("grass", "sky", "blood")],
}


def test_rows_from_the_hub_are_asked_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local copies in the datasets' real columns: what is asked, and which answer counts."""
    asked: list[tuple[Any, ...]] = []

    def load(path: str, name: str | None, split: str) -> datasets.Dataset:
        asked.append((path, name, split))
        ours = next(key for key, source in PUBLISHED.items() if (source.dataset, source.configuration) == (path, name))
        return datasets.Dataset.from_list(published_rows(ours))

    monkeypatch.setattr(datasets, "load_dataset", load)
    tasks = load_ability_tasks(ABILITIES, None)
    assert asked == [(one.dataset, one.configuration, one.split) for one in PUBLISHED.values()]
    gold = {"hellaswag": 3, "winogrande": 1, "arc_challenge": 2}
    for task in tasks[:3]:
        ((sample,), _) = harness.samples_of(tiny_host("llama"), task, 4, 4)
        assert [tuple(one) for one in sample["arguments"]] == REQUESTS[task.name]
        found = measure_ability(tiny_host("llama"), task)
        assert found.log_likelihoods is not None
        assert found.right["acc"] == [best(found.log_likelihoods[0]) == gold[task.name]]
    ((sample,), _) = harness.samples_of(tiny_host("llama"), tasks[3], 4, 4)
    assert sample["arguments"][0][0] == "def one():\n"
    assert run_program(trial_of(tasks[3].documents[0], "    return 1\n"), QUICK, filtered=True) == "passed"


def test_without_cache_or_network_one_line_says_what_to_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for name, call in (
        ("winogrande", "datasets.load_dataset('allenai/winogrande', 'winogrande_xl')"),
        ("humaneval", "datasets.load_dataset('openai/openai_humaneval')"),
    ):
        with pytest.raises(DataError) as error:
            load_ability_tasks([name], None)
        assert f"base_ability: {name} is neither in the cache nor within reach" in str(error.value)
        assert call in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("hellaswag", {"choices": ["a", "b"], "label": "A"}, r"line 2, text: a text is expected, not None\."),
        ("hellaswag", {"text": "the", "choices": ["a"], "label": "A"}, r"line 2, choices: a list of two or more texts"),
        ("hellaswag", {"text": "the", "choices": ["a", " "], "label": "A"}, r"line 2, choices: a list of two or more"),
        ("arc_challenge", {"text": "the", "choices": ["a", "b"], "label": "C"}, r"label: 'C' is none of A to B"),
        ("winogrande", {"text": "the", "choices": ["a", "b"], "label": "A"}, r"line 2: two choices and a text"),
        ("winogrande", {"text": "the _ ", "choices": ["a", "b"], "label": "A"}, r"line 2: two choices and a text with"),
        ("winogrande", {"text": "_ is", "choices": ["a", "b", "c"], "label": "A"}, r"line 2: two choices and a text"),
        ("humaneval", {**PROBLEMS[0], "test": ""}, r"line 2, test: a text is expected, not ''\."),
    ],
)  # fmt: skip
def test_a_row_that_is_not_as_it_should_be_is_named(name: str, row: Any, says: str, tmp_path: Path) -> None:
    write_abilities(tmp_path, 1)
    file = tmp_path / name / "test.jsonl"
    file.write_text(file.read_text().splitlines()[0] + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=says):
        load_ability_tasks([name], str(tmp_path))


def test_a_folder_without_the_task_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder .*nowhere does not exist\."):
        load_ability_tasks(["hellaswag"], str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"hellaswag holds neither of test\.jsonl and test\.jsonl\.gz; one is needed\."):
        load_ability_tasks(["hellaswag"], str(tmp_path))


def test_the_delivered_rows_are_read() -> None:
    tasks = load_ability_tasks(ABILITIES, str(delivered()))
    assert [len(task.documents) for task in tasks] == [1000, 1000, 1000, 164]


def test_solutions_pass_and_empty_answers_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model would have written is given; all else is as in a measurement."""
    (task,) = load_ability_tasks(["humaneval"], str(write_abilities(tmp_path, 1)))
    solutions = [document["canonical_solution"] for document in task.documents]
    for answers, right in ((solutions, [True, True]), (["", ""], [False, False]), ([solutions[0], ""], [True, False])):
        given = [{"filtered_resps": [answer]} for answer in answers]
        monkeypatch.setattr(measure, "samples_of", lambda *_, given=given: (given, 0))
        found = measure_ability(tiny_host("llama"), task, run_generated_code=True, limits=QUICK)
        assert found.right == {"pass@1": right}
        assert found.scores == {"pass@1": score_of(right)}
        assert found.completions == answers
        assert found.programs is not None
        assert (found.programs.samples, found.programs.temperature) == (1, 0.0)
        assert sum(found.programs.outcomes.values()) == 2
        assert found.programs.limits["cpu_seconds"] == 1
        held = containment(QUICK)
        assert (found.programs.filtered, found.programs.network_cut) == (held.filtered, held.network_cut)


@pytest.mark.long
def test_the_published_solutions_all_pass_and_empty_ones_all_fail() -> None:
    (task,) = load_ability_tasks(["humaneval"], str(delivered()))
    filtered = containment().filtered
    for right, outcome in ((True, "passed"), (False, "failed")):
        answers = [document["canonical_solution"] if right else "" for document in task.documents]
        trials = [trial_of(*both) for both in zip(task.documents, answers, strict=True)]
        assert [run_program(trial, filtered=filtered) for trial in trials] == [outcome] * 164


def test_no_program_runs_without_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = load_ability_tasks(["humaneval"], str(write_abilities(tmp_path, 1)))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("something ran")

    monkeypatch.setattr(measure, "samples_of", never)
    monkeypatch.setattr(measure, "containment", never)
    with pytest.raises(RecipeError, match=r"Set base_ability\.run_generated_code=true to allow it"):
        measure_ability(tiny_host("llama"), task)


def test_an_encoder_gives_no_likelihoods(tmp_path: Path) -> None:
    (task,) = load_ability_tasks(["hellaswag"], str(write_abilities(tmp_path, 1)))
    with pytest.raises(ModelError, match=r"'tiny-roberta' is encoder-only, and gives no likelihood"):
        measure_ability(tiny_host("roberta"), task)


# Runs


OPTIM = Optim(epochs=1, batch_size=4, learning_rate=0.05, max_source_length=48, max_target_length=8)


def recipe_of(tmp_path: Path, output: str, model: Path, **more: Any) -> Recipe:
    data = tmp_path / "data"
    if not data.exists():
        for name in ("animals", "plants"):
            write_task(data, name, rows=8)
        write_abilities(tmp_path / "ability", 6)
    settings = {"data": str(tmp_path / "ability"), "max_new_tokens": 4, **more.pop("base_ability", {})}
    document = {
        "method": "inc_lora",
        "stream": ["animals", "plants"],
        "data": str(data),
        "model": str(model),
        "output": str(tmp_path / output),
        "optim": OPTIM.model_dump(),
        "base_ability": settings,
    }  # fmt: skip
    return Recipe.model_validate(document | more)


def told(record: RunRecord) -> dict[str, Any]:
    """What a record says of base ability, less the time it took."""
    assert record.base_ability is not None
    return record.base_ability.model_dump(exclude={"results": {"__all__": {"seconds"}}})


def written(run: Path, stage: str, task: str) -> AbilityScore:
    """What a run's folder holds of a benchmark at a stage."""
    score = read_result(AbilityScore, run / "base_ability" / stage / f"{task}.json", run / "tasks" / stage)
    assert score is not None
    return score


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_a_run_measures_before_and_after_the_stream(architecture: str, tmp_path: Path, tiny_model: Any) -> None:
    every = {"tasks": list(ABILITIES), "run_generated_code": True}
    record = run(recipe_of(tmp_path, "run", tiny_model(architecture), base_ability=every), ignore)
    found = record.base_ability
    assert found is not None
    assert [(one.after, one.task) for one in found.results] == [
        (after, task) for after in ("before", "plants") for task in ABILITIES
    ]
    assert read_record(tmp_path / "run" / "results.json") == record
    scores = {
        (after, task): written(tmp_path / "run", stage, task)
        for after, stage in (("before", "00-before"), ("plants", "02-plants"))
        for task in ABILITIES
    }
    for one in found.results:
        score, first = scores[one.after, one.task], scores["before", one.task]
        assert (one.scores, one.rows, one.programs) == (score.scores, score.rows, score.programs)
        if one.after == "before":
            assert one.changes is None
            continue
        assert one.changes is not None
        for metric, change in one.changes.items():
            moved = [int(b) - int(a) for a, b in zip(first.right[metric], score.right[metric], strict=True)]
            assert change == score_of(moved)
            assert change.value == pytest.approx(one.scores[metric].value - first.scores[metric].value)
    assert scores["before", "hellaswag"].log_likelihoods != scores["plants", "hellaswag"].log_likelihoods
    ends = found.averages
    headline = {"hellaswag": "acc_norm", "winogrande": "acc", "arc_challenge": "acc_norm"}
    for average in ends:
        chosen = [scores[average.after, task].scores[metric].value for task, metric in headline.items()]
        assert average.value == pytest.approx(statistics.fmean(chosen))
    assert ends[0].change is None
    assert ends[1].change == pytest.approx(ends[1].value - ends[0].value)
    described = record.protocol["base ability"]
    assert [task["name"] for task in described["tasks"]] == list(ABILITIES)
    assert [task["rows"] for task in described["tasks"]] == [6, 6, 6, 2]
    assert described["programs"]["max_new_tokens"] == 4


def test_the_first_measurement_is_of_the_untouched_model(tmp_path: Path, tiny_model: Any) -> None:
    recipe = recipe_of(tmp_path, "run", tiny_model("llama"), base_ability={"tasks": ["arc_challenge"]})
    run(recipe, ignore)
    (task,) = load_ability_tasks(["arc_challenge"], str(tmp_path / "ability"))
    plain = measure_ability(load_host(str(tiny_model("llama"))), task)
    before, after = (written(tmp_path / "run", stage, "arc_challenge") for stage in ("00-before", "02-plants"))
    assert before.log_likelihoods == plain.log_likelihoods
    learner = Learner.load(tmp_path / "run" / "tasks" / "02-plants")
    assert after.log_likelihoods == measure_ability(learner.host, task).log_likelihoods


def test_a_method_with_a_model_for_each_task_is_measured_after_each(tmp_path: Path, tiny_model: Any) -> None:
    """Every copy begins from the untouched host; none is measured inside another."""
    every = {"base_ability": {"tasks": ["winogrande"], "when": "every"}, "method": "independent"}
    with pytest.raises(RecipeError, match=r"not with a last one to measure\. Set base_ability\.when=every\."):
        run(recipe_of(tmp_path, "ends", tiny_model("llama"), **{**every, "base_ability": {}}), ignore)
    run(recipe_of(tmp_path, "run", tiny_model("llama"), **every), ignore)
    (task,) = load_ability_tasks(["winogrande"], str(tmp_path / "ability"))
    for stage in ("01-animals", "02-plants"):
        learner = Learner.load(tmp_path / "run" / "tasks" / stage)
        found = measure_ability(learner.host, task).log_likelihoods
        assert written(tmp_path / "run", stage, "winogrande").log_likelihoods == found


def test_an_interrupted_run_goes_on_at_the_next_benchmark_and_finds_the_same(tmp_path: Path, tiny_model: Any) -> None:
    every = {"base_ability": {"when": "every", "tasks": ["hellaswag", "winogrande"]}}
    whole = run(recipe_of(tmp_path, "whole", tiny_model("llama"), **every), ignore)
    assert whole.base_ability is not None
    assert [one.after for one in whole.base_ability.averages] == ["before", "animals", "plants"]
    started: list[tuple[object, ...]] = []

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, ProbeStarted):
            started.append(tuple(event.values.values()))
            if len(started) == 4:
                raise Stop

    with pytest.raises(Stop):
        run(recipe_of(tmp_path, "cut", tiny_model("llama"), **every), stop)
    record = run(recipe_of(tmp_path, "cut", tiny_model("llama"), **every), stop)
    assert len(started) == 4 + 6 - 3, "three were done"
    assert told(record) == told(whole)

    (tmp_path / "cut" / "results.json").unlink()
    file = tmp_path / "cut" / "base_ability" / "01-animals" / "winogrande.json"
    file.write_text(file.read_text()[:40])
    with pytest.raises(CheckpointError, match=r"winogrande\.json is damaged; delete it"):
        run(recipe_of(tmp_path, "cut", tiny_model("llama"), **every), ignore)


def test_the_protocol_knows_what_changes_the_numbers_and_nothing_else(tmp_path: Path, tiny_model: Any) -> None:
    def hash_of(output: str, **settings: Any) -> str:
        return run(recipe_of(tmp_path, output, tiny_model("llama"), base_ability=settings), ignore).protocol_hash

    plain = hash_of("plain", tasks=["winogrande"])
    assert hash_of("every", tasks=["winogrande"], when="every", batch_size=2) == plain
    assert hash_of("fewer", tasks=["winogrande"], limit=3) != plain
    none = run(recipe_of(tmp_path, "none", tiny_model("llama")).model_copy(update={"base_ability": None}), ignore)
    assert none.base_ability is None
    assert "base ability" not in none.protocol
    assert none.protocol_hash != plain


def test_the_command_the_page_and_the_comparison_show_it(tmp_path: Path, tiny_model: Any, nacre: Call) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_of(tmp_path, "run", tiny_model("llama")).yaml())
    outcome = nacre("run", file)
    assert outcome.code == 0, outcome.err
    assert outcome.err == "", "lm-eval's bars and lines stay out"
    record = read_record(tmp_path / "run" / "results.json")
    assert record.base_ability is not None
    one = record.base_ability.before_after()[0]
    assert (one.task, one.metric) == ("hellaswag", "acc")
    assert "base ability, in %" in outcome.out
    assert f"base ability, before: hellaswag, acc {100 * one.before.value:.1f}" in outcome.out
    assert "base ability, after plants: winogrande, acc" in outcome.out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Base ability</h2>" in page
    assert page.count(', acc_norm</span></th><td class="number">') == 2
    compared = json.loads(nacre("compare", tmp_path / "run", "--output", tmp_path / "page.html", "--json").out)
    metrics = compared["groups"][0]["metrics"]
    assert metrics["base_ability"]["mean"] == record.base_ability.averages[-1].value
    assert metrics["base_ability_change"]["mean"] == record.base_ability.averages[-1].change


def test_mistakes_are_one_line_before_anything_is_written(
    tmp_path: Path, tiny_model: Any, nacre: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_of(tmp_path, "run", tiny_model("llama")).yaml())

    def says(*parts: object, settings: Sequence[str] = (), dry: bool = True, model: str = "llama") -> None:
        flags = [word for setting in settings for word in ("--set", f"base_ability.{setting}")]
        flags += ["--model", str(tiny_model(model))]
        assert_one_line_error(nacre("run", file, *flags), *parts)
        if dry:
            assert_one_line_error(nacre("run", file, "--dry-run", *flags), *parts)
        assert not (tmp_path / "run").exists()

    says("base_ability.tasks.0 = 'hellaswug'", "'hellaswag', 'winogrande'", settings=["tasks=[hellaswug]"])
    says("there is no key 'base_ability.lmit'", "Did you mean limit", settings=["lmit=3"])
    says("names a task twice", settings=["tasks=[winogrande,winogrande]"])
    says("humaneval runs programs", "run_generated_code=true", settings=["tasks=[humaneval]"])
    says("the folder", "nowhere does not exist", settings=[f"data={tmp_path / 'nowhere'}"], dry=False)
    says("base_ability.data = $NOWHERE", "pass --set base_ability.data=FOLDER", settings=["data=$NOWHERE"], dry=False)
    says("is encoder-only, and gives no likelihood", model="roberta", dry=False)
    says("neither in the cache nor within reach", "load_dataset('Rowan/hellaswag')", settings=["data=null"], dry=False)
    with monkeypatch.context() as broken:
        broken.setattr(programs, "run_program", lambda *_, **__: "failed")
        says("a harmless program fails", settings=["tasks=[humaneval]", "run_generated_code=true"])
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    says("Measuring base ability needs the package 'lm-eval'", "pip install 'nacre[ability]'")


def test_a_dry_run_says_what_is_measured_and_what_is_missing(tmp_path: Path, tiny_model: Any, nacre: Call) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_of(tmp_path, "run", tiny_model("llama")).yaml())
    plan = nacre("run", file, "--dry-run")
    assert plan.code == 0
    assert "hellaswag, winogrande, arc_challenge, before and after the stream; rows from" in plan.out
    assert "Missing" not in plan.out
    for value, sentence in (
        ("null", "Missing: base_ability: its rows are read from the cache or over the network"),
        ("nowhere", "Missing: base_ability.data: the folder nowhere does not exist."),
        ("$NOWHERE", "Missing: base_ability.data = $NOWHERE: the environment variable NOWHERE is not set"),
    ):
        plan = nacre("run", file, "--dry-run", "--set", f"base_ability.data={value}")
        assert plan.code == 0
        assert sentence in plan.out
