"""How long a chunk may be: unweighted accuracy on clips, and on long recordings joined of clips, by chunk length.

Whisper's states depend on absolute position. A probe trained on clips of a few seconds meets positions in a long
recording that it never saw, unless positions restart often. The probe is a logistic regression on standardised mean
states; five folds of speakers, none in two. A recording joins clips of one speaker and one emotion to 20 to 90 s.

    python benchmarks/chunk_length.py --data_dir path/to/emodb4 --encoder openai/whisper-base --layers 3
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
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

RATE = 16000


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy on clips and long recordings by chunk length.")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--chunk_seconds", type=float, nargs="+", default=[2, 3, 4, 5, 6, 8, 15, 30])
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    corpus = load_table(arguments.data_dir)
    clips = [read_audio(path) for path in tqdm(corpus["path"], desc="reading")]
    emotions, speakers = np.array(corpus["emotion"]), np.array(corpus["speaker"])
    recordings, recorded_emotions, recorded_speakers = join(clips, emotions, speakers)
    figures = []
    for seconds in arguments.chunk_seconds:
        encoder = arguments.encoder
        of_clips = mean_states(clips, encoder, arguments.layer_index, seconds)
        of_recordings = mean_states(recordings, encoder, arguments.layer_index, seconds)
        on_clips, on_recordings = np.empty(len(clips), int), np.empty(len(recordings), int)
        for train, test in GroupKFold(5).split(of_clips, groups=speakers):
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
            probe.fit(of_clips[train], emotions[train])
            on_clips[test] = probe.predict(of_clips[test])
            held_out = np.isin(recorded_speakers, speakers[test])
            on_recordings[held_out] = probe.predict(of_recordings[held_out])
        figures.append(
            {
                "chunk_seconds": seconds,
                "clips": balanced_accuracy_score(emotions, on_clips),
                "recordings": balanced_accuracy_score(recorded_emotions, on_recordings),
            }
        )
        print(
            "chunk {chunk_seconds:g} s: UA {clips:.1%} of clips, {recordings:.1%} of recordings".format(**figures[-1])
        )
    report(figures, corpus.info.dataset_name, len(clips), len(recordings), arguments)


def join(
    clips: list[np.ndarray], emotions: np.ndarray, speakers: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Returns one recording of 20 to 90 s for each speaker and emotion, with its emotion and speaker."""
    rng = random.Random(0)
    groups: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    for clip, emotion, speaker in zip(clips, emotions, speakers, strict=True):
        groups[speaker, int(emotion)].append(clip)
    recordings = []
    for group in groups.values():
        samples, parts = round(rng.uniform(20, 90) * RATE), []
        while sum(map(len, parts)) < samples:
            parts += rng.sample(group, len(group))
        recordings.append(np.concatenate(parts)[:samples])
    return recordings, np.array([emotion for _, emotion in groups]), np.array([speaker for speaker, _ in groups])


def mean_states(audio: list[np.ndarray], encoder: str, layer_index: int | None, chunk_seconds: float) -> np.ndarray:
    """Returns the mean encoder state `(utterances, width)` of each waveform."""
    fields = {} if layer_index is None else {"layer_index": layer_index}
    model = WhisperForEmotionClassification.from_encoder(
        resolve_encoder(encoder), ["a", "b"], chunk_seconds=chunk_seconds, **fields
    ).whisper_ser
    extractor = WhisperSerFeatureExtractor(feature_size=model.config.encoder_config.num_mel_bins)
    means = np.empty((len(audio), model.config.encoder_config.d_model), np.float32)
    order = sorted(range(len(audio)), key=lambda index: len(audio[index]))
    with torch.no_grad():
        for begin in tqdm(range(0, len(order), 8), desc=f"chunk {chunk_seconds:g} s", leave=False):
            batch = order[begin : begin + 8]
            features = extractor([audio[i] for i in batch], sampling_rate=RATE, return_tensors="pt")
            states, mask = model.encode(**features)
            real = mask[:, :, None]
            means[batch] = ((states[:, 0] * real).sum(1) / real.sum(1)).numpy()
    return means


def report(figures: list[dict], corpus: str, clips: int, recordings: int, arguments: argparse.Namespace) -> None:
    print(f"\n{corpus}, {arguments.encoder}, layer {arguments.layer_index or 'middle'}")
    print(f"\n| chunk, s | UA of {clips} clips | UA of {recordings} recordings of 20 to 90 s |\n| --- | --- | --- |")
    for row in figures:
        print(f"| {row['chunk_seconds']:g} | {100 * row['clips']:.1f} | {100 * row['recordings']:.1f} |")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
