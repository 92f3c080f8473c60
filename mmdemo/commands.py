"""What each command does, once its arguments are parsed. __main__.py says what they are, and what a failure is.

options: the parsed arguments, here and below.
"""

import json
import mimetypes
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from functools import partial
from itertools import chain
from pathlib import Path

from mmdemo import packs, provenance
from mmdemo.arguments import LEARNED, STORED
from mmdemo.errors import NO_CODEBOOK, ArgumentError, PackError
from mmdemo.heaps import keep_heaps
from mmdemo.imagefolder import file_stem
from mmdemo.kinds import shown
from mmdemo.samplers import FAST
from mmdemo.studio import VERBS, Studio
from mmdemo.training.stopping import Stopped, asked

PLACES = {"weights": "weights", "runs": "runs", "data_dir": None}  # options that say where, and their defaults


def list_packs(options) -> None:
    listed = _studio(options).packs()
    if options.json:
        _print([pack.json() for pack in listed], indent=1)
        return
    if not listed:
        how = _command(options, "train", "vqvae", "--pack", "NAME", "--dataset", "shapes")
        print(f"no packs in {options.weights}; train one: {how}")
    for pack in listed:
        if pack.problem:
            print(f"{pack.name}: damaged: {pack.problem}")
        else:
            draws = "draws what it is told" if pack.words else f"samples {', '.join(pack.classes)}"
            draws += "; it has a student" * (FAST in pack.samplers)
            does = draws if pack.can_sample else "codec only"
            whence = f", from {pack.source}" if pack.source else ""
            codes = f"{pack.codes} codes" if pack.codes else "no codebook"
            print(f"{pack.name}: {pack.image_size}×{pack.image_size}, {codes}, {does}{whence}")


def pull(options) -> None:
    from tqdm import tqdm

    from mmdemo import hub

    with tqdm(disable=not sys.stderr.isatty(), unit="B", unit_scale=True, desc=options.repo) as bar:

        def report(come: int, size: int) -> None:
            bar.total = size
            bar.update(come - bar.n)

        pack = hub.pull(options.repo, options.weights, options.name, report)
    print(f"wrote {pack}, from {packs.read(pack).source}; see it: {_page(options)}")


def push(options) -> None:
    from huggingface_hub.utils import disable_progress_bars

    from mmdemo import hub

    if not sys.stderr.isatty():
        disable_progress_bars()
    address, commit = hub.push(_trained_pack(options), options.repo, options.private)
    print(address)
    print(f"pull it:  python -m mmdemo pull {options.repo}@{commit}")
    print(f"open it:  python app.py --hub {options.repo}")


def space(options) -> None:
    from mmdemo import space

    out = space.write(options.repo, options.pack, options.weights, options.out or options.repo.split("/")[-1])
    print(f"wrote {out}; try it: cd {shlex.quote(str(out))} && python app.py")
    if options.push:
        print(space.push(out, options.repo, options.private))


def train_vqvae(options) -> None:
    from mmdemo.training.vqvae import VQVAEConfig, train_vqvae

    then = f"next: {_command(options, 'train', 'dit', '--pack', options.pack)}"
    _train(train_vqvae, VQVAEConfig, _new_pack(options), options, then)


def train_dit(options) -> None:
    from mmdemo.training.dit import DiTConfig, train_dit

    pack = _trained_pack(options)
    if packs.read(pack).can_sample and not options.resume and not options.overwrite:
        raise PackError(f"pack {options.pack!r} has a transformer already; to replace it, add --overwrite")
    _train(train_dit, DiTConfig, pack, options, f"see it: {_page(options)}")


def train_decoder(options) -> None:
    from mmdemo.training.decoder import DecoderConfig, train_decoder

    _train(train_decoder, DecoderConfig, _trained_pack(options), options, _measure_it(options))


def train_student(options) -> None:
    from mmdemo import card
    from mmdemo.training.student import StudentConfig, train_student

    pack = _trained_pack(options)
    _train(train_student, StudentConfig, pack, options, _measure_it(options, "--student"))
    if speaks():
        card.without_student(pack)


def _measure_it(options, *how: str) -> str:
    return f"measure it: {_command(options, 'evaluate', '--pack', options.pack, *how)}"


def _train(loop: Callable[..., Iterator], settings: type, pack: Path, options, then: str) -> None:
    """One training from start to end.  settings: its configuration; then: what to do with the pack it wrote."""
    keep_heaps()
    config = settings(**{field.name: getattr(options, field.name) for field in fields(settings)})
    _show(loop(config, pack, **_how_to_run(options)))
    if speaks():
        print(f"wrote {pack}; {then}")


def bench(options) -> None:
    from mmdemo import bench

    rows = []
    if not options.json:
        print(bench.machine())
    for row in bench.measure(_studio(options), options.pack):
        rows.append(row)
        if not options.json:
            print(row, flush=True)
    if options.json:
        _print({"machine": bench.machine(), "rows": [row.json() for row in rows]}, indent=1)


def reconstruct(options) -> None:
    studio, out = _studio(options), Path(options.out)
    stems = [Path(image).stem for image in options.images]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ArgumentError(f"two images are called {stem!r}, and so would be their results; rename one")
    made = [
        (Path(image), studio.reconstruct(options.pack, image, options.invert, options.size)) for image in options.images
    ]
    out.mkdir(parents=True, exist_ok=True)
    for source, result in made:
        result.image.save(out / f"{source.stem}-reconstruction.png")
        if result.token_map:
            result.token_map.save(out / f"{source.stem}-tokens.png")
        (out / f"{source.stem}.json").write_text(json.dumps(result.json()) + "\n", encoding="utf-8")
        bits = f"{result.bits_per_pixel:.3f} bits per pixel" if result.tokens else NO_CODEBOOK
        print(f"{source.name}: {result.psnr:.1f} dB, {bits}")


def describe(options) -> None:
    studio = _studio(options)
    runs = [studio.describe(options.pack, image, options.invert) for image in options.images]
    told = []
    for image, run in zip(options.images, runs, strict=True):
        told.append(run.result().json())
        if not options.json:
            doubt = f" ({run.notice})" if run.notice else ""
            print(f"{Path(image).name}: {run.text or 'nothing that there is a word for'}{doubt}", flush=True)
    if options.json:
        _print(told[0] if len(told) == 1 else told, indent=1)


def classify(options) -> None:
    studio = _studio(options)
    runs = [studio.classify(options.pack, image, options.invert) for image in options.images]
    told = []
    for image, run in zip(options.images, runs, strict=True):
        told.append({"image": image} | run.result().json())
        if not options.json:
            print(f"{Path(image).name}: {run.label} ({run.probabilities[run.label]:.1%})", flush=True)
    if options.json:
        _print(told, indent=1)


def sample(options) -> None:
    out = Path(options.out)
    grid = out.suffix.lower() == ".png"
    picture = (mimetypes.guess_type(out.name)[0] or "").startswith("image/")
    if not grid and (out.is_file() or picture and not out.is_dir()):
        raise ArgumentError(f"--out is {options.out!r}, a file; it must be a folder, or end in .png for a grid")
    run = _studio(options).sample(**_given(options, "sample"))
    (out.parent if grid else out).mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    result = run.result()
    if grid:
        out.write_bytes(result.png_bytes())
    else:
        for i, (label, seed) in enumerate(zip(result.labels, result.seeds, strict=True)):
            (out / f"{file_stem(label, seed)}.png").write_bytes(result.png_bytes(i))
    _print(result.json() | {"out": str(out)})


def edit(options) -> None:
    _one_picture(options, "edit")


def restore(options) -> None:
    _one_picture(options, "restore")


def _one_picture(options, verb: str) -> None:
    """What a verb makes of a picture, as a file."""
    out = Path(options.out)
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ArgumentError(f"--out is {options.out!r}; it must be a file that ends in .png")
    run = getattr(_studio(options), verb)(**_given(options, verb))
    out.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    result = run.result()
    out.write_bytes(result.png_bytes())
    _print(result.json() | {"out": str(out)})


def synthesize(options) -> None:
    from mmdemo import synthesis

    studio = _studio(options)
    written = synthesis.write(studio, Path(options.out), **_given(options, "synthesize"))
    with closing(written):  # when it is stopped too, so that what is there is listed
        _show(_until_asked(written), unit="picture")
    size = studio.pack(options.pack).image_size
    train = ["train", "vqvae", "--pack", "NAME", "--dataset", options.out, "--image-size", str(size)]
    print(f"wrote {options.out}; next: {_command(options, *train)}")


# What `evaluate` can measure instead of a card's first numbers, and what each way takes.
WAYS = {
    None: ("samples", "described", "segments", "defaults", "overwrite", *STORED),
    "classify": (),
    "restore": (),
    "synthetic": ("count", *STORED),
    "student": (),
}


def evaluate(options) -> None:
    from mmdemo import card, classified, mended, students, teaching
    from mmdemo.evaluate import evaluate
    from mmdemo.judging import Evaluation
    from mmdemo.training import export
    from mmdemo.unfinished import Unfinished

    asked.begun = True  # what is done is kept, wherever a signal comes
    pack, pictures, runs = _trained_pack(options), {}, Path(options.runs)
    given = {name: value for name, value in vars(options).items() if value is not None and value is not False}
    instead = next((name for name in WAYS if name in given), None)
    for way, taken in WAYS.items():
        for name in taken:
            if name in given and name not in WAYS[instead]:
                how = f"with --{instead}" if instead else f"without --{way}"
                raise ArgumentError(f"--{name} is of no use {how}; leave it out")
    if options.overwrite and not options.defaults:
        raise ArgumentError("--overwrite is of no use without --defaults; leave it out")
    settings = {name: given[name] for name in STORED if name in given}
    sizes = {name: given[name] for name in ("samples", "described", "segments", "count") if name in given}
    known = card.read(pack) if instead else {}  # fails now rather than after the work
    with Unfinished(runs / "unfinished" / pack.name, provenance.digest(pack)) as unfinished:
        report = partial(print, file=sys.stderr, flush=True)
        evaluation = Evaluation(pack, runs, options.data_dir, report, pictures.__setitem__, unfinished)
        leaves = options.defaults and _student_leaves(evaluation, settings, options.overwrite)
        if instead == "synthetic":
            numbers = teaching.measure(evaluation, asked=settings, **sizes)
        elif instead == "student":
            numbers = students.measure(evaluation, known.get("generated", 0))
        elif instead == "classify":
            numbers = classified.measure(evaluation, options.classify)
        elif instead == "restore":
            numbers = mended.measure(evaluation, options.restore)
        else:
            numbers = evaluate(evaluation, asked=settings, **sizes)
        if instead:
            card.add(pack, numbers, pictures)
        else:
            changed = False
            if options.defaults and "sampler" in numbers:
                own = {key: numbers[key] for key in STORED.values()}
                changed = own != evaluation.pack.defaults.to_store()
                (export.remove_student if leaves else export.set_defaults)(pack, **own)
            for way in card.renew(pack, numbers, pictures, changed):
                report(f"the card no longer has what --{way} measured, which was of other settings")
    if instead or options.json:
        _print(numbers, indent=1)
        return
    for name, value in numbers.items():
        for part, one in value.items() if isinstance(value, dict) else [("", value)]:
            number = f"{one:.4g}" if isinstance(one, float) else one
            print(f"{name} {part}".strip() + f": {number}")


def _student_leaves(evaluation, settings: dict, overwrite: bool) -> bool:
    """Whether a pack must be without its student, which has learned another guidance, to draw by these settings from
    now on.  Raises ArgumentError unless it may."""
    pack = evaluation.pack
    if not pack.can_sample:
        return False
    recipe = evaluation.recipe(settings)
    if recipe.sampler == FAST:
        raise ArgumentError(f"sampler is {FAST}, which has no settings of its own but the steps; leave --defaults out")
    others = [name for name in LEARNED if getattr(recipe, name) != getattr(pack.defaults, name)]
    if FAST not in pack.samplers or not others:
        return False
    if overwrite:
        return True
    asked_for, learned = (shown(getattr(one, others[0])) for one in (recipe, pack.defaults))
    raise ArgumentError(
        f"{others[0]} is {asked_for}, and the student of {pack.name!r} has learned to draw with {learned}; leave "
        f"--defaults out, or add --overwrite, which takes the student out until it is trained anew"
    )


def _print(record, indent: int | None = None) -> None:
    """As JSON, in ASCII where the console is not for every character."""
    every = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    print(json.dumps(record, indent=indent, ensure_ascii=not every))


def _given(options, verb: str) -> dict:
    return {name: getattr(options, name) for name in VERBS[verb].arguments}


def _command(options, *words: str) -> str:
    """What to type next, where this command was done too."""
    given = {name: getattr(options, name, default) for name, default in PLACES.items()}
    where = [(f"--{name.replace('_', '-')}", value) for name, value in given.items() if value != PLACES[name]]
    return shlex.join(["python", "-m", "mmdemo", *words, *chain(*where)])


def _page(options) -> str:
    return shlex.join(["python", "app.py", "--weights", options.weights])


def _how_to_run(options) -> dict:
    """The arguments of a training loop that do not change the model."""
    given = {name: getattr(options, name) for name in ("data_dir", "resume", "strict")}
    return {"run_folder": Path(options.runs) / options.pack, "compiled": options.compile} | given


def _show(records: Iterator, unit: str = "step") -> None:
    """A progress bar on a terminal, a line every ten seconds or so otherwise."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    bar, told = None, time.monotonic()
    try:
        for record in records:
            if not speaks():
                continue
            if bar is None:
                bar = tqdm(total=record.steps, initial=max(0, record.step - 1), disable=not terminal, unit=unit)
            numbers = {name: f"{value:.4g}" for name, value in record.metrics.items()}
            bar.set_postfix(numbers | {"images/s": f"{record.images_per_second:.0f}"}, refresh=False)
            bar.update(record.step - bar.n)
            if not terminal and (time.monotonic() - told > 10 or record.step == record.steps):
                line = "  ".join(f"{name} {value}" for name, value in numbers.items())
                print(
                    f"{unit} {record.step}/{record.steps}  {line}  {record.images_per_second:.0f} images/s", flush=True
                )
                told = time.monotonic()
    finally:  # whatever is said next needs a line of its own
        if bar is not None:
            bar.close()


def _until_asked(written: Iterator) -> Iterator:
    """The records of a folder being written, until a signal asks to stop: after the part under way."""
    asked.unit = "picture"
    for record in written:
        asked.begun = asked.stepping = True
        asked.saved = record.step
        yield record
        if asked.number and record.step < record.steps:
            raise Stopped(asked.number)


def speaks() -> bool:
    """Whether this process prints: under accelerate launch, only the first."""
    return os.environ.get("RANK", "0") == "0"


def _pack_folder(options) -> Path:
    Path(options.weights).mkdir(parents=True, exist_ok=True)  # fails now rather than after hours of training
    return packs.place(options.weights, options.pack)


def _trained_pack(options) -> Path:
    pack = _pack_folder(options)
    if not pack.is_dir():
        raise PackError(
            f"pack {options.pack!r} is not in {options.weights}; train its codec first: "
            + _command(options, "train", "vqvae", "--pack", options.pack, "--dataset", "NAME")
        )
    return pack


def _new_pack(options) -> Path:
    pack = _pack_folder(options)
    finished = pack.exists() and (
        not options.resume or packs.read(pack).can_sample or "decoder" in provenance.read_training(pack)
    )
    if finished and not options.overwrite:
        raise PackError(
            f"pack {options.pack!r} is already at {pack}; choose another name, or replace it with --overwrite"
        )
    return pack


def _studio(options) -> Studio:
    if not Path(options.weights).is_dir():
        raise PackError(f"there is no folder {options.weights!r}; give the folder of packs with --weights")
    return Studio(weights=[options.weights])
