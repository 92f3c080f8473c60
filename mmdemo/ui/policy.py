"""What the page may do in a browser, said in a header that browsers hold it to: markup of a stranger's runs nothing."""

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmdemo.ui.browser import shared_scripts

INLINE = re.compile(rb"<script(?: data-gradio-mode)?>(.*?)</script>", re.DOTALL)
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'{scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'self'; "
    "form-action 'none'"  # not frame-ancestors: Spaces, and teachers, show it within pages of theirs
)


class Policy:
    """Adds the header. The scripts within the page are named by their hashes, so a page waits until it is whole.

    gradio compiles templates (`unsafe-eval`) and sets styles (`unsafe-inline`).
    """

    def __init__(self, app: ASGIApp):
        self.app = app
        self.ours = INLINE.findall(shared_scripts().encode())  # gradio puts them into the page in the browser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, page = None, b""

        async def with_policy(message: Message) -> None:
            nonlocal start, page
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                if headers.get("content-type", "").startswith("text/html"):
                    start = message
                    return
                headers["content-security-policy"] = POLICY.format(scripts="")
            elif start:
                page += message.get("body", b"")
                if message.get("more_body"):
                    return
                headers = MutableHeaders(raw=start["headers"])
                headers["content-security-policy"] = POLICY.format(scripts=hashes(INLINE.findall(page) + self.ours))
                await send(start)
                message = {**message, "body": page}
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)


def hashes(scripts: list[bytes]) -> str:
    return "".join(f" 'sha256-{base64.b64encode(hashlib.sha256(one).digest()).decode()}'" for one in scripts)
