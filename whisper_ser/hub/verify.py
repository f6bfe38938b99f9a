"""Verification of a model, in a folder or on the Hub, against its reference output."""

import filecmp
import json
import tempfile
from pathlib import Path

import numpy as np
from huggingface_hub import HfApi, snapshot_download

from whisper_ser.errors import PublishError
from whisper_ser.hub.clean_process import predict_in_clean_process
from whisper_ser.hub.hub_errors import explain_hub_error
from whisper_ser.hub.publish import Published
from whisper_ser.inference.engines.graphs import FOLDER as GRAPH_FOLDER
from whisper_ser.inference.engines.graphs import find_graphs
from whisper_ser.inference.engines.onnx_engine import OnnxEngine
from whisper_ser.inference.model import LoadedModel, Settings
from whisper_ser.inference.reference_output import (
    SETTINGS,
    WEIGHTS,
    check_as_saved,
    compute_output,
    read_reference_output,
)
from whisper_ser.inference.reference_waveform import ReferenceOutputError, check_probabilities, waveform
from whisper_ser.io import read_tensors


def download(model: str, revision: str | None = None) -> Path:
    """Returns the folder of a model, downloaded if it is a Hub id.

    Raises:
        PublishError: there is no such folder, and the Hub has no such model or cannot be reached.
    """
    if Path(model).is_dir():
        if revision:
            raise PublishError(f"{model} is a folder and has no revisions: leave --revision out.")
        return Path(model)
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise PublishError(f"There is no folder {model}, and it is not a Hub id (user/name).")
    with explain_hub_error(model):
        return Path(snapshot_download(model, revision=revision))


def verify(folder: Path) -> float:
    """Returns the largest difference of a probability from the reference output of the model in `folder`.

    The plain model is run, and the graphs for ONNX Runtime if the folder has them.

    Raises:
        ReferenceOutputError: its weights, settings or output are not those that were saved.
        ExportError: a graph is damaged.
    """
    check_as_saved(folder)
    reference = read_reference_output(folder)
    audio = waveform(reference["waveform"])
    outputs = [compute_output(folder, audio)]
    if (folder / GRAPH_FOLDER).is_dir():
        outputs.append(_output_of_graphs(folder, audio))
    return max(check_probabilities(output, reference, str(folder)) for output in outputs)


def _output_of_graphs(folder: Path, audio: np.ndarray) -> dict[str, float]:
    """Returns the probability of each label that the graphs in `folder` give for `audio` `(samples,)`."""
    config, front_end = (json.loads((folder / name).read_text(encoding="utf-8")) for name in SETTINGS)
    settings = Settings.of(config, front_end)
    weights = {name: tensor for file in folder.glob(WEIGHTS) for name, tensor in read_tensors(file).items()}
    engine = OnnxEngine(find_graphs(config, folder), weights, settings.temperature)
    (probabilities,) = LoadedModel(str(folder), settings, engine, "").probabilities([audio])
    return dict(zip(settings.labels, probabilities.tolist(), strict=True))


def verify_published(api: HfApi, repo_id: str, published: Published, staged: Path) -> None:
    """Downloads what was published and checks it the way other people load it: in a clean process, by its Hub id.

    Raises:
        PublishError: it cannot be downloaded, or is not what was staged. It stays on the Hub.
    """
    reference = read_reference_output(staged)
    names = [path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()]
    try:
        with tempfile.TemporaryDirectory() as cache:
            with explain_hub_error(repo_id, api.endpoint):
                folder = Path(api.snapshot_download(repo_id, revision=published.commit, cache_dir=cache))
            _, changed, missing = filecmp.cmpfiles(staged, folder, names, shallow=False)
            if changed or missing:
                raise ReferenceOutputError(f"{', '.join(sorted(changed + missing))} differ.")
            found = predict_in_clean_process(repo_id, waveform(reference["waveform"]), published.commit, Path(cache))
            check_probabilities(found, reference, repo_id)
    except ReferenceOutputError as error:
        raise PublishError(
            f"{published.url} has commit {published.commit}, but not with the content that was uploaded: {error}"
        ) from None
    except PublishError as error:
        raise PublishError(
            f"{error}\nThe model was uploaded completely ({published.url}, commit {published.commit}); only the check "
            f"afterwards failed. Check again: whisper-ser verify {repo_id} --revision {published.commit}"
        ) from None
