"""A guard before the page's server: it refuses requests that are too large, or that name an address to fetch.

Gradio refuses files of the machine that nobody uploaded. But it limits the size of each file of an upload, not their
number, and it downloads what lies at any public address that a request names.
"""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Server = Callable[[Message, Receive, Send], Awaitable[None]]

UPLOAD_PATH = "/gradio_api/upload"
MAX_JSON_BYTES = 10**6
"""Of a request that uploads nothing."""
FORM_BYTES = 10**5
"""Bytes of an upload that are not the file's."""
READ_METHODS = ("GET", "HEAD", "OPTIONS")
ADDRESS = re.compile("https?:/", re.IGNORECASE)
"""With one slash: a proxy or a path may have made one of two."""


class Guard:
    """ASGI middleware that answers the requests that it refuses, and passes the others on unchanged.

    Args:
        app: the server behind it.
        largest_upload: bytes.
    """

    def __init__(self, app: Server, largest_upload: int) -> None:
        self._app = app
        self._largest_upload = largest_upload + FORM_BYTES

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        refusal: Response | None = None
        if scope["type"] == "http":
            request = Request(scope, receive)
            refusal = self._refuse_unread(request)
            if refusal is None and request.method not in READ_METHODS and not scope["path"].endswith(UPLOAD_PATH):
                body = await request.body()
                refusal, receive = _refuse_body(body), _replay(body, receive)
        await (refusal or self._app)(scope, receive, send)

    def _refuse_unread(self, request: Request) -> Response | None:
        """Returns the refusal of a request by its path and its declared length."""
        path = request.scope["path"]
        if request.method in READ_METHODS:
            return PlainTextResponse("This page fetches no addresses.", 403) if ADDRESS.search(path) else None
        limit = self._largest_upload if path.endswith(UPLOAD_PATH) else MAX_JSON_BYTES
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            return PlainTextResponse("The request needs a Content-Length.", 411)
        return PlainTextResponse(f"The limit is {limit} bytes.", 413) if int(length) > limit else None


def _refuse_body(body: bytes) -> Response | None:
    """Returns the refusal of a body that is not JSON, or in which the path of a file is an address."""
    try:
        if body and _names_address(json.loads(body)):
            return PlainTextResponse("Upload the recording: this page fetches no addresses.", 403)
    except (ValueError, RecursionError):
        return PlainTextResponse("Expected JSON.", 400)
    return None


def _names_address(value: Any) -> bool:
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and bool(ADDRESS.search(path))) or any(map(_names_address, value.values()))
    return isinstance(value, list) and any(map(_names_address, value))


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that gives `body` once, then what comes after it, such as the end of the connection."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
