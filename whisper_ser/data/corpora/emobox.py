"""EmoBox manifests: 32 corpora with their published folds (Ma et al., Interspeech 2024)."""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
    """A line of a manifest, and the file that it was read from."""

    key: str
    wav: str
    emotion: str
    is_segment: bool
    where: str


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
    entries, fold_of, part_of = _placed(_lists(manifest))
    unknown = sorted({entry.emotion for entry in entries.values()} - set(label_map))
    if unknown:
        raise CorpusError(f"{manifest / 'label_map.json'} has no label for {', '.join(unknown)}.")
    names = list(labels or sorted({label_map[entry.emotion] for entry in entries.values()}))
    if absent := [name for name in names if name not in label_map.values()]:
        raise CorpusError(f"{manifest / 'label_map.json'} has no label {', '.join(absent)}: {label_map}.")
    kept = [entry for _, entry in sorted(entries.items()) if label_map[entry.emotion] in names]
    paths = _audio_paths(manifest, kept, Path(audio_root) if audio_root else None, allow_incomplete)
    language = next((code for code, sets in LANGUAGES.items() if manifest.name in sets), "")
    speakers = _speakers(manifest, kept)
    utterances = [
        Utterance(
            path=str(path),
            emotion=label_map[entry.emotion],
            speaker=speakers.get(entry.key, ""),
            language=language,
            group=part_of.get(entry.key, ""),
            fold=fold_of.get(entry.key, ""),
        )
        for entry, path in zip(kept, paths, strict=True)
        if path
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


def _lists(manifest: Path) -> dict[str, dict[str, list[_Entry]]]:
    """Returns the lists of each fold: fold -> part -> entries. Without fold folders, the fold is empty."""
    folders = {path.name.removeprefix("fold_"): path for path in manifest.glob("fold_*") if path.is_dir()}
    lists = {}
    for fold, folder in sorted((folders or {"": manifest}).items()):
        # MER2023 has further lists, test1 to test3, with other fields, which overlap its test list.
        ending = f"_fold_{fold}.jsonl" if fold else ".jsonl"
        files = {part: sorted(folder.glob(f"*_{part}{ending}")) for part in PARTS}
        lists[fold] = {part: [e for file in found for e in _entries(file)] for part, found in files.items()}
        for part in ("train", "test"):
            if not lists[fold][part]:
                raise CorpusError(f"{folder} has no utterances in *_{part}{ending}.")
    return lists


def _entries(path: Path) -> Iterator[_Entry]:
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
        yield _Entry(key, wav, emotion, "start_time" in row, f"{path.parent.name}/{path.name}")


def _placed(
    lists: dict[str, dict[str, list[_Entry]]],
) -> tuple[dict[str, _Entry], dict[str, str], dict[str, str]]:
    """Returns the utterances of all folds by key, and the fold that tests each or, of a single split, its part."""
    entries: dict[str, _Entry] = {}
    tested_in, parts_in = defaultdict(list), defaultdict(list)
    problems = []
    for fold, parts in lists.items():
        for part, part_entries in parts.items():
            for entry in part_entries:
                first = entries.setdefault(entry.key, entry)
                if (first.wav, first.emotion) != (entry.wav, entry.emotion):
                    problems.append(f"{entry.key} differs between {first.where} and {entry.where}")
                parts_in[entry.key, fold].append(part)
                if part == "test":
                    tested_in[entry.key].append(fold)
    problems += [
        f"{key} is in {' and '.join(parts)} of {f'fold {fold}' if fold else 'the one split'}"
        for (key, fold), parts in parts_in.items()
        if len(parts) > 1
    ]
    single = len(lists) == 1
    if not single:
        problems += [f"{key} is in no test list" for key in entries if not tested_in[key]]
        problems += [f"{k} is tested in folds {', '.join(f)}" for k, f in tested_in.items() if len(set(f)) > 1]
    if problems:
        raise CorpusError(
            f"The manifest is not a partition into folds ({len(problems)} problems); each utterance must be tested "
            f"once and be in one list of a fold:\n{format_problems(problems)}"
        )
    if single:
        return entries, {}, {key: parts[0] for (key, _), parts in parts_in.items()}
    return entries, {key: folds[0] for key, folds in tested_in.items()}, {}


def _audio_paths(
    manifest: Path, entries: Sequence[_Entry], audio_root: Path | None, allow_incomplete: bool
) -> list[Path | None]:
    """Returns the audio file of each entry, `None` for one that is missing."""
    root = audio_root or manifest.parent.parent
    if any(entry.is_segment for entry in entries):
        entries = [e._replace(wav=str(Path(e.wav).with_name(f"{e.key}.wav"))) if e.is_segment else e for e in entries]
    paths = [_audio_path(root, manifest.name, entry.wav) for entry in entries]
    missing = [entry.wav for entry, path in zip(entries, paths, strict=True) if path is None]
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
