"""A model as it lies in a folder or on the Hub, held against its known answer."""

import tempfile
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from whisper_ser.errors import PublishError
from whisper_ser.hub.clean_process import strangers_answer
from whisper_ser.hub.hub_errors import in_words
from whisper_ser.hub.publish import Published
from whisper_ser.inference.reference_output import answer, check_settings, check_weights, read_known_answer
from whisper_ser.inference.reference_waveform import KnownAnswerError, check_probabilities, waveform


def fetched(model: str, revision: str | None = None) -> Path:
    """Returns the folder of a model, downloaded where it is a Hub id.

    Raises:
        PublishError: there is neither such a folder, nor can such a model be had from the Hub.
    """
    if Path(model).is_dir():
        if revision:
            raise PublishError(f"{model} is a folder, which has no revisions: leave --revision out.")
        return Path(model)
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise PublishError(f"There is no folder {model}, and it is no Hub id (user/name).")
    with in_words(model):
        return Path(snapshot_download(model, revision=revision))


def verify(folder: Path) -> float:
    """Returns the largest difference to the probabilities expected of the model in `folder`.

    Raises:
        KnownAnswerError: its weights or its answer are not those that were saved.
    """
    known = read_known_answer(folder)
    check_weights(folder, known)
    check_settings(folder, known)
    return check_probabilities(answer(folder, waveform(known["waveform"])), known, str(folder))


def verify_published(api: HfApi, repo_id: str, published: Published, staged: Path) -> None:
    """Downloads what was published and checks it as a stranger finds it: in a clean process, by its name.

    Raises:
        PublishError: it cannot be had, or is not what was staged. It lies on the Hub all the same.
    """
    known = read_known_answer(staged)
    try:
        with tempfile.TemporaryDirectory() as cache:
            with in_words(repo_id, api.endpoint):
                folder = Path(api.snapshot_download(repo_id, revision=published.commit, cache_dir=cache))
            check_weights(folder, known)
            check_settings(folder, known)
            found = strangers_answer(repo_id, waveform(known["waveform"]), published.commit, Path(cache))
            check_probabilities(found, known, repo_id)
    except KnownAnswerError as error:
        raise PublishError(
            f"{published.url} holds commit {published.commit}, but it is not what was sent: {error}"
        ) from None
    except PublishError as error:
        raise PublishError(
            f"{error}\nThe model was uploaded whole ({published.url}, commit {published.commit}); only the check "
            f"afterwards failed. Check again: whisper-ser verify {repo_id} --revision {published.commit}"
        ) from None
