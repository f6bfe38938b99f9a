"""Train, fine-tune and test a speech emotion recognition model.

Such as: python run_train.py recipes/emodb4.json --data_dir path/to/emodb4 --encoder openai/whisper-base
"""

import os
import shlex
import sys
from pathlib import Path

from datasets import Dataset
from transformers import pipeline, set_seed
from transformers.utils import logging

from modeling_whisper_ser import AudioError, ConfigError, EncoderCheckpointError, MissingWeightsError
from whisper_ser.arguments import Arguments, parse_arguments
from whisper_ser.audio import read_audio
from whisper_ser.corpora.demo import build_demo_corpus
from whisper_ser.corpora.folder import load_folder
from whisper_ser.errors import WhisperSerError
from whisper_ser.models import build_model
from whisper_ser.protocols import Split, split_by_speaker
from whisper_ser.report.run import summary, write_run
from whisper_ser.training import remove_checkpoints, train

DEMO_FOLDER = "data/demo"
DEMO_NOTICE = (
    "The demo corpus is synthetic: espeak-ng voices whose emotions are settings of rate, pitch and volume. Its "
    "figures are a smoke test and say nothing about people."
)
TRY_IT = """{python} -c "
import soundfile
from transformers import pipeline

audio, rate = soundfile.read({file!r})
print(pipeline('audio-classification', model={model!r}, trust_remote_code=True)(audio))
" """

USER_ERRORS = (WhisperSerError, AudioError, ConfigError, EncoderCheckpointError, MissingWeightsError)
"""Reported in one line instead of a stack trace."""


def main(argv: list[str]) -> None:
    arguments = parse_arguments(argv)
    # New weights are drawn before the Trainer would seed.
    set_seed(arguments[2].seed)
    corpus = load_corpus(arguments)
    split = split_corpus(corpus, arguments)
    model, extractor = build_model(arguments[0], corpus.features["emotion"].names)
    output_dir = Path(arguments[2].output_dir)
    training = train(model, extractor, split, arguments)
    if arguments[2].process_index == 0:
        metrics = write_run(output_dir, training, extractor, split, arguments)
        remove_checkpoints(output_dir)
        print("\n" + summary(metrics, output_dir))
        try_it(output_dir / "model", split.test["path"][0])


def load_corpus(arguments: Arguments) -> Dataset:
    """Returns the corpus that the settings name; the demo corpus is synthesised first where it is not there."""
    _, data, training = arguments
    if data.corpus == "demo":
        with training.main_process_first(desc="demo corpus"):
            folder = build_demo_corpus(Path(data.data_dir or DEMO_FOLDER))
        return load_folder(folder, data.labels, DEMO_NOTICE)
    return load_folder(data.data_dir, data.labels)


def split_corpus(corpus: Dataset, arguments: Arguments) -> Split:
    """Returns the corpus cut into parts that share no speaker."""
    _, data, training = arguments
    drawn = 0.2 if training.selection == "validation" else 0.0
    return split_by_speaker(
        corpus,
        data.test_speakers,
        data.validation_speakers,
        data.test_fraction,
        drawn if data.validation_fraction is None else data.validation_fraction,
        training.seed,
    )


def try_it(model: Path, file: str) -> None:
    """Classifies one file through the stock pipeline, and shows how to do that oneself."""
    classifier = pipeline("audio-classification", model=str(model), trust_remote_code=True)
    answers = classifier(read_audio(file, classifier.feature_extractor.sampling_rate))
    print(f"\n{_shortest(file)}: " + ", ".join(f"{answer['label']} {answer['score']:.2f}" for answer in answers))
    print("\nTry it yourself, with any mono file of 16 kHz:\n")
    print(TRY_IT.format(python=shlex.quote(_shortest(sys.executable)), file=_shortest(file), model=str(model)))


def _shortest(path: str) -> str:
    """Returns the path as seen from here, where it lies below here."""
    here = os.path.relpath(path)
    return path if here.startswith("..") else here


if __name__ == "__main__":
    logging.disable_progress_bar()  # of weights read and written in an instant
    try:
        main(sys.argv[1:])
    except USER_ERRORS as error:
        sys.exit(f"run_train.py: {error}")
