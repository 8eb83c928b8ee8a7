"""The published tasks: names, labels and the released prompts, against strings written out here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.tasks.published.catalog import CATALOG, canonical, known, template_of
from nacre.tasks.template import Template

NLI = 'What is the logical relationship between the "sentence 1" and the "sentence 2"? Choose one from the option.\n'
SENTIMENT = "What is the sentiment of the following paragraph? Choose one from the option.\n"
TOPIC = "What is the topic of the following paragraph? Choose one from the option.\n"
STARS = "Option: very negative, negative, neutral, positive, very positive \n"

# name: (what "full" prints first, instruction and options)
PROMPTS = {
    "dbpedia": (
        "Task:TC\nDataset:dbpedia\n",
        TOPIC + "Option: Company, Educational Institution, Artist, Athlete, Office Holder, Mean of Transportation, "
        "Building, Natural Place, Village, Animal, Plant, Album, Film, Written Work \n",
    ),
    "amazon": ("Task:SC\nDataset:amazon\n", SENTIMENT + STARS),
    "yahoo": (
        "Task:TC\nDataset:yahoo\n",
        TOPIC
        + "Option: Society & Culture, Science & Mathematics, Health, Education & Reference, Computers & Internet, "
        "Sports, Business & Finance, Entertainment & Music, Family & Relationships, Politics & Government \n",
    ),
    "agnews": ("Task:TC\nDataset:agnews\n", TOPIC + "Option: World, Sports, Business, Science or Technology \n"),
    "yelp": ("Task:SC\nDataset:yelp\n", SENTIMENT + STARS),
    "mnli": ("Task:NLI\nDataset:MNLI\n", NLI + "Option: neutral, entailment, contradiction \n"),
    "qqp": (
        "Task:QQP\nDataset:QQP\n",
        'Whether the "first sentence" and the "second sentence" have the same meaning? Choose one from the option.\n'
        "Option: False, True \n",
    ),
    "rte": ("Task:NLI\nDataset:RTE\n", NLI + "Option: contradiction, entailment \n"),
    "sst2": ("Task:SC\nDataset:SST-2\n", SENTIMENT + "Option: Good, Bad \n"),
    "wic": (
        "Task:WiC\nDataset:WiC\n",
        "Given a word and two sentences, whether the word is used with the same sense in both sentence? Choose one "
        "from the option.\nOption: True, False \n",
    ),
    "cb": ("Task:NLI\nDataset:CB\n", NLI + "Option: entailment, contradiction, neutral \n"),
    "copa": ("Task:COPA\nDataset:COPA\n", ""),
    "boolqa": (
        "Task:BoolQA\nDataset:BoolQA\n",
        "According to the following passage, is the question true or false? Choose one from the option.\n"
        "Option: True, False \n",
    ),
    "multirc": (
        "Task:MultiRC\nDataset:MultiRC\n",
        "According to the following passage and question, is the candidate answer true or false? Choose one from the "
        "option.\nOption: False, True \n",
    ),
    "imdb": ("Task:SC\nDataset:IMDB\n", SENTIMENT + "Option: Good, Bad \n"),
}


def test_the_fifteen_tasks_are_there_once():
    assert [task.name for task in CATALOG] == list(PROMPTS)


@pytest.mark.parametrize("name", PROMPTS)
def test_released_prompt(name):
    task = known(name)
    assert task is not None
    identity, body = PROMPTS[name]
    plain = template_of(task).example("a text", task.labels[0], task.labels)
    full = template_of(task, "full").example("a text", task.labels[0], task.labels)
    assert plain.input == f"{body}a text\nAnswer:"
    assert full.input == f"{identity}{body}a text\nAnswer:"
    assert plain.target == task.labels[0]


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("ag", "agnews"),
        ("AG_News", "agnews"),
        ("boolq", "boolqa"),
        ("BoolQA", "boolqa"),
        ("sst-2", "sst2"),
        ("SST-2", "sst2"),
        ("IMDB", "imdb"),
        ("MultiRC", "multirc"),
        ("dbpedia_14", "dbpedia"),
    ],
)
def test_other_names_are_known(alias, name):
    assert canonical(alias) == name


def test_unknown_names_stay_as_they_are():
    assert known("Invoices") is None
    assert canonical("Invoices") == "Invoices"


def test_no_name_means_two_tasks():
    names = [{name.lower() for name in (task.name, *task.aliases, task.dataset)} for task in CATALOG]
    assert sum(map(len, names)) == len(set().union(*names))


words = st.text(min_size=1, max_size=20)


@given(
    text=words,
    target=words,
    labels=st.none() | st.lists(words, max_size=4),
    instruction=st.text(max_size=20),
    options=st.booleans(),
    cue=st.text(max_size=10),
    identity=st.sampled_from(["none", "task", "full"]),
)
def test_an_example_is_its_three_parts(text, target, labels, instruction, options, cue, identity):
    template = Template(instruction, options, cue, "NLI", "MNLI", identity)
    example = template.example(text, target, labels)
    assert example.input == example.before + example.text + example.after
    assert (example.text, example.after, example.target) == (text, cue, target)
    assert example.before == template.example("another", "one", labels).before  # the same for every row of a task


@given(text=words, instruction=words)
def test_released_form(text, instruction):
    plain = Template(instruction, options=True, type_name="NLI", dataset_name="MNLI")
    full = Template(instruction, options=True, type_name="NLI", dataset_name="MNLI", identity="full")
    released = f"{instruction}\nOption: a, b \n{text}\nAnswer:"
    assert plain.example(text, "a", ["a", "b"]).input == released
    assert full.example(text, "a", ["a", "b"]).input == "Task:NLI\nDataset:MNLI\n" + released
