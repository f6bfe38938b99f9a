"""The demo corpus: four "emotions" spoken by ten espeak-ng voices, made on this machine in seconds.

The emotions are prosody presets - rate, volume, pitch and pitch range - on top of each speaker's own habits, with some
jitter per utterance. That is enough to try every step of the workshop without a licence or a download, and it says
nothing about how well a model recognises real emotion.

espeak-ng comes with the `espeakng-loader` wheel (the `demo` extra; the library is GPL-3.0, hence optional).
"""

import csv
import ctypes
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile as sf
import soxr
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from whisper_ser.errors import CorpusError
from whisper_ser.io import CHECKSUMS, changed_files, read_sealed, replacing, write_checksums

RECIPE_VERSION = 1  # raise it whenever the samples or the table would come out differently
SAMPLE_RATE = 16_000  # hertz
METADATA_FILE = "metadata.csv"
RECIPE_FILE = "corpus.json"
AUDIO_NAME = re.compile(r"[fm]\d_[a-z]+_\d\.flac")  # of this recipe and of older ones
COLUMNS = ("file_name", "emotion", "speaker", "gender")

SPEAKERS = ("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m5", "m7")  # espeak-ng's variants of the same names
SENTENCES = (
    "The blue cup is on the kitchen table.",
    "My sister takes the early train to work.",
    "They will bring the boxes back on Thursday.",
    "There is a small shop next to the station.",
    "The letter came with the morning post.",
    "We moved the chairs into the other room.",
)


class Prosody(NamedTuple):
    """espeak-ng's voice parameters, or offsets to them.

    `rate` is in words per minute (espeak-ng's default is 175); `volume` (100 = full scale before its limiter), `pitch`
    (50 = the voice's own) and `pitch_range` (0 = monotone, 50 = normal) have no unit.
    """

    rate: float
    volume: float
    pitch: float
    pitch_range: float

    def shifted(self, offset: "Prosody") -> "Prosody":
        """Returns the sum of the two, parameter by parameter."""
        return Prosody(*(value + other for value, other in zip(self, offset, strict=True)))

    def drawn(self, seed: str) -> "Prosody":
        """Returns random offsets around zero with these values as standard deviations, cut at two of them."""
        generator = random.Random(seed)
        return Prosody(*(max(-2.0, min(2.0, generator.gauss(0.0, 1.0))) * deviation for deviation in self))


PLAIN = Prosody(rate=172, volume=85, pitch=45, pitch_range=45)
EMOTIONS = {
    "angry": Prosody(rate=24, volume=45, pitch=8, pitch_range=10),
    "happy": Prosody(rate=14, volume=12, pitch=22, pitch_range=35),
    "neutral": Prosody(rate=0, volume=0, pitch=0, pitch_range=0),
    "sad": Prosody(rate=-28, volume=-30, pitch=-14, pitch_range=-28),
}
# The spreads make the presets overlap a little: a class is a tendency, as it is in real speech, not a constant.
SPEAKER_HABIT = Prosody(rate=6, volume=5, pitch=3, pitch_range=3)
UTTERANCE_JITTER = Prosody(rate=7, volume=6, pitch=4, pitch_range=6)


@dataclass(frozen=True)
class Utterance:
    """One row of the corpus and how it is to be spoken."""

    file_name: str
    emotion: str
    speaker: str
    text: str
    prosody: Prosody

    @property
    def gender(self) -> str:
        """Returns `"female"` or `"male"`, which the speaker's first letter stands for."""
        return "female" if self.speaker.startswith("f") else "male"


def planned_utterances() -> Iterator[Utterance]:
    """Yields the 240 utterances in the one order in which they are synthesised."""
    for speaker in SPEAKERS:
        habit = PLAIN.shifted(SPEAKER_HABIT.drawn(speaker))
        for emotion, preset in EMOTIONS.items():
            for number, text in enumerate(SENTENCES, start=1):
                name = f"{speaker}_{emotion}_{number}"
                prosody = habit.shifted(preset).shifted(UTTERANCE_JITTER.drawn(name))
                yield Utterance(f"{name}.flac", emotion, speaker, text, prosody)


def build_demo_corpus(folder: Path) -> Path:
    """Returns `folder`, resolved, holding the demo corpus: `metadata.csv` and 240 FLAC files (16 kHz, mono, 16 bit).

    A complete corpus of this recipe that is already there is checked and reused. Anything less is built anew beside it
    and replaced once the new one is complete. Processes that call at once build it once.

    Raises:
        CorpusError: `espeakng-loader` is not installed or does not run here, or `folder` holds files of somebody else.
    """
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if _is_complete(folder):
            return folder
        _refuse_to_overwrite_foreign_files(folder)
        _require_espeak()
        with replacing(folder) as new_folder:
            _write_corpus_in_child_process(new_folder)
    return folder


def _is_complete(folder: Path) -> bool:
    """Returns whether every file of this recipe is in `folder`, with the content it was written with."""
    try:
        recipe = read_sealed(folder / RECIPE_FILE)
    except OSError:
        return False
    return recipe.get("recipe_version") == RECIPE_VERSION and not changed_files(folder)


def _refuse_to_overwrite_foreign_files(folder: Path) -> None:
    """Raises CorpusError if `folder` holds anything that no recipe of the demo corpus wrote."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CorpusError(f"The demo corpus needs a folder, but {folder} is a file. Give a new or empty folder.")
    names = sorted(path.name for path in folder.iterdir() if path.name not in (METADATA_FILE, RECIPE_FILE, CHECKSUMS))
    foreign = [name for name in names if not AUDIO_NAME.fullmatch(name)]
    if foreign:
        raise CorpusError(
            f"{folder} holds no complete demo corpus but other files ({', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}), which building one would delete. Give a new or empty folder."
        )


def _require_espeak() -> None:
    """Raises CorpusError if the wheel that carries espeak-ng is not installed."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise CorpusError(
            "The demo corpus is spoken by espeak-ng, which comes with the package espeakng-loader; it is not "
            'installed. Install it with: pip install "whisper-ser[demo]"'
        )


def _write_corpus_in_child_process(folder: Path) -> None:
    """Writes the corpus from a fresh interpreter: what espeak-ng says depends on what it said before in a process."""
    package_root = Path(__file__).resolve().parents[2]  # makes the child find whisper_ser, installed or not
    child = subprocess.run([sys.executable, "-m", "whisper_ser.demo.corpus", str(folder)], cwd=package_root)
    if child.returncode != 0:
        raise CorpusError(
            f"espeak-ng could not speak the demo corpus (exit code {child.returncode}; its message is above). Does "
            "`python -c 'import espeakng_loader; espeakng_loader.load_library()'` work on this machine?"
        )


def _write_corpus(folder: Path) -> None:
    """Speaks every utterance into the new `folder`, then writes the table and, last, the checksums."""
    folder.mkdir(parents=True)
    utterances = list(planned_utterances())
    espeak = Espeak()
    for utterance in tqdm(utterances, desc="Speaking the demo corpus", unit="utterance"):
        espeak.write(utterance, folder)
    with (folder / METADATA_FILE).open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(utterance, column) for column in COLUMNS] for utterance in utterances)
    recipe = {"recipe_version": RECIPE_VERSION, "espeak_ng_version": espeak.version}
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    write_checksums(folder)


class Espeak:
    """espeak-ng through ctypes; numbers and signatures are those of its `speak_lib.h` and `espeak_ng.h`.

    Raises:
        CorpusError: it is not installed, or does not run here.
    """

    _OUTPUT_SYNCHRONOUS = 2  # espeak_Synth returns when the callback has had every sample
    _DONT_EXIT = 0x8000  # report a broken data folder instead of ending the process
    _CHARS_UTF8 = 1
    _RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
    _LIMITS = {_RATE: (80, 450), _VOLUME: (0, 200), _PITCH: (0, 100), _RANGE: (0, 100)}

    def __init__(self) -> None:
        _require_espeak()
        import espeakng_loader  # an optional extra

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_Info.restype = ctypes.c_char_p
        data_folder = os.fsencode(espeakng_loader.get_data_path())
        self.sample_rate = self._library.espeak_Initialize(self._OUTPUT_SYNCHRONOUS, 0, data_folder, self._DONT_EXIT)
        if self.sample_rate <= 0:
            raise CorpusError(f"espeak-ng did not start (code {self.sample_rate}) with the data in {data_folder!r}.")
        self.version = self._library.espeak_Info(None).decode()
        self._blocks: list[NDArray[np.int16]] = []
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = callback_type(self._collect)  # kept here, or it would be freed while the library calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def write(self, utterance: Utterance, folder: Path) -> None:
        """Speaks the utterance into a FLAC file of its name in `folder` (16 kHz, mono, 16 bit)."""
        samples = self.speak(utterance.text, utterance.speaker, utterance.prosody).astype(np.float32)
        resampled = soxr.resample(samples, self.sample_rate, SAMPLE_RATE, quality="HQ")
        # Rounded here, because soxr's own 16-bit output is dithered.
        rounded = np.clip(np.rint(resampled), -32768, 32767).astype(np.int16)
        sf.write(folder / utterance.file_name, rounded, SAMPLE_RATE, subtype="PCM_16")

    def _collect(self, samples: Any, count: int, events: int | None) -> int:
        if samples and count > 0:  # a last call without samples says that the text is over
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    def speak(self, text: str, variant: str, prosody: Prosody) -> NDArray[np.int16]:
        """Returns `(samples,)` at `self.sample_rate` hertz, spoken by American English in the given voice variant."""
        self._blocks.clear()
        self._check("espeak_SetVoiceByName", f"en-us+{variant}".encode())
        for (parameter, (low, high)), value in zip(self._LIMITS.items(), prosody, strict=True):
            self._check("espeak_SetParameter", parameter, max(low, min(high, round(value))), 0)
        self._check("espeak_ng_SetRandSeed", ctypes.c_long(1))  # breath and flutter are noise
        encoded = text.encode()
        size = ctypes.c_size_t(len(encoded) + 1)  # with the final NUL
        # From the first character (position 0, counted by 1) to the end (0), without identifier and user data.
        self._check("espeak_Synth", encoded, size, 0, 1, 0, self._CHARS_UTF8, None, None)
        if not self._blocks:
            raise CorpusError(f"espeak-ng returned no samples for {text!r} in the voice en-us+{variant}.")
        return np.concatenate(self._blocks)

    def _check(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            raise CorpusError(f"espeak-ng's {function}{arguments} failed with code {code}.")


if __name__ == "__main__":
    _write_corpus(Path(sys.argv[1]))
