"""python -m mmdemo COMMAND: argument parsing, printing and exit codes. Nothing else.

Exit codes: 0 = done, 1 = one line `error: …` on stderr, 2 = usage, 130 = stopped with Ctrl-C, 143 = by SIGTERM.
"""

import argparse
import inspect
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path

from mmdemo import __version__, packs
from mmdemo.arguments import ARGUMENTS, STORED, Argument, Choice, Factor, Flag, Interval, Number, Picture, Side, Whole
from mmdemo.errors import NO_CODEBOOK, ArgumentError, MmdemoError, PackError
from mmdemo.imagefolder import file_stem
from mmdemo.studio import VERBS, Studio
from mmdemo.training.stopping import Stopped, asked, heeded, several_processes


def main(arguments: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test or a notebook may have put something else there
            stream.reconfigure(errors="backslashreplace")  # a console may lack a character, of a prompt above all
    options = parser().parse_args(arguments)
    say = partial(_say_how_to_go_on, options, sys.argv[1:] if arguments is None else arguments)
    try:
        with heeded(say) if "resume" in options else nullcontext():
            options.command(options)
    except MmdemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        print(f"error: {what}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="python -m mmdemo", description="Look inside a VQ-VAE and a diffusion transformer."
    )
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, does: str, run, under=commands) -> argparse.ArgumentParser:
        added = under.add_parser(name, help=does, description=does, formatter_class=Help)
        added.set_defaults(command=run)
        added.add_argument("--weights", default="weights", metavar="DIR", help="the folder of packs")
        return added

    listing = command("packs", "List the packs.", list_packs)
    listing.add_argument("--json", action="store_true", help="print JSON alone")

    get = command("pull", "Fetch a pack from the Hugging Face Hub, and check it.", pull)
    get.add_argument("repo", metavar="REPO", help="owner/name, or owner/name@revision: a branch, a tag or a commit")
    get.add_argument("--name", metavar="NAME", help="what to call the pack here; the repository's name if not given")

    give = command("push", "Upload a pack and its card to the Hugging Face Hub.", push)
    give.add_argument("pack", metavar="NAME", help=ARGUMENTS["pack"].help)
    give.add_argument("repo", metavar="REPO", help="owner/name; it is made if it is not there")
    give.add_argument("--private", action="store_true", help="make it a repository that only you can see")

    rent = command("space", "Write, and upload, a Space that runs this app on some packs.", space)
    rent.add_argument("repo", metavar="OWNER/NAME", help="the Space")
    rent.add_argument(
        "--pack",
        required=True,
        nargs="+",
        metavar="P",
        help="packs here, by name, or on the Hub, as owner/name[@revision]",
    )
    rent.add_argument("--out", metavar="DIR", help="a new folder for it; the Space's name if not given")
    rent.add_argument("--push", action="store_true", help="upload it too")
    rent.add_argument("--private", action="store_true", help="make it a Space that only you can see")

    train = commands.add_parser("train", help="Train a pack's models.").add_subparsers(metavar="MODEL", required=True)
    _add_training(command("vqvae", "Train a codec; the result is a codec-only pack.", train_vqvae, train), "vqvae")
    _add_training(command("dit", "Train a transformer on a pack's codec.", train_dit, train), "dit")
    sharper = command("decoder", "Train a pack's decoder further, to paint its tokens sharper.", train_decoder, train)
    _add_training(sharper, "decoder")
    quick = command(
        "student", "Train a transformer that draws in a few steps what a pack's draws in many.", train_student, train
    )
    _add_training(quick, "student")

    rebuild = command("reconstruct", _does("reconstruct"), reconstruct)
    rebuild.add_argument("images", nargs="+", metavar="IMAGE", help=ARGUMENTS["image"].help)
    _offer(rebuild, "reconstruct", without=("image",))
    rebuild.add_argument("--out", required=True, metavar="DIR", help="where to write")

    tell = command("describe", _does("describe"), describe)
    tell.add_argument("images", nargs="+", metavar="IMAGE", help=ARGUMENTS["image"].help)
    _offer(tell, "describe", without=("image",))
    tell.add_argument("--json", action="store_true", help="print JSON alone: of several images, a list")

    name = command("classify", _does("classify"), classify)
    name.add_argument("images", nargs="+", metavar="IMAGE", help=ARGUMENTS["image"].help)
    _offer(name, "classify", without=("image",))
    name.add_argument("--json", action="store_true", help="print a JSON list alone: a record an image")

    draw = command("sample", _does("sample"), sample)
    _offer(draw, "sample")
    draw.add_argument("--out", required=True, metavar="OUT", help="FILE.png for one grid, or a folder for one PNG each")

    change = command("edit", _does("edit"), edit)
    _offer(change, "edit")
    change.add_argument("--out", required=True, metavar="FILE.png", help="where to write")

    mend = command("restore", _does("restore"), restore)
    _offer(mend, "restore")
    mend.add_argument("--out", required=True, metavar="FILE.png", help="where to write; several stand in a row")

    make = command("synthesize", "Write a folder of new labelled pictures to train on; again, it goes on.", synthesize)
    _offer(make, "synthesize")
    make.add_argument("--out", required=True, metavar="DIR", help="a new folder, or one to go on with")

    judge = command("evaluate", "Measure a pack on its test split and write its card.", evaluate)
    _option(judge, "pack", ARGUMENTS["pack"], required=True)
    judge.add_argument("--data-dir", metavar="DIR", help="where the data set is; downloaded if not given")
    judge.add_argument("--runs", default="runs", metavar="DIR", help="where what judges pictures is kept")
    judge.add_argument("--samples", type=_number, default=10_000, metavar="N", help="pictures to generate")
    judge.add_argument("--described", type=_number, default=100, metavar="N", help="pictures to describe in words")
    judge.add_argument("--segments", metavar="DIR", help="pictures with masks of what captions name, to be found")
    classified = "pictures to classify; a tenth of those to generate if not given"
    judge.add_argument("--classified", type=_number, metavar="N", help=classified)
    for name in STORED:
        _option(judge, name, ARGUMENTS[name])
    instead = "instead, measure on N test pictures how well it restores, and add that to its numbers and its card"
    judge.add_argument(
        "--restore", type=_number, nargs="?", const=500, metavar="N", help=f"{instead}; 500 if not given"
    )
    teaches = "instead, measure what drawn pictures teach a classifier, and add that likewise"
    judge.add_argument("--synthetic", action="store_true", help=teaches)
    judge.add_argument("--count", type=_number, default=30_000, metavar="N", help="of --synthetic: pictures to draw")
    judge.add_argument("--defaults", action="store_true", help="make the settings of this evaluation the pack's own")
    judge.add_argument("--json", action="store_true", help="print JSON alone")
    return root


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names the defaults that there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def list_packs(options) -> None:
    listed = _studio(options).packs()
    if options.json:
        _print([pack.json() for pack in listed], indent=1)
        return
    if not listed:
        print(f"no packs in {options.weights}; train one: python -m mmdemo train vqvae --pack NAME --dataset shapes")
    for pack in listed:
        if pack.problem:
            print(f"{pack.name}: damaged: {pack.problem}")
        else:
            draws = "draws what it is told" if pack.words else f"samples {', '.join(pack.classes)}"
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
    print(f"wrote {pack}, from {packs.read(pack).source}; see it: python app.py --weights {options.weights}")


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
    print(f"wrote {out}; try it: cd {out} && python app.py")
    if options.push:
        print(space.push(out, options.repo, options.private))


def train_vqvae(options) -> None:
    from mmdemo.training.vqvae import VQVAEConfig, train_vqvae

    pack = _new_pack(options)
    config = VQVAEConfig(**{field.name: getattr(options, field.name) for field in fields(VQVAEConfig)})
    _show(train_vqvae(config, pack, **_how_to_run(options)))
    if _speaks():
        print(f"wrote {pack}; next: python -m mmdemo train dit --pack {options.pack}")


def train_dit(options) -> None:
    from mmdemo.training.dit import DiTConfig, train_dit

    pack = _trained_pack(options)
    if packs.read(pack).can_sample and not options.resume and not options.overwrite:
        raise PackError(f"pack {options.pack!r} has a transformer already; to replace it, add --overwrite")
    config = DiTConfig(**{field.name: getattr(options, field.name) for field in fields(DiTConfig)})
    _show(train_dit(config, pack, **_how_to_run(options)))
    if _speaks():
        print(f"wrote {pack}; see it: python app.py --weights {options.weights}")


def train_decoder(options) -> None:
    from mmdemo.training.decoder import DecoderConfig, train_decoder

    pack = _trained_pack(options)
    config = DecoderConfig(**{field.name: getattr(options, field.name) for field in fields(DecoderConfig)})
    _show(train_decoder(config, pack, **_how_to_run(options)))
    if _speaks():
        print(f"wrote {pack}; measure it again: python -m mmdemo evaluate --pack {options.pack}")


def train_student(options) -> None:
    from mmdemo.training.student import StudentConfig, train_student

    pack = _trained_pack(options)
    config = StudentConfig(**{field.name: getattr(options, field.name) for field in fields(StudentConfig)})
    _show(train_student(config, pack, **_how_to_run(options)))
    if _speaks():
        print(f"wrote {pack}; measure it: python -m mmdemo evaluate --pack {options.pack}")


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
        told.append(run.result().json())
        if not options.json:
            print(f"{Path(image).name}: {run.label} ({run.probabilities[run.label]:.1%})", flush=True)
    if options.json:
        _print(told, indent=1)


def sample(options) -> None:
    out = Path(options.out)
    grid = out.suffix.lower() == ".png"
    if not grid and out.is_file():
        raise ArgumentError(
            f"--out is {options.out!r}, which is a file; it must be a folder, or end in .png for a grid"
        )
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
    if out.suffix.lower() != ".png":
        raise ArgumentError(f"--out is {options.out!r}; it must be a file that ends in .png")
    run = getattr(_studio(options), verb)(**_given(options, verb))
    out.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    result = run.result()
    out.write_bytes(result.png_bytes())
    _print(result.json() | {"out": str(out)})


def synthesize(options) -> None:
    from mmdemo import synthesis

    _show(synthesis.write(_studio(options), Path(options.out), **_given(options, "synthesize")), unit="picture")
    print(f"wrote {options.out}; next: python -m mmdemo train vqvae --pack NAME --dataset {options.out}")


def evaluate(options) -> None:
    from mmdemo import card, teaching
    from mmdemo.evaluate import evaluate, restoration
    from mmdemo.training import export

    pack, pictures = _trained_pack(options), {}
    asked = {name: getattr(options, name) for name in STORED}
    told = {"report": partial(print, file=sys.stderr, flush=True)}
    if options.restore is not None or options.synthetic:
        if options.synthetic:
            numbers = teaching.measure(pack, options.data_dir, options.count, asked, **told)
        else:
            told["show"] = pictures.__setitem__
            numbers = restoration(pack, Path(options.runs), options.data_dir, options.restore, **told)
        card.add(pack, numbers, pictures)
        _print(numbers, indent=1)
        return
    numbers = evaluate(
        pack,
        Path(options.runs),
        options.data_dir,
        options.samples,
        asked,
        show=pictures.__setitem__,
        described=options.described,
        segments=options.segments,
        classified=options.classified,
        **told,
    )
    if options.defaults and "sampler" in numbers:
        export.set_defaults(pack, **{key: numbers[key] for key in STORED.values()})
    card.write(pack, numbers, pictures)
    if options.json:
        _print(numbers, indent=1)
    else:
        for name, value in numbers.items():
            for part, one in value.items() if isinstance(value, dict) else [("", value)]:
                shown = f"{one:.4g}" if isinstance(one, float) else one
                print(f"{name} {part}".strip() + f": {shown}")


def _print(record, indent: int | None = None) -> None:
    """As JSON, in ASCII where the console is not for every character."""
    every = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    print(json.dumps(record, indent=indent, ensure_ascii=not every))


def _does(verb: str) -> str:
    return VERBS[verb].__doc__.split("\n")[0]


def _offer(command: argparse.ArgumentParser, verb: str, without: Sequence[str] = ()) -> None:
    """An option for every argument of a verb; a picture stands without a name."""
    declared = VERBS[verb].arguments
    for parameter in inspect.signature(VERBS[verb]).parameters.values():
        if parameter.name not in without:
            given = {"required": True} if parameter.default is parameter.empty else {"default": parameter.default}
            _option(command, parameter.name, declared[parameter.name], **given)


def _option(command: argparse.ArgumentParser, name: str, argument: Argument, **given) -> None:
    if isinstance(argument, Picture) and "default" not in given:
        command.add_argument(name, metavar=argument.metavar, help=argument.help)
        return
    if isinstance(argument, Flag):
        command.add_argument(f"--{name}", action="store_true", help=argument.help)
        return
    more = {"nargs": argument.nargs, "metavar": argument.metavar}
    if isinstance(argument, (Whole, Number, Interval, Side, Factor)):
        more["type"] = _number
    if isinstance(argument, Choice) and isinstance(argument.allowed, tuple) and argument.allowed:
        more |= {"choices": argument.allowed, "metavar": None}
    words = f"{argument.help} {argument.absent}".strip()
    flags = [f"--{name.replace('_', '-')}"] + ["--prompt"] * (name == "label")
    command.add_argument(*flags, help=words, **more, **given)


def _given(options, verb: str) -> dict:
    return {name: getattr(options, name) for name in VERBS[verb].arguments}


def _add_training(command: argparse.ArgumentParser, model: str) -> None:
    """The options all trainings have, and one for every field of the model's configuration."""
    from mmdemo.training import config

    settings = {"vqvae": config.VQVAEConfig, "dit": config.DiTConfig, "decoder": config.DecoderConfig,
                "student": config.StudentConfig}[model]  # fmt: skip
    command.add_argument("--pack", required=True, metavar="NAME", help="the pack to write")
    if model in ("vqvae", "dit"):  # the others go on from what there is
        overwriting = "replace what was trained before under that name"
        command.add_argument("--overwrite", action="store_true", help=overwriting)
    command.add_argument("--data-dir", metavar="DIR", help="where the data set is; downloaded if not given")
    passed_over = "refuse a folder with a picture that cannot be read; if not given, up to 1 %% are passed over"
    command.add_argument("--strict", action="store_true", help=passed_over)
    command.add_argument("--runs", default="runs", metavar="DIR", help="where checkpoints are kept")
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint, with the same options")
    compiling = "have torch.compile make the step faster, after a minute; if not given, on a GPU"
    command.add_argument("--compile", action=argparse.BooleanOptionalAction, help=compiling)
    for field in fields(settings):
        kind = {"str": str, "int": int, "float": float, "tuple[int,": int}.get(str(field.type).split(" ")[0])
        if kind is None:  # yes or no
            command.add_argument(f"--{field.name.replace('_', '-')}", action="store_true", help=field.metadata["help"])
            continue
        command.add_argument(
            f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help=field.metadata["help"],
            choices=field.metadata["choices"], nargs="+" if field.type.startswith("tuple") else None,
            metavar=None if field.metadata["choices"] else field.name.upper(),
        )  # fmt: skip


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
            if not _speaks():
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


def _say_how_to_go_on(options, arguments: Sequence[str]) -> None:
    """What there is to be said of a training that was stopped."""
    command = f"{'accelerate launch' if several_processes() else 'python'} -m mmdemo {shlex.join(arguments)}"
    saved = f"; step {asked.saved} is saved" if asked.saved else ""
    how = f"{saved}; go on: {command}{'' if options.resume else ' --resume'}"
    if not asked.saved and not options.resume:
        how = f" before anything was saved; start again: {command}"
    if _speaks():
        print(f"stopped{how}", file=sys.stderr, flush=True)


def _speaks() -> bool:
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
            f"python -m mmdemo train vqvae --pack {options.pack} --dataset NAME"
        )
    return pack


def _new_pack(options) -> Path:
    pack = _pack_folder(options)
    finished = pack.exists() and (
        not options.resume or packs.read(pack).can_sample or "decoder" in packs.read_training(pack)
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


def _number(text: str) -> int | float | str:
    """What the studio checks: a number if it is one, else the text itself, so that one sentence answers for all."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    sys.exit(main())
