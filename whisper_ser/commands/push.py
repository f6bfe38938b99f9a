"""`whisper-ser push`: check a trained model, upload it as one commit, and check the upload."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from whisper_ser.errors import PublishError
from whisper_ser.hub.checks import check, check_license, file_list
from whisper_ser.hub.publish import MAIN, Published, Target, push
from whisper_ser.hub.space import push_space, stage_space
from whisper_ser.hub.staging import stage
from whisper_ser.hub.verify import verify_published
from whisper_ser.io import replacing

USE_IT = """
from transformers import pipeline
classifier = pipeline("audio-classification", model="{model}", {revision}trust_remote_code=True)
print(classifier(audio))  # mono, 16,000 Hz
"""


def main(argv: list[str]) -> None:
    """Publishes a model; with `--dry_run` only checks it."""
    logging.disable_progress_bar()
    arguments = parse(argv)
    with tempfile.TemporaryDirectory() as workplace:
        model, space = Path(workplace) / "model", Path(workplace) / "space"
        result = stage(
            arguments.model,
            model,
            arguments.repo_id,
            arguments.results,
            arguments.about_corpus,
            arguments.license,
        )
        if arguments.space:
            stage_space(space, arguments.repo_id)
        check(model, result)
        try:
            check_license(model)
        except PublishError as error:
            if not arguments.dry_run:
                raise
            print(f"Warning: {error}", file=sys.stderr)
        if arguments.card:
            with replacing(arguments.card) as card:
                shutil.copy(model / "README.md", card)
        if arguments.dry_run:
            print(f"All checks passed; nothing was uploaded. {arguments.repo_id} would get:\n{file_list(model)}")
        else:
            publish(model, space, arguments)


def publish(model: Path, space: Path, arguments: argparse.Namespace) -> None:
    """Uploads the checked folders and prints where they are."""
    api = HfApi(library_name="whisper-ser")
    target = Target(arguments.repo_id, "model", arguments.revision, arguments.private, arguments.create_pr)
    published = push(api, model, target, f"Upload {arguments.repo_id}")
    print(f"Uploaded: {published.url} (commit {published.commit}). Checking it in a clean process ...", flush=True)
    verify_published(api, arguments.repo_id, published, model)
    print(f"Checked: {published.url}")
    print(USE_IT.format(model=arguments.repo_id, revision=_revision(published, arguments)))
    if arguments.space:
        print(f"Space: {push_space(api, space, arguments.repo_id, arguments.private).url}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the arguments.

    Raises:
        PublishError: `--repo_id` is not a Hub id, or arguments contradict each other.
    """
    parser = argparse.ArgumentParser(prog="whisper-ser push", description="Publish a trained model on the Hub.")
    parser.add_argument("model", type=Path, help="the folder model/ of a run, with metrics.json beside it")
    parser.add_argument("--repo_id", required=True, help="user/name")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", default=MAIN, help="branch to commit to, created if it does not exist")
    parser.add_argument("--create_pr", action="store_true", help="propose the commit as a pull request")
    parser.add_argument("--dry_run", action="store_true", help="check everything, upload nothing; needs no token")
    parser.add_argument("--card", type=Path, help="also write the card to this file")
    parser.add_argument("--results", type=Path, help="metrics.json of a cross-validation of the same recipe")
    parser.add_argument(
        "--about_corpus", help="facts about your own table: the published corpus that it is, or a JSON file"
    )
    parser.add_argument(
        "--license", help="licence of the model, such as cc-by-4.0, where none follows from the data it learnt from"
    )
    parser.add_argument("--space", action="store_true", help="also push the page as a Space for the model")
    arguments = parser.parse_args(argv)
    try:
        validate_repo_id(arguments.repo_id)
    except HFValidationError as error:
        raise PublishError(f"--repo_id {arguments.repo_id}: {error}") from None
    if "/" not in arguments.repo_id:
        raise PublishError(f"--repo_id {arguments.repo_id}: give the account as well, as in user/{arguments.repo_id}.")
    if arguments.create_pr and arguments.revision != MAIN:
        raise PublishError("--create_pr proposes a commit to main: leave --revision out.")
    if arguments.space and arguments.create_pr:
        raise PublishError("--space needs the model on the Hub: push the Space when the pull request is merged.")
    return arguments


def _revision(published: Published, arguments: argparse.Namespace) -> str:
    """Returns the argument `revision` that loads a model that is not on `main`, or nothing."""
    if arguments.create_pr:
        return f'revision="{published.commit}", '
    return "" if arguments.revision == MAIN else f'revision="{arguments.revision}", '
