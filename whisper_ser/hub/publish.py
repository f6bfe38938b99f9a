"""One atomic commit to the Hub, which otherwise stays as it was."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.errors import PublishError
from whisper_ser.hub.hub_errors import OF_AN_UPLOAD, OF_THE_WAY, in_one_line, in_words

MAIN = "main"
OF_THE_HUB = (".gitattributes", "README.md")
"""Files that a fresh repository may have."""
REPLACED = ("*.safetensors", "*.safetensors.index.json", "*_whisper_ser.py")
"""Files of an earlier model of ours that must not outlive it."""


class Target(NamedTuple):
    """Where a folder goes."""

    repo_id: str
    repo_type: str = "model"
    revision: str = MAIN
    private: bool = False
    create_pr: bool = False


class Published(NamedTuple):
    """What lies on the Hub: the page to look at, and the commit."""

    url: str
    commit: str


@dataclass
class _State:
    """The target as it was found, and what was made of it for this push."""

    head: str = ""
    files: list[str] = field(default_factory=list)
    has_repository: bool = True
    has_branch: bool = True
    made_repository: bool = False
    made_branch: bool = False


def push(api: HfApi, folder: Path, target: Target, message: str) -> Published:
    """Uploads all files of `folder` as one commit, or as a pull request, and returns it.

    A repository or branch that is not there is made, and removed again if the commit does not come about. What is
    there already is not sent again, so a push that broke off is taken up by the next.

    Raises:
        PublishError: says what the Hub or the way to it did, in what state it is now, and how to go on.
    """
    with in_words(target.repo_id, api.endpoint):
        api.whoami()
        state = _found(api, target)
        _refuse_foreign(api, target, state)
    try:
        _make(api, target, state)
        commit = api.create_commit(
            target.repo_id,
            list(_operations(folder, state.files)),
            commit_message=message,
            repo_type=target.repo_type,
            revision=target.revision,
            create_pr=target.create_pr,
            parent_commit=state.head,
        )
    except OF_AN_UPLOAD as error:
        told = in_one_line(error, target.repo_id, api.endpoint)
        raise PublishError(f"{told} {_after_failure(api, target, state)}") from None
    except KeyboardInterrupt:
        raise PublishError(f"Interrupted. {_after_failure(api, target, state)}") from None
    kind = "" if target.repo_type == "model" else f"{target.repo_type}s/"
    tree = "" if target.revision == MAIN else f"/tree/{target.revision}"
    return Published(commit.pr_url or f"{api.endpoint}/{kind}{target.repo_id}{tree}", commit.oid)


def _found(api: HfApi, target: Target) -> _State:
    """Returns the target as it is on the Hub."""
    try:
        info = api.repo_info(target.repo_id, repo_type=target.repo_type)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:
            raise
        return _State(has_repository=False, has_branch=target.revision == MAIN)
    if target.private and not info.private:
        raise PublishError(
            f"{target.repo_id} exists and is public, and --private does not hide it: make it private in its settings, "
            "or choose another --repo_id."
        )
    has_branch = True
    if target.revision != MAIN:
        try:
            info = api.repo_info(target.repo_id, repo_type=target.repo_type, revision=target.revision)
        except RevisionNotFoundError:
            has_branch = False
    return _State(info.sha or "", _files(info), has_branch=has_branch)


def _files(info: Any) -> list[str]:
    return [file.rfilename for file in info.siblings or []]


def _refuse_foreign(api: HfApi, target: Target, state: _State) -> None:
    """Raises unless the repository is empty or holds an earlier model, or Space, of ours."""
    others = [file for file in state.files if file not in OF_THE_HUB]
    if not others:
        return
    if target.repo_type == "space":
        ours = "whisper_ser/__init__.py" in others
    else:
        ours = "config.json" in others and _model_type(api, target, state.head) == WhisperSerConfig.model_type
    if not ours:
        raise PublishError(
            f"{target.repo_id} exists and holds something else ({', '.join(others[:5])}"
            f"{', ...' if len(others) > 5 else ''}), which nothing here replaces: choose another --repo_id."
        )


def _model_type(api: HfApi, target: Target, head: str) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        file = api.hf_hub_download(target.repo_id, "config.json", revision=head, local_dir=folder)
        try:
            return json.loads(Path(file).read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError):
            return None


def _make(api: HfApi, target: Target, state: _State) -> None:
    """Makes the repository and the branch where they are not there, and notes it in `state`."""
    if not state.has_repository:
        sdk = "gradio" if target.repo_type == "space" else None
        api.create_repo(target.repo_id, repo_type=target.repo_type, private=target.private or None, space_sdk=sdk)
        state.made_repository = True
        info = api.repo_info(target.repo_id, repo_type=target.repo_type)
        state.head, state.files = info.sha or "", _files(info)
    if not state.has_branch:
        api.create_branch(target.repo_id, repo_type=target.repo_type, branch=target.revision, revision=state.head)
        state.made_branch = True


def _operations(folder: Path, there: list[str]) -> Iterator[CommitOperationAdd | CommitOperationDelete]:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in names:
        yield CommitOperationAdd(name, str(folder / name))
    for name in there:
        if name not in names and any(fnmatch(name, pattern) for pattern in REPLACED):
            yield CommitOperationDelete(name)


def _after_failure(api: HfApi, target: Target, state: _State) -> str:
    """Returns in what state the Hub is after a push that failed, having removed what was only made for it."""
    go_on = "Run the same command again to go on."
    try:
        if not state.has_repository and not state.made_repository:
            return f"Nothing was uploaded. {go_on}"
        revision = target.revision if state.has_branch or state.made_branch else MAIN
        now = api.repo_info(target.repo_id, repo_type=target.repo_type, revision=revision)
        if now.sha != state.head and set(_files(now)) - {*OF_THE_HUB}:
            return f"{target.repo_id} has a new commit all the same ({now.sha}), perhaps this one. {go_on}"
        if state.made_repository:
            api.delete_repo(target.repo_id, repo_type=target.repo_type)
        elif state.made_branch:
            api.delete_branch(target.repo_id, repo_type=target.repo_type, branch=target.revision)
    except OF_THE_WAY:
        made = "repository" if state.made_repository else f"branch {target.revision}" if state.made_branch else ""
        left = f"The {made} that was made for it is still there. " if made else ""
        return f"{left}A commit arrives whole or not at all: nothing is half uploaded. {go_on}"
    return f"The Hub is as it was before. {go_on}"
