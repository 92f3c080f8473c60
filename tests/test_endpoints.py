"""The endpoints, asked by gradio_client of the app as a person starts it, held against Studio in Python."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageDraw

from mmdemo.studio import BUDGET, MAX_COUNT, MAX_STEPS, Studio

ROOT = Path(__file__).parent.parent
DRAWN = ("seed", "steps", "guidance", "sampler")


def start_app(*flags: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "app.py"), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(tiny_weights: Path) -> Iterator[str]:
    app = start_app("--port", free_port(), "--weights", str(tiny_weights), "--device", "cpu", "--memory", "0.5")
    told = app.stdout.readline()
    assert "http://" in told, app.stderr.read()
    yield told.split()[-1]
    app.send_signal(signal.SIGTERM)
    assert app.wait(timeout=10) == 0, app.stderr.read()


@pytest.fixture(scope="module")
def client(address: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(address, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture(scope="module")
def studio(tiny_weights: Path) -> Studio:
    return Studio([tiny_weights], device="cpu")


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dark triangle on light paper, larger than any model's picture and not square."""
    image = Image.new("RGB", (60, 48), "white")
    ImageDraw.Draw(image).polygon([(30, 8), (48, 40), (12, 40)], fill="black")
    path = tmp_path_factory.mktemp("drawings") / "triangle.png"
    image.save(path)
    return path


def pixels(picture: str | Path | dict | Image.Image) -> np.ndarray:
    if isinstance(picture, dict):
        picture = picture["image"]
    return np.asarray(picture if isinstance(picture, Image.Image) else Image.open(picture))


def test_a_client_sees_the_endpoints_and_nothing_else(client: Client):
    endpoints = client.view_api(return_format="dict", print_info=False)
    names = {
        name: [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        for name, endpoint in endpoints["named_endpoints"].items()
    }
    assert names == {
        "/packs": [],
        "/codebook": ["pack"],
        "/code": ["pack", "code"],
        "/reconstruct": ["pack", "image", "invert", "size"],
        "/decode": ["pack", "tokens"],
        "/replace": ["pack", "tokens", "code", "by"],
        "/code_map": ["pack"],
        "/interpolate": ["pack", "image", "other", "count", "invert", "size"],
        "/sample": ["pack", "label", "count", *DRAWN, "interval"],
        "/denoise": ["pack", "label", *DRAWN, "interval"],
        "/noise": ["pack", "image", "seed", "steps", "sampler", "invert"],
        "/edit": ["pack", "image", "label", "strength", *DRAWN, "invert", "interval"],
        "/compare": ["pack", "x", "xs", "y", "ys", "label", *DRAWN, "interval"],
        "/morph": ["pack", "label", "other_label", "seed", "other_seed", "count", *DRAWN[1:], "interval"],
    }
    assert endpoints["unnamed_endpoints"] == {}


def test_packs_lists_what_each_can_do_and_why_one_cannot_be_used(client: Client):
    listed = {pack["name"]: pack for pack in client.predict(api_name="/packs")}
    assert {"name", "classes", "codes", "image_size", "can_sample", "samplers"} <= set(listed["tiny"])
    assert listed["tiny"]["classes"] == ["circle", "square", "triangle"]
    assert listed["tiny"]["codes"] == 16 and listed["tiny"]["image_size"] == 16
    assert listed["tiny"]["can_sample"] and len(listed["tiny"]["samplers"]) >= 2
    assert not listed["tiny-codec"]["can_sample"] and listed["tiny-codec"]["samplers"] == []
    assert "vae" in listed["broken"]["problem"]


def test_codebook_and_code_are_those_of_the_studio(client: Client, studio: Studio):
    sheet, numbers = client.predict("tiny", api_name="/codebook")
    assert np.array_equal(pixels(sheet), pixels(studio.codebook("tiny").sheet))
    assert set(numbers) == {"codes", "used", "perplexity", "dim"} and numbers["codes"] == 16
    card, numbers = client.predict("tiny", 3, api_name="/code")
    assert np.array_equal(pixels(card), pixels(studio.code("tiny", 3).card))
    assert set(numbers) == {"code", "share", "nearest"} and numbers["code"] == 3
    assert 3 not in [near["code"] for near in numbers["nearest"]]


def test_reconstruct_gives_native_pngs_that_decode_gives_again(client: Client, studio: Studio, drawing: Path):
    image, token_map, numbers = client.predict("tiny", handle_file(drawing), api_name="/reconstruct")
    here = studio.reconstruct("tiny", drawing)
    assert Image.open(image).format == "PNG" and Image.open(image).size == (16, 16)
    assert np.array_equal(pixels(image), pixels(here.image)) and numbers["tokens"] == here.tokens
    assert np.array_equal(pixels(token_map), pixels(here.token_map))
    assert {"tokens", "psnr", "ssim", "bits_per_pixel"} <= set(numbers)
    assert np.array_equal(pixels(client.predict("tiny", numbers["tokens"], api_name="/decode")), pixels(image))


def test_invert_changes_what_the_model_sees(client: Client, drawing: Path):
    auto, kept = (
        client.predict("tiny", handle_file(drawing), invert, api_name="/reconstruct")[2] for invert in ("auto", "no")
    )
    assert auto["inverted"] and not kept["inverted"] and auto["tokens"] != kept["tokens"]


def test_size_is_the_side_of_what_the_codec_sees(client: Client, studio: Studio, drawing: Path):
    arguments = {"pack": "tiny", "image": handle_file(drawing), "api_name": "/reconstruct"}
    image, token_map, numbers = client.predict(**arguments, size=32)
    assert Image.open(image).size == Image.open(token_map).size == (32, 32)
    assert np.array_equal(pixels(image), pixels(studio.reconstruct("tiny", drawing, size=32).image))
    assert len(numbers["tokens"]) == 8
    assert client.predict(**arguments, size=None)[2] == client.predict(**arguments)[2]


def test_sample_gives_the_pixels_that_python_gives(client: Client, studio: Studio):
    images, told = client.predict("tiny", "all", 4, 11, 5, 1.5, api_name="/sample")
    here = studio.sample("tiny", "all", 4, 11, 5, 1.5)
    assert len(images) == 4
    assert all(np.array_equal(pixels(image), pixels(ours)) for image, ours in zip(images, here.images, strict=True))
    assert told["seed"] == 11 and told["steps"] == 5 and told["sampler"] == here.sampler and told["seconds"] > 0


def test_sample_reports_the_seed_that_it_drew(client: Client, studio: Studio):
    images, told = client.predict("tiny", "square", api_name="/sample")
    again, _ = client.predict("tiny", "square", 1, told["seed"], api_name="/sample")
    assert np.array_equal(pixels(images[0]), pixels(again[0]))


def test_denoise_streams_every_step_and_ends_with_the_sample(client: Client):
    job = client.submit("tiny", "circle", 7, 4, api_name="/denoise")
    job.result(timeout=60)
    steps = job.outputs()
    assert [told["index"] for _, told in steps] == [0, 1, 2, 3]
    ((sample,), _) = client.predict("tiny", "circle", 1, 7, 4, api_name="/sample")
    assert np.array_equal(pixels(steps[-1][0]), pixels(sample))


def test_four_requests_at_once_do_not_mix(client: Client, studio: Studio):
    request = {"pack": "tiny-v", "label": "triangle", "count": 1, "steps": 6, "guidance": 2, "sampler": "ddpm"}

    def ask(seed: int) -> np.ndarray:
        ((image,), _) = client.predict(**request, seed=seed, api_name="/sample")
        return pixels(image)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, [1, 2, 3, 1]))
    alone = [pixels(studio.sample(**request, seed=seed).images[0]) for seed in (1, 2, 3, 1)]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    assert not np.array_equal(together[0], together[1])


BAD_ARGUMENTS = [
    ("/codebook", {"pack": "nowhere"}, "pack", "tiny"),
    ("/codebook", {"pack": True}, "pack", "tiny"),
    ("/codebook", {"pack": ["tiny"]}, "pack", "tiny"),
    ("/codebook", {"pack": "broken"}, "broken", "vae"),
    ("/code", {"pack": "tiny", "code": 16}, "code", "15"),
    ("/code", {"pack": "tiny", "code": -1}, "code", "15"),
    ("/code", {"pack": "tiny", "code": True}, "code", "15"),
    ("/code", {"pack": "tiny", "code": 1.5}, "code", "15"),
    ("/code", {"pack": "tiny", "code": "x"}, "code", "15"),
    ("/code", {"pack": "tiny", "code": None}, "code", "15"),
    ("/decode", {"pack": "tiny", "tokens": [[1, 2], [3]]}, "tokens", "rows"),
    ("/decode", {"pack": "tiny", "tokens": [[16]]}, "tokens", "15"),
    ("/decode", {"pack": "tiny", "tokens": "<b>no</b>"}, "tokens", "<b>no</b>"),
    ("/decode", {"pack": "tiny", "tokens": [[0] * 200] * 200}, "tokens", "64"),
    ("/sample", {"pack": "tiny", "label": "hexagon"}, "label", "circle"),
    ("/sample", {"pack": "tiny", "label": 3}, "label", "circle"),
    ("/sample", {"pack": "tiny", "label": "all", "count": MAX_COUNT + 1}, "count", str(MAX_COUNT)),
    ("/sample", {"pack": "tiny", "label": "all", "count": True}, "count", str(MAX_COUNT)),
    ("/sample", {"pack": "tiny", "label": "all", "count": MAX_COUNT, "steps": MAX_STEPS}, "steps × count", str(BUDGET)),
    ("/sample", {"pack": "tiny", "label": "all", "seed": -1}, "seed", "2147483647"),
    ("/sample", {"pack": "tiny", "label": "all", "seed": "x"}, "seed", "2147483647"),
    ("/sample", {"pack": "tiny", "label": "all", "guidance": 1e9}, "guidance", "20"),
    ("/sample", {"pack": "tiny", "label": "all", "sampler": "magic"}, "sampler", "euler"),
    ("/sample", {"pack": "tiny-codec", "label": "all"}, "tiny-codec", "train dit"),
    ("/denoise", {"pack": "tiny", "label": "circle", "steps": 0}, "steps", str(MAX_STEPS)),
    ("/denoise", {"pack": "tiny", "label": "circle", "steps": 2.5}, "steps", str(MAX_STEPS)),
    ("/reconstruct", {"pack": "tiny", "image": "/etc/hostname"}, "image", "handle_file"),
    ("/reconstruct", {"pack": "tiny", "image": {"path": "/etc/hostname"}}, "image", "handle_file"),
    ("/reconstruct", {"pack": "tiny", "image": None}, "image", "handle_file"),
]


@pytest.mark.parametrize(("endpoint", "arguments", "named", "allowed"), BAD_ARGUMENTS)
def test_a_bad_argument_gets_one_sentence_that_names_it(client: Client, endpoint, arguments, named, allowed):
    with pytest.raises(AppError) as refusal:
        client.predict(**arguments, api_name=endpoint)
    assert_one_sentence(str(refusal.value), named, allowed)


def raw(address: str, endpoint: str, data: list) -> str:
    """What a program without gradio_client is answered."""
    asked = httpx.post(f"{address}/gradio_api/call{endpoint}", json={"data": data})
    return httpx.get(f"{address}/gradio_api/call{endpoint}/{asked.json()['event_id']}", timeout=30).text


def test_a_raw_request_may_leave_out_its_last_arguments(address: str):
    assert "event: complete" in raw(address, "/sample", ["tiny", "circle", 1, 0, 4, 2.0, "euler"])
    assert "event: complete" in raw(address, "/sample", ["tiny", "circle"])
    assert "label is None" in raw(address, "/sample", ["tiny"])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_that_json_does_not_have_are_refused_too(address: str, number: str):
    body = f'{{"data": ["tiny", "circle", 1, 0, 4, {number}, null]}}'
    asked = httpx.post(f"{address}/gradio_api/call/sample", content=body, headers={"Content-Type": "application/json"})
    answer = httpx.get(f"{address}/gradio_api/call/sample/{asked.json()['event_id']}", timeout=30).text
    assert "event: error" in answer and "guidance is" in answer and "20" in answer


def test_bad_pictures_are_refused_by_name(client: Client, drawing: Path, tmp_path: Path):
    words = tmp_path / "words.png"
    words.write_text("This is no picture.")
    cut = tmp_path / "cut.png"
    cut.write_bytes(drawing.read_bytes()[:100])
    vast = tmp_path / "vast.png"
    Image.new("1", (5000, 4000)).save(vast)
    for path, allowed in ((words, ""), (cut, ""), (vast, "16")):
        with pytest.raises(AppError) as refusal:
            client.predict("tiny", handle_file(path), api_name="/reconstruct")
        assert_one_sentence(str(refusal.value), "image", allowed)
    with pytest.raises(AppError) as refusal:  # the app asks nothing of other machines, nor of its own
        client.predict("tiny", handle_file("http://127.0.0.1:9/picture.png"), api_name="/reconstruct")
    assert_one_sentence(str(refusal.value), "picture", "upload")


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("invert", "maybe", "auto"),
        ("size", 30, "stride, 4"),
        ("size", 4, "8 to 256"),
        ("size", 260, "8 to 256"),
        ("size", 32.5, "8 to 256"),
        ("size", "32", "8 to 256"),
        ("size", True, "8 to 256"),
    ],
)
def test_what_a_picture_cannot_be_put_through_is_refused(client: Client, drawing: Path, argument, value, allowed):
    with pytest.raises(AppError) as refusal:
        client.predict("tiny", handle_file(drawing), api_name="/reconstruct", **{argument: value})
    assert_one_sentence(str(refusal.value), argument, allowed)


def test_a_huge_request_is_refused_before_it_is_read(address: str):
    answer = httpx.post(f"{address}/gradio_api/call/decode", content=b" " * 9_000_000)
    assert answer.status_code == 413 and "bytes" in answer.text


def test_the_run_route_cannot_skip_the_queue(address: str):
    assert httpx.post(f"{address}/gradio_api/run/packs", json={"data": []}).status_code in (401, 403, 404)


def assert_one_sentence(text: str, named: str, allowed: str) -> None:
    assert named in text and allowed in text, text
    assert len(text) < 300 and not re.search(r"Traceback|Error:|\n", text), text


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *[("--port", "0"), ("--port", "many"), ("--device", "abacus"), ("--weights", "/no/such")],
        *[("--memory", value) for value in ("0", "-1", "nan", "inf", "much")],
    ],
)
def test_a_bad_flag_exits_2_and_is_named(flag: str, value: str):
    app = start_app(flag, value)
    _, complaint = app.communicate(timeout=30)
    assert app.returncode == 2 and flag in complaint and value in complaint and "Traceback" not in complaint


def test_a_taken_port_exits_1_with_one_line(address: str):
    app = start_app("--port", address.rpartition(":")[2])
    _, complaint = app.communicate(timeout=30)
    assert app.returncode == 1
    assert re.fullmatch(r"error: cannot listen on [^\n]*--port\n", complaint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_app_at_once_even_while_models_load(tiny_weights: Path, number: signal.Signals):
    app = start_app("--port", free_port(), "--weights", str(tiny_weights))
    assert "http://" in app.stdout.readline()
    app.send_signal(number)
    _, complaint = app.communicate(timeout=5)
    assert app.returncode == 0 and "Traceback" not in complaint
