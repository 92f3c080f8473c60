"""Studio: what a page, a script or a command may ask for, with every argument checked before any work is done.

Where packs and their models come from is the shelf's. What a pack has ready to be shown (its list entry, its codebook)
needs neither torch nor diffusers.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from mmdemo import catalogue, classifying, describing, images, packs, restoring, sampling
from mmdemo.arguments import (
    ACROSS,
    ARGUMENTS,
    BLENDING,
    CANDIDATES,
    DOWN,
    FIRST_LABEL,
    LABELS,
    MAX_COUNT,
    RESTORING,
    SET,
    SETTINGS,
    STRIP,
    Recipe,
)
from mmdemo.errors import NO_CODEBOOK, ArgumentError, PackError
from mmdemo.kinds import ALL, Argument
from mmdemo.packs import Pack
from mmdemo.results import (
    Blend,
    Candidates,
    Cell,
    Classification,
    Code,
    Codebook,
    CodeMap,
    Description,
    Edit,
    Frame,
    Guess,
    Interpolation,
    Made,
    NoisedFrame,
    Progress,
    Reading,
    Reconstruction,
    Replacement,
    Restoration,
    Run,
    Samples,
    Strip,
    Synthetic,
)
from mmdemo.samplers import FAST
from mmdemo.shelf import Shelf
from mmdemo.tokens import decode, interpolate, reconstruct, replace, seen


def verb(
    order: str = "",
    settings: Sequence[str] = tuple(SETTINGS),
    prefers: str = "",
    of_codes: bool = False,
    **arguments: Argument,
) -> Callable:
    """Makes a method of Studio a verb: what a script, an endpoint and a command call by the same arguments.

    Its arguments are those of the method; `pack` is given by its name. For a parameter `recipe` the settings of a
    drawing stand, each None where the pack's own is meant. All are checked in the order in which they are given.

    order: the arguments that come first, where that is not the method's own order.  settings: those that it takes.
    prefers: the sampler that it takes in place of the pack's own, where the pack has it.
    of_codes: whether it needs a codebook.  arguments: what differs from ARGUMENTS.
    """

    def decorate(method: Callable) -> Callable:
        declared = list(inspect.signature(method).parameters.values())[1:]
        draws = any(one.name == "recipe" for one in declared)
        taken = [one for one in declared if one.name != "recipe"]
        if draws:
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            taken += [inspect.Parameter(name, kind, default=None) for name in settings]
        places = order.split()
        taken.sort(key=lambda one: places.index(one.name) if one.name in places else len(places))
        signature = inspect.Signature(taken)

        @functools.wraps(method)
        def checked(self: Studio, *given, **named):
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            values = bound.arguments
            pack = values["pack"] = self.pack(values["pack"]) if "pack" in values else None
            if draws:
                _has_transformer(pack, method.__name__)
            if of_codes:
                _has_codes(pack)
            for name, value in values.items():
                optional = value is None and signature.parameters[name].default is None
                if name != "pack" and not optional:
                    values[name] = checked.arguments[name].check(name, value, pack)
            if draws:
                asked = {name: values.pop(name) for name in settings}
                if prefers in pack.samplers and asked["sampler"] is None:
                    asked["sampler"] = prefers
                values["recipe"] = Recipe.of(pack, asked)
            return method(self, **values)

        checked.__signature__ = signature
        checked.arguments = {name: (ARGUMENTS | arguments)[name] for name in signature.parameters}
        return checked

    return decorate


class Studio(Shelf):
    """Packs, and everything one may do with them. Safe to use from many threads; made as a Shelf is.

    Every verb raises ArgumentError, PackError or ImageError, one sentence each, before it starts to work. What takes
    long is a Run: it can be watched, stopped, or waited for.
    """

    # ------------------------------------------------------------------------------------------------------- packs

    def examples(self, pack: str) -> list[Image.Image]:
        """The pictures in the pack's examples/ folder, by name; [] without one."""
        return [images.open_image(file) for file in catalogue.examples(self.pack(pack))]

    def captions(self, pack: str) -> list[tuple[str, ...]]:
        """What examples/ says of each of these pictures: its own caption first, then what to make of it; () = none."""
        return catalogue.captions(self.pack(pack))

    def cover(self, pack: str) -> Image.Image:
        """A small square to know the pack by: four of its examples, or else some of its codes, or else grey."""
        return catalogue.cover(self.pack(pack))

    # ------------------------------------------------------------------------------------------------------- codec

    @verb(of_codes=True)
    def codebook(self, pack: Pack) -> Codebook:
        """Every code as a picture, and how often the training split used it."""
        return catalogue.codebook(pack)

    @verb(of_codes=True)
    def code(self, pack: Pack, code: int) -> Code:
        """One code up close: its picture, its share of all tokens, its nearest codes, real patches that use it."""
        return catalogue.code(pack, code)

    @verb(of_codes=True)
    def code_map(self, pack: Pack) -> CodeMap:
        """Every code as a point on the plane in which the codes differ most."""
        return catalogue.code_map(pack)

    @verb()
    def reconstruct(
        self,
        pack: Pack,
        image: str | Path | Image.Image,
        invert: str | bool = "auto",
        size: int | None = None,  # None = the side of the pictures the pack was trained on
    ) -> Reconstruction:
        """A picture turned into tokens and back, and how much of it was lost.

        image: a file or a PIL image; oriented, flattened on white, cropped to its middle square and resized.
        """
        original, inverted = seen(pack, image, invert, size)
        return reconstruct(pack, self._pipeline(pack).vae, original, inverted)

    @verb(of_codes=True)
    def decode(self, pack: Pack, tokens: list[list[int]]) -> Image.Image:
        """The picture that a grid of token ids stands for."""
        return decode(self._pipeline(pack).vae, tokens)

    @verb(of_codes=True)
    def replace(self, pack: Pack, tokens: list[list[int]], code: int, by: int) -> Replacement:
        """What changes in the picture of a grid of token ids when one code stands wherever another stood."""
        return replace(self._pipeline(pack).vae, tokens, code, by)

    @verb(of_codes=True, count=STRIP)
    def interpolate(
        self,
        pack: Pack,
        image: str | Path | Image.Image,
        other: str | Path | Image.Image,
        count: int = 7,
        invert: str | bool = "auto",
        size: int | None = None,
    ) -> Interpolation:
        """From one picture to another: through the latents, and token by token."""
        ends = tuple(seen(pack, one, invert, size)[0] for one in (image, other))
        return interpolate(self._pipeline(pack).vae, ends, count)

    # ----------------------------------------------------------------------------------------------------- reading

    @verb()
    def describe(
        self, pack: Pack, image: str | Path | Image.Image, invert: str | bool = "auto"
    ) -> Run[Reading, Description]:
        """A picture in words: those under which the transformer denoises it best (arXiv:2303.16203)."""
        _can_describe(pack)
        original, _ = seen(pack, image, invert)
        return Run(self._with_models(pack, describing.describe, pack, original))

    @verb()
    def classify(
        self, pack: Pack, image: str | Path | Image.Image, invert: str | bool = "auto"
    ) -> Run[Guess, Classification]:
        """What a picture shows: the class under which the transformer denoises it best (arXiv:2303.16203)."""
        _can_classify(pack)
        original, _ = seen(pack, image, invert)
        return Run(self._with_models(pack, classifying.classify, pack, original))

    # ----------------------------------------------------------------------------------------------------- drawing

    @verb(label=LABELS)
    def sample(
        self, pack: Pack, label: str | Sequence[str], count: int | None = None, *, recipe: Recipe
    ) -> Run[Progress, Samples]:
        """New pictures of a class, of several in turn, or of `all`: picture i has seed + i."""
        count = min(len(label), MAX_COUNT) if count is None else count
        return self._run(sampling.sample, sampling.request(pack, label, count, recipe))

    @verb(label=FIRST_LABEL)
    def denoise(self, pack: Pack, label: str, *, recipe: Recipe) -> Run[Frame, Frame]:
        """One new picture, watched step by step: the guess after every step, the last one being the result."""
        return self._run(sampling.denoise, sampling.request(pack, label, 1, recipe))

    @verb("pack image seed steps sampler", settings=("seed", "steps", "sampler"))
    def noise(
        self, pack: Pack, image: str | Path | Image.Image, invert: str | bool = "auto", *, recipe: Recipe
    ) -> Run[NoisedFrame, list[NoisedFrame]]:
        """A picture under ever more noise, in closed form, at the times at which it would be denoised."""
        original, _ = seen(pack, image, invert)
        return Run(self._with_models(pack, sampling.noise, pack, original, recipe))

    @verb("pack image label strength seed steps guidance sampler invert")
    def edit(
        self,
        pack: Pack,
        image: str | Path | Image.Image,
        label: str,
        strength: float = 0.8,
        invert: str | bool = "auto",
        *,
        recipe: Recipe,
    ) -> Run[Frame, Edit]:
        """A picture noised part of the way and denoised with a label (SDEdit, arXiv:2108.01073)."""
        original, _ = seen(pack, image, invert)
        return self._run(sampling.edit, sampling.request(pack, [label], 1, recipe), original, strength)

    @verb(
        "pack image task mask label factor noise seed steps guidance sampler invert",
        prefers=restoring.SAMPLER,
        count=CANDIDATES,
        sampler=RESTORING,
    )
    def restore(
        self,
        pack: Pack,
        image: str | Path | Image.Image,
        task: str,  # inpaint, upscale or denoise
        mask: str | Path | Image.Image | None = None,  # to inpaint: white where it is to be drawn anew
        label: str | None = None,  # None = drawn without a label
        factor: int | None = None,  # to upscale: 2 or 4
        noise: float | None = None,  # to denoise: its standard deviation, of pixels in [0, 1]; None = estimated
        invert: str | bool = "auto",
        count: int = 1,
        *,
        recipe: Recipe,
    ) -> Run[Candidates, Restoration]:
        """A picture restored: a part drawn anew, made larger, or cleaned of noise; candidate i has seed + i."""
        if recipe.sampler == FAST:
            others = ", ".join(one for one in pack.samplers if one != FAST)
            raise ArgumentError(f"sampler is {FAST!r}, whose jumps cannot be corrected on their way; choose {others}")
        asked = restoring.damaged(pack, image, task, mask, factor, noise, invert)
        label = "" if label is None and pack.words else label
        return self._run(restoring.restore, sampling.request(pack, [label], count, recipe), asked)

    @verb()
    def compare(
        self,
        pack: Pack,
        x: str,
        xs: Sequence,
        y: str,
        ys: Sequence,
        label: str | None = None,  # None = the first class, or the empty text
        *,
        recipe: Recipe,
    ) -> Run[Cell, list[Cell]]:
        """A picture for every pair of values of two settings, row by row, all else being equal."""
        request = sampling.request(
            pack, [("" if pack.words else pack.classes[0]) if label is None else label], 1, recipe
        )
        return Run(self._with_models(pack, sampling.compare, sampling.comparison(request, x, xs, y, ys)))

    @verb("pack label other_label seed other_seed count", count=STRIP)
    def morph(
        self,
        pack: Pack,
        label: str,
        other_label: str | None = None,  # None = the same
        other_seed: int | None = None,  # None = the same
        count: int = 7,
        *,
        recipe: Recipe,
    ) -> Run[Progress, Strip]:
        """Pictures between two classes, two seeds, or both."""
        other_label = label if other_label is None else other_label
        other_seed = recipe.seed if other_seed is None else other_seed
        if (other_label, other_seed) == (label, recipe.seed):
            raise ArgumentError("both ends of the strip are the same; give another other_label or other_seed")
        return self._run(sampling.morph, sampling.request(pack, [label], count, recipe), other_label, other_seed)

    @verb("pack labels x y seeds", prefers=FAST, x=ACROSS, y=DOWN, sampler=BLENDING)
    def blend(
        self,
        pack: Pack,
        labels: str | Sequence[str],
        x: float = 0.5,
        y: float = 0.5,
        seeds: Sequence[int] | None = None,  # None = the same at every corner
        *,
        recipe: Recipe,
    ) -> Run[Progress, Blend]:
        """One picture at a place in a square between four classes, four seeds, or both."""
        seeds = seeds or (recipe.seed,) * len(labels)
        request = sampling.Request(pack, labels, dataclasses.replace(recipe, seed=seeds[0]))
        return self._run(sampling.blend, request, seeds, x, y)

    @verb(count=SET, label=LABELS)
    def synthesize(
        self, pack: Pack, count: int, label: str | Sequence[str] = ALL, augment: bool = False, *, recipe: Recipe
    ) -> Run[Made, Synthetic]:
        """A data set of new labelled pictures, to train on: picture i has seed + i, and the labels in turn.

        As many as one request may have; synthesis.py writes any number of them into a folder.
        """
        if "" in label:
            raise ArgumentError("label is an empty text; a picture to train on needs words to learn")
        return self._run(sampling.synthesize, sampling.request(pack, label, count, recipe), augment)

    # ------------------------------------------------------------------------------------------------------ models

    def _run(self, work: Callable, request: sampling.Request, *more) -> Run:
        return Run(self._with_models(request.pack, work, request, *more))


VERBS: dict[str, Callable] = {name: one for name, one in vars(Studio).items() if hasattr(one, "arguments")}


def _has_transformer(pack: Pack, verb: str) -> None:
    if not pack.can_sample:
        how = f"train one: python -m mmdemo train dit --pack {pack.name}"
        raise PackError(f"{pack.name!r} has no transformer, so it cannot {verb}; {how}")


def _has_codes(pack: Pack) -> None:
    if not pack.codes:
        raise PackError(f"{pack.name!r}: {NO_CODEBOOK}")


def _can_classify(pack: Pack) -> None:
    _has_transformer(pack, "classify")
    if not pack.classes:
        raise PackError(f"{pack.name!r} reads words and knows no classes, so it cannot classify; ask it to describe")


def _can_describe(pack: Pack) -> None:
    if not pack.words:
        raise PackError(f"{pack.name!r} reads no words, so it cannot describe; choose a pack trained on captions")
    if not packs.read_words(pack).lexicon.phrases:
        how = "train it on captions with attributes beside them"
        raise PackError(f"{pack.name!r} has learned no words for attributes, so it cannot describe; {how}")
