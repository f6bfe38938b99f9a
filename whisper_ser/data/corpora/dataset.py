"""The common format of all corpora: a `datasets.Dataset` with a row for each utterance."""

from collections.abc import Sequence
from typing import NamedTuple

from datasets import ClassLabel, Dataset, DatasetInfo, Features, Value


class Utterance(NamedTuple):
    """One recording with its labels; unknown text is empty.

    Attributes:
        path: of the audio file.
        emotion: as the corpus labels it.
        speaker: identifies the speaker within the corpus.
        gender: `female` or `male`.
        language: ISO 639-1 code.
        group: what published protocols hold out together, such as a session.
        fold: the published fold that tests the utterance.
    """

    path: str
    emotion: str
    speaker: str = ""
    gender: str = ""
    language: str = ""
    group: str = ""
    fold: str = ""


def build_dataset(utterances: Sequence[Utterance], labels: Sequence[str], name: str, **about: str) -> Dataset:
    """Returns the utterances as a `Dataset` with a column for each field of `Utterance`; `emotion` is a `ClassLabel`.

    Args:
        utterances: each with one of `labels`.
        labels: in the order of the logits.
        name: of the corpus.
        **about: `description`, `license`, `citation`, `homepage`.
    """
    columns = {field: [getattr(utterance, field) for utterance in utterances] for field in Utterance._fields}
    columns["emotion"] = [labels.index(emotion) for emotion in columns["emotion"]]
    features = Features({field: Value("string") for field in Utterance._fields})
    features["emotion"] = ClassLabel(names=list(labels))
    return Dataset.from_dict(columns, info=DatasetInfo(dataset_name=name, features=features, **about))
