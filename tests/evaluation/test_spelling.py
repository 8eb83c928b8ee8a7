"""What a tokenizer cannot write back is found before it is learned, and a label that it changes is still a label."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from helpers.tiny import tiny_host, tiny_task, write_task
from nacre.errors import DataError
from nacre.evaluation.decoding import Decoding
from nacre.evaluation.spelling import as_answered, as_labels, label_spellings
from nacre.events import Event, RowsEncoded, Warned, ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.measuring.measure import measure
from nacre.methods.seq_ft import seq_ft
from nacre.models.families import Lengths
from nacre.models.host import Host
from nacre.runs.checks import checks_of
from nacre.runs.recipe import Recipe
from nacre.runs.run import run
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template, Turn


def uncased() -> PreTrainedTokenizerFast:
    """As BERT's: lower case, no accents, a space on either side of punctuation, and [UNK] for what it does not know."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *",.-/:?", *(f"##{letter}" for letter in letters)]
    core = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
    )


def host_of(words: PreTrainedTokenizerFast) -> Host:
    config = BartConfig(
        vocab_size=len(words), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=128, dropout=0.0,
        init_std=0.1, pad_token_id=0, eos_token_id=3, bos_token_id=2, decoder_start_token_id=2,
        forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return Host(BartForConditionalGeneration(config).eval(), words, "uncased")


def labelled(*labels: str) -> Task:
    rows = tuple(Row("abcdefgh"[number % len(labels)] * 3, labels[number % len(labels)]) for number in range(12))
    return Task("news", rows, rows[:4], rows[:6], Template(), labels)


def free(*targets: str) -> Task:
    return replace(labelled(*targets), labels=None)


@pytest.mark.parametrize(
    ("labels", "changed"),
    [
        (("good", "bad"), {}),
        (("Good", "Bad!"), {}),
        (("sci-fi", "e-mail"), {"sci fi": "sci-fi", "e mail": "e-mail"}),
        (("Sci/Tech", "World"), {"sci tech": "Sci/Tech"}),
        (("négatif", "positif"), {"negatif": "négatif"}),
        (("good[SEP]", "bad"), {"good": "good[SEP]"}),
        (("yes", "no 🐚"), {"no": "no 🐚"}),
    ],
)
def test_labels_by_what_the_tokenizer_makes_of_them(labels: tuple[str, ...], changed: dict[str, str]) -> None:
    family = host_of(uncased()).family
    assert label_spellings(family, labelled(*labels)) == changed
    answers = as_labels(family, labelled(*labels), [*changed, "something else", labels[0]])
    assert answers == [*changed.values(), "something else", labels[0]]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (("支持", "反对"), "makes '' of label '支持', nothing"),
        (("né", "ne"), "makes 'ne' of label 'né', the same as 'ne'"),
        (("sci-fi", "sci fi"), "the same as 'sci fi'"),
        (("good", "[SEP]"), "makes '' of label '[SEP]'"),
        (("yes 🐚", "yes 🐙"), "the same as"),
    ],
)
def test_labels_that_no_answer_could_say_are_refused(labels: tuple[str, ...], says: str) -> None:
    task, learner = labelled(*labels), Learner(host_of(uncased()), seq_ft())
    with pytest.raises(DataError) as refusal:
        learner.learn(task)
    assert says in str(refusal.value)
    assert learner.state.tasks == []
    with pytest.raises(DataError, match="no answer could say it"):
        learner.evaluate([task])
    (finding,) = (f for f in checks_of([task], (learner.host, Lengths()))["findings"] if f["kind"] == "spelling")
    assert says in finding["sentence"]


def test_a_label_that_the_tokenizer_changes_is_learned_and_right() -> None:
    """The model learns to write `sci - fi`; it used to be wrong, however well it was learned."""
    task = labelled("sci-fi", "négatif")
    learner = Learner(host_of(uncased()), seq_ft(), optim=Optim(learning_rate=3e-3, epochs=60, batch_size=12))
    learner.learn(task)
    (score,) = learner.evaluate([task])
    assert (score.accuracy, score.valid) == (1, 1)
    assert set(score.answers) == {"sci-fi", "négatif"}


def test_a_run_says_what_stands_for_a_label(tmp_path: Path) -> None:
    host = host_of(uncased())
    host.model.save_pretrained(tmp_path / "model")  # type: ignore[operator]
    host.tokenizer.save_pretrained(tmp_path / "model")
    for name, labels in (("plain", ("yes", "no")), ("odd", ("sci-fi", "no"))):
        write_task(tmp_path / "data", name, labels=("yes", "no"))
        card = tmp_path / "data" / name
        for file in card.iterdir():
            file.write_text(file.read_text().replace('"yes"', f'"{labels[0]}"'))
    optim = Optim(batch_size=12)
    protocols = [
        run(
            Recipe(
                method="seq_ft", stream=[name], data=str(tmp_path / "data"), model=str(tmp_path / "model"),
                output=str(tmp_path / name), optim=optim,
            ),
            ignore,
        ).protocol
        for name in ("plain", "odd")
    ]  # fmt: skip
    key = "answers that stand for a label"
    assert key not in protocols[0]
    assert protocols[1][key] == {"odd": {"sci fi": "sci-fi"}}


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (("good", "bad day"), None),
        (("Good.", "bad, day"), None),
        (("paris[SEP]", "rome [SEP]"), None),  # answers have no special tokens, and are scored so
        (("paris", "naïve"), "6 of 12 targets in train of 'news' are not what this model's tokenizer writes back: of "
                             "'naïve' it makes 'naive', which is never right."),
        (("支持", "good"), "of '支持' it makes ''"),
    ],
)  # fmt: skip
def test_free_text_that_the_tokenizer_changes_is_told_once(targets: tuple[str, ...], says: str | None) -> None:
    told: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Warned):
            told.append(event.text)

    task = free(*targets)
    learner = Learner(host_of(uncased()), seq_ft(), optim=Optim(batch_size=12), on_event=hear)
    learner.learn(task)
    findings = [f for f in checks_of([task], (learner.host, Lengths()))["findings"] if f["kind"] == "spelling"]
    assert len(told) == (says is not None)
    assert len(findings) == (3 if says else 0)
    if says is not None:
        assert says in told[0]
        assert says in findings[0]["sentence"]


def test_completions_that_bring_their_end_token_are_right() -> None:
    task = free("good[SEP]", "bad [SEP]")
    learner = Learner(host_of(uncased()), seq_ft(), optim=Optim(learning_rate=3e-3, epochs=60, batch_size=12))
    learner.learn(task)
    (score,) = learner.evaluate([task])
    assert (score.accuracy, set(score.answers)) == (1, {"good", "bad"})
    assert measure(learner, [task]).value(task.name) == 1
    bare = as_answered(learner.host.family, task)
    assert {row.target for row in bare.test} == {"good", "bad"}
    assert as_answered(learner.host.family, bare) is bare
    assert as_answered(learner.host.family, labelled("good[SEP]", "bad")).test[0].target == "good[SEP]"


@pytest.mark.parametrize(("architecture", "kind"), [("t5", "text"), ("llama", "text"), ("llama", "conversation")])
def test_targets_that_are_cut_are_counted(architecture: str, kind: str) -> None:
    words = copy.deepcopy(tiny_host(architecture).tokenizer)
    words.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    host = Host(tiny_host(architecture).model, words)
    lengths = (3, 9, 5, 12)
    turns = (Turn("user", "the dog", learned=False),) if kind == "conversation" else ()
    rows = tuple(Row("the dog", " ".join(["cat"] * length), turns=turns) for length in lengths)
    task = Task("long", rows, rows[:1], rows[:2], Template())
    seen: list[RowsEncoded] = []

    def hear(event: Event) -> None:
        if isinstance(event, RowsEncoded):
            seen.append(event)

    learner = Learner(host, seq_ft(), optim=Optim(max_target_length=8), on_event=hear)
    learner.learn(task)
    assert [(event.rows, event.truncated, event.cut_targets) for event in seen] == [(4, 0, 2)]
    findings = [f for f in checks_of([task], (host, learner.lengths))["findings"] if f["kind"] == "truncation"]
    assert [(f["count"], f["rows"]) for f in findings] == [
        (2, [["train, row 2"], ["train, row 4"]]),
        (1, [["test, row 2"]]),
    ]
    assert findings[0]["sentence"] == (
        "2 of 4 targets in train of 'long' are cut before their end token: targets have 8 tokens."
    )


def test_labels_chosen_whole_are_never_cut_or_changed() -> None:
    host, task = tiny_host("bert"), labelled("sci-fi", "支持")
    learner = Learner(host, seq_ft(), optim=Optim(max_target_length=1))
    learner.learn(task)
    assert [f for f in checks_of([task], (host, learner.lengths))["findings"] if f["kind"] != "identical"] == [
        f for f in checks_of([task])["findings"] if f["kind"] != "identical"
    ]


def test_choosing_among_labels_needs_no_spelling() -> None:
    learner = Learner(tiny_host("t5"), seq_ft(), decoding=Decoding(decode="labels"))
    learner.learn(tiny_task())
    assert len(learner.answer([tiny_task()])[0]) == 6
