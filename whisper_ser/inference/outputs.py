"""What predictions and timelines are: plain dataclasses of names, seconds and probabilities."""

from dataclasses import dataclass, field

UNCERTAIN = "uncertain"
"""The label of a prediction whose best score lies below `abstain_below`."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording, or for one channel of it.

    Args:
        file: the path as it was given, or `audio 1`, `audio 2`, ... for arrays.
        channel: from 1, where channels were asked for separately; `None` where they were mixed.
        seconds: length of the recording.
        label: the most probable label, or `"uncertain"` when its probability lies below `abstain_below`.
        score: the highest probability, whatever the label says.
        probabilities: of the labels, highest first; with `top_k`, of the k most probable ones. They are the softmax
            over all labels and sum to 1 only when all are there.
    """

    file: str
    channel: int | None
    seconds: float
    label: str
    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Failure:
    """A recording that could not be used, and why; `channel` as in `Prediction`."""

    file: str
    channel: int | None
    reason: str


@dataclass(frozen=True)
class Span:
    """Seconds `start` to `end` of a recording and the probability of each label there; `None` where it is silence."""

    start: float
    end: float
    probabilities: dict[str, float] | None

    @property
    def label(self) -> str | None:
        """The most probable label; `None` for silence."""
        return None if self.probabilities is None else max(self.probabilities, key=self.probabilities.__getitem__)


@dataclass(frozen=True)
class Update:
    """What became certain of a stream: the next windows and the next spans of one label or of silence."""

    windows: list[Span] = field(default_factory=list)
    segments: list[Span] = field(default_factory=list)


@dataclass(frozen=True)
class Timeline:
    """Emotions over the time of one recording, or of one channel of it.

    Args:
        file, channel, seconds: as in `Prediction`.
        window, hop: seconds that a window is long, and from one window to the next.
        labels: the model's labels, in the order of its logits.
        whole: probabilities over the whole recording; `None` if nobody speaks.
        windows: one every `hop`; the last ones end with the recording.
        segments: from 0 to the end without gaps: silence, or speech with one label.
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
    """Returns the segments of consecutive pieces, those of one label (or of silence) that touch made one.

    Their probabilities are the mean of the pieces', weighted by seconds.
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
