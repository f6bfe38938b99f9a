"""What the tests share: a small random Whisper, a small corpus of tones, and the real weights and recordings."""

import csv
import getpass
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read when huggingface_hub is imported: no test reaches for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _test_cache() -> str:
    """Returns a cache folder for what is made by this code: the next run of the same code finds its graphs there."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for file in sorted([*root.glob("modeling_whisper_ser/*.py"), *root.glob("whisper_ser/inference/engines/*.py")]):
        digest.update(file.read_bytes())
    return f"{tempfile.gettempdir()}/whisper-ser-tests-{getpass.getuser()}/{digest.hexdigest()[:16]}"


os.environ["WHISPER_SER_CACHE"] = _test_cache()

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402
from transformers import WhisperConfig, WhisperModel  # noqa: E402

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor  # noqa: E402

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("WHISPER_SER_SHARED", ROOT.parent / "shared"))
RATE = 16000
THREADS = torch.get_num_threads()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="try many more generated cases")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if SHARED.is_dir():
        return
    for item in items:
        if "real" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=f"real weights and recordings are not at {SHARED}"))


@pytest.fixture(autouse=True)
def same_number_of_threads() -> Iterator[None]:
    """Undoes torch.set_num_threads of tests and fixtures: their last bits depend on it, and tests compare bits."""
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session")
def small_whisper() -> WhisperModel:
    """A Whisper of random weights: its shapes and arithmetic are Whisper's, nothing else is."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32,
        encoder_layers=3,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    whisper = WhisperModel(config).eval()
    with torch.no_grad():
        for name, parameter in whisper.encoder.named_parameters():
            # A fresh model has biases of 0 and norms of 1, behind which many a mix-up would hide.
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5) if name.endswith("weight") else parameter.normal_(0, 0.1)
    return whisper


@pytest.fixture(scope="session")
def small_checkpoint(small_whisper: WhisperModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small Whisper as a folder laid out like the Hub's."""
    folder = tmp_path_factory.mktemp("small-whisper")
    small_whisper.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_model(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of random weights on the small Whisper, whose answers differ from clip to clip."""
    return save_small_model(small_checkpoint, tmp_path_factory.mktemp("small-model"))


def save_small_model(checkpoint: Path, folder: Path, pad_to_seconds: float | None = None, **fields: Any) -> Path:
    torch.manual_seed(0)
    labels = ["angry", "happy", "sad"]
    model = WhisperForEmotionClassification.from_encoder(checkpoint, labels, **{"layer_index": 2, **fields}).eval()
    clips = [speechlike(1.0, pitch) for pitch in (90, 150, 260)]
    features = WhisperSerFeatureExtractor()(clips, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        states, _ = model.whisper_ser.encode(**features)
        model.whisper_ser.standardisation.fit(list(states))
        for classifier in model.classifiers:
            classifier.weight.normal_(0, 0.7)
    model.save_pretrained(folder)
    WhisperSerFeatureExtractor(pad_to_seconds=pad_to_seconds).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def other_model(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model has the labels of `small_model` and other answers."""
    return save_small_model(small_checkpoint, tmp_path_factory.mktemp("runs") / "means" / "model", pooling_type="mean")


@pytest.fixture(scope="session")
def space(small_model: Path, other_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page, running as a Space: `small_model` comes from a Hub as user/tones, `other_model` from its folder."""
    from hub_server import Hub
    from space import running_space

    with Hub() as hub:
        hub.add("user/tones", {path.name: path.read_bytes() for path in small_model.iterdir()})
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path_factory.mktemp("hub-cache")),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        with running_space(tmp_path_factory.mktemp("space"), f"user/tones, {other_model}", **settings) as space:
            yield space


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Asserts equality but for rounding: weights that were loaded may lie at another alignment, and sum otherwise."""
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def speechlike(seconds: float, pitch: float = 120.0, seed: int = 0) -> np.ndarray:
    """Returns a voice-like waveform `(samples,)`: harmonics of a wavering pitch, in syllables, with some noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * pitch * (time + 0.01 * np.sin(2 * np.pi * 3 * time))
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time + rng.uniform(0, 6))
    return (0.1 * voice * syllables + 0.003 * rng.standard_normal(len(time))).astype(np.float32)


def write_corpus(folder: Path, speakers: int = 6, each: int = 3) -> Path:
    """Writes a corpus whose two 'emotions' differ in pitch and level, so that a working model learns them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for speaker in range(speakers):
        for emotion, pitch, gain in (("calm", 90, 0.3), ("excited", 260, 1.5)):
            for n in range(each):
                name = f"{speaker:02d}_{emotion}_{n}.wav"
                seed = speaker * 100 + n
                length = 0.8 + 0.15 * ((speaker + 2 * n) % 5)
                soundfile.write(folder / name, gain * speechlike(length, pitch + 6 * speaker, seed), RATE)
                rows.append({"file_name": name, "emotion": emotion, "speaker": f"{speaker:02d}"})
    write_table(folder, rows)
    return folder


def write_table(folder: Path, rows: list[dict[str, str]]) -> None:
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session", autouse=True)
def somewhere_else(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a run writes to its usual places, relative to where it is started, ends with the session."""
    os.chdir(tmp_path_factory.mktemp("here"))


@pytest.fixture(autouse=True)
def same_start() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def trained(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on tones by women and men, some of them mislabelled: its folder, to be copied before a change."""
    from whisper_ser.commands import train as run_train

    folder = write_corpus(tmp_path_factory.mktemp("people"), speakers=6)
    with open(folder / "metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row |= {"gender": "fm"[int(row["speaker"]) % 2], "language": "de"}
        if number % 7 == 3 or number == 35:
            # Without mistakes every figure would be 100 and could stand for any other.
            row["emotion"] = "calm" if row["emotion"] == "excited" else "excited"
    write_table(folder, rows)
    output = tmp_path_factory.mktemp("trained") / "run"
    options = ["--layers", "2", "--num_train_epochs", "2", "--test_speakers", "04", "05"]
    run_train.main(
        ["--data_dir", str(folder), "--encoder", str(small_checkpoint), "--output_dir", str(output), *options]
    )
    return output
