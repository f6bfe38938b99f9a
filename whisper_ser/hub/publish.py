"""Upload of a folder to the Hub as one atomic commit; after a failure the Hub is as it was before."""

import json
import tempfile
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.errors import PublishError
from whisper_ser.hub.hub_errors import NETWORK_ERRORS, UPLOAD_ERRORS, describe_hub_error, explain_hub_error

MAIN = "main"
INITIAL_FILES = (".gitattributes", "README.md")
"""Files that a new repository may have."""
DELETE_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*_whisper_ser.py")
"""Files of an earlier model that are deleted unless they are replaced."""
RETRY = "Run the same command again to go on."


class Target(NamedTuple):
    """Where a folder is uploaded to."""

    repo_id: str
    repo_type: str = "model"
    revision: str = MAIN
    private: bool = False
    create_pr: bool = False


class Published(NamedTuple):
    """An upload: the page to look at, and the commit."""

    url: str
    commit: str


@dataclass
class _State:
    """The target before the push, and what the push created.

    Attributes:
        head: commit that is built on; empty without a repository.
        files: of that commit.
        missing: what has to be created: `repository`, `branch`, or nothing.
        created: what was.
    """

    head: str = ""
    files: list[str] = field(default_factory=list)
    missing: str = ""
    created: str = ""


def push(api: HfApi, folder: Path, target: Target, message: str) -> Published:
    """Uploads all files of `folder` as one commit, or as a pull request, and returns it.

    A missing repository or branch is created, and removed again if the commit fails. Files that were uploaded before
    are not sent again, so that a retry continues an interrupted push. (`HfApi.upload_folder` is not used: where
    `hf_xet` is installed it may split a folder into several commits.)

    Raises:
        PublishError: says what failed, in which state the Hub is now, and how to go on.
    """
    with explain_hub_error(target.repo_id, api.endpoint):
        api.whoami()
        state = _look_up(api, target)
        _refuse_foreign(api, target, state)
    try:
        _create_missing(api, target, state)
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        commit = api.create_commit(
            target.repo_id,
            [
                *(CommitOperationAdd(name, str(folder / name)) for name in names),
                *(CommitOperationDelete(name) for name in state.files if name not in names and _is_stale(name)),
            ],
            commit_message=message,
            repo_type=target.repo_type,
            revision=target.revision,
            create_pr=target.create_pr,
            parent_commit=state.head,
        )
    except UPLOAD_ERRORS as error:
        explained = describe_hub_error(error, target.repo_id, api.endpoint)
        raise PublishError(f"{explained} {_clean_up(api, target, state)}") from None
    except KeyboardInterrupt:
        raise PublishError(f"Interrupted. {_clean_up(api, target, state)}") from None
    kind = "" if target.repo_type == "model" else f"{target.repo_type}s/"
    tree = "" if target.revision == MAIN else f"/tree/{target.revision}"
    return Published(commit.pr_url or f"{api.endpoint}/{kind}{target.repo_id}{tree}", commit.oid)


def _is_stale(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in DELETE_PATTERNS)


def _head(api: HfApi, target: Target, revision: str) -> tuple[str, list[str]]:
    """Returns the commit and the files of a branch."""
    info: Any = api.repo_info(target.repo_id, repo_type=target.repo_type, revision=revision)
    return info.sha or "", [file.rfilename for file in info.siblings or []]


def _look_up(api: HfApi, target: Target) -> _State:
    """Returns the target as it is on the Hub."""
    try:
        info = api.repo_info(target.repo_id, repo_type=target.repo_type)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:
            raise
        return _State(missing="repository")
    if target.private and not info.private:
        raise PublishError(
            f"{target.repo_id} exists and is public, and --private does not hide it: make it private in its settings, "
            "or choose another --repo_id."
        )
    try:
        return _State(*_head(api, target, target.revision))
    except RevisionNotFoundError:
        return _State(*_head(api, target, MAIN), missing="branch")


def _refuse_foreign(api: HfApi, target: Target, state: _State) -> None:
    """Raises unless the repository is empty or holds a model, or Space, of this package."""
    others = [file for file in state.files if file not in INITIAL_FILES]
    if not others:
        return
    if target.repo_type == "space":
        ours = "whisper_ser/__init__.py" in others
    else:
        ours = "config.json" in others and _model_type(api, target, state.head) == WhisperSerConfig.model_type
    if not ours:
        raise PublishError(
            f"{target.repo_id} exists and holds something else ({', '.join(others[:5])}"
            f"{', ...' if len(others) > 5 else ''}), which is not overwritten: choose another --repo_id."
        )


def _model_type(api: HfApi, target: Target, head: str) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        file = api.hf_hub_download(target.repo_id, "config.json", revision=head, local_dir=folder)
        try:
            return json.loads(Path(file).read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError):
            return None


def _create_missing(api: HfApi, target: Target, state: _State) -> None:
    """Creates the repository or branch that is missing, and notes it in `state`."""
    if state.missing == "repository":
        sdk = "gradio" if target.repo_type == "space" else None
        api.create_repo(target.repo_id, repo_type=target.repo_type, private=target.private or None, space_sdk=sdk)
        state.created = "repository"
        state.head, state.files = _head(api, target, MAIN)
    if state.missing and target.revision != MAIN:
        api.create_branch(target.repo_id, repo_type=target.repo_type, branch=target.revision, revision=state.head)
        state.created = state.created or "branch"


def _clean_up(api: HfApi, target: Target, state: _State) -> str:
    """Removes what a failed push created; returns in which state the Hub is."""
    try:
        if state.missing == "repository" and not state.created:
            return f"Nothing was uploaded. {RETRY}"
        exists = state.created or not state.missing
        head, files = _head(api, target, target.revision if exists else MAIN)
        if head != state.head and set(files) - {*INITIAL_FILES}:
            return f"{target.repo_id} has a new commit nevertheless ({head}), possibly this one. {RETRY}"
        if state.created == "repository":
            api.delete_repo(target.repo_id, repo_type=target.repo_type)
        elif state.created == "branch":
            api.delete_branch(target.repo_id, repo_type=target.repo_type, branch=target.revision)
    except NETWORK_ERRORS:
        left = f"The {state.created} created for it still exists. " if state.created else ""
        return f"{left}A commit is atomic: nothing is half uploaded. {RETRY}"
    return f"The Hub is as it was before. {RETRY}"
