"""The task "topic": each topic has its own things and people (the weather has places)."""

from __future__ import annotations

from nacre.tasks.demo.grammar import LabelPlan, TaskPlan, word_list

PLAN = TaskPlan(
    "topic",
    "What is the text about?",
    labels={
        "music": LabelPlan(
            {
                "item": word_list(
                    "violin, piano, drum, guitar, flute, trumpet, harp, song, melody, choir, tune, rhythm"
                ),
                "who": word_list("singer, band, orchestra, drummer, pianist, composer, choir, violinist"),
            },
            (
                "The {who} practiced the {item}.",
                "{name} heard the {item} and the {item}.",
                "The new {item} pleased the {who}.",
                "A {who} came with a {item}.",
                "{kin} spoke of the {who} and a {item}.",
                "Nobody forgot the {item} of the {who}.",
            ),
            ("{name} loves music.", "There was music {day}.", "{kin} thinks of music all day."),
        ),
        "sport": LabelPlan(
            {
                "item": word_list(
                    "match, race, goal, ball, medal, league, final, tennis, football, sprint, trophy, training"
                ),
                "who": word_list("team, coach, runner, player, goalkeeper, champion, swimmer, referee"),
            },
            (
                "The {who} prepared for the {item}.",
                "{name} missed the {item} and the {item}.",
                "The last {item} surprised the {who}.",
                "A {who} fought for the {item}.",
                "{kin} spoke of the {who} and a {item}.",
                "Nobody forgot the {item} of the {who}.",
            ),
            ("{name} loves sport.", "There was sport {day}.", "{kin} thinks of sport all day."),
        ),
        "weather": LabelPlan(
            {
                "item": word_list(
                    "rain, snow, storm, wind, fog, frost, hail, thunder, heat, sunshine, cloud, lightning"
                ),
                "who": word_list("north, south, east, west, valley, hills, mountains, lowlands"),
            },
            (
                "The {item} reached the {who}.",
                "{name} waited for the {item} and the {item}.",
                "After that, {item} came from the {who}.",
                "More {item} is expected in the {who}.",
                "{kin} spoke of the {item} in the {who}.",
                "Nobody forgot the {item} of the {who}.",
            ),
            ("{name} loves this weather.", "There was bad weather {day}.", "{kin} thinks of the weather all day."),
        ),
        "health": LabelPlan(
            {
                "item": word_list(
                    "fever, cough, pill, bandage, vaccine, medicine, headache, flu, wound, rash, syrup, allergy"
                ),
                "who": word_list("doctor, nurse, patient, surgeon, dentist, clinic, hospital, pharmacist"),
            },
            (
                "The {who} looked at the {item}.",
                "{name} asked about the {item} and the {item}.",
                "A new {item} worried the {who}.",
                "A {who} explained the {item}.",
                "{kin} spoke of the {who} and a {item}.",
                "Nobody forgot the {item} of the {who}.",
            ),
            ("{name} cares for her health.", "It was good for his health {day}.", "{kin} thinks of health all day."),
        ),
    },
    distractors=("mood",),
)
