"""What a run takes, as it was estimated."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StageEstimate(BaseModel):
    """Of one stage.

    Attributes:
        name: The stage's.
        step: Seconds of a step, the median of those that were timed.
        around: Seconds of learning outside of steps: rows become numbers, parts begin and end.
        answer: Seconds of an answer, the mean.
        train: Seconds of learning the stage.
        evaluate: Seconds of measuring after it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    step: float
    around: float
    answer: float
    train: float
    evaluate: float


class Estimate(BaseModel):
    """Of a run, on this machine, as busy as it was.

    Attributes:
        load: Seconds that loading took.
        before: Seconds of measuring before any learning.
        stages: Stage by stage.
        memory_bytes: The most memory of the device, or of this process where there is none, while it was timed.
        device: Whose memory that is.
        steps: How many steps of a stage were timed at most.
        answers: How many answers after a stage were timed at most.
    """

    model_config = ConfigDict(frozen=True)

    load: float
    before: float
    stages: list[StageEstimate]
    memory_bytes: int
    device: str
    steps: int
    answers: int

    @property
    def seconds(self) -> float:
        """Of the whole run, without probes."""
        return self.load + self.before + sum(stage.train + stage.evaluate for stage in self.stages)

    def __str__(self) -> str:
        train = sum(stage.train for stage in self.stages)
        return (
            f"Estimate: about {spoken(self.seconds)}, of which {spoken(train)} are learning and "
            f"{spoken(self.seconds - train - self.load)} measuring; {self.memory_bytes / 2**30:.1f} GiB of the "
            f"{self.device}'s memory. From {self.steps} steps and {self.answers} answers of each stage, on this "
            "machine as busy as it is; probes are not counted."
        )


def spoken(seconds: float) -> str:
    """A duration in its two largest units.

    Args:
        seconds: The duration.
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
