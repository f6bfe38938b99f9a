"""The corpora that can be loaded by name from the folder their publisher distributes."""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from whisper_ser.data.corpora.crema_d import CREMA_D
from whisper_ser.data.corpora.emodb import EMODB
from whisper_ser.data.corpora.iemocap import IEMOCAP
from whisper_ser.data.corpora.meld import MELD
from whisper_ser.data.corpora.published import CorpusSpec, load_published
from whisper_ser.data.corpora.ravdess import RAVDESS
from whisper_ser.data.corpora.savee import SAVEE
from whisper_ser.data.corpora.shemo import SHEMO
from whisper_ser.data.corpora.tess import TESS
from whisper_ser.errors import CorpusError

CORPORA: dict[str, CorpusSpec] = {
    spec.name: spec for spec in (IEMOCAP, SHEMO, EMODB, RAVDESS, CREMA_D, TESS, SAVEE, MELD)
}


def load_corpus(
    name: str,
    folder: str | Path,
    *,
    labels: Sequence[str] | None = None,
    classes: int | None = None,
    subset: str | None = None,
    allow_incomplete: bool = False,
) -> Dataset:
    """Returns the corpus `name` with the columns of `Utterance`, sorted by path. No audio is opened.

    Args:
        name: one of `CORPORA`.
        folder: as distributed, or its parent.
        labels: emotions to keep, in the order of the logits. IEMOCAP's excited utterances count as happy unless
            `excited` is among them.
        classes: chooses the label set of that size among the spec's, such as 4, 5 or 6 for ShEMO; left out, the first.
        subset: of IEMOCAP, `improvised` (the default) or `all`.
        allow_incomplete: log what is missing instead of raising.

    Raises:
        CorpusError: an unknown name, option or label, or a folder that is missing, incomplete or holds audio that is
            not the corpus'; the message says where to obtain it, the layout expected, and what was found.
    """
    if name not in CORPORA:
        raise CorpusError(f"There is no corpus {name!r}; known by name: {', '.join(CORPORA)}.")
    spec = CORPORA[name]
    if classes is not None:
        if labels:
            raise CorpusError(f"Give labels or classes for {spec.title}, not both.")
        labels = _label_set(spec, classes)
    return load_published(spec, folder, labels, subset, allow_incomplete)


def _label_set(spec: CorpusSpec, classes: int) -> Sequence[str]:
    sets = {len(labels): labels for labels in spec.label_sets}
    if classes not in sets:
        sizes = " or ".join(str(size) for size in sorted(sets))
        raise CorpusError(f"{spec.title} has label sets of {sizes} classes, not {classes}; other choices by labels.")
    return sets[classes]
