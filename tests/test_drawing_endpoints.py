"""The endpoints that edit, compare and mix, asked by gradio_client of the app, held against Studio in Python."""

from pathlib import Path

import pytest
from conftest import same
from gradio_client import Client, handle_file
from PIL import Image

from mmdemo.studio import Studio


def test_edit_takes_the_contracts_arguments_and_gives_the_studios_pixels(client: Client, studio: Studio, drawing: Path):
    image, told = client.predict("tiny", handle_file(drawing), "square", 0.7, 5, 6, 2.0, "euler", api_name="/edit")
    here = studio.edit("tiny", drawing, "square", 0.7, 5, 6, 2.0, "euler").result()
    assert Image.open(image).format == "PNG" and same(image, here.image)
    settings = {"label": "square", "strength": 0.7, "seed": 5, "steps": 6, "guidance": 2.0, "sampler": "euler"}
    assert settings.items() <= told.items() and told["taken"] == here.taken == 4
    image, told = client.predict("tiny", handle_file(drawing), "square", api_name="/edit")
    again = studio.edit("tiny", drawing, "square", seed=told["seed"])
    assert told["strength"] == 0.8 and same(image, again.image)


def test_edit_obeys_invert_and_interval(client: Client, studio: Studio, drawing: Path):
    rest = {"seed": 5, "steps": 6, "guidance": 3, "invert": "no", "interval": [0.2, 0.5]}
    image, told = client.predict("tiny", handle_file(drawing), "square", **rest, api_name="/edit")
    assert same(image, studio.edit("tiny", drawing, "square", **rest).image)
    assert told["interval"] == [0.2, 0.5]


def test_noise_streams_the_picture_under_ever_more_noise(client: Client, studio: Studio, drawing: Path):
    job = client.submit("tiny", handle_file(drawing), 5, 4, api_name="/noise")
    job.result(timeout=60)
    frames = list(studio.noise("tiny", drawing, 5, 4))
    assert [told for _, told in job.outputs()] == [pytest.approx(frame.json()) for frame in frames]
    assert same([image for image, _ in job.outputs()], [frame.image for frame in frames])


def test_compare_streams_a_picture_for_every_pair(client: Client, studio: Studio):
    request = {"x": "steps", "xs": [2, 3], "y": "sampler", "ys": ["euler", "heun"], "label": "circle", "seed": 3}
    job = client.submit("tiny", **request, api_name="/compare")
    job.result(timeout=60)
    cells = list(studio.compare("tiny", **request))
    assert same([image for image, _ in job.outputs()], [cell.image for cell in cells])
    for (_, told), cell in zip(job.outputs(), cells, strict=True):
        for name in ("row", "column", "label", "steps", "sampler", "seed", "guidance"):
            assert told[name] == cell.json()[name]
        assert told["seconds"] > 0


def test_morph_gives_a_strip(client: Client, studio: Studio):
    pictures, told = client.predict("tiny", "circle", "square", 3, 8, 4, 3, api_name="/morph")
    assert same(pictures, studio.morph("tiny", "circle", "square", 3, 8, 4, 3).images)
    assert (told["label"], told["other_label"], told["seed"], told["other_seed"]) == ("circle", "square", 3, 8)
    assert told["shares"] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_interpolate_gives_two_strips(client: Client, studio: Studio, drawing: Path, tmp_path: Path):
    other = tmp_path / "other.png"
    Image.effect_noise((40, 40), 90).save(other)
    arguments = {"count": 3, "invert": "no", "size": 32}
    latents, tokens, told = client.predict(
        "tiny", handle_file(drawing), handle_file(other), **arguments, api_name="/interpolate"
    )
    here = studio.interpolate("tiny", drawing, other, **arguments)
    assert same(latents, here.latent) and same(tokens, here.tokens) and told == {"shares": [0, 0.5, 1]}


def test_replace_gives_three_pictures_and_the_new_tokens(client: Client, studio: Studio):
    tokens = [[1, 2, 1, 3]] * 4
    *pictures, told = client.predict("tiny", tokens, 1, 9, api_name="/replace")
    here = studio.replace("tiny", tokens, 1, 9)
    assert same(pictures, [here.before, here.after, here.difference])
    assert told == {"tokens": [[9, 2, 9, 3]] * 4, "places": [[y, x] for y in range(4) for x in (0, 2)]}


def test_code_map_gives_a_point_and_a_count_for_every_code(client: Client, studio: Studio):
    told, here = client.predict("tiny", api_name="/code_map"), studio.code_map("tiny")
    assert [tuple(point) for point in told["points"]] == here.points and told["counts"] == here.counts
    assert told["explained"] == pytest.approx(here.explained, abs=1e-4)


def test_sample_and_denoise_take_an_interval(client: Client, studio: Studio):
    request = {"pack": "tiny", "label": "circle", "seed": 3, "steps": 5, "guidance": 3}
    (picture,), told = client.predict(**request, interval=[0.2, 0.5], api_name="/sample")
    here = studio.sample(**request, interval=[0.2, 0.5])
    assert same([picture], here.images) and told["interval"] == [0.2, 0.5]
    job = client.submit(**request, interval=[0.2, 0.5], api_name="/denoise")
    job.result(timeout=60)
    assert [told["guided"] for _, told in job.outputs()] == [
        0.2 <= told["noise_level"] <= 0.5 for _, told in job.outputs()
    ]
