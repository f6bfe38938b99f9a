"""Twenty waveforms get the same answers on every machine: probabilities of one processor, compared wherever this runs.

`other_machines.json` holds what the plain model (float32) and the int8 engine gave on the processor that it names.
`python tests/inference/test_other_machines.py` writes it anew.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import RATE, ROOT, SHARED  # noqa: E402

import whisper_ser  # noqa: E402
from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor  # noqa: E402
from whisper_ser.inference.reference_output import processor  # noqa: E402

FILE = Path(__file__).parent / "other_machines.json"
TOLERANCES = {"float32": 1e-4, "int8": 0.02}
FIXTURE = ROOT / "tests/fixtures/model-0.1.0-qkv"
LABELS = ["angry", "happy", "neutral", "sad"]
INSTRUCTION_SETS = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def waveforms() -> list[np.ndarray]:
    """Returns twenty waveforms from 0.1 to 13 s: harmonics of wavering pitches in syllables, noise, pauses, clicks."""
    rng = np.random.default_rng(0)
    clips = []
    for number in range(20):
        time = np.arange(round((0.1 + 0.035 * number**2) * RATE)) / RATE
        pitch = 80.0 * 1.08**number
        phase = 2 * np.pi * (pitch * time + 2 * np.sin(2 * np.pi * (1 + number % 5) * time))
        voice = sum(np.sin(k * phase) / k for k in range(1, 10))
        syllables = (1 + np.sin(2 * np.pi * (2 + number % 4) * time)) / 2
        noise = rng.random(len(time)) - 0.5
        clip = (0.01, 0.1, 0.3)[number % 3] * (syllables * voice + (0.02, 0.3)[number % 2] * noise)
        if number % 5 == 3:
            clip[len(clip) // 3 : len(clip) // 2] = 0
        if number % 7 == 6:
            clip[len(clip) // 4] = 1
        clips.append(clip.astype(np.float32))
    return clips


def save_real_model(folder: Path) -> Path:
    """Saves whisper-tiny.en to its third layer with a head whose weights NumPy draws, alike on every machine."""
    rng = np.random.default_rng(1)
    model = WhisperForEmotionClassification.from_encoder(SHARED / "models/whisper-tiny.en", LABELS, layer_index=3)
    extractor = WhisperSerFeatureExtractor()
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if ".encoder." in name:
                continue
            if name.endswith("bias"):
                weight.zero_()
            elif weight.dim() > 1:
                drawn = (rng.random(tuple(weight.shape)) - 0.5) * np.sqrt(12 / weight.shape[-1])
                weight.copy_(torch.from_numpy(drawn.astype(np.float32)))
        features = extractor(waveforms()[8:12], sampling_rate=RATE, return_tensors="pt")
        model.whisper_ser.standardisation.fit(list(model.whisper_ser.encode(**features)[0]))
    for part in (model, extractor):
        part.save_pretrained(folder)
    return folder


def by_torch(folder: Path) -> np.ndarray:
    model = WhisperForEmotionClassification.from_pretrained(folder).float().eval()
    extractor = WhisperSerFeatureExtractor.from_pretrained(folder)
    with torch.inference_mode():
        logits = [model(**extractor(clip, sampling_rate=RATE, return_tensors="pt")).logits for clip in waveforms()]
    return torch.cat(logits).softmax(-1).numpy()


def by_engine(folder: Path, precision: str) -> np.ndarray:
    model = whisper_ser.load_model(folder, "cpu", precision)
    return np.concatenate([model.probabilities([clip]) for clip in waveforms()])


@pytest.fixture(scope="module", params=["fixture", pytest.param("tiny.en", marks=pytest.mark.real)])
def model(request, tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A model and the probabilities expected of it, by precision."""
    folder = FIXTURE if request.param == "fixture" else save_real_model(tmp_path_factory.mktemp("real"))
    return folder, json.loads(FILE.read_text())["models"][request.param]


def test_the_waveforms_are_of_many_lengths_and_get_many_answers():
    assert len({len(clip) for clip in waveforms()}) == 20
    for expected in json.loads(FILE.read_text())["models"].values():
        floats, integers = np.array(expected["float32"]), np.array(expected["int8"])
        assert floats.shape == integers.shape and np.ptp(floats, axis=0).max() > 0.05
        assert np.abs(floats - integers).max() > TOLERANCES["float32"], "integers are no floats"


def test_the_plain_model_gives_the_probabilities_of_another_machine(model):
    folder, expected = model
    assert by_torch(folder) == pytest.approx(np.array(expected["float32"]), abs=TOLERANCES["float32"])


@pytest.mark.parametrize("precision", TOLERANCES)
def test_the_engine_gives_the_probabilities_of_another_machine(model, precision):
    folder, expected = model
    assert by_engine(folder, precision) == pytest.approx(np.array(expected[precision]), abs=TOLERANCES[precision])


def main() -> None:
    import tempfile

    lines = {name.strip(): value.strip() for name, _, value in (s.partition(":") for s in processor().splitlines())}
    flags = set(lines.get("flags", lines.get("Features", "")).split())
    with tempfile.TemporaryDirectory() as real:
        folders = {"fixture": FIXTURE, "tiny.en": save_real_model(Path(real))}
        models = {
            name: {
                precision: (by_torch(folder) if precision == "float32" else by_engine(folder, precision)).tolist()
                for precision in TOLERANCES
            }
            for name, folder in folders.items()
        }
    content = {
        "processor": lines.get("model name"),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
        "models": {
            name: {kind: [[round(p, 6) for p in row] for row in rows] for kind, rows in of.items()}
            for name, of in models.items()
        },
    }
    text = json.dumps(content, indent=1).replace("\n     ", " ").replace("\n    ]", " ]")
    FILE.write_text(text + "\n")


if __name__ == "__main__":
    main()
