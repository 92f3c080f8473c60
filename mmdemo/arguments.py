"""Everything one may ask of a verb, declared once: its name, what it may be, its help and its words in a caption.

Whoever offers or takes an argument reads it here: the studio's checks, the endpoints' schemas, the command's options,
the page's controls, captions and files. What kinds of arguments there are, and how each is checked, is in kinds.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from mmdemo.errors import ArgumentError
from mmdemo.kinds import (
    Argument,
    Choice,
    Corners,
    Factor,
    Flag,
    Grid,
    Interval,
    Invert,
    Label,
    Labels,
    Number,
    Picture,
    Side,
    Values,
    Whole,
    shown,
    whole,
)
from mmdemo.samplers import FAST, MAX_JUMPS, NAMES, USUAL_JUMPS

if TYPE_CHECKING:
    from mmdemo.packs import Pack

MAX_SEED = 2**31 - 1  # a generator heeds 32 bits, and image i has seed + i
MAX_STEPS, MAX_GUIDANCE = 250, 20.0
MAX_COUNT = 64  # pictures in one request
MAX_STRIP = 16  # pictures between two ends
MAX_SET, MAX_SET_PIXELS = 1000, 2_000_000  # pictures of a set that is made at once, and pixels of all of them
MAX_PICTURES = 1_000_000  # that a command draws or measures, one by one
MAX_AXIS = 8  # values along a side of a comparison
FACTORS = (2, 4)  # by which a picture can be made larger
MAX_CANDIDATES = 8  # of one restoration
TASKS = ("inpaint", "upscale", "denoise")
OWN = "The pack's own if not given."
AXES = ("steps", "guidance", "sampler", "seed", "label")  # what a comparison may vary


# --------------------------------------------------------------------------------------------------------- the recipe


def classes(pack: Pack) -> tuple[str, ...]:
    return pack.classes


def _setting(argument: Argument, stored: str | None = None, **options):
    """A field of Recipe.  stored: its key in a pack's model_index.json, where the pack has a default of its own."""
    return field(**options, metadata={"argument": argument, "stored": stored})


@dataclass(frozen=True)
class Recipe:
    """How a picture is drawn: with its pack and label, all it takes to draw it again."""

    seed: int = _setting(
        Whole(
            "Seed",
            "The same seed draws the same picture.",
            absent="A new one if not given.",
            words="seed {}",
            high=MAX_SEED,
        ),
        default=0,
    )
    steps: int = _setting(
        Whole("Steps", "More steps are slower and finer.", absent=OWN, words="{} steps", low=1, high=MAX_STEPS),
        "num_inference_steps",
        default=25,
    )
    guidance: float = _setting(
        Number(
            "Guidance",
            "How strongly to follow the class or the prompt.",
            absent=OWN,
            words="guidance {:g}",
            high=MAX_GUIDANCE,
            step=0.1,
        ),
        "guidance_scale",
        default=2.0,
    )
    sampler: str = _setting(
        Choice(
            "Sampler",
            "The rule that turns one step into the next.",
            absent=OWN,
            words="{}",
            allowed=lambda one: one.samplers,
            among=NAMES,
        ),
        "sampler",
        default="",  # the first of the pack's
    )
    interval: tuple[float, float] = _setting(
        Interval(
            "Guidance interval",
            "Guidance applies only between these two noise levels (0 is clean, 1 is noise).",
            absent=OWN,
            words="guided at noise levels {:g} to {:g}",
            unless=(0.0, 1.0),
            ends=(
                ("Guide from noise level", "1 is pure noise."),
                ("Guide down to noise level", "0 is the clean picture."),
            ),
        ),
        "guidance_interval",
        default=(0.0, 1.0),
    )

    negative: str | None = _setting(
        Label(
            "Negative",
            "What to guide away from.",
            words="away from {}",
            unless=("",),
            nothing="none",
            allowed=classes,
            text=("Negative prompt", "What to guide away from, in words."),
        ),
        default=None,
    )

    @classmethod
    def of(cls, pack: Pack, checked: Mapping[str, Any]) -> Recipe:
        """The pack's own, but for what was asked and is not None. A seed that was not asked for is drawn."""
        asked = {name: value for name, value in checked.items() if value is not None}
        own = asdict(pack.defaults) | {"seed": secrets.randbelow(MAX_SEED + 1)}
        if asked.get("sampler", own["sampler"]) == FAST:
            own["steps"] = USUAL_JUMPS
            whole("steps", asked.get("steps", USUAL_JUMPS), 1, MAX_JUMPS)
            for name in LEARNED:
                if asked.get(name, own[name]) != own[name]:
                    learned = "without one" if own[name] is None else f"with {shown(own[name])}"
                    raise ArgumentError(
                        f"{name} is {shown(asked[name])}, but {FAST} has learned to draw {learned}; "
                        f"leave it out, or choose another sampler"
                    )
        return cls(**own | asked)

    @classmethod
    def stored(cls, index: Mapping[str, Any], pack: Pack) -> Recipe:
        """The defaults in a pack's model_index.json.  Raises ArgumentError for one that is out of bounds."""
        first = {"sampler": pack.samplers[0]}
        found = {name: index[key] for name, key in STORED.items() if index.get(key) is not None}
        return cls(**first | {name: SETTINGS[name].check(STORED[name], value, pack) for name, value in found.items()})

    def to_store(self) -> dict[str, Any]:
        """What `stored` reads."""
        return {key: getattr(self, name) for name, key in STORED.items()}

    def words(self, without: Sequence[str] = ()) -> str:
        """As a caption: "seed 3, 20 steps of dpm++, guidance 1.2"."""
        said = {name: one.caption(getattr(self, name)) for name, one in SETTINGS.items() if name not in without}
        if said.get("steps") and said.get("sampler"):
            said["steps"] += f" of {said.pop('sampler')}"
        return ", ".join(filter(None, said.values()))

    def json(self) -> dict[str, Any]:
        return asdict(self)


SETTINGS: dict[str, Argument] = {one.name: one.metadata["argument"] for one in fields(Recipe)}
LEARNED = ("guidance", "interval", "negative")  # what is inside a student, which takes no other
STORED: dict[str, str] = {one.name: one.metadata["stored"] for one in fields(Recipe) if one.metadata["stored"]}


# ---------------------------------------------------------------------------------------------- everything, by name

INVERT = ("auto", "yes", "no")
LABEL = Label("Class", "What to draw.", words="class {}", allowed=classes)
LABELS = Labels("Class", "What to draw; all takes each that there is in turn.")  # where more than one is welcome
FIRST_LABEL = Labels("Class", "What to draw; of several, or of all, the first.")
RESTORING = replace(
    SETTINGS["sampler"],
    absent="ddpm if not given.",  # restoring.SAMPLER
    among=tuple(name for name in NAMES if name != FAST),  # whose jumps cannot be corrected on their way
)
BLENDING = replace(SETTINGS["sampler"], absent=f"{FAST} if not given and the pack has it, or else the pack's own.")
CANDIDATES = Whole("How many", "Candidates, each from a seed of its own.", low=1, high=MAX_CANDIDATES)
ACROSS = Number("Across", "The place in the square, from left to right.")
DOWN = Number("Down", "The place in the square, from top to bottom.")
STRIP = Whole("How many", "Pictures, with both ends.", low=2, high=MAX_STRIP)
SET = Whole(
    "How many", "Pictures to make.", low=1, high=lambda pack: max(1, min(MAX_SET, MAX_SET_PIXELS // pack.image_size**2))
)
FOLDER = replace(SET, high=MAX_PICTURES)  # of a set that is written as it is made
# How many pictures `evaluate` takes: to draw, to describe, to classify, to restore, and to teach a classifier with.
SAMPLES, DESCRIBED, SYNTHETIC = 10_000, 100, 30_000  # unless a number is given
EVALUATED = {
    "samples": Whole("Samples", "Pictures to generate.", absent=f"{SAMPLES} if not given.", low=100, high=MAX_PICTURES),
    "described": Whole(
        "Described", "Pictures to describe in words.", absent=f"{DESCRIBED} if not given.", high=MAX_PICTURES
    ),
    "classify": Whole(
        "Classified",
        "Instead, measure on N test pictures how well it classifies, and add that to its numbers and its card.",
        absent="1000 if N is not given.",
        low=1,
        high=MAX_PICTURES,
    ),
    "restore": Whole(
        "Restored",
        "Instead, measure on N test pictures how well it restores, and add that to its numbers and its card.",
        absent="500 if N is not given.",
        low=1,
        high=MAX_PICTURES,
    ),
    "count": Whole(
        "Synthetic",
        "Of --synthetic: pictures to draw.",
        absent=f"{SYNTHETIC} if not given.",
        low=100,
        high=MAX_PICTURES,
    ),
}

ARGUMENTS: dict[str, Argument] = SETTINGS | {
    "pack": Choice("Pack", "A pack's name."),
    "image": Picture("Picture", "A picture file; its middle square is taken."),
    "other": Picture("Other picture", "The picture at the other end."),
    "invert": Invert("Invert", "For packs of bright on dark: auto inverts light paper.", allowed=INVERT),
    "size": Side("Size", "Side in pixels of what the codec sees: a multiple of its stride.", absent=OWN),
    "tokens": Grid("Tokens", "Rows of token ids."),
    "code": Whole("Code", "A code's id.", high=lambda pack: pack.codes - 1),
    "by": Whole("By", "The id of the code that takes its place.", high=lambda pack: pack.codes - 1),
    "label": LABEL,
    "other_label": Label(
        "To class",
        "The class at the other end.",
        allowed=classes,
        text=("To prompt", "The words at the other end."),
    ),
    "other_seed": Whole("To seed", "The noise at the other end.", high=MAX_SEED),
    "labels": Corners("Classes", "What is drawn at each corner of a square.", of=LABEL),
    "seeds": Corners(
        "Seeds", "The noise at each corner of a square.", absent="All `seed` if not given.", of=SETTINGS["seed"]
    ),
    "count": Whole(
        "How many", "Pictures drawn together.", absent="One of each label if not given.", low=1, high=MAX_COUNT
    ),
    "augment": Flag("Augment", "Beside each picture a variant that is rotated, scaled, shifted and noised."),
    "strength": Number(
        "Strength", "How far into noise: 1 forgets the picture; too little, and it stays what it was.", positive=True
    ),
    "task": Choice("Task", "What is to be mended of the picture.", allowed=TASKS),
    "mask": Picture(
        "Mask",
        "To inpaint: a picture of the same size, white where it is to be drawn anew; what is transparent stays.",
        paper="black",
    ),
    "factor": Factor(
        "Factor",
        "To upscale: how many times larger; the picture is first made so much smaller than the pack's side.",
        allowed=FACTORS,
    ),
    "noise": Number(
        "Noise level",
        "To denoise: the noise's standard deviation, of pixels from 0 to 1.",
        absent="Estimated if not given.",
        low=0.05,
    ),
    "x": Choice("Across", "What changes from left to right.", allowed=AXES),
    "xs": Values("Values across", "A value for every column.", most=MAX_AXIS),
    "y": Choice("Down", "What changes from top to bottom.", allowed=AXES),
    "ys": Values("Values down", "A value for every row.", most=MAX_AXIS),
}
