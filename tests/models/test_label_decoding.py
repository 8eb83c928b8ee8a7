"""Choosing the most likely label, and free answers found along the labels."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from helpers.command import Call
from helpers.tiny import FAMILIES, tiny_host, tiny_task, write_task, write_tiny_model
from nacre.errors import DataError
from nacre.evaluation.decoding import Decoding, answer, token_budget
from nacre.functional.label_search import most_likely_labels
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.seq_lora import seq_lora
from nacre.models import generative, label_passes
from nacre.models.families import Encoded, Lengths
from nacre.models.host import Host
from nacre.models.label_tree import Labels, tree_of
from nacre.models.loading import load_host
from nacre.tasks.reading.sources import load_tasks
from nacre.tasks.task import Task

WRITERS = (*FAMILIES["encoder-decoder"], *FAMILIES["decoder-only"])
END = 1
LABELS: Labels = tuple((*ids, END) for ids in [(5, 6, 7), (5,), (8, 9), (5, 6), (8, 4, 4, 4), (20,)])
"""One label begins another, three share a beginning, one shares none."""


SHORT = Optim(epochs=12, batch_size=4, learning_rate=3e-3, max_target_length=8)
"""Decoders with 64 positions read prompts and targets in them."""


def writer(architecture: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Host:
    """A tiny host that does not write the same to every row, as those of some architectures would: larger weights."""
    host = tiny_host(architecture, dtype, seed)
    with torch.no_grad():
        for parameter in host.model.parameters():
            if parameter.dim() == 2:
                parameter.mul_({"bart": 20, "t5": 4}.get(architecture, 1))
    return host


def some_rows(count: int, seed: int = 0) -> list[Encoded]:
    drawn = random.Random(seed)
    return [
        Encoded(tuple(drawn.randrange(4, 40) for _ in range(drawn.randrange(1, 20))), (), False) for _ in range(count)
    ]


@torch.no_grad()
def log_probabilities(host: Host, row: Encoded, label: Sequence[int]) -> list[float]:
    """Of each of the label's tokens, by the whole model, with neither padding, cache nor mask."""
    source = torch.tensor([row.source])
    if host.family.name == "encoder-decoder":
        decoder = torch.tensor([[host.model.generation_config.decoder_start_token_id, *label[:-1]]])
        logits = host.model(input_ids=source, decoder_input_ids=decoder).logits[0]
    else:
        whole = torch.cat([source, torch.tensor([label[:-1]], dtype=torch.long)], 1)
        logits = host.model(input_ids=whole).logits[0, len(row.source) - 1 :]
    return logits.double().log_softmax(-1).gather(-1, torch.tensor(label)[:, None]).squeeze(-1).tolist()


def likelihood(host: Host, row: Encoded, label: Sequence[int]) -> float:
    return math.fsum(log_probabilities(host, row, label))


def best_label(host: Host, row: Encoded, labels: Labels) -> int:
    return max(range(len(labels)), key=lambda number: likelihood(host, row, labels[number]))


def expanding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every architecture treated as one that does not take trees."""
    for module in (label_passes, generative):
        monkeypatch.setattr(module, "takes_tree", lambda model, tree, width: False)


PASSES = [*itertools.product(WRITERS, ("tree", "expanded")), ("t5", "a row at a time"), ("llama", "a row at a time")]
"""Architectures, and the ways in which they read labels."""


def passing(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have labels read that way."""
    if way != "tree":
        expanding(monkeypatch)
    if way == "a row at a time":
        monkeypatch.setattr(generative, "LOGITS_AT_ONCE", 1)


# The tree


def test_a_labels_path_is_its_continuations() -> None:
    tree = tree_of(LABELS)
    tokens, _ = tree.continuations
    ways = tokens.shape[1]
    for label, path in zip(LABELS, tree.paths.tolist(), strict=True):
        own = path[: len(label)]
        assert [tree.nodes[number // ways] for number in own] == [label[:step] for step in range(len(label))]
        assert [tokens[number // ways, number % ways].item() for number in own] == list(label)
        assert set(path[len(label) :]) <= {tokens.numel()}


def test_the_tree_has_a_node_for_every_beginning() -> None:
    tree = tree_of(LABELS)
    assert tree.nodes == ((), (5,), (5, 6), (5, 6, 7), (8,), (8, 9), (8, 4), (8, 4, 4), (8, 4, 4, 4), (20,))
    assert tree.depths.tolist() == [0, 1, 2, 3, 1, 2, 2, 3, 4, 1]
    assert tree.tokens.tolist() == [5, 6, 7, 8, 9, 4, 4, 4, 20]
    assert tree.ancestors[8].nonzero().squeeze(-1).tolist() == [0, 4, 6, 7, 8]
    tokens, destinations = tree.continuations
    found = {
        (node, token, way)
        for node, ways in enumerate(zip(tokens.tolist(), destinations.tolist(), strict=True))
        for token, way in zip(*ways, strict=True)
        if way < len(tree.nodes) + len(LABELS)
    }
    to_nodes = {(0, 5, 1), (1, 6, 2), (2, 7, 3), (0, 8, 4), (4, 9, 5), (4, 4, 6), (6, 4, 7), (7, 4, 8), (0, 20, 9)}
    assert found == to_nodes | {(3, 1, 10), (1, 1, 11), (5, 1, 12), (2, 1, 13), (8, 1, 14), (9, 1, 15)}


# The search


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_the_search_finds_the_largest_sum(spread: float) -> None:
    tree = tree_of(LABELS)
    generator = torch.Generator().manual_seed(3)
    logits = spread * torch.randn(50, len(tree.nodes), 30, generator=generator, dtype=torch.float64)
    asked = []

    def at(rows: Tensor, nodes: Tensor) -> Tensor:
        asked.extend(zip(rows.tolist(), nodes.tolist(), strict=True))
        return logits[rows, nodes]

    found = most_likely_labels(at, 50, *tree.continuations, len(LABELS)).tolist()
    for row, chosen in enumerate(found):
        sums = []
        for label in LABELS:
            terms = []
            for step, token in enumerate(label):
                scores = logits[row, tree.number[label[:step]]].tolist()
                terms.append(scores[token] - math.log(math.fsum(math.exp(score) for score in scores)))
            sums.append(math.fsum(terms))
        assert chosen == sums.index(max(sums))
    assert len(asked) == len(set(asked))  # no node twice
    assert len(set(found)) > 1
    if spread == 10.0:  # where one way stands out, few of the nodes are looked at
        assert len(asked) < 50 * len(tree.nodes) / 2


def test_of_equally_likely_labels_the_first_is_chosen() -> None:
    tree = tree_of(((4, END), (5, END), (6, END)))
    logits = torch.zeros(2, len(tree.nodes), 9)
    logits[1, :, 5:7] = 2.0
    found = most_likely_labels(lambda rows, nodes: logits[rows, nodes], 2, *tree.continuations, 3)
    assert found.tolist() == [0, 1]


def test_half_precision_is_added_up_in_single() -> None:
    """In bfloat16, 4 - log(sum) of both labels would round to the same number."""
    tree = tree_of(((4,), (5,)))
    logits = torch.tensor([[[0.0, 0, 0, 0, 4.0, 4.03125]]], dtype=torch.bfloat16)
    assert most_likely_labels(lambda rows, nodes: logits[rows, nodes], 1, *tree.continuations, 2).tolist() == [1]


# The passes


@pytest.mark.parametrize("way", ["tree", "expanded"])
@pytest.mark.parametrize("architecture", WRITERS)
def test_nodes_say_what_the_whole_model_says(architecture: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every label, token by token, in a padded batch, against the model run on each label alone."""
    host = writer(architecture, torch.float64)
    tree, rows = tree_of(LABELS), some_rows(5)
    prompts = host.family.prompts(rows)
    assert label_passes.takes_tree(host.model, tree, prompts["input_ids"].shape[1])
    if way == "expanded":
        expanding(monkeypatch)
    # GPT-Neo multiplies queries and keys in float32, whatever the model's precision.
    tolerance = 1e-4 if architecture == "gpt_neo" else 1e-12
    with torch.inference_mode():
        reading = host.family.reading(prompts, tree)
        for row, encoded in enumerate(rows):
            for label in LABELS:
                at = torch.tensor([tree.number[label[:step]] for step in range(len(label))])
                found = reading(torch.full_like(at, row), at).log_softmax(-1)
                expected = torch.tensor(log_probabilities(host, encoded, label), dtype=torch.float64)
                assert (found.gather(-1, torch.tensor(label)[:, None]).squeeze(-1) - expected).abs().max() < tolerance


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        ("t5", {"_attn_implementation": "flash_attention_2"}),
        ("t5", {"model_type": "umt5"}),
        ("bart", {"max_position_embeddings": 9}),
        ("mistral", {"sliding_window": 30}),
        ("gpt_neo", {"attention_layers": ["global", "local"], "window_size": 30}),
        ("gpt_neo", {"max_position_embeddings": 29}),
        ("llama", {"model_type": "mamba"}),
    ],
)
def test_where_a_tree_would_not_be_exact_labels_are_sequences(architecture: str, change: dict[str, object]) -> None:
    host, tree = writer(architecture), tree_of(LABELS)
    assert label_passes.takes_tree(host.model, tree, 20)
    for name, value in change.items():
        setattr(host.model.config, name, value)
    assert not label_passes.takes_tree(host.model, tree, 20)


def test_a_sliding_window_is_kept_to() -> None:
    """A Mistral that sees five tokens: its labels are sequences behind a cached prompt."""
    host = tiny_host("mistral", torch.float64)
    host.model.config.sliding_window = 5
    for layer in host.model.model.layers:
        layer.self_attn.sliding_window = 5
    rows = some_rows(12)
    with torch.no_grad():
        short = host.model(input_ids=torch.tensor([rows[1].source[-3:]])).logits
    assert torch.isfinite(short).all()
    assert host.classify(rows, LABELS) == [best_label(host, row, LABELS) for row in rows]


# Choosing


@pytest.mark.parametrize(("architecture", "way"), PASSES)
def test_the_chosen_label_is_the_best_by_brute_force(
    architecture: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, rows = writer(architecture, torch.float64, seed=2), some_rows(8)
    passing(way, monkeypatch)
    assert host.classify(rows, LABELS) == [best_label(host, row, LABELS) for row in rows]


@pytest.mark.parametrize(("architecture", "way"), PASSES)
def test_every_labels_score_is_the_likelihood_of_the_whole_model(
    architecture: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, rows = writer(architecture, torch.float64, seed=2), some_rows(8)
    passing(way, monkeypatch)
    expected = [[likelihood(host, row, label) for label in LABELS] for row in rows]
    tolerance = 1e-4 if architecture == "gpt_neo" else 1e-10
    torch.testing.assert_close(
        host.label_scores(rows, LABELS), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_score_has_the_gradient_of_its_label_alone(architecture: str) -> None:
    """The same as the task loss of a row with that target, with the other sign."""
    learner = Learner(writer(architecture, torch.float64), seq_lora(rank=2, dropout=0.0), optim=SHORT)
    task = tiny_task("colors", labels=("yes", "no", "maybe"))
    learner.learn(task)
    learner.adapter.grow()
    trained = [parameter for group in learner.trainable() for parameter in group.parameters]
    examples = task.examples("test")[:3]
    labels = list(task.labels or ())
    sets = learner.host.family.label_set(examples[0], labels, learner.lengths)
    prompts = learner.host.on_device(learner.host.family.prompts(learner.encode(examples)))
    scores = learner.host.family.label_scores(prompts, sets)
    for number, label in enumerate(labels):
        rows = learner.encode([replace(example, target=label) for example in examples])
        expected = torch.autograd.grad(-learner.loss_sum(rows), trained)
        found = torch.autograd.grad(scores[:, number].sum(), trained, retain_graph=True)
        assert any(bool(each.any()) for each in expected)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("architecture", ["t5", "bart", "llama", "gpt2"])
@pytest.mark.parametrize("way", ["tree", "expanded"])
def test_labels_that_were_first_answered_with_can_be_trained_with(
    architecture: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their tree is kept, and answers are given in inference mode."""
    host, rows = writer(architecture, torch.float64), some_rows(3)  # inference mode may take other kernels
    if way != "tree":
        expanding(monkeypatch)
    tree_of.cache_clear()
    host.classify(rows, LABELS)
    with torch.inference_mode():
        expected = host.label_scores(rows, LABELS).clone()
    host.model.requires_grad_(True)
    scores = host.label_scores(rows, LABELS)
    scores.sum().backward()
    assert all(
        bool(parameter.grad.isfinite().all()) for parameter in host.model.parameters() if parameter.grad is not None
    )
    torch.testing.assert_close(scores.detach(), expected)


def test_a_classifiers_score_is_the_share_among_all_classes() -> None:
    learner = Learner(tiny_host("roberta", torch.float64), seq_lora(rank=2), optim=SHORT)
    task, other = tiny_task("animals"), tiny_task("colors", labels=("yes", "no", "maybe"))
    learner.learn(task)
    learner.learn(other)
    rows = learner.encode(task.examples("test")[:5])
    labels = ["unheard", *(task.labels or ()), "maybe"]
    scores = learner.label_scores(rows, labels)
    logits = learner.host.model(**learner.host.family.prompts(rows)).logits.detach()
    classes = learner.host.family.head.labels.classes  # type: ignore[union-attr]
    assert (scores[:, 0] == -math.inf).all()
    expected = logits.log_softmax(-1)[:, [classes.index(label) for label in labels[1:]]]
    torch.testing.assert_close(scores[:, 1:], expected)


def test_labels_are_scored_behind_each_rows_own_cue() -> None:
    """A decoder-only host's labels begin with another token behind another cue."""
    learner = Learner(writer("llama", torch.float64), seq_lora(rank=2), optim=SHORT)
    task = tiny_task("animals")
    learner.learn(task)
    labels = list(task.labels or ())
    examples = [
        replace(example, after=cue)
        for example, cue in zip(task.examples("test")[:3], ["\nAnswer:", " ", "\nAnswer:"], strict=True)
    ]
    rows = learner.encode(examples)
    together = learner.label_scores(rows, labels)
    alone = torch.cat([learner.label_scores([row], labels) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
    for example, row, scores in zip(examples, rows, together, strict=True):
        for number, label in enumerate(labels):
            (ids,) = learner.host.family.label_set(example, [label], learner.lengths)
            assert scores[number].item() == pytest.approx(likelihood(learner.host, row, ids), abs=1e-9)


def test_a_learner_chooses_among_each_tasks_labels() -> None:
    tasks = [tiny_task("animals"), tiny_task("colors", labels=("yes", "no", "maybe"))]
    host, decoding = tiny_host("llama", torch.float64), Decoding(decode="labels")
    learner = Learner(host, seq_lora(rank=2), optim=SHORT, decoding=decoding)
    learner.learn(tasks[0])
    answers = learner.answer(tasks)
    for task, found in zip(tasks, answers, strict=True):
        for row, text in zip(learner.encode(task.examples("test")), found, strict=True):
            labels = task.labels or ()
            encoded = learner.host.family.label_set(task.examples("test")[0], labels, learner.lengths)
            assert text == labels[best_label(learner.host, row, encoded)]
    assert [score.valid for score in learner.evaluate(tasks)] == [1.0, 1.0]
    assert token_budget(learner.host, tasks, Lengths(), learner.decoding) == 1


def test_free_text_cannot_be_chosen() -> None:
    learner = Learner(tiny_host("t5"), seq_lora(), decoding=Decoding(decode="labels"))
    story = replace(tiny_task("story"), labels=None)
    with pytest.raises(DataError, match=r"Task 'story' has no labels, .*free text needs decode=free"):
        learner.answer([tiny_task(), story])
    assert len(learner.predict(["the dog", "the cat"])) == 2  # finished prompts are answered freely


def test_labels_that_look_the_same_to_the_host_are_refused() -> None:
    host, example = tiny_host("t5"), tiny_task().examples("test")
    sets = [("yes", "zebra", "okapi")]  # unknown words both
    free = Decoding(batch_size=4)
    assert answer(host, [example], Lengths(), free, 3, sets) == answer(host, [example], Lengths(), free, 3)
    with pytest.raises(DataError, match="'zebra' and 'okapi' are the same tokens"):
        answer(host, [example], Lengths(), Decoding(batch_size=4, decode="labels"), 1, sets)


def test_labels_are_encoded_behind_each_rows_own_cue() -> None:
    """Without an answer cue, a decoder's labels continue the text itself."""
    task = tiny_task(labels=("yes", "no"))
    bare = replace(task, template=replace(task.template, answer_cue=""))
    host = tiny_host("gpt2")
    assert host.family.cue(bare.examples("test")[0]) == bare.test[0].text
    assert host.family.cue(task.examples("test")[0]) == "\nAnswer:"
    plain = answer(host, [bare.examples("test")], Lengths(), Decoding(batch_size=4), 4)
    assert answer(host, [bare.examples("test")], Lengths(), Decoding(batch_size=4), 4, [bare.labels]) == plain


def test_an_encoder_chooses_among_the_tasks_own_classes() -> None:
    first, second = tiny_task("animals"), tiny_task("fish", labels=("no", "maybe"))
    learner = Learner(tiny_host("roberta"), seq_lora(), decoding=Decoding(decode="labels"))
    assert learner.answer([first]) == [[""] * 6]  # no class is known yet
    learner.learn(first)
    assert set(learner.answer([second])[0]) == {"no"}  # "maybe" is not known yet
    learner.learn(second)
    head = learner.host.model.head
    for task, found in zip((first, second), learner.answer([first, second]), strict=True):
        labels = task.labels or ()
        for row, text in zip(learner.encode(task.examples("test")), found, strict=True):
            with torch.no_grad():
                state = learner.host.body(input_ids=torch.tensor([row.source])).last_hidden_state[0, 0]
            scores = {name: float(head.weight[i] @ state + head.bias[i]) for i, name in enumerate(head.classes)}
            assert text == max(labels, key=scores.__getitem__)


def test_the_protocol_says_how_answers_come_about() -> None:
    free, labels = Decoding(), Decoding(decode="labels")
    assert free.description(tiny_host("t5")) == "free, greedy"
    words = {labels.description(tiny_host(name)) for name in ("t5", "llama")} | {labels.description(tiny_host("bert"))}
    assert len(words) == 2
    assert all(text.startswith("of the task's labels") for text in words)


def test_a_run_that_cannot_choose_does_not_begin(nacre: Call, tmp_path: Path) -> None:
    """Neither for real nor on paper; where it can choose, the protocol says so."""
    for name in ("animals", "story"):
        write_task(tmp_path / "data", name)
    story = tmp_path / "data" / "story" / "task.json"
    story.write_text('{"labels": null, "instruction": "Go on"}')
    common = (
        "run",
        "--method",
        "seq_lora",
        "--data",
        tmp_path / "data",
        "--model",
        write_tiny_model("t5", tmp_path / "t5"),
    )
    common = (*common, "--set", "evaluation.decode=labels", "--set", "optim.epochs=1")
    for more in ((), ("--dry-run",)):
        refused = nacre(*common, "--stream", "animals,story", "--output", tmp_path / "refused", *more)
        assert refused.code == 2
        assert "Task 'story' has no labels" in refused.err
        assert not (tmp_path / "refused").exists()
    assert nacre(*common, "--stream", "animals", "--output", tmp_path / "run").code == 0
    protocol = json.loads((tmp_path / "run" / "protocol.json").read_text())
    assert protocol["protocol"]["decoding"] == tiny_host("t5").family.label_decoding


# Free answers along the labels


@torch.no_grad()
def written_ids(host: Host, row: Encoded, limit: int) -> list[int]:
    """Greedy ids by a loop over the whole model."""
    ids: list[int] = []
    while len(ids) < limit and END not in ids:
        if host.family.name == "encoder-decoder":
            decoder = torch.tensor([[host.model.generation_config.decoder_start_token_id, *ids]])
            logits = host.model(input_ids=torch.tensor([row.source]), decoder_input_ids=decoder).logits
        else:
            logits = host.model(input_ids=torch.tensor([[*row.source, *ids]])).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids


@pytest.mark.parametrize("architecture", ["t5", "bart", "llama"])
def test_a_hosts_own_generation_settings_do_not_matter(architecture: str) -> None:
    host, rows = writer(architecture), some_rows(10)
    plain = host.write(rows, 5)
    own = GenerationConfig(
        **{
            **host.model.generation_config.to_diff_dict(),
            "forced_eos_token_id": None,
            "repetition_penalty": 5.0,
            "no_repeat_ngram_size": 1,
            "forced_bos_token_id": 9,
            "min_new_tokens": 5,
            "suppress_tokens": [int(written_ids(host, rows[0], 1)[0])],
        }
    )
    host.model.generation_config = own
    assert host.write(rows, 5) == plain
    assert host.model.generation_config is own


# Real rows, a real model


@pytest.fixture(scope="module")
def real() -> Callable[[str, int], tuple[Task, list[Encoded], Labels, Host]]:
    if "NACRE_DATA" not in os.environ:
        pytest.skip("NACRE_DATA does not name the folder with the benchmark data")
    data = Path(os.environ["NACRE_DATA"])
    model = data.parent / "models" / "minilm-b2b"
    if not model.is_dir():
        pytest.skip("the model minilm-b2b is not beside NACRE_DATA")

    def made(name: str, rows: int, dtype: torch.dtype = torch.float32) -> tuple[Task, list[Encoded], Labels, Host]:
        host = load_host(str(model), dtype=dtype)
        task = load_tasks([name], data / "long_sequence")[0].limited(test=rows)
        examples = task.examples("test")
        encoded = sorted(
            (host.family.encode(example, Lengths()) for example in examples), key=lambda row: len(row.source)
        )
        return task, encoded, host.family.label_set(examples[0], task.labels or (), Lengths()), host

    return made


@pytest.mark.long
@pytest.mark.parametrize("name", ["dbpedia", "yahoo"])
def test_real_labels_equal_brute_force(real, name: str) -> None:
    _, rows, labels, host = real(name, 200, torch.float64)
    chosen = [best for start in range(0, 200, 20) for best in host.classify(rows[start : start + 20], labels)]
    expected = []
    for row in rows:  # the encoder alone and every label by itself: nothing is padded, cached or shared but its output
        with torch.no_grad():
            memory = host.model.get_encoder()(input_ids=torch.tensor([row.source]))
            sums = []
            for label in labels:
                decoder = torch.tensor([[host.model.generation_config.decoder_start_token_id, *label[:-1]]])
                logits = host.model(encoder_outputs=memory, decoder_input_ids=decoder).logits[0]
                sums.append(float(logits.log_softmax(-1).gather(-1, torch.tensor(label)[:, None]).sum()))
        expected.append(sums.index(max(sums)))
    assert chosen == expected
    assert len(set(chosen)) > 1
