"""The app: read the flags, serve the page, then load the models behind it. Knows no model; gradio comes in late."""

import argparse
import gc
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmdemo.errors import ArgumentError, MmdemoError
from mmdemo.heaps import share_heaps
from mmdemo.shelf import DEVICES
from mmdemo.studio import Studio

SHIPPED = Path(__file__).parent / "weights"
PATIENCE = 20.0  # seconds that running requests have to end
STARTING = 60.0  # seconds in which an app listens


def main() -> int:
    share_heaps()
    gc.disable()  # while modules are imported there is no garbage, and to look for it takes a tenth of that time
    args = read_flags()
    # A signal ends whatever the main thread is doing, also while gradio is being imported.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        if args.allow_pull and "SPACE_ID" in os.environ:
            raise ArgumentError("--allow-pull is not for a Space, where strangers would choose what it downloads")
        models = {"device": args.device} if "SPACES_ZERO_GPU" not in os.environ else on_zero_gpu()
        studio = Studio([SHIPPED, *args.weights], hub=args.hub, memory=args.memory, **models)
        claim(args.host, args.port)
        with temporary_folder(f"mmdemo-{args.host}-{args.port}".replace(":", "_")) as folder:
            serve(studio, args.host, args.port, args.allow_pull, folder)
    except (MmdemoError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SystemExit:
        sys.stdout.flush()
        os._exit(0)  # the loading thread may be deep in an import, which the interpreter would wait for
    return 0


def on_zero_gpu() -> dict:
    """Such a Space is lent a GPU while a function runs that asked for one: what draws asks, all else needs none."""
    import spaces  # before torch, which it changes; Spaces install it

    return {"device": "cpu", "lend": spaces.GPU}


def read_flags() -> argparse.Namespace:
    # Containers and Spaces are reached from outside: there, and only there, the page is open to the network.
    host = os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1")
    parser = argparse.ArgumentParser(prog="app.py", description="Serve the mmdemo page and its endpoints.")
    parser.add_argument("--host", default=host, help="address to listen on (default: %(default)s)")
    at = os.environ.get("GRADIO_SERVER_PORT", "7860")
    parser.add_argument("--port", type=port, default=at, help="port to listen on (default: %(default)s)")
    parser.add_argument("--weights", metavar="DIR", type=folder, action="append", default=[], help="more packs")
    parser.add_argument("--hub", metavar="OWNER/NAME[@REV]", action="append", default=[], help="a pack on the Hub")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where the models run (default: %(default)s)")
    pull = "let whoever sees the page have any repository fetched, by its name; never on a Space"
    parser.add_argument("--allow-pull", action="store_true", help=pull)
    most = "what loaded models may take (default: %(default)s)"
    parser.add_argument("--memory", metavar="GB", type=gigabytes, default=2.0, help=most)
    return parser.parse_args()


def port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; it must be a whole number from 1 to 65535")
    return int(text)


def folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    return Path(text)


def gigabytes(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if not 0 < amount < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory; it must be a positive number of GB")
    return amount


def claim(host: str, port: int) -> None:
    """Fails at once, with a sentence, where gradio would fail after seconds and without the reason."""
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such host"
        raise OSError(f"cannot listen on {host}:{port} ({reason}); choose another --host or --port") from None


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """Where all that is temporary lies from now on; gone in the end, and at the next start if this one was killed."""
    base = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    try:
        folder = base / name
        if folder.exists() and time.time() - folder.stat().st_mtime > STARTING:
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700, parents=True)
    except OSError:  # it is somebody else's, or of one that is starting beside this one
        folder = Path(tempfile.mkdtemp(prefix="mmdemo-"))
    tempfile.tempdir = os.environ["TMPDIR"] = os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def serve(studio: Studio, host: str, port: int, allow_pull: bool, folder: Path) -> None:
    """Blocks until a signal ends the program: what is new is refused from then on, what runs ends in PATIENCE seconds.

    folder: where gradio puts answers and uploads.
    """
    from mmdemo.ui import build_demo, launch_options
    from mmdemo.ui.sweep import sweeping

    if "SPACE_ID" in os.environ:  # all comes through the Hub's proxy, which says for whom
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "*")
    # While starting, gradio asks its own server something: that must not go out through a proxy.
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = ",".join(filter(None, [direct, "localhost", "127.0.0.1", host]))
    demo = build_demo(studio, allow_pull)
    for repo in studio.hub:  # before anybody sees the page, which asks how far they are
        studio.fetch(repo)
    first = threading.Thread(target=load_first, args=[studio], daemon=True)
    loaded = lambda: first.ident and not first.is_alive()  # noqa: E731
    options = launch_options(demo, sweeping(demo, folder), lambda: "ready" if loaded() else "loading")
    demo.launch(server_name=host, server_port=port, prevent_thread_lock=True, **options)
    print(f"mmdemo is at http://{host}:{port}", flush=True)
    gc.enable()
    gc.freeze()  # nor later among what is there now
    first.start()  # not before: it would hold up the page
    try:
        while True:
            time.sleep(60)
    finally:
        demo.line.close_to_new(PATIENCE)
        demo.close(verbose=False)


def load_first(studio: Studio) -> None:
    """The models of the pack that the page opens with, so that the first click need not wait for them."""
    from mmdemo.ui.chooser import opens_on

    try:
        if name := opens_on(studio.packs()):
            studio.load(name)
    except MmdemoError as error:
        print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
