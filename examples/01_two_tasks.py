"""Learn two tasks one after the other, and see what is left of the first.

    python examples/01_two_tasks.py

Uses the small model and the tasks that come with nacre; needs no network.
"""

from nacre import Learner, Optim, build_method, load_host, load_tasks

topic, mood = (task.limited(train=200, test=60) for task in load_tasks(["topic", "mood"], data=None))

for name in ("seq_lora", "o_lora"):
    learner = Learner(load_host("demo"), build_method(name), seed=1, optim=Optim(learning_rate=2e-3))
    learner.learn(topic)
    before = learner.evaluate([topic])[0].accuracy
    learner.learn(mood)
    after, new = (score.accuracy for score in learner.evaluate([topic, mood]))
    print(f"{name}: topic {before:.0%} -> {after:.0%} after learning mood ({new:.0%})")
