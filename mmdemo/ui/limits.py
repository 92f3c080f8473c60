"""A limit that gradio lacks: how large a request may be that is no upload (those have `max_file_size`)."""

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BYTES = 8_000_000  # the largest sensible request, a drawing or a grid of tokens, is far below


class BodyLimit:
    """Answers 413 to a larger body before anything reads it."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and not scope["path"].endswith("/upload"):
            length = dict(scope["headers"]).get(b"content-length", b"")
            if not length.isdigit() or int(length) > MAX_BYTES:
                refusal = PlainTextResponse(f"A request may hold at most {MAX_BYTES} bytes.", status_code=413)
                return await refusal(scope, receive, send)
        await self.app(scope, receive, send)
