"""The corpus and the folds that the settings of a run name."""

from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset

from whisper_ser.data.corpora.emobox import NAMED_OTHERWISE, load_emobox
from whisper_ser.data.corpora.registry import CORPORA, load_corpus
from whisper_ser.data.corpora.table import load_table
from whisper_ser.data.licenses import CODE_LICENSE
from whisper_ser.data.splits import Fold, folds, split_by_speaker, usual_protocol
from whisper_ser.demo.corpus import build_demo_corpus
from whisper_ser.errors import RecipeError
from whisper_ser.training.checks import refuse_ignored_data
from whisper_ser.training.settings import DataArguments

DEMO_FOLDER = "data/demo"
DEMO_NOTICE = (
    "The demo corpus is synthetic: espeak-ng voices whose emotions are settings of rate, pitch and volume. Its "
    "figures are a smoke test and say nothing about people."
)


def load(arguments: DataArguments) -> Dataset:
    """Returns the corpus; the demo corpus is synthesised first where it is not there.

    Raises:
        RecipeError: no folder, table or manifest was given.
        CorpusError: as the loader of the corpus says.
    """
    if arguments.corpus == "demo":
        return _demo(arguments)
    if arguments.corpus == "emobox":
        if arguments.manifest is None:
            raise RecipeError("The corpus emobox is read from a manifest: --manifest <EmoBox>/data/<set>.")
        return load_emobox(arguments.manifest, arguments.data_dir, arguments.labels, arguments.allow_incomplete)
    if arguments.corpus == "own":
        return _own(arguments)
    if arguments.data_dir is None:
        raise RecipeError(f"--data_dir names the folder of {arguments.corpus} as its publisher distributes it.")
    return load_corpus(
        arguments.corpus,
        arguments.data_dir,
        labels=arguments.labels,
        classes=arguments.classes,
        subset=arguments.subset,
        allow_incomplete=arguments.allow_incomplete,
    )


def _demo(arguments: DataArguments) -> Dataset:
    with PartialState().main_process_first():
        folder = build_demo_corpus(Path(arguments.data_dir or DEMO_FOLDER))
    corpus = load_table(folder, labels=arguments.labels)
    corpus = corpus.remove_columns("language").add_column("language", ["en"] * len(corpus))
    corpus.info.description = DEMO_NOTICE
    corpus.info.license = "none: synthesised by espeak-ng on the machine that trains"
    return corpus


def _own(arguments: DataArguments) -> Dataset:
    source, pairs = arguments.table or arguments.data_dir, arguments.label_aliases or []
    if source is None:
        raise RecipeError(
            "Say what to train on: --data_dir FOLDER with a metadata.csv, --table FILE or Hub dataset, or --corpus "
            "demo."
        )
    if arguments.data_dir and not Path(arguments.data_dir).is_dir():
        raise RecipeError(f"There is no folder {arguments.data_dir} (--data_dir).")
    if wrong := [pair for pair in pairs if not all(pair.partition("="))]:
        raise RecipeError(f"--label_aliases {' '.join(wrong)}: expected old=new, such as exc=happy.")
    return load_table(
        source,
        audio_dir=arguments.data_dir if arguments.table else None,
        path_column=arguments.path_column,
        label_column=arguments.label_column,
        speaker_column=arguments.speaker_column,
        fold_column=arguments.fold_column,
        split_column=arguments.split_column,
        label_aliases=dict(pair.split("=", 1) for pair in pairs),
        labels=arguments.labels,
        drop_other_labels=arguments.drop_other_labels,
    )


def license_sources(arguments: DataArguments, name: str) -> dict[str, str | None]:
    """Returns the licence of the corpus called `name` as `head_license` takes it; `None` for one's own data."""
    if arguments.corpus == "own":
        return {name: None}
    if arguments.corpus == "demo":
        return {name: CODE_LICENSE}  # made by this package
    spec = CORPORA.get(NAMED_OTHERWISE.get(name, name))
    return {name: spec.license_id if spec else None}


def protocol_of(corpus: Dataset, data: DataArguments) -> str:
    """Returns the protocol by which folds are cut: the one that was asked for, or that `auto` chooses."""
    return usual_protocol(corpus) if data.protocol == "auto" else data.protocol


def plan_folds(corpus: Dataset, data: DataArguments, seed: int, validation_fraction: float = 0.0) -> list[Fold]:
    """Returns the folds to train and test on: the one of `split`, or those of a cross-validation.

    Args:
        corpus: with the columns of `build_dataset`.
        data: the protocol and its settings.
        seed: of every draw.
        validation_fraction: where `data` names none.

    Raises:
        ProtocolError: speakers or labels that do not allow the protocol.
        RecipeError: a setting that the protocol chosen by `auto`, or a published validation part, would ignore.
    """
    protocol, asked = protocol_of(corpus, data), data.validation_fraction
    refuse_ignored_data(replace(data, protocol=protocol))
    fraction = validation_fraction if asked is None else asked
    if protocol == "split":
        speakers = data.test_speakers, data.validation_speakers
        return [Fold("test", split_by_speaker(corpus, *speakers, data.test_fraction, fraction, seed))]
    cut = folds(corpus, protocol, num_groups=data.num_groups, seed=seed, validation_fraction=fraction)
    if protocol == "fixed" and asked is not None and len(folds(corpus, "fixed")[0].split.validation):
        raise RecipeError("--validation_fraction would be ignored: the corpus publishes its own validation part.")
    return cut
