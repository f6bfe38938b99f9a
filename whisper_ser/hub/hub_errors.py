"""Explanations of the errors of the Hub and of the connection to it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from whisper_ser.errors import PublishError

TIMEOUT_SECONDS = 120.0
"""For one response of the Hub; by default its client waits without limit."""
TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
MASKED = "hf_***"
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token with write access."
HUB_ERRORS = (HTTPError, OSError, RuntimeError, ValueError)
"""Raised by the client: error responses, lost connections, timeouts, truncated files, also inside a RuntimeError;
ValueError for a card that the Hub rejects."""


@contextmanager
def explain_hub_error(where: str, endpoint: str | None = None, after: str = "") -> Iterator[None]:
    """Raises errors of the Hub or the connection inside the block as a `PublishError`.

    The message says what happened and what to do, and shows no token.

    Args:
        where: the repository, for the message.
        endpoint: address of the Hub.
        after: a sentence on what an error leaves behind, added to the message.
    """
    get_session().timeout = TIMEOUT_SECONDS
    try:
        yield
    except HUB_ERRORS as error:
        message = f"{_explanation(error, where, endpoint or constants.ENDPOINT)} {after}".rstrip()
        token = get_token()
        masked = message.replace(token, MASKED) if token else message
        raise PublishError(TOKEN.sub(MASKED, masked)) from None


def _explanation(error: BaseException, where: str, hub: str) -> str:
    """Returns what an error of the Hub's client means and what to do."""
    while isinstance(error, LocalEntryNotFoundError | RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the cause has the actual error
    if isinstance(error, LocalTokenNotFoundError):
        return f"There is no token for {hub}. {LOGIN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids access to the Hub: unset it and run the command again."
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, where, hub)
    # By name: the client's library for HTTP is httpx in some versions and its successor in others.
    if any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__):
        return f"{hub} did not respond in time. Run the command again later."
    if isinstance(error, HTTPError):
        return (
            f"{hub} cannot be reached, or the connection broke ({_first_line(error)}). Check the network, then try "
            "again."
        )
    return _first_line(error)


def _explain_status(error: HfHubHTTPError, where: str, hub: str) -> str:
    status = error.response.status_code
    if status == 401:
        return f"{hub} rejects the token: it is wrong, expired or revoked. {LOGIN}"
    if status == 403:
        return (
            f"The token has no write access to {where}. Use another token, a repository of your own or of your "
            "organisation, or --create_pr to propose the model to its owner."
        )
    if status == 404:
        what = "revision" if isinstance(error, RevisionNotFoundError) else "repository"
        return f"{hub} has no such {what}, {where}, or the token cannot read it. Check the name."
    if status in (409, 412):
        return (
            f"{where} was changed by somebody else at the same time. Look at the change, then run the command again."
        )
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        after = f"in {wait} s" if wait else "in a few minutes"
        return f"{hub} limits your requests: run the command again {after}."
    if status >= 500:
        return f"{hub} has an internal error ({status}). Run the command again later."
    return f"{hub} refuses the request ({status}): {error.server_message or _first_line(error)}"


def _first_line(error: BaseException) -> str:
    """Returns the first line of a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
