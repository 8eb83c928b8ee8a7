"""The published classification tasks as data: labels in prompt order, instructions, names and terms of use.

Sources: `labels.json` of each task and `configs/instruction_config.json` in the release of O-LoRA, which AM-LoRA's
Table 5 repeats. Where the two differ (one letter in the WiC instruction), this is the released text.
"""

from __future__ import annotations

from dataclasses import dataclass

from nacre.tasks.template import Identity, Template


@dataclass(frozen=True)
class KnownTask:
    """One published task.

    Attributes:
        name: The canonical name.
        aliases: Other names in use, in any case.
        family: What the prompt's `Task:` line says, and a folder of the published layout
            (`CL_Benchmark/<family>/<dataset>`).
        dataset: What the prompt's `Dataset:` line says, and the folder below `family`.
        labels: The label set, in prompt order.
        license: The terms of the rows as generally known, in a few words. nacre's license does not cover the rows.
        no_label: The value of the label field in rows without a label; such rows are left out and counted.
    """

    name: str
    aliases: tuple[str, ...]
    family: str
    dataset: str
    labels: tuple[str, ...]
    license: str
    no_label: str | None = None

    @property
    def instruction(self) -> str:
        """The released sentence; empty for COPA, whose texts contain the question."""
        return INSTRUCTIONS[self.family]


INSTRUCTIONS = {
    "NLI": (
        'What is the logical relationship between the "sentence 1" and the "sentence 2"? Choose one from the option.'
    ),
    "QQP": 'Whether the "first sentence" and the "second sentence" have the same meaning? Choose one from the option.',
    "SC": "What is the sentiment of the following paragraph? Choose one from the option.",
    "TC": "What is the topic of the following paragraph? Choose one from the option.",
    "BoolQA": "According to the following passage, is the question true or false? Choose one from the option.",
    "MultiRC": (
        "According to the following passage and question, is the candidate answer true or false? "
        "Choose one from the option."
    ),
    "WiC": (
        "Given a word and two sentences, whether the word is used with the same sense in both sentence? "
        "Choose one from the option."
    ),
    "COPA": "",
}

_STARS = ("very negative", "negative", "neutral", "positive", "very positive")
_DBPEDIA = (
    "Company",
    "Educational Institution",
    "Artist",
    "Athlete",
    "Office Holder",
    "Mean of Transportation",
    "Building",
    "Natural Place",
    "Village",
    "Animal",
    "Plant",
    "Album",
    "Film",
    "Written Work",
)
_YAHOO = (
    "Society & Culture",
    "Science & Mathematics",
    "Health",
    "Education & Reference",
    "Computers & Internet",
    "Sports",
    "Business & Finance",
    "Entertainment & Music",
    "Family & Relationships",
    "Politics & Government",
)
_AGNEWS = ("World", "Sports", "Business", "Science or Technology")

CATALOG: tuple[KnownTask, ...] = (
    KnownTask("dbpedia", ("dbpedia_14",), "TC", "dbpedia", _DBPEDIA, "CC BY-SA 3.0 / GFDL"),
    KnownTask("amazon", (), "SC", "amazon", _STARS, "no explicit license"),
    KnownTask("yahoo", ("yahoo_answers",), "TC", "yahoo", _YAHOO, "research use (Yahoo Webscope)"),
    KnownTask("agnews", ("ag", "ag_news"), "TC", "agnews", _AGNEWS, "non-commercial research use"),
    KnownTask("yelp", (), "SC", "yelp", _STARS, "Yelp Dataset Challenge terms, academic use"),
    KnownTask(
        "mnli",
        (),
        "NLI",
        "MNLI",
        ("neutral", "entailment", "contradiction"),
        "mostly OANC license, parts CC BY / CC BY-SA",
        no_label="-",  # 131 of the 7,600 published test rows
    ),
    KnownTask("qqp", (), "QQP", "QQP", ("False", "True"), "Quora terms of service, non-commercial"),
    KnownTask("rte", (), "NLI", "RTE", ("contradiction", "entailment"), "research use"),
    KnownTask("sst2", ("sst_2",), "SC", "SST-2", ("Good", "Bad"), "no explicit license"),
    KnownTask("wic", (), "WiC", "WiC", ("True", "False"), "CC BY-NC 4.0"),
    KnownTask("cb", (), "NLI", "CB", ("entailment", "contradiction", "neutral"), "research use"),
    KnownTask("copa", (), "COPA", "COPA", ("A", "B"), "BSD 2-Clause"),
    KnownTask("boolqa", ("boolq",), "BoolQA", "BoolQA", ("True", "False"), "CC BY-SA 3.0"),
    KnownTask("multirc", (), "MultiRC", "MultiRC", ("False", "True"), "research use"),
    KnownTask("imdb", (), "SC", "IMDB", ("Good", "Bad"), "no explicit license, citation asked"),
)

_BY_NAME = {name.lower(): task for task in CATALOG for name in (task.name, *task.aliases, task.dataset)}


def known(name: str) -> KnownTask | None:
    """Returns the published task with a name, alias or folder name, in any case; None if there is none."""
    return _BY_NAME.get(name.lower())


def canonical(name: str) -> str:
    """Returns the name that nacre uses for a task: the catalog's for a published task, otherwise the name itself."""
    task = known(name)
    return task.name if task else name


def template_of(task: KnownTask, identity: Identity = "none") -> Template:
    """Returns the released prompt of a published task. COPA has neither instruction nor option line."""
    return Template(
        instruction=task.instruction,
        options=bool(task.instruction),
        type_name=task.family,
        dataset_name=task.dataset,
        identity=identity,
    )
