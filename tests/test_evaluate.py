"""The numbers of a model card, on packs and data sets small enough for seconds. What the command does with them is in
test_commands.py."""

import json
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY_CLASSES, flow_schedule, tiny_dit, tiny_vae
from PIL import Image
from scenes import save, scenes

from mmdemo import (
    card,
    classifier,
    codec,
    data,
    evaluate,
    judging,
    loading,
    mended,
    metrics,
    packs,
    provenance,
    reader,
    restoring,
    students,
)
from mmdemo.__main__ import main
from mmdemo.data import LabelledImages
from mmdemo.errors import DataError, PackError
from mmdemo.images import from_bytes, to_images
from mmdemo.judging import Evaluation
from mmdemo.models.dit import DiT
from mmdemo.samplers import MAX_JUMPS
from mmdemo.training import export
from mmdemo.training.lexicon import learn
from mmdemo.words import Words

SIZE = 16  # of the pictures


@pytest.fixture(scope="module")
def colour(tmp_path_factory, pictures) -> Path:
    """A random codec for them."""
    vae, train = tiny_vae(in_channels=3), data.load(str(pictures), "train", image_size=SIZE)
    latents = codec.encode(vae, from_bytes(train.pixels)).movedim(1, -1).flatten(0, 2)
    vae.codebook.data.copy_(latents[:: len(latents) // 16][:16])
    pack = tmp_path_factory.mktemp("weights") / "colour"
    training = {"dataset": f"{pictures.name}/", "image_size": SIZE, "minutes": 0.0}
    export.save_codec(pack, vae, codec.statistics(vae, train.pixels), TINY_CLASSES, training)
    return pack


def unlabelled(pictures: Path, folder: Path) -> Path:
    """The same with a test split whose classes are unknown."""
    shutil.copytree(pictures / "train", folder / "train")
    (folder / "test" / "all").mkdir(parents=True)
    for file in sorted(pictures.glob("test/*/*.png")):
        shutil.copy(file, folder / "test" / "all" / f"{file.parent.name}-{file.name}")
    return folder


def half_bright(count: int, dim: int, channels: int = 3, side: int = 16) -> LabelledImages:
    """Two classes: the first or the second half along a dimension (2 = down, 3 = right) is bright."""
    pixels = torch.randint(0, 60, (count, channels, side, side), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    labels = torch.arange(count) % 2
    for label in (0, 1):
        pixels[labels == label] += (
            (150 * (torch.arange(side) // (side // 2) == label)).view((-1, 1) if dim == 2 else (-1,)).byte()
        )
    return LabelledImages(pixels, labels, ("first", "second"))


def learnt(images: LabelledImages) -> classifier.Judge:
    """The classifier of these pictures, which reads them right."""
    *_, (step, steps, trained) = classifier.train_classifier(images)
    assert step == steps
    assert metrics.accuracy(trained, images.pixels, images.labels) > 0.95
    return trained


# ------------------------------------------------------------------------------------------------------- numbers alone


def test_a_token_costs_what_an_arithmetic_coder_with_the_training_counts_spends():
    uses = torch.tensor([3, 1, 0, 0])  # and one more of each: 4, 2, 1 and 1 of 8
    for code, bits in enumerate((1, 2, 3, 3)):
        assert metrics.token_bits(torch.full((2, 5, 5), code), uses) == pytest.approx(bits)
    assert metrics.token_bits(torch.tensor([[[0, 1], [2, 3]]]), uses) == pytest.approx(9 / 4)


def test_tokens_used_as_in_training_cost_their_entropy_and_others_more():
    rng = torch.Generator().manual_seed(0)
    probabilities = torch.rand(64, generator=rng).pow(3)
    train, test = torch.multinomial(probabilities, 100_000, True, generator=rng).split(50_000)
    uses = train.bincount(minlength=64)
    perplexity = codec.perplexity(test.bincount(minlength=64))
    bits = metrics.token_bits(test, uses)
    assert bits == pytest.approx(torch.tensor(perplexity).log2().item(), abs=0.01) and bits < 5.7
    assert metrics.token_bits(63 - test, uses) > bits + 0.3


def test_detail_is_1_for_the_same_less_for_blurred_more_for_noisy_pictures():
    x = data.load("shapes", "test", image_size=32).pixels[:300].float()
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    noisy = x + 20 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    x, blurred, noisy = (one.clamp(0, 255).round().to(torch.uint8) for one in (x, blurred, noisy))
    assert metrics.detail(x, x) == 1
    assert metrics.detail(blurred, x) < 0.7 < 1.3 < metrics.detail(noisy, x)
    assert metrics.detail(blurred.mT, x.mT) == pytest.approx(metrics.detail(blurred, x)), "one direction counts more"
    assert metrics.detail(x // 2 * 2, x * 0 + 7) < float("inf"), "flat pictures"


def test_pictures_for_the_card_are_spread_over_a_split_that_is_sorted_by_class():
    sorted_split = (torch.arange(1000) // 100).to(torch.uint8).view(-1, 1, 1, 1)
    assert judging.spread(sorted_split, 10).flatten().tolist() == list(range(10))
    assert len(judging.spread(sorted_split[:3], 10)) == 3


# ---------------------------------------------------------------------------------------------------- the classifier


def test_only_many_pictures_in_colour_are_taken_for_photographs():
    def images(count: int, channels: int) -> LabelledImages:
        return LabelledImages(torch.zeros(1, channels, 16, 16).expand(count, -1, -1, -1), torch.zeros(count), ("a",))

    assert classifier.are_photographs(images(20_000, 3))
    assert not classifier.are_photographs(images(19_999, 3)) and not classifier.are_photographs(images(60_000, 1))


def test_the_classifier_of_photographs_learns_and_takes_a_mirrored_photograph_for_the_same(monkeypatch):
    monkeypatch.setattr(classifier, "MANY", 256)
    trained = learnt(half_bright(256, dim=2))
    x = from_bytes(half_bright(64, dim=3).pixels)
    with torch.no_grad():
        assert torch.allclose(trained(x), trained(x.flip(-1)), atol=1e-4), "right is a mirrored left"
        assert not torch.allclose(trained.features(x), trained.features(x.flip(-1)), atol=1e-2)


def test_the_first_layer_for_photographs_whitens_them():
    x = from_bytes(half_bright(512, dim=2).pixels)
    whitening = classifier.PhotoClassifier(3, 2)
    whitening.whiten(x)
    out = torch.nn.functional.conv2d(x, whitening.body[0].weight[:12]).movedim(1, -1).flatten(0, 2)
    covariance = out.T @ out / len(out)
    assert torch.allclose(covariance, torch.eye(12), atol=0.1)


def test_to_the_shallow_classifier_a_mirrored_mark_is_another():
    assert learnt(half_bright(1024, dim=3))


def test_a_kept_classifier_is_read_again_and_another_depth_is_another_file(tmp_path, monkeypatch):
    images, x = half_bright(64, dim=2), from_bytes(half_bright(64, dim=2).pixels)
    monkeypatch.setitem(classifier.EPOCHS, "photographs", 1)
    told = []
    first = classifier.load_classifier(images, tmp_path, told.append)
    trainings = len(told)
    again = classifier.load_classifier(images, tmp_path, told.append)
    assert trainings > 0 and len(told) == trainings, "trained twice"
    assert torch.allclose(again.eval()(x), first.eval()(x), atol=1e-5)
    monkeypatch.setattr(classifier, "MANY", 64)  # as if the data set had grown
    deep = classifier.load_classifier(images, tmp_path, told.append)
    assert len(deep.state_dict()) > len(first.state_dict()) and len(list(tmp_path.iterdir())) == 2
    assert torch.allclose(classifier.load_classifier(images, tmp_path, told.append)(x), deep(x), atol=1e-5)


@pytest.mark.parametrize("photographs", [False, True])
def test_a_classifier_whose_training_was_stopped_becomes_what_it_would_have(tmp_path, monkeypatch, photographs):
    images = half_bright(64, dim=2)
    monkeypatch.setattr(classifier, "MANY", 64 if photographs else 65)
    monkeypatch.setattr(classifier, "EPOCHS", {"marks": 12, "photographs": 1})
    monkeypatch.setattr(classifier, "CHECKPOINT_SECONDS", 0)
    whole = classifier.load_classifier(images, tmp_path / "whole", lambda line: None)
    told = []

    def stopped(line: str) -> None:
        told.append(line)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier.load_classifier(images, tmp_path / "parts", stopped)
    parts = classifier.load_classifier(images, tmp_path / "parts", told.append)
    assert len(set(told)) == len(told) - 1, "but for the step under way nothing is done twice"
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
    assert [file.suffix for file in (tmp_path / "parts").iterdir()] == [".safetensors"]


def test_two_folders_of_one_name_do_not_share_a_classifier(tiny_weights, tmp_path):
    """Of two packs trained on a folder `pictures`, the second was judged by what had been learnt of the first's."""
    pack = shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "pack")
    training = provenance.read_training(pack)
    training["vqvae"]["dataset"] = "pictures/"
    (pack / "training.json").write_text(json.dumps(training))
    for owner, dim in (("mine", 2), ("yours", 3)):
        images = half_bright(160, dim, channels=1)
        for i, (image, label) in enumerate(zip(to_images(images.pixels), images.labels.tolist(), strict=True)):
            file = tmp_path / owner / "pictures" / images.classes[label] / f"{i:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
        numbers = evaluate.evaluate(Evaluation(pack, tmp_path / "runs", tmp_path / owner / "pictures"))
        assert numbers["accuracy_test"] > 0.9, f"{owner} pictures are not what the classifier knows"


def test_a_classifier_is_known_by_pixels_labels_seed_and_version(tmp_path, monkeypatch):
    images, files = half_bright(64, dim=2), lambda: len(list(tmp_path.iterdir()))
    pixels, labels = images.pixels.clone(), images.labels.clone()
    pixels[0, 0, 0, 0] += 1
    labels[0] = 1
    for count, others in enumerate((images, replace(images, pixels=pixels), replace(images, labels=labels)), 1):
        classifier.load_classifier(others, tmp_path, print)
        assert files() == count
    classifier.load_classifier(images, tmp_path, print, seed=1)
    monkeypatch.setattr(classifier, "VERSION", classifier.VERSION + 1)
    classifier.load_classifier(images, tmp_path, print)
    assert files() == 5
    classifier.load_classifier(images, tmp_path, print)
    assert files() == 5


def test_pictures_without_a_label_teach_the_classifier_nothing(tmp_path):
    images = half_bright(256, dim=2)
    hidden = torch.arange(256) % 4 == 3
    some = LabelledImages(images.pixels, images.labels.masked_fill(hidden, -1), images.classes)
    rest = LabelledImages(images.pixels[~hidden], images.labels[~hidden], images.classes)
    of_some, of_rest = (
        classifier.load_classifier(given, tmp_path / name, print) for name, given in (("some", some), ("rest", rest))
    )
    for a, b in zip(of_some.parameters(), of_rest.parameters(), strict=True):
        assert torch.allclose(a, b)


def test_a_regression_on_tokens_knows_which_token_is_where_and_passes_over_codes_it_never_saw():
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 8, (600, 3, 3), generator=rng)
    labels = ids[:, 1, 2] // 4
    rows = ids.sort(2).values  # as many tokens of every kind, but none where it was
    unseen = ids[400:].clone()
    unseen[:, 0, 0] = 99
    assert classifier.accuracy_of_tokens(ids[:400], labels[:400], unseen, labels[400:]) > 0.98
    assert classifier.accuracy_of_tokens(rows[:400], labels[:400], rows[400:], labels[400:]) < 0.85
    assert classifier.accuracy_of_tokens(ids[:400], labels[:400], ids[400:], 1 - labels[400:]) < 0.02


# --------------------------------------------------------------------------------------------------- a whole evaluation


def test_a_colour_pack_is_held_against_jpeg_at_as_many_bits(colour, pictures, tmp_path):
    test_split, shown = unlabelled(pictures, tmp_path / "data"), {}
    numbers = evaluate.evaluate(Evaluation(colour, tmp_path / "runs", test_split, show=shown.__setitem__))
    json.dumps(numbers, allow_nan=False)  # the flat picture has no error in JPEG: infinitely many dB

    vae = loading.load(packs.read(colour), "cpu").vae
    pixels = data.load(str(test_split), "test", image_size=SIZE).pixels
    ids = codec.encode_ids(vae, from_bytes(pixels)).flatten()
    uses = packs.read_codebook(packs.read(colour))["counts"]
    bits = sum(-torch.tensor((uses[k] + 1) / (sum(uses) + 16)).log2().item() for k in ids)
    assert numbers["bits_per_pixel"] == pytest.approx(bits / pixels[:, 0].numel(), rel=1e-4)

    assert numbers["bits_per_pixel"] <= numbers["jpeg_bits_per_pixel"] < numbers["jpeg_file_bits_per_pixel"]
    assert numbers["jpeg_file_quality"] == 1 <= numbers["jpeg_quality"]
    assert min(numbers["jpeg_psnr"], numbers["jpeg_file_psnr"]) > 10 and 0 < numbers["jpeg_ssim"] <= 1
    assert numbers["detail"] > 0

    (sheet,) = shown.values()
    assert list(shown) == ["comparison.png"] and sheet.height < sheet.width
    times = sheet.width // (10 * (SIZE + 2) - 2)
    assert sheet.size == (times * (10 * (SIZE + 2) - 2), times * (3 * (SIZE + 2) - 2))
    first = sheet.crop((0, 0, times * SIZE, times * SIZE)).resize((SIZE, SIZE), Image.Resampling.NEAREST)
    assert first.tobytes() == to_images(pixels)[0].tobytes()


def test_a_test_split_without_labels_is_judged_by_no_classifier(colour, pictures, tmp_path):
    numbers = evaluate.evaluate(Evaluation(colour, tmp_path / "runs", unlabelled(pictures, tmp_path / "data")))
    assert not any(name.startswith(("accuracy", "frechet")) for name in numbers)
    assert not (tmp_path / "runs").exists()


def test_a_pack_that_samples_shows_what_its_evaluation_drew_a_row_for_each_class(sampling, pictures, tmp_path):
    shown = {}
    numbers = evaluate.evaluate(
        Evaluation(sampling, tmp_path / "runs", pictures, show=shown.__setitem__), 100, {"steps": 2}
    )
    json.dumps(numbers, allow_nan=False)
    assert numbers["generated"] == 100 and "jpeg_psnr" not in numbers, "JPEG is for pictures in colour"
    assert 0 < numbers["bits_per_pixel"] < 1 and numbers["detail"] > 0

    sheet = shown["samples.png"]
    times = sheet.width // (10 * (SIZE + 2) - 2)
    assert sheet.size == (times * (10 * (SIZE + 2) - 2), times * (3 * (SIZE + 2) - 2))
    pipeline = loading.load(packs.read(sampling), "cpu")
    settings = {name: numbers[name] for name in ("num_inference_steps", "guidance_scale", "sampler")}
    drawn = judging.generate(pipeline, torch.arange(100) % 3, **settings)
    for row, column in ((0, 0), (1, 0), (2, 3), (0, 9)):
        left, top = times * column * (SIZE + 2), times * row * (SIZE + 2)
        cell = sheet.crop((left, top, left + times * SIZE, top + times * SIZE)).resize((SIZE, SIZE), 0)
        assert cell.convert("L").tobytes() == to_images(drawn)[row + 3 * column].tobytes()


def test_what_is_measured_besides_is_added_to_what_the_card_says(sampling, pictures, tmp_path, capsys, monkeypatch):
    """How well it restores, beside other means; its student; and how well it classifies."""
    with pytest.raises(PackError, match="is not measured yet; first: .*evaluate --pack sampling"):
        card.add(sampling, {}, {})
    training = provenance.read_training(sampling)
    for record in training.values():
        record |= {"steps": 1, "batch_size": 1, "machine": "a test's"}
    (sampling / "training.json").write_text(json.dumps(training))
    shown, runs = {}, tmp_path / "runs"
    before = evaluate.evaluate(Evaluation(sampling, runs, pictures, show=shown.__setitem__), 100, {"steps": 2})
    card.write(sampling, before, shown)
    options = ["--pack", "sampling", "--weights", str(sampling.parent), "--data-dir", str(pictures)]
    drawings, steps = [], restoring.steps

    def stopped_at_the_third(*arguments, **settings):
        drawings.append(settings)
        if len(drawings) == 3:
            signal.raise_signal(signal.SIGTERM)
        return steps(*arguments, **settings)

    monkeypatch.setattr(restoring, "steps", stopped_at_the_third)
    restore = ["evaluate", *options, "--runs", str(runs), "--restore", "3"]
    assert main(restore) == 143
    told = capsys.readouterr()
    assert told.out == "" and f"stopped; go on: python -m mmdemo {shlex.join(restore)}" in told.err
    assert main(restore) == 0 and len(drawings) == 1 + 8, "what was restored before it was stopped is not anew"
    assert not any((runs / "unfinished").iterdir())
    told, numbers = json.loads(capsys.readouterr().out), json.loads((sampling / "metrics.json").read_text())
    assert numbers == json.loads(json.dumps(before)) | told and told["restored_of"] == 3
    ways = [(row["damage"], row["way"].split(",")[0]) for row in told["restored"]]
    assert ways == [
        *(("lower half erased", way) for way in ("Telea", "restored", "restored")),
        *((f"shrunk by {factor}", way) for factor in (2, 4) for way in ("Lanczos", "restored")),
        *((f"noise of {s}", way) for s in (0.25, 0.5) for way in ("non-local means", "restored", "restored")),
    ]
    assert all(0 < row["psnr"] < 100 and -1 <= row["ssim"] <= 1 and 0 <= row["read"] <= 1 for row in told["restored"])
    text = (sampling / "README.md").read_text()
    first = told["restored"][0]
    assert f"| lower half erased | Telea | {first['psnr']:.2f} dB | {first['ssim']:.4f} | {first['read']:.1%} |" in text

    few = ["evaluate", *options, "--runs", str(runs), "--student"]
    assert main(few) == 1 and "train student --pack sampling" in capsys.readouterr().err
    times = torch.linspace(1000, 0, MAX_JUMPS + 1).tolist()
    export.save_student(sampling, tiny_dit(times=times), training["dit"] | {"trajectories": 20})
    with pytest.raises(PackError, match="itself draws is not measured yet"):
        students.measure(Evaluation(sampling, runs, pictures), 0)
    assert main(few) == 0
    more, text = json.loads(capsys.readouterr().out), (sampling / "README.md").read_text()
    assert json.loads((sampling / "metrics.json").read_text()) == numbers | more
    assert [row["steps"] for row in more["student"]] == [4, 2, 1]
    drawn = judging.generate(loading.load(packs.read(sampling), "cpu"), labels := torch.arange(100) % 3, sampler="fast")
    train, test = (data.load(str(pictures), split, None, SIZE, 1) for split in ("train", "test"))
    judge = classifier.load_classifier(train, runs / "classifiers", print)
    first = more["student"][0]
    assert first["accuracy_generated"] == metrics.accuracy(judge, drawn, labels) and first["times_as_fast"] > 0
    assert first["frechet_generated_test"] == pytest.approx(metrics.frechet_distance(judge, drawn, test.pixels), 1e-4)
    ratio = first["frechet_generated_test"] / numbers["frechet_train_test"]
    assert f"| **its student**, 4 steps | {ratio:.2f} | {first['accuracy_generated']:.2%} | " in text
    assert "| the pack itself, 2 steps" in text and "train student --pack sampling --trajectories 20" in text
    pictures = ("samples.png", "restored.png", "student.png")
    assert all(f"]({file})" in text and (sampling / file).is_file() for file in pictures)

    assert main(["evaluate", *options, "--classify", "10"]) == 0
    told, text = json.loads(capsys.readouterr().out), (sampling / "README.md").read_text()
    assert told["classified_right_of"] == 10 and told["classified_seconds"] > 0
    assert told["classified_right"] * 10 % 1 == pytest.approx(0) and 0 < told["accuracy_tokens"] <= 1
    assert f"| {told['classified_right']:.2%} |" in text and "--classify 10" in text and "student.png" in text
    numbers |= told

    again = ["evaluate", *options, "--runs", str(runs), "--samples", "100", "--steps", "2"]
    assert main(again) == 0
    capsys.readouterr()
    numbers["minutes"] = card.read(sampling)["minutes"]
    assert card.read(sampling) == numbers | more, "what was measured besides stays"

    numbers = json.loads(json.dumps(numbers | before | {"generated": 200}))  # of more, each student draws "better"
    assert card.renew(sampling, numbers, {}, changed=False) == ["student"]
    text = (sampling / "README.md").read_text()
    assert [file for file in pictures if f"]({file})" in text and (sampling / file).is_file()] == [*pictures[:2]]
    assert "its student" not in text and json.loads((sampling / "metrics.json").read_text()) == numbers

    for asked in (["--guidance", "5"], ["--interval", "0.1", "0.5"], ["--sampler", "fast", "--steps", "2"]):
        assert main([*again[:-2], *asked, "--defaults"]) == 1
        assert "leave --defaults out" in capsys.readouterr().err and "fast" in packs.read(sampling).samplers
    assert main([*again, "--guidance", "5", "--defaults", "--overwrite"]) == 0
    pack, kept = packs.read(sampling), card.read(sampling)
    assert not pack.problem and pack.defaults.guidance == 5 and "fast" not in pack.samplers
    assert "what --restore measured" in capsys.readouterr().err and not (sampling / "restored.png").is_file()
    assert "classified_right" in kept and not kept.keys() & {"restored", "restored_of", "student"}


@pytest.mark.parametrize(("sampler", "stays"), [("fast", False), ("euler", True)])
def test_another_student_takes_what_the_last_one_drew_off_the_card(tmp_path, sampler, stays):
    pack = Path(shutil.copytree(Path(__file__).parents[1] / "weights" / "cifar10", tmp_path / "cifar10"))
    numbers = card.read(pack)
    numbers["synthetic_settings"]["sampler"] = sampler
    card.write(pack, numbers)
    card.without_student(pack)
    kept, text = card.read(pack), (pack / "README.md").read_text()
    assert "### In few steps" not in text and not (pack / "student.png").is_file()
    assert ("### To train on" in text) == stays and "### Classes" in text
    gone = ("student",) if stays else ("student", "synthetic")
    assert kept == {name: value for name, value in numbers.items() if not name.startswith(gone)}


def test_a_damaged_pack_is_not_evaluated_and_it_is_said_why(sampling, pictures, capsys):
    (sampling / "vae" / "config.json").write_text("{")
    options = ["--weights", str(sampling.parent), "--data-dir", str(pictures)]
    assert main(["evaluate", "--pack", "sampling", *options]) == 1
    assert "cannot be used: vae/config.json" in capsys.readouterr().err


def test_pictures_are_shrunk_by_means_and_noised_as_a_file_can_hold_it():
    pixels = torch.tensor([[0, 100], [200, 255]], dtype=torch.uint8).repeat(1, 3, 8, 8)
    assert mended.shrunk(pixels, 2).eq(139).all()
    noisy = mended.noised(pixels, 0.5, seed=1)
    assert noisy.dtype == torch.uint8 and torch.equal(noisy, mended.noised(pixels, 0.5, seed=1))
    at_black = noisy[..., ::2, ::2]
    assert at_black.eq(0).float().mean() == pytest.approx(0.5, abs=0.1) and at_black.max() > 150
    clean = mended.non_local_means(mended.noised(pixels[:, :1], 0.02, seed=1), 30.0)
    assert clean.shape == (1, 1, 16, 16)
    red = torch.tensor([250, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16).contiguous()
    assert (mended.non_local_means(red, 10.0).float() - red).abs().max() < 8, "colours keep their order"


def test_the_training_split_is_read_once(sampling, pictures, tmp_path, monkeypatch):
    load, splits = data.load, []
    monkeypatch.setattr(data, "load", lambda dataset, split, *rest: splits.append(split) or load(dataset, split, *rest))
    evaluate.evaluate(Evaluation(sampling, tmp_path / "runs", pictures), 100, {"steps": 1})
    assert sorted(splits) == ["test", "train"]


def test_the_picture_for_the_card_stays_small_whatever_the_size_of_the_pictures():
    rng = torch.Generator().manual_seed(0)
    for side in (32, 64, 128):
        noise = torch.randint(0, 256, (12, 3, side, side), generator=rng).to(torch.uint8)
        columns = judging.columns_of(noise, 3)
        assert 1 <= columns <= 10 and 3 * columns * side * side <= judging.SHEET
    assert judging.columns_of(torch.zeros(1, 3, 1024, 1024), 3) == 1


def test_a_transformer_is_not_judged_on_a_data_set_of_other_classes(tiny_weights, tmp_path):
    """`tiny` has three classes, `shapes`, which it says it was trained on, five."""
    with pytest.raises(DataError, match="shapes has 5 classes and pack 'tiny' 3"):
        evaluate.evaluate(Evaluation(tiny_weights / "tiny", tmp_path), 100)


# -------------------------------------------------------------------------------------------------------- by captions


@pytest.fixture(scope="module")
def captioned(tmp_path_factory) -> Path:
    """A folder of scenes, and beside it a pack with random models that reads their captions."""
    folder = tmp_path_factory.mktemp("captioned")
    for seed, (split, count) in enumerate({"train": 300, "test": 60, "novel": 20}.items()):
        save(scenes(count, seed, novel=split == "novel"), folder / "scenes" / split)
    vae, train = tiny_vae(in_channels=3), data.load(str(folder / "scenes"), "train", image_size=32)
    latents = codec.encode(vae, from_bytes(train.pixels[:50])).movedim(1, -1).flatten(0, 2)
    vae.codebook.data.copy_(latents[:: len(latents) // 16][:16])
    training = {"dataset": "scenes/", "image_size": 32, "steps": 1, "batch_size": 1, "minutes": 0.0, "machine": "one"}
    export.save_codec(folder / "pack", vae, codec.statistics(vae, train.pixels[:50]), (), training)
    words = Words.learn(train.captions, learn(train.captions, train.records))
    transformer = tiny_dit(num_classes=0, vocab_size=words.size, sample_size=8)
    export.save_transformer(folder / "pack", transformer, flow_schedule(), training, words, ["a red square"])
    return folder


def swapped(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.roll(16, 3)


def test_pictures_drawn_by_captions_are_judged_by_what_the_captions_name(captioned, tmp_path, monkeypatch):
    """Real pictures stand for drawn ones: first as they are, then with left and right swapped."""
    monkeypatch.setattr(reader, "MIN_STEPS", 120)
    splits = [data.load(str(captioned / "scenes"), split, image_size=32) for split in ("test", "novel")]
    real = {caption: x for one in splits for told, x in zip(one.captions, one.pixels, strict=True) for caption in told}
    shown = {}

    def numbers(change=lambda pixels: pixels) -> dict:
        def drawn(evaluation, captions, **settings):
            return change(torch.stack([real[caption] for caption in captions]))

        monkeypatch.setattr(Evaluation, "drawn", drawn)
        evaluation = Evaluation(captioned / "pack", tmp_path / "runs", captioned / "scenes", show=shown.__setitem__)
        return evaluate.evaluate(evaluation, 120, {"steps": 2}, described=0)

    right = numbers()
    json.dumps(right, allow_nan=False)
    assert list(right["read_test"]) == list(right["read_reconstructed"]) == ["ground", "colour", "mark"]
    assert right["read_test"]["colour"] > 0.97 and right["features"] == 512
    assert right["named_right_test"] > 0.97 and right["swaps_test"] == 0 and right["frechet_ratio"] < 2
    assert right["named_right_test_of"] > 200 and 0.5 < right["named_right_novel"] <= 1
    assert list(right["named_right_test_by_script"]) == ["latin", "han"]
    assert set(right["named_right_test_by_attribute"]) == {"ground", "colour", "mark"}
    assert right["variety"] == 0 and 0 <= right["copies"] <= 1 and right["generated"] == 120
    assert right["num_inference_steps"] == 2

    wrong = numbers(swapped)
    assert wrong["swaps_test"] > 0.95 and wrong["named_right_test"] < 0.8
    assert wrong["named_right_test_by_attribute"]["ground"] > 0.97

    (kept,) = (tmp_path / "runs" / "classifiers").iterdir()
    assert kept.suffix == ".safetensors"
    assert len(right["captions"]) == 8 and right["captions"][0] in real
    assert shown["samples.png"].height > shown["samples.png"].width, "8 captions, 4 seeds of each"


def test_a_pack_that_reads_is_drawn_from_and_its_card_says_what_was_seen(captioned, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_STEPS", 2)
    pack, shown, told = shutil.copytree(captioned / "pack", tmp_path / "pack"), {}, []
    shutil.copytree(captioned / "scenes", tmp_path / "scenes")
    shutil.rmtree(tmp_path / "scenes" / "novel")
    asked = {"steps": 1, "guidance": 1.0}
    where = tmp_path / "runs", tmp_path / "scenes"
    segments = shutil.copytree(tmp_path / "scenes" / "test", tmp_path / "scenes" / "segments")
    rows = [json.loads(line) for line in (segments / "metadata.jsonl").read_text("utf-8").splitlines()[:4]]
    Image.new("L", (32, 32), 255).save(segments / "mask.png")
    rows = [row | {"masks": {"ground": "mask.png"}} for row in rows]
    (segments / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    evaluation = Evaluation(pack, *where, told.append, shown.__setitem__)
    numbers = evaluate.evaluate(evaluation, 100, asked, described=3, segments=segments)
    assert numbers["segments"]["ground"]["of"] == 4
    assert set(numbers["described_right"]) == {"ground", "colour", "mark"} and numbers["described_right_of"] == 3
    assert not any("novel" in name for name in numbers) and any("novel" in line for line in told)
    assert numbers["variety"] > 0 and numbers["variety_of"] == 25

    card.write(pack, numbers, shown)
    text = (pack / "README.md").read_text(encoding="utf-8")
    assert "text-to-image" in text and "a diffusion transformer that reads" in text
    assert 'pipeline(["a red square"])' in text
    assert f"{numbers['named_right_test']:.2%}" in text and "Swapped is" in text and "Variety is" in text
    assert (
        "described, 3 pictures" in text and "captions in Han script" in text and f"1. {numbers['captions'][0]}" in text
    )

    sizes = {
        name: value for name, value in packs.read_json(pack / "transformer" / "config.json").items() if name[0] != "_"
    }
    times = torch.linspace(1000, 0, MAX_JUMPS + 1).tolist()
    export.save_student(pack, DiT(**sizes | {"times": times}), {})
    few = students.measure(Evaluation(pack, *where), numbers["generated"])["student"]
    assert all(0 <= row["named_right_test"] <= 1 and row["frechet_generated_test"] > 0 for row in few)


def test_a_codec_of_captioned_pictures_is_judged_by_what_can_be_read_of_them(captioned, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_STEPS", 2)
    pack = shutil.copytree(captioned / "pack", tmp_path / "pack")
    vae = loading.load(packs.read(pack), "cpu").vae
    statistics = codec.statistics(vae, data.load(str(captioned / "scenes"), "test", image_size=32).pixels)
    export.save_codec(pack, vae, statistics, (), provenance.read_training(pack)["vqvae"])
    numbers = evaluate.evaluate(Evaluation(pack, tmp_path / "runs", captioned / "scenes"))
    assert set(numbers["read_reconstructed"]) == {"ground", "colour", "mark"} and "generated" not in numbers
    assert numbers["frechet_train_test"] < numbers["frechet_reconstructed_test"]


def test_captions_alone_without_records_are_drawn_and_nothing_is_read(captioned, tmp_path):
    images = scenes(60)
    for split in ("train", "test"):
        save(replace(images, records=({},) * 60), tmp_path / "scenes" / split)
    evaluation = Evaluation(captioned / "pack", tmp_path / "runs", tmp_path / "scenes")
    numbers = evaluate.evaluate(evaluation, 100, {"steps": 1}, described=0)
    assert numbers["generated"] == 100 and "copies" in numbers
    assert not any(name.startswith(("read_", "named_", "frechet_")) for name in numbers)
    assert not (tmp_path / "runs").exists()


def test_a_pack_that_reads_is_not_judged_on_pictures_without_captions(captioned, pictures, tmp_path):
    with pytest.raises(DataError, match="scenes has no captions"):
        evaluate.evaluate(Evaluation(captioned / "pack", tmp_path, pictures), 100)
