"""What int8 costs and gains: unweighted accuracy (UA) and time of the encoder in float32 and in int8, by layer.

The probe is a logistic regression on mean and standard deviation of the states of each utterance, standardised, over
five folds of speakers, no speaker in two. It is fitted to states of the float32 encoder and given those of both
encoders of the speakers held out; a second one is fitted to states of the int8 encoder, as a head trained on it would
be. Times are of the encoder alone, medians, both encoders taken in turn.

    python benchmarks/precision.py --data_dir path/to/emodb4 --data_dir path/to/ravdess --encoder openai/whisper-base
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.audio.decoding import read_audio
from whisper_ser.data.corpora.table import load_table
from whisper_ser.demo.encoder import resolve_encoder
from whisper_ser.inference.encoding import encode
from whisper_ser.inference.engines.graph_export import encoder_graph
from whisper_ser.inference.engines.int8 import quantize_encoder
from whisper_ser.inference.engines.session import open_session
from whisper_ser.inference.model import Settings, torch_weights

PRECISIONS = ("float32", "int8")
INT8_PROBE = "int8, probe fitted to int8"


class GraphEncoder:
    """An encoder in a file, see `whisper_ser.inference.engines.Encoder`."""

    name = "onnxruntime"
    frames_per_pass = 2000

    def __init__(
        self, file: Path, weights: Mapping[str, np.ndarray] | None = None, threads: int | None = None
    ) -> None:
        self._session = open_session(file, weights, threads)

    def encode(self, features: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"features": features, "lengths": lengths})[0]


class Encoders:
    """The float32 and the int8 encoder of one Whisper checkpoint, up to the highest of the layers read."""

    def __init__(self, checkpoint: str, layers: Sequence[int], folder: Path) -> None:
        mixing = {"layer_mixing": "concat", "layer_indices": list(layers)} if len(layers) > 1 else {}
        model = WhisperForEmotionClassification.from_encoder(
            resolve_encoder(checkpoint), ["a", "b"], layer_index=max(layers), **mixing
        )
        extractor = WhisperSerFeatureExtractor(feature_size=model.config.encoder_config.num_mel_bins)
        config, front_end = (json.loads(of.to_json_string()) for of in (model.config, extractor))
        self.settings = Settings.of(config, front_end)
        graph = encoder_graph(model.config)
        named = {constant.name for constant in graph.graph.initializer}
        self._weights = {name: weight for name, weight in torch_weights(model).items() if name in named}
        self._files = {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}
        self._files["float32"].write_bytes(graph.SerializeToString())
        onnx.save(quantize_encoder(graph, self._weights, self.settings.log_mel), self._files["int8"])

    def open(self, precision: str, threads: int | None = None) -> GraphEncoder:
        return GraphEncoder(self._files[precision], self._weights if precision == "float32" else None, threads)

    def megabytes(self) -> dict[str, float]:
        floats = sum(weight.nbytes for weight in self._weights.values())
        return {"float32": floats / 1e6, "int8": self._files["int8"].stat().st_size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy and time of float32 and int8.")
    parser.add_argument("--data_dir", action="append", required=True, help="may be given several times")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 3, 4], help="each alone, and all together")
    parser.add_argument("--seconds", type=float, default=4.0, help="of the clip that is timed")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    layers = sorted(arguments.layers)
    with tempfile.TemporaryDirectory() as folder:
        encoders = Encoders(arguments.encoder, layers, Path(folder))
        accuracies = []
        for data_dir in arguments.data_dir:
            corpus = load_table(data_dir)
            statistics_of = {
                precision: state_statistics(corpus["path"], encoders.settings, encoders.open(precision))
                for precision in PRECISIONS
            }
            emotions, speakers = np.array(corpus["emotion"]), np.array(corpus["speaker"])
            accuracies += compare(Path(data_dir).name, statistics_of, layers, emotions, speakers)
        times = measure_times(encoders, arguments.seconds, arguments.threads, arguments.repeats)
        sizes = encoders.megabytes()
    print_accuracies(accuracies)
    print_times(times, sizes, arguments.seconds)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        content = {"processor": processor(), "accuracy": accuracies, "times": times, "megabytes": sizes}
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


def state_statistics(paths: Sequence[str], settings: Settings, encoder: GraphEncoder) -> np.ndarray:
    """Returns mean and standard deviation of the states of each utterance `(utterances, layers, 2, width)`."""
    found = []
    for path in tqdm(paths, leave=False):
        mel = settings.log_mel(read_audio(path))
        passes = encode([mel], encoder, settings.chunk_frames)
        states = np.concatenate([states for stretches in passes for _, states in stretches], axis=1)
        found.append(np.stack([states.mean(1), states.std(1)], axis=1))
    return np.stack(found)


def compare(
    corpus: str,
    statistics_of: Mapping[str, np.ndarray],
    layers: Sequence[int],
    emotions: np.ndarray,
    speakers: np.ndarray,
) -> list[dict[str, Any]]:
    """Returns a row of figures for each layer, for all layers together, and for each way to use int8."""
    selections = {str(layer): [index] for index, layer in enumerate(layers)}
    if len(layers) > 1:
        selections["+".join(map(str, layers))] = list(range(len(layers)))
    rows = []
    for name, indices in selections.items():
        given = {form: of_form[:, indices].reshape(len(emotions), -1) for form, of_form in statistics_of.items()}
        predictions = predict(given, emotions, speakers)
        spread = np.maximum(given["float32"].std(0), 1e-12)
        error = np.sqrt(np.mean(((given["int8"] - given["float32"]) / spread) ** 2))
        for form, of_form in predictions.items():
            rows.append(
                {
                    "corpus": corpus,
                    "layers": name,
                    "form": form,
                    "ua": float(balanced_accuracy_score(emotions, of_form)),
                    "differ": int((of_form != predictions["float32"]).sum()),
                    "utterances": len(emotions),
                    "error": 0.0 if form == "float32" else float(error),
                }
            )
    return rows


def predict(given: Mapping[str, np.ndarray], emotions: np.ndarray, speakers: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the probes' predictions of each utterance, by form, from features `(utterances, features)`."""
    predictions = {form: np.empty(len(emotions), int) for form in (*PRECISIONS, INT8_PROBE)}
    for train, test in GroupKFold(5).split(given["float32"], groups=speakers):
        for fitted_to, forms in (("float32", {form: form for form in PRECISIONS}), ("int8", {INT8_PROBE: "int8"})):
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
            probe.fit(given[fitted_to][train], emotions[train])
            for form, source in forms.items():
                predictions[form][test] = probe.predict(given[source][test])
    return predictions


def measure_times(encoders: Encoders, seconds: float, threads: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Returns the median milliseconds of both encoders for one clip, by number of threads."""
    rng = np.random.default_rng(0)
    mel = encoders.settings.log_mel(0.1 * rng.standard_normal(round(seconds * 16000)).astype(np.float32))
    rows = []
    for count in threads:
        opened = {precision: encoders.open(precision, count) for precision in PRECISIONS}
        times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        for repeat in range(repeats + 1):
            for precision, encoder in opened.items():
                begin = time.perf_counter()
                list(encode([mel], encoder, encoders.settings.chunk_frames))
                if repeat:  # the first call allocates
                    times[precision].append(1000 * (time.perf_counter() - begin))
        medians = {precision: statistics.median(taken) for precision, taken in times.items()}
        ratio = statistics.median(a / b for a, b in zip(times["float32"], times["int8"], strict=True))
        rows.append({"threads": count, **medians, "ratio": ratio})
    return rows


def print_accuracies(rows: Sequence[Mapping[str, Any]]) -> None:
    print("\nError: root mean square, in standard deviations of each statistic over the corpus.\n")
    print("| corpus | layers | encoder | UA | predictions that differ from float32 | error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['corpus']} | {row['layers']} | {row['form']} | {100 * row['ua']:.1f} | "
            f"{row['differ']} of {row['utterances']} | {row['error']:.3f} |"
        )


def print_times(rows: Sequence[Mapping[str, Any]], megabytes: Mapping[str, float], seconds: float) -> None:
    print(f"\nEncoder alone, {seconds:g} s, {processor()}; ", end="")
    print(", ".join(f"{name} {size:.1f} MB" for name, size in megabytes.items()) + "\n")
    print("| threads | float32, ms | int8, ms | faster (median of pairs) |")
    print("| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row['threads']} | {row['float32']:.1f} | {row['int8']:.1f} | {row['ratio']:.2f} |")


def processor() -> str:
    """Returns the processor's name, and which instructions for 8-bit products it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    flags = set(fields.get("flags", "").split()) & {"avx2", "avx_vnni", "avx512_vnni", "amx_int8"}
    return f"{fields.get('model name', platform.processor())} ({', '.join(sorted(flags))})"


if __name__ == "__main__":
    main()
