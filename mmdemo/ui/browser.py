"""What the browser needs from Python: our scripts, pictures as data URIs, and every refusal as one plain sentence.

Knows gradio's HTML component and how it talks to static/*.js. Knows no model, no pack and no tab.
"""

import base64
import functools
import html
import inspect
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from PIL import Image

from mmdemo.errors import ArgumentError, MmdemoError
from mmdemo.ui.messages import message

T = TypeVar("T")

STATIC = Path(__file__).parent / "static"
SHARED = ("common", "map", "places", "surgery", "export", "pulls")  # scripts that others use
# Every event of the page: no endpoint, no overlay. gradio tells whatever may have one of every event's progress, and
# searches the whole page for it each time: that was a third of a browser's work to open the page.
PRIVATE = {"api_visibility": "private", "show_progress": "hidden", "show_progress_on": []}
WATCHING = 0.1  # share of a run's time that may go into showing it
# What a list had chosen is handed over unchecked: the next pack's list may have come to the page in between.
FITTING = {"preprocess": False, **PRIVATE}
OPENING = {"concurrency_id": "opening", "concurrency_limit": 16}  # pages that wait for the models hold up nothing else


def widget(name: str, **options) -> gr.HTML:
    """An empty element that static/NAME.js fills from `value`: a record of messages.py.

    The template never contains the value, because gradio compiles templates as code; the scripts set text as text.
    """
    return gr.HTML(
        html_template=f'<div class="mm-{name}"></div>',
        js_on_load=(STATIC / f"{name}.js").read_text("utf-8"),
        apply_default_css=False,
        **options,
    )


def shared_scripts() -> str:
    """What several widgets use, for the page's head."""
    return "".join(f"<script>{(STATIC / f'{script}.js').read_text('utf-8')}</script>" for script in SHARED)


def sparingly(going: Iterator[T]) -> Iterator[list[T]]:
    """What a run gives, for showing it: all that is new, as often as that takes under WATCHING of the run's own time.

    Whoever iterates is on the clock until the next is asked for: pictures are decoded, encoded and sent meanwhile. The
    first comes at once, the last (index + 1 == total) always; what is too much to be shown in between is not queued.
    """
    started, watched, latest, new = time.perf_counter(), 0.0, 0.0, []
    for one in going:
        new.append(one)
        now = time.perf_counter()
        if one.index + 1 == one.total or watched + latest <= WATCHING * (now - started - watched):
            yield new
            new, latest = [], time.perf_counter() - now
            watched += latest


def picture(image: Image.Image, exact: bool = True) -> str:
    """A data URI: PNG where pixels matter (exact) or are few, else JPEG, which is a tenth of the size in a stream."""
    exact = exact or max(image.size) <= 128
    buffer = io.BytesIO()
    image.save(buffer, "PNG") if exact else image.convert("RGB").save(buffer, "JPEG", quality=90)
    return data_uri(buffer.getvalue(), "png" if exact else "jpeg")


def data_uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def said_plainly(handler: Callable, quote: Callable[[str], str] = html.escape) -> Callable:
    """A handler whose MmdemoError reaches the person as its one sentence, with nothing lost and no traceback.

    quote: the page shows messages as HTML, and they may repeat what somebody typed; a program wants them as they are.
    """

    def refusal(error: MmdemoError) -> gr.Error:
        return gr.Error(quote(str(error)), print_exception=False)

    @functools.wraps(handler)
    def answer(*args):
        try:
            return handler(*args)
        except MmdemoError as error:
            raise refusal(error) from None

    @functools.wraps(handler)
    def stream(*args) -> Iterator:
        try:
            yield from handler(*args)
        except MmdemoError as error:
            raise refusal(error) from None

    return stream if inspect.isgeneratorfunction(handler) else answer


def told(event: gr.EventData, name: str, kind: type = object) -> Any:
    """What a script sent with an event.  Raises ArgumentError if it is not there, or no `kind`."""
    value = event._data.get(name) if isinstance(event._data, dict) else None
    if not isinstance(value, kind) or isinstance(event._data, dict) and name not in event._data:
        raise ArgumentError(f"the page did not say which {name}; reload it")
    return value


def answered(answer: Callable[..., Any]) -> Callable[[list], dict]:
    """What a script calls as server.NAME(...): gradio sends its arguments as one list, a single one without the list.

    A refusal is an `error`.
    """

    def respond(request: list) -> dict:
        try:
            made = answer(*bound(answer, request if isinstance(request, list) else [request]))
        except MmdemoError as error:
            return {"error": str(error)}
        return made if isinstance(made, dict) else json.loads(message(made))

    respond.__name__ = answer.__name__
    return respond


def bound(answer: Callable, given: list) -> list:
    """What was given.  Raises ArgumentError if it is not what is taken: too little, too much, or of other types."""
    taken = inspect.signature(answer).parameters
    if len(given) != len(taken):
        raise ArgumentError(f"{answer.__name__} takes {len(taken)} arguments: {', '.join(taken)}; {len(given)} came")
    return given
