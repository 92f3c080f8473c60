"""bench: ratios against peers that do the same work."""

import json
import sys

import pytest
import torch
from diffusers import DDIMScheduler, DiTPipeline

from mmdemo import bench, loading, packs
from mmdemo.__main__ import main
from mmdemo.training.config import DiTConfig
from mmdemo.training.dit import make_schedule


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "STARTS", 0)  # of programs, which is seconds each
    monkeypatch.setattr(bench, "COUNTS", ())  # likewise


def test_the_peer_draws_the_same_pictures(lively_weights):
    pipeline = loading.load(packs.read(lively_weights / "tiny"), "cpu")
    schedule = DDIMScheduler.from_config(make_schedule(DiTConfig(prediction="v")).config, prediction_type="epsilon")
    peer = DiTPipeline(bench.FlowAsNoise.of(pipeline, schedule), bench.Unquantized(pipeline), schedule)
    peer.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 200, "guidance_scale": 2.0, "output_type": "pt"}
    theirs = 2 * peer([0, 1, 2], generator=torch.Generator().manual_seed(7), **settings).images - 1
    size = (3, pipeline.transformer.config.in_channels, *(2 * [pipeline.transformer.config.sample_size]))
    noise = torch.randn(size, generator=torch.Generator().manual_seed(7))

    def ours(labels: list[int], w: float) -> torch.Tensor:
        *_, last = pipeline.steps(labels, None, 200, w, "euler", guidance_interval=(0, 1), latents=noise)
        return pipeline.decode(last.latents).clamp(-1, 1)

    apart = (theirs - ours([0, 1, 2], 2.0)).abs().mean()
    for other in (ours([1, 2, 0], 2.0), ours([0, 1, 2], 6.0)):
        assert apart < 0.5 * (theirs - other).abs().mean()


def test_every_row_is_a_ratio_of_two_times_of_this_run(lively_weights, hurried, capsys):
    assert main(["bench", "--weights", str(lively_weights), "--pack", "tiny", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "torch" in told["machine"] and len(told["rows"]) == 8
    for row in told["rows"]:
        assert row["ratio"] == row["value"] / row["peer_value"] > 0, row["what"]


def test_a_training_is_practised_on_so_many_pictures_and_its_memory_watched(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(bench, "PRACTICE", 2)
    monkeypatch.setattr(bench, "SIDE", 16)
    first = bench._practised(tmp_path / "some", 40)
    assert first["first"] > 0 < first["again"] and first["step"] > 0 and 50 < first["memory"] < 3000
    assert not (tmp_path / "some").exists()


def test_a_pack_that_draws_no_classes_is_refused(tiny_weights, capsys):
    assert main(["bench", "--weights", str(tiny_weights), "--pack", "tiny-codec"]) == 1
    assert capsys.readouterr().err == "error: 'tiny-codec' draws no classes; name a pack that does\n"


def test_a_start_is_timed_to_the_first_good_answer_and_one_that_fails_is_told(tmp_path):
    port = bench._free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    (seconds,) = bench._until(command, [f"http://127.0.0.1:{port}/"])
    assert 0 < seconds < bench.STARTING
    with pytest.raises(OSError, match="did not start"):
        bench._until([sys.executable, "-c", "raise SystemExit"], ["http://127.0.0.1:9/"])
