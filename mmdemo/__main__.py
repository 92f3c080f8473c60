"""python -m mmdemo COMMAND: what may be asked for, and exit codes. What is done then is in commands.py.

Exit codes: 0 = done, 1 = one line `error: …` on stderr, 2 = usage, 130 = stopped with Ctrl-C, 143 = by SIGTERM.
"""

import argparse
import inspect
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import partial

from mmdemo import __version__, commands
from mmdemo.arguments import ARGUMENTS, EVALUATED, FOLDER, STORED
from mmdemo.errors import MmdemoError
from mmdemo.kinds import Argument, Factor, Flag, Interval, Number, Picture, Side, Whole
from mmdemo.studio import VERBS
from mmdemo.training.stopping import Stopped, asked, heeded, several_processes

DATA_DIR = (
    "where the data set is: its folder, if it moved; "
    "of mnist, fashion-mnist and cifar10 what torchvision left, and if not given they are downloaded"
)


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
    offered = root.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, does: str, run, under=offered) -> argparse.ArgumentParser:
        added = under.add_parser(name, help=does, description=does, formatter_class=Help)
        added.set_defaults(command=run)
        added.add_argument("--weights", default=commands.PLACES["weights"], metavar="DIR", help="the folder of packs")
        return added

    listing = command("packs", "List the packs.", commands.list_packs)
    listing.add_argument("--json", action="store_true", help="print JSON alone")

    get = command("pull", "Fetch a pack from the Hugging Face Hub, and check it.", commands.pull)
    get.add_argument("repo", metavar="REPO", help="owner/name, or owner/name@revision: a branch, a tag or a commit")
    get.add_argument("--name", metavar="NAME", help="what to call the pack here; the repository's name if not given")

    give = command("push", "Upload a pack and its card to the Hugging Face Hub.", commands.push)
    give.add_argument("pack", metavar="NAME", help=ARGUMENTS["pack"].help)
    give.add_argument("repo", metavar="REPO", help="owner/name; it is made if it is not there")
    give.add_argument("--private", action="store_true", help="make it a repository that only you can see")

    rent = command("space", "Write, and upload, a Space that runs this app on some packs.", commands.space)
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

    train = offered.add_parser("train", help="Train a pack's models.").add_subparsers(metavar="MODEL", required=True)
    _add_training(
        command("vqvae", "Train a codec; the result is a codec-only pack.", commands.train_vqvae, train), "vqvae"
    )
    _add_training(command("dit", "Train a transformer on a pack's codec.", commands.train_dit, train), "dit")
    sharper = command(
        "decoder", "Train a pack's decoder further, to paint its tokens sharper.", commands.train_decoder, train
    )
    _add_training(sharper, "decoder")
    quick = command(
        "student",
        "Train a transformer that draws in a few steps what a pack's draws in many.",
        commands.train_student,
        train,
    )
    _add_training(quick, "student")

    rebuild = command("reconstruct", _does("reconstruct"), commands.reconstruct)
    rebuild.add_argument("images", nargs="+", metavar="IMAGE", help=ARGUMENTS["image"].help)
    _offer(rebuild, "reconstruct", without=("image",))
    rebuild.add_argument("--out", required=True, metavar="DIR", help="where to write")

    tell = command("describe", _does("describe"), commands.describe)
    tell.add_argument("images", nargs="+", metavar="IMAGE", help=ARGUMENTS["image"].help)
    _offer(tell, "describe", without=("image",))
    tell.add_argument("--json", action="store_true", help="print JSON alone: of several images, a list")

    name = command("classify", _does("classify"), commands.classify)
    name.add_argument("images", nargs="+", metavar="IMAGE", help=ARGUMENTS["image"].help)
    _offer(name, "classify", without=("image",))
    name.add_argument("--json", action="store_true", help="print a JSON list alone: a record an image")

    draw = command("sample", _does("sample"), commands.sample)
    _offer(draw, "sample")
    draw.add_argument("--out", required=True, metavar="OUT", help="FILE.png for one grid, or a folder for one PNG each")

    change = command("edit", _does("edit"), commands.edit)
    _offer(change, "edit")
    change.add_argument("--out", required=True, metavar="FILE.png", help="where to write")

    mend = command("restore", _does("restore"), commands.restore)
    _offer(mend, "restore")
    mend.add_argument("--out", required=True, metavar="FILE.png", help="where to write; several stand in a row")

    make = command(
        "synthesize", "Write a folder of new labelled pictures to train on; again, it goes on.", commands.synthesize
    )
    _offer(make, "synthesize", count=FOLDER)
    make.set_defaults(resume=True)  # always, and unasked
    make.add_argument("--out", required=True, metavar="DIR", help="a new folder, or one to go on with")

    judge = command("evaluate", "Measure a pack on its test split and write its card.", commands.evaluate)
    _option(judge, "pack", ARGUMENTS["pack"], required=True)
    judge.set_defaults(resume=True)  # likewise
    judge.add_argument("--data-dir", metavar="DIR", help=DATA_DIR)
    judge.add_argument(
        "--runs",
        default=commands.PLACES["runs"],
        metavar="DIR",
        help="where what judges pictures is kept, and what a stopped evaluation made",
    )
    _option(judge, "samples", EVALUATED["samples"])
    _option(judge, "described", EVALUATED["described"])
    judge.add_argument("--segments", metavar="DIR", help="pictures with masks of what captions name, to be found")
    for name in STORED:
        _option(judge, name, ARGUMENTS[name])
    instead = judge.add_mutually_exclusive_group()
    _option(instead, "classify", EVALUATED["classify"], nargs="?", const=1000)
    _option(instead, "restore", EVALUATED["restore"], nargs="?", const=500)
    teaches = "instead, measure what drawn pictures teach a classifier, and add that likewise"
    instead.add_argument("--synthetic", action="store_true", help=teaches)
    few = "instead, measure what the pack's student draws in few steps, and add that likewise"
    instead.add_argument("--student", action="store_true", help=few)
    _option(judge, "count", EVALUATED["count"])
    judge.add_argument("--defaults", action="store_true", help="make the settings of this evaluation the pack's own")
    out = "with --defaults: also where its student has learned another guidance, which is taken out of the pack"
    judge.add_argument("--overwrite", action="store_true", help=out)
    judge.add_argument("--json", action="store_true", help="print JSON alone")

    compare = command(
        "bench", "Measure how fast it is, each time beside that of a peer in the same run.", commands.bench
    )
    compare.add_argument("--pack", default="mnist", metavar="NAME", help="a pack that draws classes")
    compare.add_argument("--json", action="store_true", help="print JSON alone")
    return root


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names the defaults that there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.default is not None and action.default is not False  # 0 is one
        return super()._get_help_string(action) if told else action.help


def _does(verb: str) -> str:
    return VERBS[verb].__doc__.split("\n")[0]


def _offer(command: argparse.ArgumentParser, verb: str, without: Sequence[str] = (), **arguments: Argument) -> None:
    """An option for every argument of a verb; a picture stands without a name.  arguments: what differs."""
    declared = VERBS[verb].arguments | arguments
    for parameter in inspect.signature(VERBS[verb]).parameters.values():
        if parameter.name not in without:
            given = {"required": True} if parameter.default is parameter.empty else {"default": parameter.default}
            _option(command, parameter.name, declared[parameter.name], **given)


def _option(command: argparse.ArgumentParser, name: str, argument: Argument, **given) -> None:
    if isinstance(argument, Picture) and "default" not in given:
        command.add_argument(name, metavar=argument.metavar, help=argument.explained())
        return
    if isinstance(argument, Flag):
        command.add_argument(f"--{name}", action="store_true", help=argument.help)
        return
    more = {"nargs": argument.nargs, "metavar": argument.metavar}
    if isinstance(argument, (Whole, Number, Interval, Side, Factor)):
        more["type"] = _number
    flags = [f"--{name.replace('_', '-')}"] + ["--prompt"] * (name == "label")
    command.add_argument(*flags, help=argument.explained(), **more | given)


def _add_training(command: argparse.ArgumentParser, model: str) -> None:
    """The options all trainings have, and one for every field of the model's configuration."""
    from mmdemo.training import config

    settings = {"vqvae": config.VQVAEConfig, "dit": config.DiTConfig, "decoder": config.DecoderConfig,
                "student": config.StudentConfig}[model]  # fmt: skip
    command.add_argument("--pack", required=True, metavar="NAME", help="the pack to write")
    if model in ("vqvae", "dit"):  # the others go on from what there is
        overwriting = "replace what was trained before under that name"
        command.add_argument("--overwrite", action="store_true", help=overwriting)
    command.add_argument("--data-dir", metavar="DIR", help=DATA_DIR)
    passed_over = "refuse a folder with a picture that cannot be read; if not given, up to 1 %% are passed over"
    command.add_argument("--strict", action="store_true", help=passed_over)
    command.add_argument("--runs", default=commands.PLACES["runs"], metavar="DIR", help="where checkpoints are kept")
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint, with the same options")
    compiling = "have torch.compile make the step faster, after a minute; if not given, on a GPU"
    command.add_argument("--compile", action=argparse.BooleanOptionalAction, help=compiling)
    for field in fields(settings):
        flag = f"--{field.name.replace('_', '-')}"
        if field.type == "bool":
            command.add_argument(flag, action="store_true", help=field.metadata["help"])
            continue
        choices = field.metadata["choices"]
        command.add_argument(
            flag, type=str if field.type.startswith("str") else _number, default=field.default,
            help=field.metadata["help"], nargs="+" if field.type.startswith("tuple") else None,
            metavar=f"{{{','.join(choices)}}}" if choices else field.name.upper(),
        )  # fmt: skip


def _say_how_to_go_on(options, arguments: Sequence[str]) -> None:
    """What there is to be said of what was stopped and can go on."""
    command = f"{'accelerate launch' if several_processes() else 'python'} -m mmdemo {shlex.join(arguments)}"
    saved = f"; {asked.unit} {asked.saved} is saved" if asked.saved else ""
    how = f"{saved}; go on: {command}{'' if options.resume else ' --resume'}"
    if not asked.saved and not options.resume:
        how = f" before anything was saved; start again: {command}"
    if commands.speaks():
        print(f"stopped{how}", file=sys.stderr, flush=True)


def _number(text: str) -> int | float | str:
    """What is checked elsewhere: a number if it is one, else the text itself, so that one sentence answers for all."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    sys.exit(main())
