"""Exercises: questions in the layout of the tasks' prompts, whose answers are no task's labels."""

from __future__ import annotations

import random
import re

from nacre.tasks.demo.grammar import WORDS, Words, sentence
from nacre.tasks.demo.plans import LABELS, PLANS, any_label_plan, distraction
from nacre.tasks.template import Template

_OPTION_LISTS: dict[str, Words] = {
    word: tuple(option for option in words if " " not in option)
    for words in (
        *(WORDS[slot] for slot in ("name", "thing", "color", "count")),
        *(
            words
            for plan in PLANS.values()
            for label_plan in plan.labels.values()
            for words in label_plan.words.values()
        ),
    )
    for word in words
    if " " not in word
}
"""What an exercise may ask for: every single word of the lists, with the list that it stands in."""
_TEXT_QUESTIONS = (
    "Which word is in the text?",
    "What does the text name?",
    "Which of them is here?",
    "What is in this message?",
    "Who or what is it?",
    "How do you know the person?",
    "Where is the same word?",
    "What kind of word is this?",
)
_GAP_QUESTIONS = ("Which word is missing?", "What belongs in the gap?", "What happened in the gap?")
_PLACE_QUESTIONS = {"Which option comes first?": 0, "What is the second option?": 1, "Where does the option end?": -1}


def exercise(rng: random.Random) -> str:
    """A text with a question in the layout of the tasks' prompts, answered; the answer is always one of the options.

    Three sorts: which option stands in the text; which fills its gap (the others then come from other lists, because
    any instrument fits where an instrument was); which stands at a place in the list of options, whatever the text.
    """
    text = _text(rng)
    words = re.findall(r"\w+", text)
    named = [word for word in words if word in _OPTION_LISTS]
    if not named:
        return exercise(rng)
    answer = rng.choice(named)
    own = _OPTION_LISTS[answer]
    about = rng.choice(("text", "text", "gap", "options"))
    pool = own if about == "text" and rng.random() < 0.5 else tuple(_OPTION_LISTS)
    present = {word.lower() for word in words}
    free = [word for word in pool if word.lower() not in present and not (about == "gap" and word in own)]
    if len(free) < 2:
        return exercise(rng)
    options = rng.sample(free, min(len(free), rng.choice((2, 3, 3, 4))))
    if about == "options":
        question, place = rng.choice(tuple(_PLACE_QUESTIONS.items()))
        answer = options[place]
    else:
        question = rng.choice(_GAP_QUESTIONS if about == "gap" else _TEXT_QUESTIONS)
        options.insert(rng.randint(0, len(options)), answer)
    if about == "gap":
        text = re.sub(rf"\b{answer}\b", "___", text)
    prompt = Template(instruction=question, options=True).example(text, answer, options).input
    passage = f"{prompt} {answer}"
    assert not answers_a_label(passage), f"the generator wrote a label into an exercise: {passage!r}"
    return passage


def answers_a_label(passage: str) -> bool:
    """Whether a passage laid out as an exercise (an option or answer line) holds the label of any task, anywhere.

    False for every passage of ``unlabelled_text``: who pretrains on it has seen no task's labels as answers.
    """
    text = passage.lower()
    if "option:" not in text and "answer:" not in text:
        return False
    return not LABELS.isdisjoint(re.findall(r"[a-z]+", text))


def _text(rng: random.Random) -> str:
    plan, label_plan = any_label_plan(rng)
    sentences = [sentence(rng, label_plan) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.3:
        sentences.append(distraction(rng, plan))
    rng.shuffle(sentences)
    return " ".join(sentences)
