"""Where the published tasks are on the Hugging Face Hub, as data: columns, label ids, revisions.

The datasets are those from which O-LoRA's release drew its rows. A sample drawn here has the release's sizes and
layouts, but not its rows. Columns, class names and revisions come from the datasets' own cards and histories, and from
projects that pin the same ones. Every revision holds Parquet files, which are read without running a dataset's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter

from nacre.tasks.published.catalog import KnownTask

PER_LABEL = 1000
"""The mean number of training rows per label in O-LoRA's release, which draws from all rows at once."""

MOST_TESTED = 7600
"""The largest number of test rows in O-LoRA's release."""


@dataclass(frozen=True)
class HubSource:
    """The dataset of one published task.

    Attributes:
        name: The dataset's name.
        config: Its configuration.
        revision: Its revision; None for the newest, if no other could be verified.
        text: The layout of a row in the release, with the dataset's columns in braces.
        label: The column of the label.
        labels: What the release calls the dataset's classes (or numbers), if it renames them.
        test: The split to test on: the labels of SuperGLUE's and GLUE's own test rows are secret.
    """

    name: str
    config: str
    revision: str | None
    text: str
    label: str = "label"
    labels: Mapping[str, str] = field(default_factory=dict)
    test: str = "test"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read."""
        return (*(name for _, name, _, _ in Formatter().parse(self.text) if name), self.label)


def most_rows(task: KnownTask) -> dict[str, int]:
    """Returns the largest number of rows to draw for each split of a task."""
    return {"train": PER_LABEL * len(task.labels), "test": MOST_TESTED}


def _glue(config: str, text: str, labels: Mapping[str, str], test: str = "validation") -> HubSource:
    revision = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
    return HubSource("nyu-mll/glue", config, revision, text, labels=labels, test=test)


def _super_glue(config: str, text: str, labels: Mapping[str, str] | None = None) -> HubSource:
    revision = "3de24cf8022e94f4ee4b9d55a6f539891524d646"
    return HubSource("aps/super_glue", config, revision, text, labels=labels or {}, test="validation")


_REVIEW = "Title: {review_title}\nText: {review_text}\n"
_ARTICLE = "Title: {title}\nText: {content}\n"
_ANSWERED = "{question_title} {question_content} {best_answer}"
_PAIR = "sentence 1: {sentence1}\nsentence 2: {sentence2}"
_CLAIM = "sentence 1: {premise}\nsentence 2: {hypothesis}"
_CHOICE = 'Which sentence is the {question} of "{premise}"? Choose one between A and B.\nA: {choice1}\nB: {choice2}'

HUB_SOURCES: dict[str, HubSource] = {
    "dbpedia": HubSource(
        "fancyzhx/dbpedia_14", "dbpedia_14", "9abd46cf7fc8b4c64290f26993c540b92aa145ac", _ARTICLE,
        labels={
            "EducationalInstitution": "Educational Institution", "OfficeHolder": "Office Holder",
            "MeanOfTransportation": "Mean of Transportation", "NaturalPlace": "Natural Place",
            "WrittenWork": "Written Work",
        },
    ),
    "amazon": HubSource(  # the five stars of Zhang et al. 2015; the datasets of the Hub's own makers have two classes
        "yassiracharki/Amazon_Reviews_for_Sentiment_Analysis_fine_grained_5_classes", "default", None, _REVIEW,
        label="class_index",
        labels={"1": "very negative", "2": "negative", "3": "neutral", "4": "positive", "5": "very positive"},
    ),
    "yahoo": HubSource(
        "community-datasets/yahoo_answers_topics", "yahoo_answers_topics", "6652a1e7c94f7260a0bfd0c9092dd48e2d536ea1",
        _ANSWERED, label="topic",
    ),
    "agnews": HubSource(  # title and description are one text here
        "fancyzhx/ag_news", "default", "eb185aade064a813bc0b7f42de02595523103ca4", "Text: {text}\n",
        labels={"Sci/Tech": "Science or Technology"},
    ),
    "yelp": HubSource(
        "Yelp/yelp_review_full", "yelp_review_full", "c1f9ee939b7d05667af864ee1cb066393154bf85", "Text: {text}\n",
        labels={
            "1 star": "very negative", "2 star": "negative", "3 stars": "neutral", "4 stars": "positive",
            "5 stars": "very positive",
        },
    ),
    "mnli": _glue("mnli", _CLAIM, {}, test="validation_matched"),
    "qqp": _glue("qqp", "first sentence: {question1}\nsecond sentence: {question2}",
                 {"not_duplicate": "False", "duplicate": "True"}),
    "rte": _glue("rte", _PAIR, {"not_entailment": "contradiction"}),
    "sst2": _glue("sst2", "Text: {sentence}", {"positive": "Good", "negative": "Bad"}),
    "wic": _super_glue("wic", "word: {word}\n{sentence1}\n{sentence2}"),
    "cb": _super_glue("cb", _CLAIM),
    "copa": _super_glue("copa", _CHOICE, {"choice1": "A", "choice2": "B"}),
    "boolqa": _super_glue("boolq", "question: {question}\npassage: {passage}"),
    "multirc": _super_glue(
        "multirc", "paragraph: {paragraph}\nquestion: {question}\ncandidate answer: {answer}"
    ),
    "imdb": HubSource(
        "stanfordnlp/imdb", "plain_text", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31", "{text}",
        labels={"pos": "Good", "neg": "Bad"},
    ),
}  # fmt: skip
"""By canonical name, in the order of the catalog."""
