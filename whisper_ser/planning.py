"""The folds that the settings of a run ask for."""

from datasets import Dataset

from whisper_ser.arguments import DataArguments
from whisper_ser.folds import Fold, folds
from whisper_ser.protocols import split_by_speaker


def plan_folds(corpus: Dataset, data: DataArguments, seed: int, validation_fraction: float = 0.0) -> list[Fold]:
    """Returns the folds to train and test on: the one of `split`, or those of a cross-validation.

    Args:
        corpus: with the columns of `build_dataset`.
        data: the protocol and its settings.
        seed: of every draw.
        validation_fraction: where `data` names none.

    Raises:
        ProtocolError: speakers or labels that do not allow the protocol.
    """
    validation = validation_fraction if data.validation_fraction is None else data.validation_fraction
    if data.protocol != "split":
        return folds(corpus, data.protocol, num_groups=data.num_groups, seed=seed, validation_fraction=validation)
    split = split_by_speaker(
        corpus, data.test_speakers, data.validation_speakers, data.test_fraction, validation, seed
    )
    return [Fold("test", split)]
