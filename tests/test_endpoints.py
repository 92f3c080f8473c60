"""The endpoints, asked by gradio_client of the app as a person starts it, held against Studio in Python."""

import inspect
import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import array, same
from gradio_client import Client, handle_file
from PIL import Image
from running import ROOT, free_port, is_one_sentence, start_app

from mmdemo.errors import MmdemoError
from mmdemo.kinds import Picture
from mmdemo.studio import VERBS, Studio

API = "/gradio_api"

DRAWN = ("seed", "steps", "guidance", "sampler")


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
        "/describe": ["pack", "image", "invert"],
        "/classify": ["pack", "image", "invert"],
        "/sample": ["pack", "label", "count", *DRAWN, "interval", "negative"],
        "/denoise": ["pack", "label", *DRAWN, "interval", "negative"],
        "/noise": ["pack", "image", "seed", "steps", "sampler", "invert"],
        "/edit": ["pack", "image", "label", "strength", *DRAWN, "invert", "interval", "negative"],
        "/restore": [
            *("pack", "image", "task", "mask", "label", "factor", "noise", *DRAWN, "invert"),
            *("count", "interval", "negative"),
        ],
        "/compare": ["pack", "x", "xs", "y", "ys", "label", *DRAWN, "interval", "negative"],
        "/synthesize": ["pack", "count", "label", "augment", *DRAWN, "interval", "negative"],
        "/morph": ["pack", "label", "other_label", "seed", "other_seed", "count", *DRAWN[1:], "interval", "negative"],
        "/blend": ["pack", "labels", "x", "y", "seeds", "seed", *DRAWN[1:], "interval", "negative"],
    }
    assert endpoints["unnamed_endpoints"] == {}


def test_every_verb_is_an_endpoint_with_the_verbs_arguments_order_and_defaults(client: Client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == ["/packs", *(f"/{name}" for name in VERBS)]
    for name, verb in VERBS.items():
        offered = {one["parameter_name"]: one for one in endpoints[f"/{name}"]["parameters"]}
        assert list(offered) == list(verb.arguments)
        for parameter in inspect.signature(verb).parameters.values():
            default = None if parameter.default is parameter.empty else parameter.default
            assert offered[parameter.name]["parameter_default"] == default, parameter.name


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
    assert same(sheet, studio.codebook("tiny").sheet)
    assert set(numbers) == {"codes", "used", "perplexity", "dim"} and numbers["codes"] == 16
    card, numbers = client.predict("tiny", 3, api_name="/code")
    assert same(card, studio.code("tiny", 3).card)
    assert set(numbers) == {"code", "share", "nearest"} and numbers["code"] == 3
    assert 3 not in [near["code"] for near in numbers["nearest"]]


def test_reconstruct_gives_native_pngs_that_decode_gives_again(client: Client, studio: Studio, drawing: Path):
    image, token_map, numbers = client.predict("tiny", handle_file(drawing), api_name="/reconstruct")
    here = studio.reconstruct("tiny", drawing)
    assert Image.open(image).format == "PNG" and Image.open(image).size == (16, 16)
    assert same(image, here.image) and numbers["tokens"] == here.tokens
    assert same(token_map, here.token_map)
    assert {"tokens", "psnr", "ssim", "bits_per_pixel"} <= set(numbers)
    assert same(client.predict("tiny", numbers["tokens"], api_name="/decode"), image)


def test_invert_changes_what_the_model_sees(client: Client, drawing: Path):
    auto, kept = (
        client.predict("tiny", handle_file(drawing), invert, api_name="/reconstruct")[2] for invert in ("auto", "no")
    )
    assert auto["inverted"] and not kept["inverted"] and auto["tokens"] != kept["tokens"]


def test_size_is_the_side_of_what_the_codec_sees(client: Client, studio: Studio, drawing: Path):
    arguments = {"pack": "tiny", "image": handle_file(drawing), "api_name": "/reconstruct"}
    image, token_map, numbers = client.predict(**arguments, size=32)
    assert Image.open(image).size == Image.open(token_map).size == (32, 32)
    assert same(image, studio.reconstruct("tiny", drawing, size=32).image)
    assert len(numbers["tokens"]) == 8
    assert client.predict(**arguments, size=None)[2] == client.predict(**arguments)[2]


def test_sample_gives_the_pixels_that_python_gives(client: Client, studio: Studio):
    images, told = client.predict("tiny", "all", 4, 11, 5, 1.5, api_name="/sample")
    here = studio.sample("tiny", "all", 4, 11, 5, 1.5).result()
    assert len(images) == 4 and same(images, here.images)
    assert told["seconds"] > 0 and told | {"seconds": 0} == json.loads(json.dumps(here.json() | {"seconds": 0}))


def test_synthesize_gives_a_zip_of_what_python_gives(client: Client, studio: Studio):
    file, told = client.predict("tiny", 4, ["circle", "square"], True, 11, 3, api_name="/synthesize")
    here = studio.synthesize("tiny", 4, ["circle", "square"], True, 11, 3).result()
    assert Path(file).name == "tiny-11.zip" and Path(file).read_bytes() == here.zip_bytes()
    assert told | {"seconds": 0} == json.loads(json.dumps(here.json() | {"seconds": 0}))


def test_sample_reports_the_seed_that_it_drew(client: Client, studio: Studio):
    images, told = client.predict("tiny", "square", api_name="/sample")
    again, _ = client.predict("tiny", "square", 1, told["seed"], api_name="/sample")
    assert same(images[0], again[0])


def test_denoise_streams_every_step_and_ends_with_the_sample(client: Client):
    job = client.submit("tiny", "circle", 7, 4, api_name="/denoise")
    job.result(timeout=60)
    steps = job.outputs()
    assert [told["index"] for _, told in steps] == [0, 1, 2, 3]
    ((sample,), _) = client.predict("tiny", "circle", 1, 7, 4, api_name="/sample")
    assert same(steps[-1][0], sample)


def test_four_requests_at_once_do_not_mix(client: Client, studio: Studio):
    request = {"pack": "tiny-v", "label": "triangle", "count": 1, "steps": 6, "guidance": 2, "sampler": "ddpm"}

    def ask(seed: int) -> np.ndarray:
        ((image,), _) = client.predict(**request, seed=seed, api_name="/sample")
        return array(image)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, [1, 2, 3, 1]))
    alone = [array(studio.sample(**request, seed=seed).images[0]) for seed in (1, 2, 3, 1)]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    assert not np.array_equal(together[0], together[1])


GOOD = {
    "pack": "tiny", "code": 1, "by": 2, "tokens": [[1, 2]], "label": "circle", "steps": 2, "seed": 3, "other_seed": 1,
    "x": "steps", "xs": [1, 2], "y": "guidance", "ys": [1, 2], "count": 2, "task": "denoise",
}  # fmt: skip
PLACE = {"labels": ["circle"], "x": 0.5, "y": 0.5}  # of a blend, whose x and y are no axes
EVERY = [(verb, name) for verb, one in VERBS.items() for name in one.arguments]
PICTURES = [(verb, name) for verb, name in EVERY if isinstance(VERBS[verb].arguments[name], Picture)]


def given(verb: str, picture, **changed) -> dict:
    """Good arguments but for the changed ones."""
    every = GOOD | {"image": picture, "other": picture} | (PLACE if verb == "blend" else {})
    return {name: every[name] for name in VERBS[verb].arguments if name in every} | changed


def upload(app: str, file: Path) -> dict:
    """Uploads it.  Returns how it is spoken of then."""
    with file.open("rb") as opened:
        (path,) = httpx.post(f"{app}{API}/upload", files={"files": opened}).json()
    return as_file(path)


def as_file(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def uploaded(app: str, drawing: Path) -> dict:
    return upload(app, drawing)


def refusal(app: str, verb: str, picture: dict, **changed) -> str:
    event = httpx.post(f"{app}{API}/call/v2/{verb}", json=given(verb, picture, **changed)).json()["event_id"]
    name, told = httpx.get(f"{app}{API}/call/{verb}/{event}", timeout=60).text.strip().split("\n")
    assert name == "event: error"
    text = json.loads(told.removeprefix("data: "))["error"]
    assert is_one_sentence(text)
    return text


@pytest.fixture(scope="module")
def every_pack(tiny_weights: Path) -> Studio:
    """Of the packs that the app has: the shipped ones too."""
    return Studio([ROOT / "weights", tiny_weights])


@pytest.mark.parametrize(("verb", "name"), [one for one in EVERY if one not in PICTURES])
def test_a_bad_argument_gets_the_studios_own_sentence(app, every_pack, drawing: Path, uploaded: dict, verb, name):
    """It reaches the studio as it was sent: nothing on the way turns true into 1, or a number into a text."""
    refused = []
    for value in ({"<b>": 1}, True, 2.5):
        try:
            getattr(every_pack, verb)(**given(verb, drawing, **{name: value}))
        except MmdemoError as error:
            assert refusal(app, verb, uploaded, **{name: value}) == str(error)
            refused.append(value)
    assert len(refused) >= 2


@pytest.mark.parametrize(("verb", "name"), PICTURES)
def test_a_picture_that_was_not_uploaded_is_refused(app: str, uploaded: dict, verb, name):
    needed = inspect.signature(VERBS[verb]).parameters[name].default is not None
    for value in (*[None] * needed, 3, [], "/etc/hostname", {"path": "/etc/hostname"}):
        text = refusal(app, verb, uploaded, **{name: value})
        assert re.match(f"{name} is .*; it must be an uploaded image file; .*handle_file", text)


@pytest.mark.parametrize(
    ("verb", "changed", "words"),
    [
        ("sample", {"pack": "tiny-codec"}, "'tiny-codec' has no transformer, so it cannot sample; train one: "),
        ("codebook", {"pack": "broken"}, "pack 'broken' cannot be used: vae"),
        ("sample", {"count": 64, "steps": 250}, "steps × count is 250 × 64 = 16000; at most 6400"),
        ("compare", {"xs": ["x"]}, "steps is 'x'; it must be a whole number from 1 to 250"),
        ("decode", {"tokens": [[0] * 200] * 200}, "tokens is 200×200; at most 64×64"),
        ("reconstruct", {"size": 30}, "size is 30; it must be a multiple of the pack's stride, 4"),
    ],
)
def test_what_cannot_be_done_is_said_in_the_studios_words(app: str, uploaded: dict, verb, changed, words):
    assert refusal(app, verb, uploaded, **changed).startswith(words)


def raw(app: str, endpoint: str, data: list) -> str:
    """What a program without gradio_client is answered."""
    asked = httpx.post(f"{app}{API}/call{endpoint}", json={"data": data})
    return httpx.get(f"{app}{API}/call{endpoint}/{asked.json()['event_id']}", timeout=30).text


def test_a_raw_request_may_leave_out_its_last_arguments(app: str):
    assert "event: complete" in raw(app, "/sample", ["tiny", "circle", 1, 0, 4, 2.0, "euler"])
    assert "event: complete" in raw(app, "/sample", ["tiny", "circle"])
    assert "label is None" in raw(app, "/sample", ["tiny"])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_that_json_does_not_have_are_refused_too(app: str, number: str):
    body = f'{{"data": ["tiny", "circle", 1, 0, 4, {number}, null]}}'
    asked = httpx.post(f"{app}{API}/call/sample", content=body, headers={"Content-Type": "application/json"})
    answer = httpx.get(f"{app}{API}/call/sample/{asked.json()['event_id']}", timeout=30).text
    assert "event: error" in answer and "guidance is" in answer and "20" in answer


def test_bad_pictures_are_refused_by_name(app: str, drawing: Path, tmp_path: Path):
    (tmp_path / "words.png").write_text("This is no picture.")
    (tmp_path / "cut.png").write_bytes(drawing.read_bytes()[:100])
    Image.new("1", (5000, 4000)).save(tmp_path / "vast.png")
    for file, allowed in (("words.png", ""), ("cut.png", ""), ("vast.png", "16")):
        text = refusal(app, "reconstruct", upload(app, tmp_path / file))
        assert "image" in text and allowed in text
    # The app asks nothing of other machines, nor of its own.
    text = refusal(app, "reconstruct", as_file("http://127.0.0.1:9/picture.png"))
    assert "picture" in text and "upload" in text


def test_a_huge_request_is_refused_before_it_is_read(app: str):
    answer = httpx.post(f"{app}{API}/call/decode", content=b" " * 9_000_000)
    assert answer.status_code == 413 and "bytes" in answer.text


def test_the_run_route_cannot_skip_the_queue(app: str):
    assert httpx.post(f"{app}{API}/run/packs", json={"data": []}).status_code in (401, 403, 404)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *[("--port", "0"), ("--port", "many"), ("--device", "abacus"), ("--weights", "/no/such")],
        *[("--memory", value) for value in ("0", "-1", "nan", "inf", "much")],
    ],
)
def test_a_bad_flag_exits_2_and_is_named(flag: str, value: str):
    started = start_app(flag, value)
    _, complaint = started.communicate(timeout=30)
    assert started.returncode == 2 and flag in complaint and value in complaint and "Traceback" not in complaint


def test_on_a_space_no_visitor_may_have_a_repository_fetched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPACE_ID", "some/space")
    started = start_app("--allow-pull", "--port", free_port())
    told, complaint = started.communicate(timeout=30)
    assert started.returncode == 1 and told == ""
    assert re.fullmatch(r"error: --allow-pull is not for a Space[^\n]*\n", complaint)


def test_a_taken_port_exits_1_with_one_line(app: str):
    started = start_app("--port", app.rpartition(":")[2])
    _, complaint = started.communicate(timeout=30)
    assert started.returncode == 1
    assert re.fullmatch(r"error: cannot listen on [^\n]*--port\n", complaint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_app_at_once_even_while_models_load(tiny_weights: Path, number: signal.Signals):
    app = start_app("--port", free_port(), "--weights", str(tiny_weights))
    assert "http://" in app.stdout.readline()
    app.send_signal(number)
    _, complaint = app.communicate(timeout=5)
    assert app.returncode == 0 and "Traceback" not in complaint
