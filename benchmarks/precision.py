"""What 8-bit products cost in accuracy: unweighted accuracy with the encoder in float32 and in int8, by layer.

The probe is a logistic regression on standardised mean states of the plain encoder, five folds of speakers, none in
two; it is then given the states of the packed encoder, in float32 and in int8, of the speakers held out.

    python benchmarks/precision.py --data_dir path/to/emodb4 --encoder openai/whisper-base --layers 3 6
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from whisper_ser.inference.speed import PRECISIONS, optimised

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.audio.decoding import read_audio
from whisper_ser.data.corpora.table import load_table
from whisper_ser.demo.encoder import resolve_encoder

FORMS = ("plain", *PRECISIONS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of float32 and int8.")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="ascending")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    corpus = load_table(arguments.data_dir)
    states = mean_states(corpus["path"], arguments.encoder, arguments.layers)
    emotions, speakers = np.array(corpus["emotion"]), np.array(corpus["speaker"])
    figures = []
    print("\n| layer | form | UA | answers that differ from the plain one's | error of the mean state |")
    print("| --- | --- | --- | --- | --- |")
    for index, layer in enumerate(arguments.layers):
        given = {form: states[form][:, index] for form in FORMS}
        answers = answered(given, emotions, speakers)
        for form in FORMS:
            off = np.linalg.norm(given[form] - given["plain"]) / np.linalg.norm(given["plain"])
            ua = balanced_accuracy_score(emotions, answers[form])
            differ = int((answers[form] != answers["plain"]).sum())
            figures.append({"layer": layer, "form": form, "ua": ua, "differ": differ, "error": float(off)})
            print(f"| {layer} | {form} | {100 * ua:.1f} | {differ} of {len(emotions)} | {off:.2%} |")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


@torch.inference_mode()
def mean_states(paths: list[str], encoder: str, layers: list[int]) -> dict[str, np.ndarray]:
    """Returns the mean states `(utterances, layers, width)` of each form of the encoder."""
    plain = WhisperForEmotionClassification.from_encoder(resolve_encoder(encoder), ["a", "b"], layer_index=max(layers))
    models = {form: plain.eval() if form == "plain" else optimised(plain, form) for form in FORMS}
    extractor = WhisperSerFeatureExtractor(feature_size=plain.config.encoder_config.num_mel_bins)
    means: dict[str, list[np.ndarray]] = {form: [] for form in FORMS}
    for path in tqdm(paths, leave=False):
        features = extractor(read_audio(path), return_tensors="pt")
        for form, model in models.items():
            with model.whisper_ser.encoder.reading(layers):
                means[form].append(model.whisper_ser.encode(**features)[0][0].mean(1).numpy())
    return {form: np.stack(of_form) for form, of_form in means.items()}


def answered(given: dict[str, np.ndarray], emotions: np.ndarray, speakers: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the probe's answers to each form's mean states `(utterances, width)`."""
    answers = {form: np.empty(len(emotions), int) for form in given}
    for train, test in GroupKFold(5).split(given["plain"], groups=speakers):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
        probe.fit(given["plain"][train], emotions[train])
        for form, of_form in given.items():
            answers[form][test] = probe.predict(of_form[test])
    return answers


if __name__ == "__main__":
    main()
