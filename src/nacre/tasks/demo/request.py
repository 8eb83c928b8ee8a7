"""The task "request": the form of a sentence reveals what its writer wants; all labels share the same words."""

from __future__ import annotations

from nacre.tasks.demo.grammar import LabelPlan, TaskPlan

PLAN = TaskPlan(
    "request",
    "What kind of message is this?",
    labels={
        "question": LabelPlan(
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
            (
                "{name} had a question about the {thing}.",
                "It was a good question.",
                "{kin} answered the question {day}.",
            ),
        ),
        "order": LabelPlan(
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
            ("{name} sent an order for the {thing}.", "It was a big order.", "{kin} paid for the order {day}."),
        ),
        "complaint": LabelPlan(
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
            (
                "{name} made a complaint about the {thing}.",
                "It was a long complaint.",
                "{kin} read the complaint {day}.",
            ),
        ),
        "thanks": LabelPlan(
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
            (
                "{name} sent thanks for the {thing}.",
                "It was a word of thanks.",
                "{kin} wrote a letter of thanks {day}.",
            ),
        ),
    },
    distractors=("topic", "place"),
)
