"""Upload of a folder to the Hub as one atomic commit."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from whisper_ser.errors import PublishError
from whisper_ser.hub.hub_errors import explain_hub_error

MAIN = "main"
INITIAL_FILES = (".gitattributes", "README.md")
"""Files that a new repository may have."""
OWN_FILES = {"model": "modeling_whisper_ser.py", "space": "whisper_ser/__init__.py"}
"""A file that every repository of this package has, by the type of the repository."""
DELETE_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*_whisper_ser.py", "onnx/*.onnx")
"""Files of an earlier model that are deleted unless they are replaced."""
UNFINISHED = "A commit is whole or not at all: nothing is half uploaded. Run the same command again to go on."


class Target(NamedTuple):
    """Where a folder is uploaded to."""

    repo_id: str
    repo_type: str = "model"
    revision: str = MAIN
    private: bool = False
    create_pr: bool = False

    @property
    def repository(self) -> dict[str, Any]:
        """Name and type, as arguments of the client."""
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}


class Published(NamedTuple):
    """An upload: the page to look at, and the commit."""

    url: str
    commit: str


def push(api: HfApi, folder: Path, target: Target, message: str) -> Published:
    """Uploads all files of `folder` as one commit, or as a pull request, and returns it.

    A missing repository or branch is created. Files that were uploaded before are not sent again, so that a retry
    continues an interrupted push. (`HfApi.upload_folder` is not used: where `hf_xet` is installed it may split a
    folder into several commits.)

    Raises:
        PublishError: says what failed and how to go on; no model on the Hub is ever half written.
    """
    with explain_hub_error(target.repo_id, api.endpoint):
        api.whoami()
        info = _look_up(api, target)
    with explain_hub_error(target.repo_id, api.endpoint, UNFINISHED):
        if info is None:
            sdk = "gradio" if target.repo_type == "space" else None
            api.create_repo(**target.repository, private=target.private or None, space_sdk=sdk)
            info = api.repo_info(**target.repository)
        if target.revision != MAIN:
            api.create_branch(**target.repository, branch=target.revision, revision=info.sha, exist_ok=True)
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        commit = api.create_commit(
            **target.repository,
            operations=[
                *(CommitOperationAdd(name, str(folder / name)) for name in names),
                *(CommitOperationDelete(name) for name in _files(info) if name not in names and _is_stale(name)),
            ],
            commit_message=message,
            revision=target.revision,
            create_pr=target.create_pr,
            parent_commit=info.sha,
        )
    kind = "" if target.repo_type == "model" else f"{target.repo_type}s/"
    tree = "" if target.revision == MAIN else f"/tree/{target.revision}"
    return Published(commit.pr_url or f"{api.endpoint}/{kind}{target.repo_id}{tree}", commit.oid)


def _look_up(api: HfApi, target: Target) -> Any:
    """Returns what the Hub has at the target: the branch, `main` if there is no such branch, `None` for no repository.

    Raises:
        PublishError: the repository is public, against `--private`, or does not hold a model or Space of this package.
    """
    info: Any
    try:
        info = api.repo_info(**target.repository, revision=target.revision)
    except RevisionNotFoundError:
        info = api.repo_info(**target.repository)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:  # 401: the token is wrong
            raise
        return None
    if target.private and not info.private:
        raise PublishError(
            f"{target.repo_id} exists and is public, and --private does not hide it: make it private in its settings, "
            "or choose another --repo_id."
        )
    others = [name for name in _files(info) if name not in INITIAL_FILES]
    if others and OWN_FILES[target.repo_type] not in others:
        more = ", ..." if len(others) > 5 else ""
        raise PublishError(
            f"{target.repo_id} exists and holds something else ({', '.join(others[:5])}{more}), which is not "
            "overwritten: choose another --repo_id."
        )
    return info


def _files(info: Any) -> list[str]:
    return [file.rfilename for file in info.siblings or []]


def _is_stale(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in DELETE_PATTERNS)
