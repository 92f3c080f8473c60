"""The film of a run: what static/denoise.js is sent while one picture is denoised, and when it is done."""

import gradio as gr

from mmdemo.results import Frame
from mmdemo.ui.browser import picture, widget
from mmdemo.ui.codebook import code_reader
from mmdemo.ui.messages import Film, Shot


def screen(studio, elem_id: str) -> gr.HTML:
    """Where films are shown. The browser keeps the frames: it scrubs, plays and saves them without the server."""
    return widget("denoise", "export", elem_id=elem_id, server_functions=[code_reader(studio)])


def film(frames: list[Frame], show: int | None = None) -> Film:
    last = frames[-1]
    return Film(
        pack=last.pack,
        label=last.named(last.label),
        seed=last.recipe.seed,
        negative=last.recipe.negative and last.named(last.recipe.negative),
        kind="prompt" if last.reads else "label",
        total=last.total,
        narrowed=tuple(last.recipe.interval) != (0, 1),
        frames=[shot(frame) for frame in frames],
        original=picture(last.original) if last.original else None,
        show=show,
    )


def shot(frame: Frame) -> Shot:
    looks = ("x_t", "x0", "x0_label", "x0_null")
    return Shot(
        index=frame.index,
        timestep=f"{frame.timestep:.0f}",
        noise=round(frame.noise_level, 4),
        distance=round(frame.distance, 4),
        guided=frame.guided,
        tokens=frame.tokens,
        flips=frame.flips,
        **{look: picture(getattr(frame, look), exact=False) for look in looks},
    )
