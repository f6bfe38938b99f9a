"""What stands before the page's server: requests that are too large, or make it fetch from elsewhere, end here.

Gradio refuses files of the machine that nobody uploaded. But it limits the size of each file of an upload, not their
number, and downloads what lies at any public address that a request names.
"""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import PlainTextResponse, Response

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Server = Callable[[Message, Receive, Send], Awaitable[None]]

UPLOAD = "/gradio_api/upload"
LARGEST_QUESTION = 10**6
"""Bytes of a request that uploads nothing."""
OF_A_FORM = 10**5
"""Bytes of an upload that are not the file's."""
READING = ("GET", "HEAD", "OPTIONS")
ADDRESS = re.compile("https?:/", re.IGNORECASE)
"""One slash: what lies between may have made one of two."""


class Guard:
    """ASGI middleware that answers what it does not let through.

    Args:
        app: the server behind it.
        largest_upload: bytes.
    """

    def __init__(self, app: Server, largest_upload: int) -> None:
        self._app = app
        self._largest_upload = largest_upload + OF_A_FORM

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        answer: Server = self._app
        if scope["type"] == "http" and scope["method"] in READING:
            if ADDRESS.search(scope["path"]):
                answer = _refusal(403, "This page fetches nothing from elsewhere.")
        elif scope["type"] == "http":
            uploads = scope["path"].endswith(UPLOAD)
            most = self._largest_upload if uploads else LARGEST_QUESTION
            length = dict(scope["headers"]).get(b"content-length", b"")
            if not length.isdigit():
                answer = _refusal(411, "Say how long the request is (Content-Length).")
            elif int(length) > most:
                answer = _refusal(413, f"At most {most} bytes are taken.")
            elif not uploads:
                body = await _body(receive)
                receive = _replayed(body, receive)
                answer = _judged(body) or self._app
        await answer(scope, receive, send)


def _refusal(status: int, reason: str) -> Response:
    return PlainTextResponse(reason, status)


def _judged(body: bytes) -> Response | None:
    """Returns the refusal of a body that is no JSON, or in which a file lies at an address."""
    try:
        if body and _names_address(json.loads(body)):
            return _refusal(403, "Upload the recording: this page fetches nothing from elsewhere.")
    except (ValueError, RecursionError):
        return _refusal(400, "Only JSON is read here.")
    return None


def _names_address(value: Any) -> bool:
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and bool(ADDRESS.search(path))) or any(map(_names_address, value.values()))
    return isinstance(value, list) and any(map(_names_address, value))


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Returns what gives `body` once, and then whatever comes, such as the end of the connection."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
