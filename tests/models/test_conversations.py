"""Conversations: what is read, what of it is learnt, and that training reads what answering reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from helpers.command import Call, assert_one_line_error, one_line
from helpers.tiny import tiny_host, write_tiny_model
from nacre.errors import DataError
from nacre.evaluation.decoding import Decoding, answer
from nacre.evaluation.scoring import normalize
from nacre.functional.losses import IGNORED
from nacre.learning.batches import target_tokens
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.conversations import Chat, without_oldest
from nacre.models.families import Encoded, Lengths
from nacre.models.host import Host
from nacre.registry import build_method
from nacre.runs.protocol import protocol_of
from nacre.runs.recipe import Recipe
from nacre.tasks.checking.findings import check_stream
from nacre.tasks.reading.sources import load_tasks
from nacre.tasks.task import Row, Task, turns_text
from nacre.tasks.template import Example, Template, Turn

# Words of the tiny tokenizer stand for the roles, so that every id can be counted by hand.
BEADS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ {'system': 'What', 'user': 'Is', 'assistant': 'Answer'}[m.role] }} : {{ m.content }}"
    "{{ ' ' + eos_token if m.role == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}Answer : {% endif %}"
)
NOTHING_ADDED = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
CLOSING_END = (  # as Phi-3's
    "{% for m in messages %}{{ m.role[0] + ':' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}a:{% else %}{{ eos_token }}{% endif %}"
)


def system(content: str) -> Turn:
    return Turn("system", content, learned=False)


def user(content: str) -> Turn:
    return Turn("user", content, learned=False)


def assistant(content: str, learned: bool = True) -> Turn:
    return Turn("assistant", content, learned)


def host_with(template: str | None, architecture: str = "llama") -> Host:
    host = tiny_host(architecture)
    host.tokenizer = host.family.tokenizer = deepcopy(host.tokenizer)
    host.tokenizer.chat_template = template
    return host


def encoded(host: Host, turns: Sequence[Turn], target: str, lengths: Lengths | None = None) -> Encoded:
    return host.family.encode(Example("", "", "", target, turns=tuple(turns)), lengths or Lengths(40, 12))


def words(host: Host, ids: Sequence[int]) -> str:
    return " ".join(host.tokenizer.convert_ids_to_tokens(ids))


TALK = (system("two animal ."), user("the dog ?"), assistant("yes"), user("the stone ?"))


# Tokens.


def test_ids_and_mask_by_hand() -> None:
    host = host_with(BEADS)
    row = encoded(host, TALK, "no")
    read = "<s> What : two animal . Is : the dog ? Answer : yes </s> Is : the stone ? Answer :"
    assert words(host, row.source) == read
    assert words(host, row.target) == "no </s>"
    assert row.earlier == (13, 14)
    assert words(host, [row.source[place] for place in row.earlier]) == "yes </s>"
    assert (row.num_target_tokens, row.length(), row.truncated) == (4, 24, False)
    labels = host.family.batch([row])["labels"][0].tolist()
    assert [host.tokenizer.convert_ids_to_tokens(one) if one >= 0 else "." for one in labels] == (
        "." * 13 + " yes </s> " + "." * 7 + " no </s>"
    ).replace(".", ". ").split()


def test_the_loss_is_over_the_answers_only() -> None:
    """Against the log-probabilities of the hand-picked places, in float64."""
    host = tiny_host("llama", torch.float64)
    host.family.tokenizer = deepcopy(host.tokenizer)
    host.family.tokenizer.chat_template = BEADS
    rows = [encoded(host, TALK, "no"), encoded(host, TALK[1:2], "maybe")]
    whole = [[*row.source, *row.target] for row in rows]
    assert [len(ids) for ids in whole] == [24, 10]
    places = [(13, 14, 22, 23), (8, 9)]
    wanted = 0.0
    for ids, learned in zip(whole, places, strict=True):
        logs = host.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        wanted -= sum(logs[place - 1, ids[place]].item() for place in learned)
    batch = host.family.batch(rows)
    assert host.family.loss_sum(host.model, batch).item() == pytest.approx(wanted, abs=1e-10)
    assert target_tokens(rows) == 6


def test_turns_that_are_not_learnt_are_read_only() -> None:
    host = host_with(BEADS)
    row = encoded(host, (user("the dog ?"), assistant("yes", learned=False), user("the stone ?")), "no")
    assert row.earlier == ()
    assert "Answer : yes </s>" in words(host, row.source)


@pytest.mark.parametrize("limit", [40, 8, 5])
@pytest.mark.parametrize("answer", [" yes", " no maybe", " the big old lamp under the sea"])
@pytest.mark.parametrize(
    "asked", ["Is it an animal ? the dog", "the stone , the lamp and ( the spoon ) likes the cat ."]
)
def test_a_single_turn_is_a_prompt_with_its_completion(asked: str, answer: str, limit: int) -> None:
    """Under a template that adds nothing, which leaves the end to nacre; also where it is cut."""
    host, lengths = host_with(NOTHING_ADDED), Lengths(limit, 6)
    assert encoded(host, (user(asked),), answer, lengths) == host.family.encode(Example("", asked, "", answer), lengths)


def test_an_end_token_is_added_only_where_the_template_has_none() -> None:
    host = host_with("{% for m in messages %}{{ m.content + ' . ' }}{% endfor %}")
    assert words(host, encoded(host, (user("the dog ?"),), "yes").target) == "yes . </s>"
    host = host_with("{% for m in messages %}{{ m.content + ' ' + eos_token + ' . ' }}{% endfor %}")
    assert words(host, encoded(host, (user("the dog ?"),), "yes").target) == "yes </s> ."
    host.model.generation_config.eos_token_id = [1, host.tokenizer.convert_tokens_to_ids(".")]
    host.family.tokenizer.chat_template = "{% for m in messages %}{{ m.content + ' . ' }}{% endfor %}"
    assert words(host, encoded(host, (user("the dog ?"),), "yes").target) == "yes ."


def test_a_template_that_closes_whatever_it_writes() -> None:
    pieces = Chat(letters(CLOSING_END)).pieces([user("1+1"), assistant("2"), user("2+2"), assistant("4")])
    assert [(piece.text, piece.learned) for piece in pieces] == [
        ("u:1+1\na:", False), ("2\n", True), ("u:2+2\na:", False), ("4\n</s>", True),
    ]  # fmt: skip


def test_no_answer_shares_a_token_with_its_question() -> None:
    tokenizer = letters("{% for m in messages %}{{ m.content }}{% endfor %}", merges=[("a", "b")])
    tokens = Chat(tokenizer).tokens(Chat(tokenizer).pieces([user("xa"), assistant("bx")]))
    assert [tokenizer.convert_ids_to_tokens(part) for part in tokens] == [["x", "a"], ["b", "x"]]
    assert tokenizer.convert_ids_to_tokens(tokenizer("xabx")["input_ids"]) == ["x", "ab", "x"]


# Too long.


def test_the_oldest_answers_go_first_and_the_system_stays() -> None:
    host = host_with(BEADS)
    turns = (*TALK, assistant("no"), user("the cow ?"))
    whole = encoded(host, turns, "yes")
    assert len(whole.source) == 31
    one_less = encoded(host, turns, "yes", Lengths(30, 12))
    assert words(host, one_less.source) == (
        "<s> What : two animal . Is : the stone ? Answer : no </s> Is : the cow ? Answer :"
    )
    assert [words(host, [one_less.source[place]]) for place in one_less.earlier] == ["no", "</s>"]
    assert one_less.truncated
    assert one_less.target == whole.target
    last = encoded(host, turns, "yes", Lengths(20, 12))
    assert words(host, last.source) == "<s> What : two animal . Is : the cow ? Answer :"
    assert last.earlier == ()


def test_then_the_end_of_the_last_question() -> None:
    host = host_with(BEADS)
    row = encoded(host, (*TALK[:3], user("the big old green stone ?")), "no", Lengths(13, 12))
    assert words(host, row.source) == "<s> What : two animal . Is : the big old Answer :"
    assert (row.earlier, row.truncated) == ((), True)
    assert words(host, row.target) == "no </s>"
    with pytest.raises(DataError, match="fill the 9 tokens an input may have"):
        encoded(host, TALK, "no", Lengths(9, 12))


def test_what_is_oldest() -> None:
    assert without_oldest(TALK) == (TALK[0], TALK[3])
    assert without_oldest(TALK[1:]) == (TALK[3],)
    for turns in ((TALK[0], TALK[3]), TALK[:3], (TALK[3],)):
        assert without_oldest(turns) == turns


# Against TRL.


def letters(template: str, merges: Sequence[tuple[str, str]] = (), special: Sequence[str] = ()) -> Any:
    """A tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*alphabet, *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>",
        additional_special_tokens=list(special),
    )  # fmt: skip
    tokenizer.chat_template = template
    return tokenizer


SHIPPED = {
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "phi3": ("<|user|>", "<|assistant|>", "<|end|>"),
    "cohere": ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    "lfm2": ("<|im_start|>", "<|im_end|>"),
    "qwen3_instruct_2507": ("<|im_start|>", "<|im_end|>"),
}
"""Templates as models have them, with the special tokens in them."""

CHATS = [
    [
        {"role": "user", "content": "What color is the sky?"},
        {"role": "assistant", "content": "It is blue.\nMostly."},
        {"role": "user", "content": "And at night?\n"},
        {"role": "assistant", "content": "Black."},
    ],
    [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
]


def turns_of(messages: Sequence[dict[str, str]]) -> list[Turn]:
    return [Turn(one["role"], one["content"], one["role"] == "assistant") for one in messages]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_learnt_is_what_trl_marks(name: str) -> None:
    """TRL marks answers by hand, in a template of its own for each model; here the model's own template is enough."""
    trl = pytest.importorskip("trl")
    shipped = Path(trl.__file__).parent / "chat_templates"
    ours = Chat(letters((shipped / f"{name}.jinja").read_text(), special=SHIPPED[name]))
    theirs = letters((shipped / f"{name}_training.jinja").read_text(), special=SHIPPED[name])
    for messages in CHATS:
        pieces = ours.pieces(turns_of(messages))
        parts = ours.tokens(pieces)
        marked = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        assert [token for part in parts for token in part] == marked["input_ids"]
        assert [int(piece.learned) for piece, part in zip(pieces, parts, strict=True) for _ in part] == (
            marked["assistant_masks"]
        )


MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{{ 'assistant\n' }}{% endif %}"
)


def test_the_loss_is_that_of_trl(tmp_path: Path) -> None:
    """The loss of TRL's SFTTrainer, from its own tokenization, labels and collator, with ``assistant_only_loss``."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    shipped = Path(trl.__file__).parent / "chat_templates" / "llama3_training.jinja"
    tokenizer = letters(shipped.read_text(), special=SHIPPED["llama3"])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, initializer_range=0.4, eos_token_id=tokenizer.convert_tokens_to_ids("<|eot_id|>"),
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    trainer = trl.SFTTrainer(
        model, trl.SFTConfig(str(tmp_path), assistant_only_loss=True, use_cpu=True, bf16=False, report_to=[]),
        train_dataset=datasets.Dataset.from_list([{"messages": messages} for messages in CHATS]),
        processing_class=tokenizer,
    )  # fmt: skip
    batch = trainer.data_collator(list(trainer.train_dataset))
    logits = model(input_ids=batch["input_ids"], attention_mask=batch.get("attention_mask")).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    theirs = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    host = Host(model, tokenizer)
    rows = [encoded(host, turns_of(messages)[:-1], messages[-1]["content"], Lengths(200, 50)) for messages in CHATS]
    assert target_tokens(rows) == int((batch["labels"] != IGNORED).sum())
    ours = host.family.loss_sum(model, host.family.batch(rows)) / target_tokens(rows)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


# Templates that cannot be used.


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "Conversations are written out by the tokenizer's chat template, and this one has none"),
        (
            "{% for m in messages %}{{ m.content if loop.last or m.role == 'user' else 'old' }} {% endfor %}",
            "writes the conversation up to turn 3 in another way than the whole of it",
        ),
        ("{{ messages|length }}{% for m in messages %}{{ m.content }} {% endfor %}", "up to turn 3 in another way"),
        (
            "{% for m in messages %}{{ 'think : ' if m.role == 'assistant' }}{{ m.content }} {% endfor %}",
            "writes 'think : yes' behind its generation prompt, and the answer of turn 3 is 'yes'",
        ),
        ("{{ raise_exception('No system turn here.') }}", "does not take the conversation: No system turn here."),
        ("{% for m in messages %}{{ m.content.wrong.wrong }}{% endfor %}", "does not take the conversation: "),
        ("{% for m in", "does not take the conversation: "),
    ],
)
def test_templates_that_cannot_be_used(template: str | None, says: str) -> None:
    host = host_with(template)
    task = Task("talk", (Row("a", "no", turns=TALK, place="train.jsonl, line 7"),) * 2, (), (), Template(answer_cue=""))
    with pytest.raises(DataError) as caught:
        host.family.check(task)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    if template is not None:
        assert str(caught.value).startswith("Task 'talk', train.jsonl, line 7: The chat template ")


@pytest.mark.parametrize("architecture", ["t5", "bert"])
def test_other_families_say_why_not(architecture: str) -> None:
    host = host_with(BEADS, architecture)
    task = Task("talk", (Row("a", "no", turns=TALK),), (), (), Template(answer_cue=""), labels=("no",))
    with pytest.raises(DataError, match=rf"by an {host.family.name} host, which reads once and answers once"):
        host.family.check(task)
    with pytest.raises(DataError, match="take a decoder-only model"):
        host.family.encode(task.examples("train")[0], Lengths())


# Rows.


def write(folder: Path, rows: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, found in (("train", rows), ("test", rows[:1] if test is None else test)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


def chat(*contents: str, **more: Any) -> dict[str, Any]:
    """User and assistant by turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)], **more}


def talks(count: int) -> list[dict[str, Any]]:
    return [chat(f"question {number} ?", f"answer {number}", "and ?", f"more {number}") for number in range(count)]


def test_messages_are_read(tmp_path: Path) -> None:
    rows = talks(20)
    rows[0]["messages"].insert(0, {"role": "system", "content": ""})
    rows[0]["messages"][1] |= {"tool_calls": None, "name": ""}  # as Parquet fills up what other rows have
    write(tmp_path / "talk", rows, [chat("who ?", "me")])
    (task,) = load_tasks(["talk"], tmp_path)
    assert task.conversations
    first = task.train[0]
    assert first.turns == (system(""), user("question 0 ?"), assistant("answer 0"), user("and ?"))
    assert (first.text, first.target) == ("\nquestion 0 ?\nanswer 0\nand ?", "more 0")
    assert first.learned == [("\nquestion 0 ?", "answer 0"), (first.text, "more 0")]
    assert first.place == "train.jsonl, line 1"
    assert (len(task.train), len(task.validation)) == (18, 2)
    assert (task.labels, task.metric) == (None, "exact_match")
    assert task.examples("test") == [Example("", "who ?", "", "me", turns=(user("who ?"),))]
    assert task.with_identity("full") == task


def test_only_the_completion_of_a_prompt_in_turns_is_learnt(tmp_path: Path) -> None:
    row = {"prompt": chat("a ?", "b", "c ?")["messages"], "completion": [{"role": "assistant", "content": "d"}]}
    write(tmp_path / "talk", [row, row, row | {"prompt": chat("e ?")["messages"]}])
    (task,) = load_tasks(["talk"], tmp_path)
    assert task.train[0].turns == (user("a ?"), assistant("b", learned=False), user("c ?"))
    assert task.train[0].learned == [("a ?\nb\nc ?", "d")]


def test_parquet_and_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    write(tmp_path / "lines" / "talk", talks(8))
    for split, count in (("train", 8), ("test", 1)):
        (tmp_path / "columns" / "talk").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(talks(8)[:count]).to_parquet(tmp_path / "columns" / "talk" / f"{split}.parquet")
    (tmp_path / "card").mkdir()
    hub = {"hub": {"name": str(tmp_path / "columns" / "talk")}}
    (tmp_path / "card" / "task.json").write_text(json.dumps(hub))
    ways = [load_tasks(["talk"], tmp_path / place)[0] for place in ("lines", "columns", "card")]
    assert {way.train for way in ways} == {ways[0].train}
    assert {way.test for way in ways} == {ways[0].test}


TURN = {"role": "user", "content": "a ?"}
ANSWER = {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": "a ?"}, "field 'messages' must be a list of turns with 'role' and 'content', not 'a ?'."),
        ({"messages": []}, "must be a list of turns"),
        ({"other": 1}, "there is no field 'messages'; the row has 'other'."),
        ({"messages": [TURN, "b"]}, "field 'messages', turn 2: 'role' and 'content' are expected, not 'b'."),
        ({"messages": [{"from": "human", "value": "a"}]}, "turn 1: 'role' and 'content' are expected"),
        ({"messages": [TURN | {"role": "human"}, ANSWER]}, "unknown role 'human'; the roles are system, user, a"),
        ({"messages": [TURN, ANSWER | {"content": None}]}, "turn 2: the content must be a string, not None."),
        ({"messages": [TURN | {"content": [{"type": "text"}]}, ANSWER]}, "turn 1: the content must be a string, not ["),
        ({"messages": [TURN, ANSWER | {"content": " "}]}, "turn 2: the content is empty."),
        ({"messages": [TURN | {"content": "\ud800"}, ANSWER]}, "turn 1: the content holds half a character"),
        ({"messages": [TURN, ANSWER | {"tool_calls": [{}]}]}, "turn 2: 'tool_calls' cannot be learned"),
        ({"messages": [TURN]}, "the last turn has the role 'user'; it must be the assistant's, the answer to learn."),
        ({"messages": [ANSWER]}, "the conversation begins with the assistant, which has nothing to answer yet."),
        ({"messages": [{"role": "system", "content": ""}, ANSWER]}, "all turns before the last answer are empty."),
        (chat("a ?", "b", tools=[{"name": "search"}]), "conversations with 'tools' cannot be learned"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    write(tmp_path / "talk", [*talks(2), row], talks(1))
    with pytest.raises(DataError) as caught:
        load_tasks(["talk"], tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/talk/train.jsonl, line 3: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_of_another_kind_is_refused(tmp_path: Path) -> None:
    prompt = {"prompt": [TURN], "completion": [ANSWER]}
    write(tmp_path / "talk", [prompt, {"prompt": "a ?", "completion": "b"}])
    with pytest.raises(DataError, match="line 2: field 'prompt' must be a list of turns"):
        load_tasks(["talk"], tmp_path)
    write(tmp_path / "talk", [{"prompt": "a ?", "completion": "b"}, prompt])
    with pytest.raises(DataError, match="line 2: field 'prompt' must be a string"):
        load_tasks(["talk"], tmp_path)
    rows = (Row("a", "b", turns=(user("a"),)), Row("a", "b"))
    with pytest.raises(DataError, match="train row 2: either all rows of a task are conversations, or none are"):
        Task("talk", rows, rows[:1], rows[:1], Template()).check()


@pytest.mark.parametrize("key", ["instruction", "answer_cue"])
def test_nothing_is_added_to_a_conversation(tmp_path: Path, key: str) -> None:
    write(tmp_path / "talk", talks(4))
    (tmp_path / "talk" / "task.json").write_text(json.dumps({key: "Be brief."}))
    with pytest.raises(DataError, match=rf"'{key}' cannot be added to conversations, .* system turn"):
        load_tasks(["talk"], tmp_path)


# Leaks.


def test_a_test_question_inside_a_longer_conversation_is_a_leak(tmp_path: Path) -> None:
    train = [*talks(12), chat("Is it blue ?", "yes", "why ?", "so"), chat("one ?", "two", "three ?", "four")]
    test = [
        chat("is it  blue?", "no"),  # the first question of line 13, with another answer
        chat("one ?", "two", "three ?", "four"),  # all of line 14
        chat("new ?", "answer 0", "and ?", "more 0"),
        chat("why ?", "so"),  # behind other turns, this is another question
    ]
    write(tmp_path / "talk", train, test)
    (task,) = load_tasks(["talk"], tmp_path)
    result = check_stream([task], normalize)
    [leak] = [finding for finding in result["findings"] if finding["kind"] == "leak"]
    assert leak["sentence"] == (
        "2 of 4 rows in test of 'talk' have the text of a row in train of 'talk' (1 letter by letter, 1 with the same "
        "target)."
    )
    assert leak["rows"] == [[f"test.jsonl, line {n}", f"train.jsonl, line {12 + n}"] for n in (1, 2)]


def test_what_two_conversations_share_in_the_middle_is_no_finding(tmp_path: Path) -> None:
    """A test row's own earlier questions are not measured."""
    write(tmp_path / "talk", [*talks(12), chat("hello ?", "hi", "a ?", "b")], [chat("hello ?", "hi", "c ?", "d")])
    (task,) = load_tasks(["talk"], tmp_path)
    kinds = {finding["kind"] for finding in check_stream([task], normalize)["findings"]}
    assert kinds & {"leak", "overlap"} == set()


# Learning.


def lessons() -> Task:
    """Whether a thing is an animal; and what it was, asked when the first answer has been given."""
    things = {"dog": "yes", "cat": "yes", "cow": "yes", "stone": "no", "lamp": "no", "spoon": "no"}
    asked = [
        (size, (user(f"{size} {thing} ?"), assistant(answer), user("What ?")))
        for size in ("big", "small")
        for thing, answer in things.items()
    ]
    rows = tuple(Row(turns_text(turns), size, turns=turns) for size, turns in asked)
    return Task("talk", rows, rows[:2], rows, Template(answer_cue=""))


def learner_of(host: Host, method: str = "seq_lora", parameters: dict[str, Any] | None = None, **optim: Any) -> Learner:
    settings = Optim(**{"learning_rate": 0.02, "batch_size": 4, "epochs": 12, "max_source_length": 40,
                        "max_target_length": 8, **optim})  # fmt: skip
    return Learner(host, build_method(method, parameters or {}), optim=settings)


def test_a_tiny_llama_learns_to_answer_each_turn(tmp_path: Path) -> None:
    task = lessons()
    learner = learner_of(host_with(BEADS), "seq_ft", learning_rate=5e-3, epochs=40)
    before = learner.evaluate([task])[0].value
    learner.learn(task)
    score = learner.evaluate([task])[0]
    assert before < 0.5
    assert score.value == 1.0  # the last turn
    first = [Row(row.turns[0].content, row.turns[1].content, turns=row.turns[:1]) for row in task.test]
    asked = Task("first", tuple(first), (), tuple(first), Template(answer_cue=""))
    assert learner.evaluate([asked])[0].value == 1.0  # and the one before, which the same rows taught
    learner.save(tmp_path / "saved")
    answers = learner.answer([task])
    learner.remove()
    again = Learner.load(tmp_path / "saved", learner.host)
    assert again.answer([task]) == answers


@pytest.mark.parametrize(
    ("method", "parameters"), [("ewc", {}), ("lora_replay", {}), ("lb_cl", {"rank": 2}), ("seq_lora+migu", {})]
)
def test_methods_that_read_rows_again_take_conversations(
    method: str, parameters: dict[str, Any], tmp_path: Path
) -> None:
    host = host_with(BEADS)
    task = lessons()
    learner = learner_of(host, method, parameters, epochs=1)
    learner.learn(task)
    learner.save(tmp_path / "saved")
    second = Task("again", task.train[::-1], (), task.test, task.template)
    learner.learn(second)
    answers = learner.answer([task])
    learner.remove()
    resumed = Learner.load(tmp_path / "saved", host)
    resumed.learn(second)
    assert resumed.answer([task]) == answers
    if method == "lora_replay":
        kept = resumed.method.memory.examples(resumed, [])  # type: ignore[union-attr]
        assert kept
        assert set(kept) <= set(task.examples("train")) | set(second.examples("train"))


def test_labels_are_chosen_at_the_end_of_a_conversation() -> None:
    """The turns before it are read once, and every label is scored with what the template writes behind it."""
    host = host_with(BEADS)
    task = lessons()
    labels = ("big", "small", "old")
    [chosen] = answer(
        host, [task.examples("test")], Lengths(40, 8), Decoding(batch_size=5, decode="labels"), 1, [labels]
    )
    wanted = []
    for example in task.examples("test"):
        scores = []
        for label in labels:
            row = encoded(host, example.turns, label)
            source = torch.tensor([[*row.source, *row.target]])
            logs = host.model(input_ids=source).logits[0].double().log_softmax(-1)
            scores.append(sum(logs[len(row.source) - 1 + n, token].item() for n, token in enumerate(row.target)))
        wanted.append(labels[scores.index(max(scores))])
    assert chosen == wanted


def test_the_protocol_knows_the_chat_template_and_the_turns() -> None:
    recipe = Recipe(method="seq_lora")
    task = lessons()

    def protocol(template: str, of: Task) -> dict[str, Any]:
        return protocol_of(recipe, [of], learner_of(host_with(template)))

    first = protocol(BEADS, task)
    assert first["conversations"]["chat template"] == BEADS
    assert first == protocol(BEADS, task)
    assert first != protocol(BEADS + "{# another #}", task)
    turned = [
        Row(row.text, row.target, turns=tuple(turn._replace(learned=False) for turn in row.turns)) for row in task.train
    ]
    other = protocol(BEADS, Task("talk", tuple(turned), task.validation, task.test, task.template))
    assert other["tasks"][0]["hash"]["train"] != first["tasks"][0]["hash"]["train"]
    assert other["tasks"][0]["hash"]["test"] == first["tasks"][0]["hash"]["test"]


# From end to end.


def write_talk(folder: Path) -> None:
    task = lessons()
    rows = [
        {"messages": [*({"role": turn.role, "content": turn.content} for turn in row.turns),
                      {"role": "assistant", "content": row.target}]}
        for row in task.train
    ]  # fmt: skip
    write(folder / "talk", rows, [chat(f"old {thing} ?", "yes", "What ?", "old") for thing in ("dog", "rose")])


def test_a_run(nacre: Call, tmp_path: Path) -> None:
    write_talk(tmp_path / "data")
    model = write_tiny_model("llama", tmp_path / "model")
    arguments = ("run", "--method", "seq_lora", "--stream", "talk", "--data", tmp_path / "data", "--model", model,
                 "--set", "optim.max_source_length=40", "--set", "optim.max_target_length=8",
                 "--set", "optim.learning_rate=0.01")  # fmt: skip
    bare = nacre(*arguments, "--output", tmp_path / "run")
    assert_one_line_error(bare, "put a chat_template.jinja into the model's folder")
    assert not (tmp_path / "run").exists()
    (model / "chat_template.jinja").write_text(BEADS)
    outcome = nacre(*arguments, "--output", tmp_path / "run", "--json")
    assert outcome.code == 0, outcome.err
    assert len(json.loads(outcome.out)["matrix"]) == 2
    protocol = json.loads((tmp_path / "run" / "protocol.json").read_text())
    assert BEADS in json.dumps(protocol, ensure_ascii=False).encode().decode("unicode_escape")
    assert_one_line_error(
        nacre(*arguments, "--model", write_tiny_model("t5", tmp_path / "t5"), "--output", tmp_path / "other"),
        "Conversations cannot be learned by an encoder-decoder host",
    )


def test_cut_conversations_are_counted(nacre: Call, tmp_path: Path) -> None:
    write_talk(tmp_path / "data")
    model = write_tiny_model("llama", tmp_path / "model")
    (model / "chat_template.jinja").write_text(BEADS)
    arguments = ("check", tmp_path / "data", "--model", model, "--max-target-length", 8, "--max-source-length")
    outcome = nacre(*arguments, 12)
    assert outcome.code == 0, outcome.err
    assert "2 of 2 texts in test of 'talk' are cut: inputs have 12 tokens." in one_line(outcome.out)
    assert "are cut" not in nacre(*arguments, 30).out
