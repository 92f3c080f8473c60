"""The film of a run: what static/denoise.js is sent while one picture is denoised, and when it is done."""

import json
from collections.abc import Callable
from functools import lru_cache

import gradio as gr

from mmdemo.errors import NO_CODEBOOK
from mmdemo.kinds import whole
from mmdemo.packs import Pack, read_words
from mmdemo.results import Frame
from mmdemo.studio import Studio
from mmdemo.ui.browser import answered, picture, widget
from mmdemo.ui.codebook import code_reader
from mmdemo.ui.messages import Film, Pulls, Shot, WordPull
from mmdemo.ui.turns import in_turns


def screen(studio: Studio, elem_id: str) -> gr.HTML:
    """Where films are shown. The browser keeps the frames: it scrubs, plays and saves them without the server."""
    return widget("denoise", elem_id=elem_id, server_functions=[code_reader(studio), word_scale(studio)])


def word_scale(studio: Studio) -> Callable[[list], dict]:
    """What a script calls as server.weigh_words(pack, again, step): how much each word of a text pulls at a step."""

    # A run that nobody looks at is quickly made again, and so nothing of it need be kept for every page that is open.
    @lru_cache(maxsize=2)
    def run(pack: Pack, again: str) -> list[Frame]:
        return list(in_turns(studio.denoise(pack.name, **json.loads(again))))

    @answered
    def weigh_words(pack: str, again: dict, step: int) -> Pulls:
        frames = run(studio.pack(pack), json.dumps(again))
        pulls = frames[whole("step", step, 0, len(frames) - 1)].pulls
        read = [word for word in read_words(studio.pack(pack)).words(again["label"]) if word.ids]
        words = [WordPull(one.start, one.end, round(one.mean, 4), rounded(one.map)) for one in pulls]
        return Pulls(words, len(read) - len(words))

    return weigh_words


def rounded(rows: list[list[float]]) -> list[list[float]]:
    return [[round(one, 3) for one in row] for row in rows]


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
        again=last.recipe.json() | {"label": last.label} if last.reads and not last.original else None,
        show=show,
        untold=None if last.tokens else NO_CODEBOOK,
    )


def shot(frame: Frame) -> Shot:
    looks = ("x_t", "x0", "x0_label", "x0_null")
    return Shot(
        index=frame.index,
        timestep=f"{frame.timestep:.0f}",
        noise=round(frame.noise_level, 4),
        distance=None if frame.distance is None else round(frame.distance, 4),
        guided=frame.guided,
        tokens=frame.tokens,
        flips=frame.flips,
        **{look: picture(getattr(frame, look), exact=False) for look in looks},
    )
