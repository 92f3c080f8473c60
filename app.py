"""The app: read the flags, serve the page, then load the models behind it. Knows no model; gradio comes in late."""

import argparse
import math
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from mmdemo.errors import ArgumentError, MmdemoError
from mmdemo.studio import DEVICES, Studio

SHIPPED = Path(__file__).parent / "weights"


def main() -> int:
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
    except (MmdemoError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    serve(studio, args.host, args.port, args.allow_pull)
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


def serve(studio: Studio, host: str, port: int, allow_pull: bool) -> None:
    """Blocks until a signal ends the program."""
    from mmdemo.ui import build_demo, launch_options

    # While starting, gradio asks its own server something: that must not go out through a proxy.
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = ",".join(filter(None, [direct, "localhost", "127.0.0.1", host]))
    demo = build_demo(studio, allow_pull)
    for repo in studio.hub:  # before anybody sees the page, which asks how far they are
        studio.fetch(repo)
    demo.launch(server_name=host, server_port=port, prevent_thread_lock=True, **launch_options())
    print(f"mmdemo is at http://{host}:{port}", flush=True)
    threading.Thread(target=load_first, args=[studio], daemon=True).start()
    try:
        while True:
            time.sleep(60)
    finally:
        demo.close(verbose=False)
        sys.stdout.flush()
        os._exit(0)  # the loading thread may be deep in an import, which the interpreter would wait for


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
