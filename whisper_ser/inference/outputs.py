"""Predictions and timelines: plain dataclasses of names, seconds and probabilities."""

from dataclasses import dataclass, field

UNCERTAIN = "uncertain"
"""The label of a prediction whose best score lies below `abstain_below`."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one recording, or for one channel of it.

    Args:
        file: the path as given, or `audio 1`, `audio 2`, ... for arrays.
        channel: the channel, counted from 1; `None` for averaged channels.
        seconds: duration of the recording.
        label: the most probable label, or `"uncertain"` when its probability lies below `abstain_below`.
        score: the highest probability, also of an uncertain prediction.
        probabilities: of the labels, highest first; with `top_k`, of the k most probable labels. The softmax is over
            all labels, so k probabilities may sum to less than 1.
    """

    file: str
    channel: int | None
    seconds: float
    label: str
    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Failure:
    """A recording that could not be used, and the reason; `channel` as in `Prediction`."""

    file: str
    channel: int | None
    reason: str


@dataclass(frozen=True)
class Span:
    """The probability of each label from `start` to `end` seconds of a recording; `None` for silence."""

    start: float
    end: float
    probabilities: dict[str, float] | None

    @property
    def label(self) -> str | None:
        """The most probable label; `None` for silence."""
        return None if self.probabilities is None else max(self.probabilities, key=self.probabilities.__getitem__)


@dataclass(frozen=True)
class Update:
    """The next windows and segments of a stream that are final."""

    windows: list[Span] = field(default_factory=list)
    segments: list[Span] = field(default_factory=list)


@dataclass(frozen=True)
class Timeline:
    """Emotions over the time of one recording, or of one channel of it.

    Args:
        file, channel, seconds: as in `Prediction`.
        window, hop: length of a window, and distance between windows, in seconds.
        labels: the model's labels, in the order of its logits.
        whole: probabilities over the whole recording; `None` if there is no speech.
        windows: one every `hop` seconds; the last ones end with the recording.
        segments: cover the recording without gaps; each is silence, or speech with one label.
    """

    file: str
    channel: int | None
    seconds: float
    window: float
    hop: float
    labels: list[str]
    whole: dict[str, float] | None
    windows: list[Span]
    segments: list[Span]


def join_segments(pieces: list[Span]) -> list[Span]:
    """Returns the segments of consecutive pieces: adjacent pieces of the same label, or of silence, are joined.

    Probabilities are averaged, weighted by duration.
    """
    joined: list[Span] = []
    for piece in pieces:
        if joined and joined[-1].label == piece.label and joined[-1].end == piece.start:
            joined[-1] = _joined(joined[-1], piece)
        else:
            joined.append(piece)
    return joined


def _joined(first: Span, second: Span) -> Span:
    if first.probabilities is None or second.probabilities is None:
        return Span(first.start, second.end, None)
    share = (second.end - second.start) / (second.end - first.start)
    means = {
        label: (1 - share) * value + share * second.probabilities[label]
        for label, value in first.probabilities.items()
    }
    return Span(first.start, second.end, means)
