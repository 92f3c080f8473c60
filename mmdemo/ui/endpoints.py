"""The endpoints: every verb of the studio, for gradio_client and any other program.

Names, order and defaults of the arguments are read from the verb. Every argument but a picture reaches the studio as it
was sent, so that the studio's one sentence answers a bad one. What is known here is what of an answer goes out.
"""

import html
import inspect
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio.components.api_component import Api
from gradio.route_utils import API_PREFIX, FnIndexInferError
from gradio.utils import get_upload_folder
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse

from mmdemo.errors import ArgumentError
from mmdemo.imagefolder import file_stem
from mmdemo.kinds import Argument, Picture, shortened, shown
from mmdemo.results import Run, Synthetic
from mmdemo.studio import VERBS, Studio
from mmdemo.ui.browser import said_plainly
from mmdemo.ui.sessions import Sessions
from mmdemo.ui.turns import MODELS, Line, in_turns, result_in_turns, turn

STREAMED = {"denoise", "noise", "compare"}  # answered item by item; of other runs the result is
READ = {"codebook", "code", "code_map"}  # answered from files, so they wait for nobody's computation


@dataclass(frozen=True)
class Output:
    """A part of an answer.  attribute: of the verb's result; "" = all of it.  captions: of a list of pictures."""

    label: str
    attribute: str
    captions: str | None = None

    def component(self) -> gr.components.Component:
        if self.attribute == "json":
            return gr.JSON(label=self.label)
        if self.attribute == "zip":
            return gr.File(label=self.label)
        return (gr.Gallery if self.captions else gr.Image)(format="png", label=self.label)

    def of(self, result):
        if self.attribute == "json":
            return result.json()
        if self.attribute == "zip":
            return zip_file(result)
        pictures = getattr(result, self.attribute) if self.attribute else result
        return gallery(pictures, getattr(result, self.captions)) if self.captions else own_file(pictures)


NUMBERS = Output("numbers", "json")
ANSWERS = {
    "codebook": [Output("sheet", "sheet"), NUMBERS],
    "code": [Output("card", "card"), NUMBERS],
    "code_map": [NUMBERS],
    "reconstruct": [Output("reconstruction", "image"), Output("token map", "token_map"), NUMBERS],
    "decode": [Output("image", "")],
    "replace": [*(Output(name, name) for name in ("before", "after", "difference")), NUMBERS],
    "interpolate": [Output("latents", "latent", "shares"), Output("tokens", "tokens", "shares"), NUMBERS],
    "describe": [NUMBERS, Output("maps", "pictures", "words")],
    "classify": [NUMBERS, Output("evidence map", "map")],
    "sample": [Output("images", "images", "labels"), NUMBERS],
    "denoise": [Output("x0", "x0"), NUMBERS],
    "noise": [Output("x_t", "image"), NUMBERS],
    "edit": [Output("image", "image"), NUMBERS],
    "restore": [Output("image", "image"), NUMBERS],
    "compare": [Output("image", "image"), NUMBERS],
    "morph": [Output("images", "images", "shares"), NUMBERS],
    "blend": [Output("image", "image"), NUMBERS],
    "synthesize": [Output("zip", "zip"), NUMBERS],
}


# What gradio's routes raise on a request that names a function, a component or arguments that are not there.
UNANSWERABLE = (FnIndexInferError, KeyError, IndexError, TypeError, ValueError, AttributeError, RequestValidationError)


def unanswerable(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RequestValidationError):  # which repeats the whole body, even one that JSON cannot hold
        error = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()[:1])
    text = shortened(str(error)).encode("utf-8", "replace").decode()
    why = f"the request cannot be answered ({text}); what can be is listed at {API_PREFIX}/info"
    return JSONResponse({"detail": why}, 400)


class Page(gr.Blocks):
    """gradio's page, except that a request may leave out an endpoint's last arguments, which then have their defaults.

    A raw request is a list, and gradio alone answers a short one with an error of its own.
    """

    def queue(self, **options) -> gr.Blocks:
        """gradio calls it as the page begins, and would make a whole app then, for nothing: it makes two more."""
        self.api_open = False  # `/run` would skip the queue and its limits
        self._queue = Line(
            live_updates=True,
            concurrency_count=self.max_threads,
            update_intervals=1,
            max_size=None,  # it has bounds of its own
            blocks=self,
            default_concurrency_limit=8,  # light events never wait behind those that compute (MODELS)
        )
        return self

    def launch(self, *args, **options):
        launched = super().launch(*args, **options)
        self.app.state_holder = Sessions(self.line.is_open)
        self.app.state_holder.set_blocks(self)
        return launched

    @property
    def line(self) -> Line:
        """What waits for an answer."""
        return self._queue

    def validate_inputs(self, block_fn, inputs: list) -> None:
        left_out = block_fn.inputs[len(inputs) :]
        inputs += [argument.value for argument in left_out if isinstance(argument, Api)]
        super().validate_inputs(block_fn, inputs)

    async def preprocess_data(self, block_fn, inputs: list, *args, **options) -> list:
        if is_elsewhere(inputs):  # gradio would fetch any public address that a visitor names
            raise gr.Error("a picture is an address; the app fetches none: upload it first", print_exception=False)
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **options)
        except gr.Error as error:  # gradio's words on what a control does not offer; they repeat what came
            raise gr.Error(html.escape(shortened(str(error), 200)), print_exception=False) from None
        except (ValueError, OSError):  # an address that it would not or could not fetch
            raise gr.Error(
                "a picture is a file that was not uploaded; upload it first", print_exception=False
            ) from None


def is_elsewhere(sent: list) -> bool:
    """Whether a file in what was sent is an address of another machine."""
    unseen = [*sent]
    while unseen:
        one = unseen.pop()
        if isinstance(one, dict):
            if str(one.get("path")).startswith(("http:", "https:")):
                return True
            one = list(one.values())
        unseen += one if isinstance(one, list) else []
    return False


def register(studio: Studio) -> gr.Column:
    """Adds the endpoints to the page being built. Returns what holds them; nothing of it is drawn."""

    def packs() -> list[dict]:
        return [pack.json() for pack in studio.packs()]

    with gr.Column(visible=False) as unseen:
        expose("packs", packs, Studio.packs.__doc__, [], [gr.JSON(label="packs")])
        for name, verb in VERBS.items():
            inputs = [argument(one, verb.arguments[one.name]) for one in inspect.signature(verb).parameters.values()]
            outputs = [output.component() for output in ANSWERS[name]]
            expose(name, answering(studio, name), verb.__doc__, inputs, outputs, **({} if name in READ else MODELS))
    return unseen


def expose(name: str, answer: Callable, words: str, inputs: list, outputs: list, **options) -> None:
    handler, words = said_plainly(answer, quote=str), words.split("\n\n")[0]
    more = {"api_name": name, "api_description": words, "show_progress": "hidden"}
    gr.Button(visible=False).click(handler, inputs, outputs, **more, **options)


def argument(parameter: inspect.Parameter, declared: Argument) -> gr.components.Component:
    default = None if parameter.default is inspect.Parameter.empty else parameter.default
    schema = gr.Image().api_info() if isinstance(declared, Picture) else declared.schema
    return Api(default, schema | {"description": declared.explained()}, parameter.name)


def answering(studio: Studio, name: str) -> Callable:
    """The verb for a request from outside: uploaded files in, a list of what ANSWERS names out."""
    verb, declared = getattr(studio, name), VERBS[name].arguments

    parameters = inspect.signature(VERBS[name]).parameters.values()
    left_out = [(one.name, None) for one in parameters if one.default is None]

    def given(sent: Sequence) -> list:
        pairs = zip(declared.items(), sent, strict=True)
        return [uploaded(value, one) if isinstance(kind, Picture) and (one, value) not in left_out else value
                for (one, kind), value in pairs]  # fmt: skip

    def parts(result) -> list:
        made = [output.of(result) for output in ANSWERS[name]]
        return made if len(made) > 1 else made[0]

    def answer(*sent):
        with turn():
            result = verb(*given(sent))
        if isinstance(result, Run):
            result = result_in_turns(result)
        return parts(result)

    def stream(*sent) -> Iterator:
        for item in in_turns(verb(*given(sent))):
            yield parts(item)

    handler = stream if name in STREAMED else answer
    handler.__signature__ = inspect.signature(VERBS[name])  # where gradio reads the arguments' names and defaults
    return handler


def own_file(image: Image.Image | None) -> Image.Image | None:
    """The same pixels, in a file that no other answer shares; None where there is no picture.

    gradio names an answer's file by its bytes and writes it anew each time, so that of two equal answers at once one
    would be read while the other is being written.
    """
    if image is None:
        return None
    own = image.copy()
    own.info["answer"] = uuid.uuid4().hex  # gradio writes it into the PNG as text
    return own


def zip_file(made: Synthetic) -> str:
    """The path of its zip file, in a folder of its own among the answers."""
    folder = Path(get_upload_folder()) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    file = folder / f"{file_stem(made.pack, made.recipe.seed)}.zip"
    file.write_bytes(made.zip_bytes())
    return str(file)


def gallery(pictures: list[Image.Image], captions: Sequence) -> list[tuple[Image.Image, str]]:
    return [(own_file(picture), str(caption)) for picture, caption in zip(pictures, captions, strict=True)]


def uploaded(image, name: str = "image") -> str:
    """The path of an uploaded file. Only files sent by a client carry gradio's mark; any other path is refused."""
    marked = isinstance(image, dict) and isinstance(image.get("meta"), dict)
    if not marked or image["meta"].get("_type") != "gradio.FileData" or not isinstance(image.get("path"), str):
        example = "with gradio_client: handle_file('picture.png')"
        raise ArgumentError(f"{name} is {shown(image)}; it must be an uploaded image file; {example}")
    return image["path"]
