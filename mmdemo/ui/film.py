"""The film of a run: what static/denoise.js is sent while one picture is denoised, and when it is done."""

from collections.abc import Callable, Iterator

import gradio as gr

from mmdemo.ui.browser import picture, sparingly, widget
from mmdemo.ui.codebook import code_reader
from mmdemo.ui.settings import recipe
from mmdemo.views import Frame


def screen(studio, elem_id: str) -> gr.HTML:
    """Where films are shown. The browser keeps the frames: it scrubs, plays and saves them without the server."""
    return widget("denoise", "export", elem_id=elem_id, server_functions=[code_reader(studio)])


def followed(going: Iterator[Frame], words: Callable[[Frame], str], **more) -> Iterator[tuple[str, dict]]:
    """What to say and to show during a run: the newest step, now and then; and when it is done, all of them."""
    frames = []
    for new in sparingly(going):
        frame = new[-1]
        frames += new
        if frame.index + 1 < frame.total:
            yield f"Step {frame.index + 1} of {frame.total}…", {**film(frame, [frame]), **more}
        else:
            yield words(frame), {**film(frame, frames), **more}


def in_words(frame: Frame) -> str:
    return f"{frame.label}, seed {frame.seed}, {recipe(frame)}: denoised in {frame.seconds:.1f} s."


def film(frame: Frame, shown: list[Frame]) -> dict:
    return {
        "pack": frame.pack,
        "label": frame.label,
        "seed": frame.seed,
        "total": frame.total,
        "narrowed": tuple(frame.interval) != (0, 1),  # guidance is on at some steps only
        "frames": [shot(one) for one in shown],
    }


def shot(frame: Frame) -> dict:
    return {
        "index": frame.index,
        "timestep": f"{frame.timestep:.0f}",
        "noise": round(frame.noise_level, 4),
        "distance": round(frame.distance, 4),
        "guided": frame.guided,
        "tokens": frame.tokens,
        "flips": frame.flips,
        "x_t": picture(frame.x_t, exact=False),
        "x0": picture(frame.x0, exact=False),
        "x0_label": picture(frame.x0_label, exact=False),
        "x0_null": picture(frame.x0_null, exact=False),
    }
