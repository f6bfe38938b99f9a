"""EmoBox manifests: 32 corpora with their published folds (Ma et al., Interspeech 2024)."""

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from whisper_ser.data.corpora.dataset import Utterance, build_dataset
from whisper_ser.data.corpora.published import READABLE, citation
from whisper_ser.errors import CorpusError, format_problems

logger = logging.getLogger(__name__)

PARTS = ("train", "valid", "test")
FIELDS = ("key", "wav", "emo")
HOMEPAGE = "https://github.com/emo-box/EmoBox"
CITATION_KEY = "ma2024emobox"
NAMED_OTHERWISE = {"cremad": "crema_d"}
"""What EmoBox calls a corpus that this package knows by another name."""
LANGUAGES = {
    "am": ("ased",),
    "bn": ("subesco",),
    "de": ("emodb", "pavoque"),
    "el": ("aesdd",),
    "en": ("cremad", "emns", "emovdb", "enterface", "iemocap", "jlcorpus", "mead", "meld", "msppodcast", "ravdess")
    + ("savee", "tess"),
    "es": ("mesd",),
    "fa": ("shemo",),
    "fr": ("cafe", "oreau"),
    "it": ("emovo", "emozionalmente"),
    "pl": ("polish",),
    "ru": ("resd",),
    "tr": ("turevdb",),
    "ur": ("urdu",),
    "zh": ("casia", "m3ed", "mer2023"),
}  # asvpesd and esd mix several
# The groups of a match, put together, are the speaker: `iemocap-Ses01F_impro01_M000` is spoken by Ses01M.
SPEAKER_IN_KEY = {
    "cremad": r"(\d{4})-.*",
    "emodb": r"(\d\d)[ab].*",
    "iemocap": r"(Ses\d\d)[FM]_.*_([FM])[^_]*",
    "ravdess": r"(?:\d\d-){6}(\d\d)",
    "savee": r"(DC|JE|JK|KL)-.*",
    "shemo": r"([FM]\d\d).*",
    "tess": r"(OA|YA)F?-.*",
}


class _Entry(NamedTuple):
    """A line of a manifest, and where it stands; `fold` is empty where there are no fold folders."""

    key: str
    wav: str
    emotion: str
    is_segment: bool
    fold: str
    part: str
    file: str


def load_emobox(
    manifest: str | Path,
    audio_root: str | Path | None = None,
    labels: Sequence[str] | None = None,
    allow_incomplete: bool = False,
) -> Dataset:
    """Returns the corpus of an EmoBox manifest with the columns of `Utterance`, sorted by key. No audio is opened.

    `fold` is the fold that tests the utterance. A corpus with one fixed split (no fold folders, or only `fold_1`)
    has the part in `group` instead: `train`, `valid` or `test`. The speaker is known for EmoDB, RAVDESS, IEMOCAP,
    ShEMO, CREMA-D, TESS and SAVEE from the key, for MELD from `data.seg.wrd.stm`; elsewhere it is empty.

    Args:
        manifest: `<EmoBox>/data/<set>`.
        audio_root: the folder that holds `downloads/<set>/...` as in the manifests, or `<set>/...`, or its content; by
            default `<EmoBox>`. A `.wav` or `.flac` of the same name is used for a file of another format. Utterances
            that are segments of a longer file (PAVOQUE) are read from `<key>.wav` beside that file.
        labels: the labels of `label_map.json` to keep, in the order of the logits; by default all, sorted.
        allow_incomplete: log the number of missing audio files instead of raising.

    Raises:
        CorpusError: the manifest is missing or unreadable, an emotion is not in the label map, an utterance is tested
            by no fold or by several, or trained and tested by one fold, or audio is missing.
    """
    manifest = Path(manifest).resolve()
    label_map = _label_map(manifest)
    entries, has_folds = _partition(manifest)
    unknown = sorted({entry.emotion for entry in entries} - set(label_map))
    if unknown:
        raise CorpusError(f"{manifest / 'label_map.json'} has no label for {', '.join(unknown)}.")
    names = list(labels or sorted({label_map[entry.emotion] for entry in entries}))
    if absent := [name for name in names if name not in label_map.values()]:
        raise CorpusError(f"{manifest / 'label_map.json'} has no label {', '.join(absent)}: {label_map}.")
    kept = [entry for entry in entries if label_map[entry.emotion] in names]
    paths = _audio_paths(manifest, kept, Path(audio_root or manifest.parent.parent), allow_incomplete)
    language = next((code for code, sets in LANGUAGES.items() if manifest.name in sets), "")
    speakers = _speakers(manifest, kept)
    utterances = [
        Utterance(
            path=str(paths[entry.key]),
            emotion=label_map[entry.emotion],
            speaker=speakers.get(entry.key, ""),
            language=language,
            group="" if has_folds else entry.part,
            fold=entry.fold if has_folds else "",
        )
        for entry in kept
        if paths[entry.key]
    ]
    description = f"{manifest.name} in EmoBox's partition"
    return build_dataset(
        utterances, names, manifest.name, description=description, citation=citation(CITATION_KEY), homepage=HOMEPAGE
    )


def _label_map(manifest: Path) -> dict[str, str]:
    path = manifest / "label_map.json"
    if not path.is_file():
        raise CorpusError(
            f"There is no {path}. Expected a folder <EmoBox>/data/<set> of {HOMEPAGE} with label_map.json and "
            "fold_<k>/<set>_{train,test}_fold_<k>.jsonl."
        )
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CorpusError(f"{path} is not a JSON object of emotions and labels ({error}).") from error


def _partition(manifest: Path) -> tuple[list[_Entry], bool]:
    """Returns an entry of each utterance, sorted by key, and whether there are several folds.

    With several folds, it is the entry of the list that tests the utterance.
    """
    folders = {path.name.removeprefix("fold_"): path for path in manifest.glob("fold_*") if path.is_dir()}
    entries: dict[str, list[_Entry]] = defaultdict(list)
    for fold, folder in sorted((folders or {"": manifest}).items()):
        for part in PARTS:
            # MER2023 has further lists, test1 to test3, with other fields, which overlap its test list.
            lists = f"*_{part}_fold_{fold}.jsonl" if fold else f"*_{part}.jsonl"
            found = [entry for file in sorted(folder.glob(lists)) for entry in _entries(file, fold, part)]
            if not found and part != "valid":
                raise CorpusError(f"{folder} has no utterances in {lists}.")
            for entry in found:
                entries[entry.key].append(entry)
    has_folds = len(folders) > 1
    problems = [problem for listed in entries.values() for problem in _problems(listed, has_folds)]
    if problems:
        raise CorpusError(
            f"The manifest is not a partition into folds ({len(problems)} problems); each utterance must be tested "
            f"once and be in one list of a fold:\n{format_problems(problems)}"
        )
    return [
        next(entry for entry in listed if entry.part == "test" or not has_folds)
        for _, listed in sorted(entries.items())
    ], has_folds


def _entries(path: Path, fold: str, part: str) -> Iterator[_Entry]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 text ({error}): download it again.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key, wav, emotion = (str(row[field]) for field in FIELDS)
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(
                f"{path}, line {number} is not a JSON object with {', '.join(FIELDS)} ({error!r})."
            ) from error
        is_segment = "start_time" in row
        wav = str(Path(wav).with_name(f"{key}.wav")) if is_segment else wav
        yield _Entry(key, wav, emotion, is_segment, fold, part, f"{path.parent.name}/{path.name}")


def _problems(listed: Sequence[_Entry], has_folds: bool) -> Iterator[str]:
    """Yields what is wrong with the lists that one utterance is in."""
    first = listed[0]
    for entry in listed:
        if (first.wav, first.emotion) != (entry.wav, entry.emotion):
            yield f"{first.key} differs between {first.file} and {entry.file}"
    for fold, count in Counter(entry.fold for entry in listed).items():
        if count > 1:
            parts = " and ".join(entry.part for entry in listed if entry.fold == fold)
            yield f"{first.key} is in {parts} of {f'fold {fold}' if fold else 'the one split'}"
    testing = list(dict.fromkeys(entry.fold for entry in listed if entry.part == "test"))
    if has_folds and not testing:
        yield f"{first.key} is in no test list"
    if len(testing) > 1:
        yield f"{first.key} is tested in folds {', '.join(testing)}"


def _audio_paths(
    manifest: Path, entries: Sequence[_Entry], root: Path, allow_incomplete: bool
) -> Mapping[str, Path | None]:
    """Returns the audio file of each entry by its key, `None` for one that is missing."""
    paths = {entry.key: _audio_path(root, manifest.name, entry.wav) for entry in entries}
    missing = [entry.wav for entry in entries if paths[entry.key] is None]
    if not missing:
        return paths
    if len(missing) < len(entries) and allow_incomplete:
        logger.warning("%d of the %d audio files of %s are missing", len(missing), len(entries), manifest)
        return paths
    segments = " Save the segments of longer files as files of their own." if entries[0].is_segment else ""
    raise CorpusError(
        f"{len(missing)} of the {len(entries)} audio files of {manifest} are not in {root}, neither as .wav nor as "
        f".flac.{segments} Put the corpus there under these names, or name the folder that holds it as audio_root:\n"
        f"{format_problems(missing)}"
    )


def _audio_path(root: Path, name: str, wav: str) -> Path | None:
    inside = re.sub(r"^(\./)?downloads/", "", wav)
    for candidate in (root / wav, root / inside, root / inside.removeprefix(f"{name}/")):
        for ending in READABLE:
            if (path := candidate.with_suffix(ending)).is_file():
                return path
    return None


def _speakers(manifest: Path, entries: Sequence[_Entry]) -> dict[str, str]:
    """Returns the known speakers, by key."""
    if manifest.name == "meld":
        return _speakers_of_stm(manifest / "data.seg.wrd.stm")
    rule = SPEAKER_IN_KEY.get(manifest.name)
    if rule is None:
        return {}
    matches = {e.key: re.fullmatch(rule, e.key.removeprefix(f"{manifest.name}-")) for e in entries}
    speakers = {key: "".join(match.groups()) for key, match in matches.items() if match}
    if manifest.name == "tess":  # one of its files is named OA_... instead of OAF_...
        return {key: f"{speaker}F" for key, speaker in speakers.items()}
    return speakers


def _speakers_of_stm(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    columns = (line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {words[0]: words[2] for words in columns if len(words) > 2}
