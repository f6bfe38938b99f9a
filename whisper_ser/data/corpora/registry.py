"""The corpora that can be loaded by name from the folder their publisher distributes."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset

from whisper_ser.data.corpora.crema_d import CREMA_D
from whisper_ser.data.corpora.dataset import build_dataset
from whisper_ser.data.corpora.emodb import EMODB
from whisper_ser.data.corpora.iemocap import IEMOCAP
from whisper_ser.data.corpora.meld import MELD
from whisper_ser.data.corpora.published import CorpusSpec
from whisper_ser.data.corpora.ravdess import RAVDESS
from whisper_ser.data.corpora.savee import SAVEE
from whisper_ser.data.corpora.shemo import SHEMO
from whisper_ser.data.corpora.tess import TESS
from whisper_ser.errors import CorpusError

logger = logging.getLogger(__name__)

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
        CorpusError: an unknown name, option or label, a recording that is there twice, or a folder that is missing,
            incomplete or holds audio that is not the corpus'; the message says where to obtain it, the layout
            expected, and what was found.
    """
    if name not in CORPORA:
        raise CorpusError(f"There is no corpus {name!r}; known by name: {', '.join(CORPORA)}.")
    spec, folder = CORPORA[name], Path(folder)
    labels = _chosen_labels(spec, labels, classes)
    subset = subset or next(iter(spec.counts))
    if subset not in spec.counts:
        raise CorpusError(f"{spec.title} has no subset {subset!r}; expected {' or '.join(spec.counts)}.")
    found = spec.read(folder) if folder.is_dir() else []
    found = [utterance for utterance in found if spec.in_subset(utterance, subset)]
    # The label under which each emotion is kept; `None` where it is left out.
    label_of = {e: e if e in labels else spec.merged.get(e) for counts in spec.counts.values() for e in counts}
    published = {e: count for e, count in spec.counts[subset].items() if label_of[e] in labels}
    _check_counts(spec, folder, subset, published, Counter(one.emotion for one in found), allow_incomplete)
    kept = [(label, one) for one in found if (label := label_of[one.emotion]) in labels]
    return build_dataset(
        sorted(one._replace(emotion=label, language=spec.language) for label, one in kept),
        labels,
        spec.name,
        description=f"{spec.title}, {subset} utterances" if len(spec.counts) > 1 else spec.title,
        license=spec.license,
        citation=spec.citation,
        homepage=spec.homepage,
    )


def _chosen_labels(spec: CorpusSpec, labels: Sequence[str] | None, classes: int | None) -> list[str]:
    if labels and classes is not None:
        raise CorpusError(f"Give labels or classes for {spec.title}, not both.")
    if not labels:
        sets = {len(one): one for one in spec.label_sets}
        classes = len(spec.label_sets[0]) if classes is None else classes
        if classes not in sets:
            sizes = " or ".join(str(size) for size in sorted(sets))
            raise CorpusError(
                f"{spec.title} has label sets of {sizes} classes, not {classes}; other choices by labels."
            )
        return list(sets[classes])
    emotions = sorted({emotion for counts in spec.counts.values() for emotion in counts})
    unknown = [label for label in labels if label not in emotions]
    if unknown:
        raise CorpusError(f"{spec.title} has no emotion {', '.join(unknown)}; it has {', '.join(emotions)}.")
    if len(set(labels)) < max(2, len(labels)):
        raise CorpusError(f"At least two different labels are needed, each once; given: {', '.join(labels)}.")
    return list(labels)


def _check_counts(
    spec: CorpusSpec,
    folder: Path,
    subset: str,
    published: Mapping[str, int],
    found: Mapping[str, int],
    allow_incomplete: bool,
) -> None:
    """Raises `CorpusError` if a kept emotion has fewer utterances than published; logs other differences."""
    if all(found[emotion] == count for emotion, count in published.items()):
        return
    table = "\n".join(f"  {emotion:<12}{found[emotion]:>6} of {n}" for emotion, n in published.items())
    report = f"{folder} holds {spec.title} ({subset} utterances) with these counts, found of published:\n{table}"
    if not folder.is_dir():
        report = f"There is no folder {folder} with {spec.title}."
    is_short = any(found[emotion] < count for emotion, count in published.items())
    if is_short and (not allow_incomplete or not any(found[emotion] for emotion in published)):
        raise CorpusError(
            f"{report}\nExpected this layout (or its parent folder):\n{spec.layout}\n"
            f"Obtain the corpus from {spec.homepage} (licence: {spec.license}). To use what is there, allow an "
            "incomplete corpus (allow_incomplete=True)."
        )
    logger.warning("%s", report)
