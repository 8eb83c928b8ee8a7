"""The stream "demo": four small classification tasks written by a seeded grammar, and unlabelled text like them.

Nothing here was fetched: the word lists and sentence patterns are nacre's own. A text has one to three sentences. The
clue to its label is one of many words in one of several patterns, stands at any place, and often beside clues to
*other* tasks: a mood is told in a kitchen, a place at a match. A third of the clues occur in no training row; who
answers them has learnt the task and kept what the host knows about words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from nacre.seeds import derive
from nacre.tasks.task import SPLITS, Row, Task
from nacre.tasks.template import Template

STREAM_NAME = "demo"
ROWS = {"train": 480, "validation": 60, "test": 200}
_SEED = 2026  # of the tasks: part of what "demo" means, never a setting

Patterns = tuple[str, ...]


@dataclass(frozen=True)
class _Kind:
    """What one label's sentences look like.

    patterns: sentences with ``{slot}`` places; a slot is a word list of ``words`` or of the shared ``_WORDS``.
    mentions: ordinary sentences of the unlabelled text in which the label's own word may stand.
    """

    words: Mapping[str, Patterns]
    patterns: Patterns
    mentions: Patterns


@dataclass(frozen=True)
class _Plan:
    """One task: its question, its labels with their kinds, and which other tasks lend it distracting sentences."""

    name: str
    instruction: str
    kinds: Mapping[str, _Kind]
    distractors: tuple[str, ...]


def _split(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(","))


_WORDS: dict[str, tuple[str, ...]] = {
    "name": _split(
        "Anna, Ben, Clara, David, Emma, Felix, Grace, Henry, Ida, Jonas, Lena, Mark, Nora, Oscar, Paula, Tom"
    ),
    "kin": _split("my sister, my brother, my aunt, our neighbor, the old man, the young woman, her friend, his uncle"),
    "day": _split("on Monday, on Tuesday, on Friday, on Sunday, last week, yesterday, this morning, last night, today"),
    "thing": _split(
        "lamp, chair, clock, coat, table, mirror, blanket, basket, bicycle, radio, stool, carpet, camera, bottle"
    ),
    "color": _split("red, blue, green, white, black, yellow, gray, brown"),
    "count": _split("two, three, four, five, six, ten"),
}

_FILLER: Patterns = (
    "{name} and {name} were there {day}.",
    "{Kin} told us so {day}.",
    "It happened {day}.",
    "{name} bought a {color} {thing} {day}.",
    "The {thing} was {color}.",
    "{name} lives near {kin}.",
    "{Kin} carried a {color} {thing}.",
    "Nobody saw the {color} {thing}.",
    "{name} wrote it down {day}.",
)
# Sentences of the unlabelled text alone: the words of the tasks' instructions, so that a tokenizer knows them.
_CHATTER: Patterns = (
    "{name} wondered where this could happen.",
    "{Kin} asked what kind of {thing} it was.",
    "This is a message about the {thing}.",
    "{name} read the text {day}.",
    "{Kin} does feel it, and so does the person {day}.",
    "How does {name} know what this is about?",
)

_TOPIC = {
    "music": _Kind(
        {
            "item": _split("violin, piano, drum, guitar, flute, trumpet, harp, song, melody, choir, tune, rhythm"),
            "who": _split("singer, band, orchestra, drummer, pianist, composer, choir, violinist"),
        },
        (
            "The {who} practiced the {item}.",
            "{name} heard the {item} and the {item}.",
            "The new {item} pleased the {who}.",
            "A {who} came with a {item}.",
            "{Kin} spoke of the {who} and a {item}.",
            "Nobody forgot the {item} of the {who}.",
        ),
        ("{name} loves music.", "There was music {day}.", "{Kin} thinks of music all day."),
    ),
    "sport": _Kind(
        {
            "item": _split("match, race, goal, ball, medal, league, final, tennis, football, sprint, trophy, training"),
            "who": _split("team, coach, runner, player, goalkeeper, champion, swimmer, referee"),
        },
        (
            "The {who} prepared for the {item}.",
            "{name} missed the {item} and the {item}.",
            "The last {item} surprised the {who}.",
            "A {who} fought for the {item}.",
            "{Kin} spoke of the {who} and a {item}.",
            "Nobody forgot the {item} of the {who}.",
        ),
        ("{name} loves sport.", "There was sport {day}.", "{Kin} thinks of sport all day."),
    ),
    "weather": _Kind(
        {
            "item": _split("rain, snow, storm, wind, fog, frost, hail, thunder, heat, sunshine, cloud, lightning"),
            "who": _split("north, south, east, west, valley, hills, mountains, lowlands"),
        },
        (
            "The {item} reached the {who}.",
            "{name} waited for the {item} and the {item}.",
            "After that, {item} came from the {who}.",
            "More {item} is expected in the {who}.",
            "{Kin} spoke of the {item} in the {who}.",
            "Nobody forgot the {item} of the {who}.",
        ),
        ("{name} loves this weather.", "There was bad weather {day}.", "{Kin} thinks of the weather all day."),
    ),
    "health": _Kind(
        {
            "item": _split(
                "fever, cough, pill, bandage, vaccine, medicine, headache, flu, wound, rash, syrup, allergy"
            ),
            "who": _split("doctor, nurse, patient, surgeon, dentist, clinic, hospital, pharmacist"),
        },
        (
            "The {who} looked at the {item}.",
            "{name} asked about the {item} and the {item}.",
            "A new {item} worried the {who}.",
            "A {who} explained the {item}.",
            "{Kin} spoke of the {who} and a {item}.",
            "Nobody forgot the {item} of the {who}.",
        ),
        ("{name} cares for her health.", "It was good for his health {day}.", "{Kin} thinks of health all day."),
    ),
}

_MOOD_PATTERNS: Patterns = (
    "{name} {did} and {did}.",
    "{Kin} {did} {day}.",
    "Then {name} {did}, {how}.",
    "{name} was {how} and {did}.",
    "{how}, {kin} {did}.",
    "When {name} came, {kin} {did}.",
)
_MOOD_MENTIONS: Patterns = ("{name} was LABEL {day}.", "{Kin} felt LABEL.", "LABEL people were there {day}.")


def _mood(label: str, did: str, how: str) -> _Kind:
    mentions = tuple(pattern.replace("LABEL", label) for pattern in _MOOD_MENTIONS)
    return _Kind({"did": _split(did), "how": _split(how)}, _MOOD_PATTERNS, mentions)


_MOOD = {
    "happy": _mood(
        "happy",
        "smiled, laughed, danced, cheered, clapped, giggled, hugged everyone, jumped for joy",
        "full of joy, cheerful, delighted, merry, bright with luck",
    ),
    "sad": _mood(
        "sad",
        "cried, wept, sighed, sobbed, shed a tear, mourned, looked down, missed everyone",
        "full of sorrow, gloomy, lonely, heartbroken, in tears",
    ),
    "angry": _mood(
        "angry",
        "shouted, yelled, cursed, slammed the door, stamped, growled, broke a plate, made a fist",
        "full of rage, furious, bitter, red with fury, annoyed",
    ),
    "afraid": _mood(
        "afraid",
        "trembled, shivered, hid, froze, ran away, turned pale, gasped, called for help",
        "full of fear, frightened, nervous, white with terror, alarmed",
    ),
}

_PLACE_PATTERNS: Patterns = (
    "There was a {item} beside the {item}.",
    "{name} put the {thing} next to the {item}.",
    "{Kin} {did} near the {item}.",
    "{name} {did} while {kin} {did}.",
    "Behind the {item} stood a {item}.",
    "{name} noticed a {item} and {did}.",
)
_PLACE_MENTIONS: Patterns = (
    "{name} went to the LABEL {day}.",
    "{Kin} stayed in the LABEL.",
    "They met at the LABEL {day}.",
)


def _place(label: str, item: str, did: str) -> _Kind:
    mentions = tuple(pattern.replace("LABEL", label) for pattern in _PLACE_MENTIONS)
    return _Kind({"item": _split(item), "did": _split(did)}, _PLACE_PATTERNS, mentions)


_PLACE = {
    "kitchen": _place(
        "kitchen",
        "pan, oven, spoon, stove, sink, pot, kettle, fridge, bowl, toaster, cupboard, apron",
        "stirred the soup, baked bread, peeled onions, washed dishes, sliced cheese",
    ),
    "forest": _place(
        "forest",
        "tree, fern, owl, deer, mushroom, branch, fox, oak, pine, squirrel, stump, nest",
        "followed the trail, gathered berries, chopped wood, climbed an oak, watched a deer",
    ),
    "harbor": _place(
        "harbor",
        "ship, anchor, sailor, rope, gull, net, boat, pier, mast, sail, lighthouse, captain",
        "caught fish, loaded the cargo, tied a knot, painted the boat, hoisted the sail",
    ),
    "school": _place(
        "school",
        "teacher, desk, blackboard, pupil, notebook, pencil, globe, classroom, ruler, exam, library, satchel",
        "learned spelling, did homework, raised a hand, solved the sum, read a lesson",
    ),
}

_REQUEST = {
    "question": _Kind(
        {},
        (
            "When will the {color} {thing} be here?",
            "I would like to know the price of the {thing}.",
            "Tell me whether the {thing} comes in {color}.",
            "How much is the {color} {thing}?",
            "Is the {thing} really {color}?",
            "I wonder where the {thing} was made.",
            "Which {thing} is the best one?",
        ),
        ("{name} had a question about the {thing}.", "It was a good question.", "{Kin} answered the question {day}."),
    ),
    "order": _Kind(
        {},
        (
            "Please send me {count} {color} {thing}s.",
            "We need {count} of the {thing}s by Friday.",
            "I want to buy the {color} {thing}.",
            "Can you deliver {count} {thing}s?",
            "Put the {thing} on my list and ship it soon.",
            "I will take {count} of them, one {color}.",
            "Reserve a {color} {thing} for me.",
        ),
        ("{name} sent an order for the {thing}.", "It was a big order.", "{Kin} paid for the order {day}."),
    ),
    "complaint": _Kind(
        {},
        (
            "The {thing} arrived broken.",
            "Why is my {thing} damaged again?",
            "My {color} {thing} does not work.",
            "I am still waiting for the {thing} and want my money back.",
            "The {color} {thing} fell apart {day}.",
            "You sent the wrong {thing}.",
            "The {thing} is too late and scratched.",
        ),
        ("{name} made a complaint about the {thing}.", "It was a long complaint.", "{Kin} read the complaint {day}."),
    ),
    "thanks": _Kind(
        {},
        (
            "The {color} {thing} is wonderful.",
            "How kind of you to bring the {thing}!",
            "I am grateful for the {thing}.",
            "We enjoy the {color} {thing} so much.",
            "You made our day with the {thing}.",
            "Your help with the {thing} was great.",
            "What a lovely {thing} you gave us!",
        ),
        ("{name} sent thanks for the {thing}.", "It was a word of thanks.", "{Kin} wrote a letter of thanks {day}."),
    ),
}

_PLANS: dict[str, _Plan] = {
    plan.name: plan
    for plan in (
        _Plan("topic", "What is the text about?", _TOPIC, ("mood",)),
        _Plan("mood", "How does the person feel?", _MOOD, ("topic", "place")),
        _Plan("place", "Where does this happen?", _PLACE, ("mood", "topic")),
        _Plan("request", "What kind of message is this?", _REQUEST, ("topic", "place")),
    )
}
_OPTION_LISTS: dict[str, Patterns] = {
    word: tuple(option for option in words if " " not in option)
    for words in (
        *(_WORDS[slot] for slot in ("name", "thing", "color", "count")),
        *(words for plan in _PLANS.values() for kind in plan.kinds.values() for words in kind.words.values()),
    )
    for word in words
    if " " not in word
}
"""What an exercise may ask for: every single word of the lists, with the list that it stands in."""
_TEXT_QUESTIONS: Patterns = (
    "Which word is in the text?",
    "What does the text name?",
    "Which of them is here?",
    "What is in this message?",
    "Who or what is it?",
    "How do you know the person?",
    "Where is the same word?",
    "What kind of word is this?",
)
_GAP_QUESTIONS: Patterns = ("Which word is missing?", "What belongs in the gap?", "What happened in the gap?")
_PLACE_QUESTIONS = {"Which option comes first?": 0, "What is the second option?": 1, "Where does the option end?": -1}
LABELS: frozenset[str] = frozenset(label for plan in _PLANS.values() for label in plan.kinds)


def demo_tasks() -> list[Task]:
    """The four tasks of the stream, always the same: topic, mood, place, request; four labels each.

    480 train, 60 validation and 200 test rows per task, labels balanced, no text twice in a task.
    """
    return [_task(plan) for plan in _PLANS.values()]


def unlabelled_text(seed: int, lines: int) -> Iterator[str]:
    """Passages in the vocabulary and grammar of the tasks, with no task's answer in them.

    Half are short stories; a label's word stands in them as any word does ("Anna loves music."). The others are
    exercises in the layout of the tasks' prompts, about other words: see ``answers_a_label``. A passage may hold line
    ends, never an empty line, and is never the text of a row. The same seed gives the same passages, of which a
    larger ``lines`` gives more.
    """
    used = {row.text for task in demo_tasks() for split in SPLITS for row in task.rows(split)}
    rng = random.Random(derive(seed, STREAM_NAME, "unlabelled"))
    for _ in range(lines):
        passage = _passage(rng)
        while passage in used:
            passage = _passage(rng)
        yield passage


def answers_a_label(passage: str) -> bool:
    """Whether a passage laid out as an exercise (an option or answer line) holds the label of any task, anywhere.

    False for every passage of ``unlabelled_text``: who pretrains on it has seen no task's labels as answers.
    """
    text = passage.lower()
    if "option:" not in text and "answer:" not in text:
        return False
    return not LABELS.isdisjoint(re.findall(r"[a-z]+", text))


def _task(plan: _Plan) -> Task:
    seen: set[str] = set()
    splits: dict[str, tuple[Row, ...]] = {}
    for split in SPLITS:
        rng = random.Random(derive(_SEED, STREAM_NAME, plan.name, split))
        kinds = {label: _seen(kind) if split == "train" else kind for label, kind in plan.kinds.items()}
        rows: list[Row] = []
        labels = list(kinds)
        while len(rows) < ROWS[split]:
            label = labels[len(rows) % len(labels)]
            text = _labelled_text(rng, plan, kinds[label])
            if text not in seen:
                seen.add(text)
                rows.append(Row(text, label))
        rng.shuffle(rows)
        splits[split] = tuple(rows)
    return Task(
        name=plan.name,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        template=Template(instruction=plan.instruction, options=True),
        labels=tuple(plan.kinds),
        source={"kind": "generated", "generator": "nacre.tasks.demo", "seed": _SEED},
    ).check()


def _seen(kind: _Kind) -> _Kind:
    """The part of a kind that training rows are written with: two thirds of its words, or of its patterns."""
    if not kind.words:
        return replace(kind, patterns=_two_thirds(kind.patterns))
    return replace(kind, words={slot: _two_thirds(words) for slot, words in kind.words.items()})


def _two_thirds(words: Patterns) -> Patterns:
    return words[: -(-2 * len(words) // 3)]


def _labelled_text(rng: random.Random, plan: _Plan, kind: _Kind) -> str:
    """Two sentences with clues, or one and a sentence of another task; a third of the time with a filler."""
    sentences = [_sentence(rng, kind)]
    sentences.append(_sentence(rng, kind) if rng.random() < 0.5 else _distraction(rng, plan))
    if rng.random() < 0.33:
        sentences.append(_fill(rng, rng.choice(_FILLER), {}))
    rng.shuffle(sentences)
    return " ".join(sentences)


def _distraction(rng: random.Random, plan: _Plan) -> str:
    other = _PLANS[rng.choice(plan.distractors)]
    return _sentence(rng, rng.choice(list(other.kinds.values())))


def _passage(rng: random.Random) -> str:
    return _story(rng) if rng.random() < 0.5 else _exercise(rng)


def _story(rng: random.Random) -> str:
    """Sentences of one kind, among them ordinary mentions of its word, and perhaps one of another kind or a filler."""
    plan = rng.choice(list(_PLANS.values()))
    kind = rng.choice(list(plan.kinds.values()))
    sentences = [_sentence(rng, kind) for _ in range(rng.choice((1, 2, 2, 3)))]
    if rng.random() < 0.6:
        sentences.append(_fill(rng, rng.choice(kind.mentions), kind.words))
    if rng.random() < 0.4:
        sentences.append(_distraction(rng, plan))
    if rng.random() < 0.3:
        sentences.append(_fill(rng, rng.choice(_FILLER + _CHATTER), {}))
    rng.shuffle(sentences)
    return " ".join(sentences)


def _exercise(rng: random.Random) -> str:
    """A text with a question in the layout of the tasks' prompts, answered; the answer is always one of the options.

    Three kinds: which option stands in the text; which fills its gap (the others then come from other lists, because
    any instrument fits where an instrument was); which stands at a place in the list of options, whatever the text.
    """
    plan = rng.choice(list(_PLANS.values()))
    kind = rng.choice(list(plan.kinds.values()))
    sentences = [_sentence(rng, kind) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.3:
        sentences.append(_distraction(rng, plan))
    rng.shuffle(sentences)
    text = " ".join(sentences)
    present = set(re.findall(r"\w+", text.lower()))
    named = [word for word in re.findall(r"\w+", text) if word in _OPTION_LISTS]
    if not named:
        return _exercise(rng)
    answer = rng.choice(named)
    own = _OPTION_LISTS[answer]
    about = rng.choice(("text", "text", "gap", "options"))
    pool = own if about == "text" and rng.random() < 0.5 else tuple(_OPTION_LISTS)
    free = [word for word in pool if word.lower() not in present and not (about == "gap" and word in own)]
    if len(free) < 2:
        return _exercise(rng)
    options = rng.sample(free, min(len(free), rng.choice((2, 3, 3, 4))))
    if about == "options":
        question, place = rng.choice(tuple(_PLACE_QUESTIONS.items()))
        answer = options[place]
    else:
        question = rng.choice(_GAP_QUESTIONS if about == "gap" else _TEXT_QUESTIONS)
        options.insert(rng.randint(0, len(options)), answer)
        text = re.sub(rf"\b{answer}\b", "___", text) if about == "gap" else text
    example = Template(instruction=question, options=True).example(text, answer, options)
    passage = f"{example.input} {answer}"
    if answers_a_label(passage):
        raise AssertionError(f"the generator wrote a label into an exercise: {passage!r}")
    return passage


def _sentence(rng: random.Random, kind: _Kind) -> str:
    return _fill(rng, rng.choice(kind.patterns), kind.words)


def _fill(rng: random.Random, pattern: str, words: Mapping[str, Patterns]) -> str:
    """The pattern with a word drawn for every slot, none twice, its first letter in upper case."""
    drawn: set[str] = set()

    def draw(match: re.Match[str]) -> str:
        slot = match[1].lower()
        choices = words[slot] if slot in words else _WORDS[slot]
        word = rng.choice([choice for choice in choices if choice not in drawn] or choices)
        drawn.add(word)
        return word

    text = re.sub(r"\{(\w+)\}", draw, pattern)
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[0].upper() + text[1:]
