"""Exercises: questions in the layout of the tasks' prompts whose answers are never a task's labels."""

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
"""What an exercise may ask for: every single word of the lists, with its list."""
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
_POSITION_QUESTIONS = {
    "Which option comes first?": 0,
    "What is the second option?": 1,
    "Where does the option end?": -1,
}


def exercise(rng: random.Random) -> str:
    """Writes a text with a question in the layout of the tasks' prompts, and its answer, which is one of the options.

    There are three sorts of questions: which option occurs in the text; which fills its gap (the others then come from
    other lists, because any instrument fits in place of an instrument); which is at a position in the list of options,
    whatever the text.
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
        question, position = rng.choice(tuple(_POSITION_QUESTIONS.items()))
        answer = options[position]
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
    """Returns whether a passage with an option or answer line contains the label of any task.

    It is false for every passage of `unlabelled_text`: a model pre-trained on them has seen no labels as answers.
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
