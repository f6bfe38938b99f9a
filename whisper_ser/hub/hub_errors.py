"""What the Hub and the way to it can do wrong, in words: what happened and what to do."""

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
"""For one answer of the Hub; its client would wait for ever."""
TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
OF_THE_WAY = (HTTPError, OSError)
"""What the client raises: answers that are errors, lost connections, timeouts, files that came short."""
OF_AN_UPLOAD = (*OF_THE_WAY, RuntimeError, ValueError)
"""And when it uploads: any of these as the cause of a RuntimeError, and the Hub's judgement of a card."""


@contextmanager
def in_words(where: str, endpoint: str | None = None) -> Iterator[None]:
    """Raises what goes wrong between here and the Hub inside the block as a `PublishError`.

    Args:
        where: repository that is talked about, for the message.
        endpoint: address of the Hub.
    """
    get_session().timeout = TIMEOUT_SECONDS
    try:
        yield
    except OF_THE_WAY as error:
        raise PublishError(in_one_line(error, where, endpoint)) from None


def in_one_line(error: BaseException, where: str, endpoint: str | None = None) -> str:
    """Returns what an error of the Hub's client means, and what to do; never with a token in it."""
    while isinstance(error, LocalEntryNotFoundError | RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client tells what it was about; the cause tells what happened
    hub = endpoint or constants.ENDPOINT
    if isinstance(error, LocalTokenNotFoundError):
        return f"There is no token for {hub}. {LOGIN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids to ask the Hub: unset it and run the command again."
    if isinstance(error, HfHubHTTPError):
        return without_token(_of_status(error, where, hub))
    # By name: the client's library for HTTP is httpx in some versions and its successor in others.
    if any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__):
        return f"{hub} did not answer in time. Run the command again later."
    if isinstance(error, HTTPError):
        return f"{hub} cannot be reached, or broke off ({_short(error)}): is there a network? Run the command again."
    return without_token(_short(error))


def without_token(text: str) -> str:
    """Returns `text` with every Hub token made unreadable."""
    token = get_token()
    return TOKEN.sub("hf_***", text.replace(token, "hf_***") if token else text)


def _of_status(error: HfHubHTTPError, where: str, hub: str) -> str:
    status = error.response.status_code
    if status == 401:
        return f"{hub} does not accept the token: it is wrong, expired or revoked. {LOGIN}"
    if status == 403:
        return (
            f"The token may not write to {where}. Use a token with write access, a repository of your own or of an "
            "organisation that lets you, or --create_pr to propose the model to its owner."
        )
    if status == 404:
        what = "revision" if isinstance(error, RevisionNotFoundError) else "repository"
        return f"{hub} has no such {what} of {where}, or the token may not see it: is the name right?"
    if status in (409, 412):
        return f"{where} was changed by somebody else at the same time. Look at it, then run the command again."
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        after = f"in {wait} s" if wait else "in some minutes"
        return f"{hub} gets too many requests from you: run the command again {after}."
    if status >= 500:
        return f"{hub} has an error of its own ({status}). Run the command again later."
    return f"{hub} refuses this ({status}): {error.server_message or _short(error)}"


def _short(error: BaseException) -> str:
    """Returns the first line of a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
