"""Data sets and the order in which training sees them."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from running import ROOT, is_mapped
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmdemo import data, folders
from mmdemo.datasets import NAMED
from mmdemo.errors import DataError
from mmdemo.images import fit_square, image_bytes, open_image


def one_sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) > 20
    return text


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (7, 0), (100, 3)])
def test_every_epoch_is_a_permutation_and_another_one(count, seed):
    seen = data.permuted(count, 0, 5 * count, seed).view(5, count)
    assert torch.equal(seen.sort(dim=1).values, torch.arange(count).expand(5, count))
    if count == 100:
        assert len({tuple(epoch.tolist()) for epoch in seen}) == 5


def test_pieces_of_the_order_join_up():
    whole = data.permuted(10, 0, 47, seed=1)
    for size in (1, 3, 10, 16, 40):
        pieces = [data.permuted(10, start, min(start + size, 47), seed=1) for start in range(0, 47, size)]
        assert torch.equal(torch.cat(pieces), whole)


def test_the_order_is_a_pure_function_of_its_arguments():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = data.permuted(50, 20, 130, seed=2)
    data.permuted(50, 0, 500, seed=9)
    data.permuted(60, 0, 500, seed=2)
    assert torch.equal(data.permuted(50, 20, 130, seed=2), first)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert not torch.equal(data.permuted(50, 20, 130, seed=3), first)


def test_changing_what_was_returned_does_not_change_the_order():
    first = data.permuted(50, 0, 50, seed=4)
    kept = first.clone()
    first.zero_()
    assert torch.equal(data.permuted(50, 0, 50, seed=4), kept)


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (32, 3)])
def test_shapes_are_the_same_every_time(size, channels):
    for split in ("train", "test"):
        a, b = (data.load("shapes", split, image_size=size, channels=channels) for _ in range(2))
        assert torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels)
        assert a.pixels.shape[1:] == (channels, size, size) and a.pixels.dtype == torch.uint8


def test_shapes_splits_share_no_picture():
    train, test = (
        data.load("shapes", split, image_size=16, channels=1).pixels.flatten(1) for split in ("train", "test")
    )
    seen = {bytes(row) for row in train.numpy()}
    assert len(seen) == len(train)
    assert not any(bytes(row) in seen for row in test.numpy())


def test_shapes_labels_are_balanced_and_named():
    for split in ("train", "test"):
        images = data.load("shapes", split, image_size=16)
        counts = images.labels.bincount(minlength=len(images.classes))
        assert images.classes == data.SHAPES and counts.max() - counts.min() <= 1
        assert len(images) == len(images.labels) == counts.sum()


def test_every_shape_stands_out_on_a_dark_ground_and_inside_the_picture():
    pixels = data.load("shapes", "test", image_size=32, channels=1).pixels.float()
    assert (pixels.amax((1, 2, 3)) > 0.44 * 255).all()
    lit = (pixels > 0.3 * 255).float().mean((1, 2, 3))
    assert (lit > 0.01).all() and (lit < 0.7).all()
    corners = pixels[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners < 0.2 * 255).float().mean() > 0.95


def test_shapes_look_like_their_labels():
    """What a label says must be in the picture: its shape, wherever and however large it is.

    Told apart by two numbers that do not depend on place, size or turn: how much of its smallest enclosing circle a
    shape fills, and whether its middle is filled.
    """
    images = data.load("shapes", "test", image_size=32, channels=1)
    axis = torch.arange(32.0)
    filled, middle = {}, {}
    for k, name in enumerate(images.classes):
        lit = images.pixels[images.labels == k, 0] > 0.3 * 255
        inner = []
        share = []
        for picture in lit:
            rows, columns = picture.nonzero(as_tuple=True)
            y, x = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
            r2 = (axis[:, None] - y) ** 2 + (axis[None, :] - x) ** 2
            share.append(picture.sum() / (3.1416 * (r2[picture].max().sqrt() + 0.5) ** 2))
            inner.append(picture[r2 < 4].float().mean())
        filled[name], middle[name] = torch.stack(share).median(), torch.stack(inner).median()
    assert filled["circle"] > 0.8 and middle["circle"] > 0.99
    assert middle["ring"] < 0.01
    assert 0.55 < filled["square"] < 0.72 and middle["square"] > 0.99  # 2 / pi
    assert filled["triangle"] < 0.45
    assert 0.5 < filled["cross"] < 0.63 and middle["cross"] > 0.99


def test_shapes_have_captions_and_attributes_that_say_what_is_drawn():
    for split in ("train", "test", "novel"):
        images = data.load("shapes", split, image_size=16)
        assert len(images.captions) == len(images.records) == len(images)
        for label, record, captions in zip(images.labels.tolist(), images.records, images.captions, strict=True):
            assert record["shape"] == images.classes[label] and list(record) == ["shape", "colour", "size", "ground"]
            assert all(value in captions[0].split() for value in record.values())
            assert all(data.IN_CHINESE[value] in captions[3] for value in record.values())
            said = {*captions[1].split(), *captions[2].replace(",", "").split()}
            assert said <= {*record.values(), "a", "an", "on", "shape", "ground"}
    again = data.load("shapes", "novel", image_size=32, channels=1)
    assert again.captions == images.captions and again.records == images.records


def test_the_attributes_of_a_shape_are_in_its_picture():
    images = data.load("shapes", "test", image_size=32)
    grounds = images.pixels[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].median(2).values / 255
    shapes = images.pixels.flatten(2).float() / 255
    brightest = shapes[torch.arange(len(shapes)), :, shapes.sum(1).argmax(1)]
    for seen, known, named in ((grounds, data.GROUNDS, "ground"), (brightest, data.COLOURS, "colour")):
        nearest = torch.cdist(seen, torch.tensor(list(known.values()))).argmin(1).tolist()
        right = [list(known)[i] == record[named] for i, record in zip(nearest, images.records, strict=True)]
        assert sum(right) > 0.98 * len(right), named
    lit = (images.pixels.amax(1) > 0.5 * 255).float().mean((1, 2))
    for shape in images.classes:
        small, large = (
            [area for area, record in zip(lit.tolist(), images.records, strict=True)
             if (record["shape"], record["size"]) == (shape, size)] for size in ("small", "large")
        )  # fmt: skip
        assert max(small) < min(large)


def test_what_is_novel_about_the_novel_shapes_is_in_no_other_split():
    def novel(record) -> bool:
        return (record["shape"], record["colour"]) == ("cross", "red") or (
            (record["shape"], record["colour"], record["size"]) == ("ring", "blue", "large")
        )

    train, test, held_out = (data.load("shapes", split, image_size=16).records for split in ("train", "test", "novel"))
    assert all(novel(record) for record in held_out) and {record["shape"] for record in held_out} == {"cross", "ring"}
    assert not any(novel(record) for record in (*train, *test))
    seen = {tuple(record.values()) for record in train}
    assert len(seen) == 5 * 7 * 2 * 4 - 2 * 4 - 4, "every other combination is there"


def test_a_split_that_shapes_lack_is_refused_in_one_sentence():
    with pytest.raises(DataError) as error:
        data.load("shapes", "validation")
    assert "novel" in one_sentence(error)


def write_picture(path, grey: int, size=(20, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)


@pytest.fixture
def folder(tmp_path):
    """cat/ and dog/ with 15 pictures each; the grey of a picture tells which it is."""
    for label, name in enumerate(("cat", "dog")):
        for i in range(15):
            write_picture(tmp_path / "set" / name / f"{i:02}.png", grey=100 * label + 5 * i)
    return tmp_path / "set"


def greys(images) -> list[int]:
    assert (images.pixels.flatten(1) == images.pixels.flatten(1)[:, :1]).all(), "a plain picture is plain no more"
    return images.pixels[:, 0, 0, 0].tolist()


def test_a_folder_of_classes_is_read_with_its_labels(folder):
    train = data.load(str(folder), "train", image_size=8)
    assert train.classes == ("cat", "dog")
    assert train.pixels.shape[1:] == (3, 8, 8)
    assert [grey >= 100 for grey in greys(train)] == train.labels.bool().tolist()


def test_without_a_test_folder_every_tenth_picture_is_held_out(folder):
    train, test = (data.load(str(folder), split, image_size=8) for split in ("train", "test"))
    assert len(train) == 27 and len(test) == 3
    assert set(greys(train)).isdisjoint(greys(test))
    assert sorted(greys(train) + greys(test)) == sorted([5 * i for i in range(15)] + [100 + 5 * i for i in range(15)])


def test_a_folder_with_train_and_test_keeps_them_apart(tmp_path):
    for i in range(12):
        write_picture(tmp_path / "train" / "b" / f"{i}.png", grey=i)
        write_picture(tmp_path / "train" / "a" / f"{i}.png", grey=50 + i)
    write_picture(tmp_path / "test" / "b" / "0.png", grey=200)
    train, test = (data.load(str(tmp_path), split, image_size=8) for split in ("train", "test"))
    assert train.classes == test.classes == ("a", "b")
    assert len(train) == 24, "nothing is held out where there is a test folder"
    assert greys(test) == [200] and test.labels.tolist() == [1]


def test_pictures_without_classes_are_read_without_labels(tmp_path):
    for i in range(11):
        write_picture(tmp_path / f"{i}.png", grey=i)
    images = data.load(str(tmp_path), "train", image_size=8)
    assert images.classes == () and set(images.labels.tolist()) == {-1} and len(images) == 10


def test_pictures_of_any_shape_kind_and_capitals_are_read_and_other_files_are_not(tmp_path):
    for name in ("a.PNG", "b.jpg", "c.JPEG", "d.bmp", "e.gif", "f.webp", "g.tif"):
        write_picture(tmp_path / "x" / name, grey=90, size=(31, 17))
    (tmp_path / "x" / "notes.txt").write_text("no picture")
    images = data.load(str(tmp_path), "train", image_size=8, channels=1)
    assert images.pixels.shape == (7, 1, 8, 8)
    assert (images.pixels.int() - 90).abs().max() <= 3


def test_folders_are_64_pixels_in_colour_if_nothing_is_said(folder):
    assert data.load(str(folder), "test").pixels.shape[1:] == (3, 64, 64)


def test_a_folder_of_grey_pictures_is_grey_unless_one_has_colours(folder):
    for file in folder.rglob("*.png"):
        Image.open(file).convert("LA" if file.name.startswith("00") else "L").save(file)
    assert data.load(str(folder), "train", image_size=8).pixels.shape[1:] == (1, 8, 8)
    assert data.load(str(folder), "train", image_size=8, channels=3).pixels.shape[1:] == (3, 8, 8)
    write_picture(folder / "dog" / "03.png", grey=90)
    assert data.load(str(folder), "train", image_size=8).pixels.shape[1:] == (3, 8, 8)


def test_an_unreadable_picture_is_named_in_one_sentence(folder):
    (folder / "cat" / "03.png").write_text("this is no picture")
    with pytest.raises(DataError) as error:
        data.load(str(folder), "train", image_size=8)
    assert "03.png" in one_sentence(error)


def test_a_picture_cut_short_is_named_in_one_sentence(folder, tmp_path):
    noise = torch.randint(0, 255, (64, 64, 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (folder / "dog" / "03.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(DataError) as error:
        data.load(str(folder), "train", image_size=8)
    assert "03.png" in one_sentence(error)


# ----------------------------------------------------------------------------------- pictures decoded once, into a file


def touch(file) -> None:
    os.utime(file, ns=(1, 1))


def test_a_folders_pictures_are_those_decoded_one_by_one_mapped_from_a_file_and_decoded_once(folder, cache):
    before = set(cache.glob("*"))
    images = data.load(str(folder), "train", image_size=8)
    names = [f"{label}/{i:02}.png" for label in ("cat", "dog") for i in range(15)]
    held_in = [name for i, name in enumerate(names) if i % 10 != 9]
    assert torch.equal(
        images.pixels, torch.stack([image_bytes(fit_square(open_image(folder / name), 8, 3)) for name in held_in])
    )
    (file,) = (one for one in set(cache.glob("*")) - before if one.suffix == ".safetensors")
    assert is_mapped(images.pixels, file)
    touch(file)
    again = data.load(str(folder), "train", image_size=8)
    assert torch.equal(again.pixels, images.pixels) and again.digest == images.digest and file.stat().st_mtime_ns == 1
    assert {path.parent for path in cache.parent.rglob("*") if path.is_file()} == {cache}
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == sorted(name[4:] for name in names)


def test_a_folder_that_changed_is_decoded_anew_in_the_place_of_what_was_kept(folder, cache):
    before, kept = data.load(str(folder), "train", image_size=8), len(list(cache.glob("*")))
    (folder / "cat" / "00.png").rename(folder / "cat" / "00.jpg")
    renamed = data.load(str(folder), "train", image_size=8)
    assert torch.equal(renamed.pixels, before.pixels) and renamed.digest == before.digest, "only a name is another"
    file, seen = folder / "cat" / "01.png", (folder / "cat" / "01.png").stat()
    write_picture(file, grey=6)
    assert file.stat().st_size == seen.st_size, "then its size would tell"
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    after = data.load(str(folder), "train", image_size=8)
    assert greys(after)[:3] == [0, 6, 10] and greys(before)[:3] == [0, 5, 10], "what is in use is as it was"
    assert after.digest != before.digest
    (folder / "dog" / "13.png").unlink()
    assert greys(data.load(str(folder), "train", image_size=8))[-1] == 170 > greys(before)[-1]
    assert len(list(cache.glob("*"))) == kept


DECODING = """
import os, signal, sys
from mmdemo import data, files, folders
calls, real = [], {"open_here": folders.open_here, "save_file": folders.save_file}
def killed(*arguments):
    calls.append(1)
    if len(calls) > 20 or sys.argv[2] == "save_file":
        if sys.argv[2] == "save_file":
            real["save_file"](*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    return real[sys.argv[2]](*arguments)
setattr(folders, sys.argv[2], killed)
data.load(sys.argv[1], "train", image_size=8)
"""


@pytest.mark.parametrize("where", ["open_here", "save_file"])
def test_a_process_killed_while_it_decodes_leaves_nothing_that_is_taken_for_whole(folder, tmp_path, where):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", DECODING, str(folder), where], cwd=ROOT, timeout=60, env=env)
    assert done.returncode == -signal.SIGKILL
    left = {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert left == ({".lock"} if where == "open_here" else {".lock", ".partial"})
    script = (
        "import sys; from mmdemo import data; print(int(data.load(sys.argv[1], 'train', image_size=8).pixels.sum()))"
    )
    command = [sys.executable, "-c", script, str(folder)]
    again = subprocess.run(command, cwd=ROOT, timeout=60, env=env, capture_output=True, text=True)
    assert again.stdout == f"{data.load(str(folder), 'train', image_size=8).pixels.sum()}\n", again.stderr
    assert {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()} == {".lock", ".safetensors"}


def test_a_damaged_file_of_decoded_pictures_is_made_again(folder, cache):
    before = set(cache.glob("*.safetensors"))
    pixels = data.load(str(folder), "train", image_size=8).pixels.clone()
    (file,) = set(cache.glob("*.safetensors")) - before
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], b"no safetensors", whole.replace(b'"state"', b'"stale"')):
        file.write_bytes(damaged)
        assert torch.equal(data.load(str(folder), "train", image_size=8).pixels, pixels)
        assert file.stat().st_size == len(whole)


def test_pixels_that_are_not_those_that_were_read_are_decoded_again(folder, cache):
    """As after a crash of the machine, of a file whose header is whole."""
    before = set(cache.glob("*.safetensors"))
    pixels = data.load(str(folder), "train", image_size=8).pixels.clone()
    (file,) = set(cache.glob("*.safetensors")) - before
    with safe_open(file, "pt") as opened:
        kept, about = load_file(file), opened.metadata()
    fewer, read = kept["pixels"][:-1].clone(), kept["read"].clone()
    read[3] = False
    smaller = {"pixels": kept["pixels"][..., ::2, ::2].contiguous()}
    for damaged in (
        smaller,
        {"pixels": fewer},
        {"pixels": fewer, "read": read},
    ):  # more than one in a hundred are unread
        save_file(kept | damaged, file, about)
        assert torch.equal(data.load(str(folder), "train", image_size=8).pixels, pixels)


def test_a_class_whose_name_is_no_text_is_refused(folder):
    os.mkdir(odd := os.path.join(os.fsencode(folder), b"\xff"))
    shutil.copy(next(folder.rglob("*.png")), os.path.join(os.fsdecode(odd), "0.png"))
    with pytest.raises(DataError, match="a class whose name is no UTF-8"):
        data.load(str(folder), "train", image_size=8)


def test_two_that_want_the_same_pictures_decode_them_once(folder, cache, monkeypatch):
    opened, real = [], folders.open_here
    monkeypatch.setattr(folders, "open_here", lambda *arguments: opened.append(1) or real(*arguments))
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda _: data.load(str(folder), "train", image_size=8).pixels, range(2)))
    assert torch.equal(*both) and len(opened) == len(both[0])


def test_labelled_pictures_are_taken_from_the_same_memory(folder):
    write_picture(folder / "beside.png", grey=1)
    images = data.load(str(folder), "train", image_size=8)
    some = images.labelled()
    assert len(some) == len(images) - 1 and bool((some.labels >= 0).all()) and some.classes == images.classes
    assert some.pixels.data_ptr() == images.pixels[1:].data_ptr()
    scattered = torch.tensor([True, False, True])
    assert data.where(scattered).tolist() == [0, 2] and len(data.where(~scattered & scattered)) == 0


@pytest.fixture(params=["classes", "captions"])
def large_folder(request, tmp_path):
    """300 pictures in two classes, or with captions, and the places in the training split that their greys tell."""
    root = tmp_path / "large"
    for i in range(300):
        write_picture(root / ("cat", "dog")[i // 150] / f"{i:03}.png", grey=i % 250, size=(4, 4))
    if request.param == "captions":
        names = [f"{('cat', 'dog')[i // 150]}/{i:03}.png" for i in range(300)]
        write_rows(root, [{"file_name": name, "text": f"picture {i}"} for i, name in enumerate(names)])
    return root


def spoil(root, *places: int) -> None:
    for i in places:
        (root / ("cat", "dog")[i // 150] / f"{i:03}.png").write_bytes(b"GIF89a"[: i % 7])  # a few bytes, or none


def test_up_to_one_picture_in_a_hundred_that_cannot_be_read_is_passed_over(large_folder, caplog):
    whole, held_out = (data.load(str(large_folder), split, image_size=8) for split in ("train", "test"))
    spoil(large_folder, 3, 155, 157)
    rest = data.load(str(large_folder), "train", image_size=8)
    kept = [i for i, grey in enumerate(greys(whole)) if i not in (3, 140, 142)]  # their places in the split
    assert torch.equal(rest.pixels, whole.pixels[kept]) and torch.equal(rest.labels, whole.labels[kept])
    assert rest.captions == tuple(whole.captions[i] for i in kept if whole.captions)
    assert torch.equal(data.load(str(large_folder), "test", image_size=8).pixels, held_out.pixels)
    (warning,) = caplog.messages
    assert "3 of 300 pictures" in warning and "\n" not in warning
    assert all(f"'{name}.png'" in warning for name in ("cat/003", "dog/155", "dog/157"))


def test_more_than_one_in_a_hundred_are_counted_and_the_first_named_in_one_sentence(large_folder, caplog):
    spoil(large_folder, *range(20, 25))
    with pytest.raises(DataError) as error:
        data.load(str(large_folder), "train", image_size=8)
    text = one_sentence(error)
    assert "5 of 300 pictures" in text and "at most 3" in text and "'cat/020.png'" in text and "2 more" in text
    assert len(text) < 500 and caplog.messages == []


def test_strict_passes_over_no_picture(large_folder):
    data.load(str(large_folder), "train", image_size=8, strict=True)
    spoil(large_folder, 155)
    with pytest.raises(DataError) as error:
        data.load(str(large_folder), "train", image_size=8, strict=True)
    assert "'dog/155.png'" in one_sentence(error)


def test_links_that_lead_round_in_a_circle_give_no_picture_twice_and_pipes_are_not_waited_for(large_folder):
    """In a process of its own: it would wait for ever. What it passes over is a line on stderr."""
    for link, target in (("again", "."), ("above", ".."), ("cat/loop.png", "loop.png"), ("cat/up", "../..")):
        (large_folder / link).symlink_to(target)
    (large_folder / "here").symlink_to("here")
    os.mkfifo(large_folder / "cat" / "pipe.png")
    spoil(large_folder, 3)
    script = "import sys; from mmdemo import data; images = data.load(sys.argv[1], 'train', image_size=8); "
    script += "print(len(images), images.classes)"
    command = [sys.executable, "-c", script, str(large_folder)]
    done = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
    captioned = (large_folder / "metadata.jsonl").exists()
    assert done.stdout == ("269 ()\n" if captioned else "269 ('cat', 'dog')\n"), done.stderr
    told = "1 of 300 pictures" if captioned else "2 of 301 pictures"
    assert done.stderr.count("\n") == 1 and told in done.stderr and captioned != ("loop.png" in done.stderr)


def test_a_link_to_the_folder_itself_makes_no_class_of_it(tmp_path):
    for i in range(11):
        write_picture(tmp_path / f"{i:02}.png", grey=i)
    (tmp_path / "again").symlink_to(tmp_path)
    images = data.load(str(tmp_path), "train", image_size=8)
    assert images.classes == () and greys(images) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]


def test_an_empty_folder_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path / "empty"), "train")
    assert "empty" in one_sentence(error) and "FOLDER/<class>/*.png" in str(error.value)


def test_a_set_that_is_neither_known_nor_a_folder_is_refused_with_what_is_known(tmp_path):
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path / "minst"), "train")
    assert "minst" in one_sentence(error) and all(name in str(error.value) for name in NAMED)


def write_idx(path, array) -> None:
    """The format of MNIST's files: a magic number, the sizes, the bytes."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + bytes(array.flatten().tolist()))


@pytest.fixture
def mnist_folder(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("t10k", 5)):
        write_idx(
            raw / f"{split}-images-idx3-ubyte",
            torch.randint(1, 256, (count, 28, 28), generator=rng, dtype=torch.uint8),
        )
        write_idx(raw / f"{split}-labels-idx1-ubyte", torch.arange(count, dtype=torch.uint8) % 10)
    return tmp_path


def test_mnist_is_read_from_a_folder_and_padded_to_32(mnist_folder):
    train, test = (data.load("mnist", split, mnist_folder) for split in ("train", "test"))
    assert train.pixels.shape == (12, 1, 32, 32) and test.pixels.shape == (5, 1, 32, 32)
    raw = (mnist_folder / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()[16:]
    assert bytes(train.pixels[:, 0, 2:30, 2:30].flatten().tolist()) == raw
    assert train.pixels.sum() == train.pixels[..., 2:30, 2:30].sum(), "the padding is not black"
    assert train.labels.tolist() == [i % 10 for i in range(12)]
    assert train.classes == tuple("0123456789")


def test_mnist_can_be_resized(mnist_folder):
    images = data.load("mnist", "test", mnist_folder, image_size=16)
    assert images.pixels.shape == (5, 1, 16, 16) and images.pixels.dtype == torch.uint8
    full = data.load("mnist", "test", mnist_folder).pixels.float().mean()
    assert abs(images.pixels.float().mean() - full) < 2


def test_a_data_folder_without_the_set_is_refused_without_a_download(tmp_path):
    with pytest.raises(DataError) as error:
        data.load("mnist", "train", tmp_path)
    assert "mnist" in one_sentence(error) and str(tmp_path) in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_data_file_cut_short_is_refused_in_one_sentence(mnist_folder):
    file = mnist_folder / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DataError) as error:
        data.load("mnist", "train", mnist_folder)
    one_sentence(error)


def test_a_test_folder_that_names_no_training_class_is_read_unlabelled(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        write_picture(tmp_path / "train" / name / "0.png", grey=100 * label)
    for name, grey in (("bird", 30), ("dog", 60), ("zebra", 90)):
        write_picture(tmp_path / "test" / name / "0.png", grey=grey)
    train, test = (data.load(str(tmp_path), split, image_size=8) for split in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 1], "every training picture has its class"
    assert dict(zip(greys(test), test.labels.tolist(), strict=True)) == {30: -1, 60: 1, 90: -1}


@pytest.fixture
def cifar10_folder(tmp_path):
    """train/<class>/ and test/<class>/ pictures of 32 × 32; the red of a picture tells its class and its split."""
    for split, red in (("train", 0), ("test", 100)):
        for label, name in enumerate(("airplane", "truck")):
            file = tmp_path / split / name / "0.png"
            file.parent.mkdir(parents=True)
            Image.new("RGB", (32, 32), (red + 10 * label, 200, 50)).save(file)
    return tmp_path


def test_cifar10_is_read_from_a_folder_of_pictures_in_its_own_size_and_colour(cifar10_folder):
    for split, reds in (("train", [0, 10]), ("test", [100, 110])):
        images = data.load("cifar10", split, cifar10_folder)
        assert images.pixels.shape == (2, 3, 32, 32) and images.classes == ("airplane", "truck")
        assert images.labels.tolist() == [0, 1]
        assert images.pixels[:, 0, 5, 5].tolist() == reds
        assert images.pixels[0, 1:, 5, 5].tolist() == [200, 50]


def test_cifar10_from_a_folder_of_pictures_can_be_resized_and_made_grey(cifar10_folder):
    images = data.load("cifar10", "test", cifar10_folder, image_size=16, channels=1)
    assert images.pixels.shape == (2, 1, 16, 16)


def test_a_cifar10_folder_with_neither_pictures_nor_the_set_is_refused_without_a_download(tmp_path):
    with pytest.raises(DataError) as error:
        data.load("cifar10", "train", tmp_path)
    assert "cifar10" in one_sentence(error) and str(tmp_path) in str(error.value)
    assert list(tmp_path.iterdir()) == []


def write_rows(root, rows: list) -> None:
    """A metadata.jsonl; a row that is a string is written as it is."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (root / "metadata.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")


def write_captioned(root, greys, **columns) -> None:
    """A plain picture of each grey, with two captions; the last picture has the first row."""
    for grey in greys:
        write_picture(root / f"{grey}.png", grey)
    write_rows(
        root, [{"file_name": f"{g}.png", "text": [f"grey {g}", f"灰色 {g}"], "grey": g, **columns} for g in greys[::-1]]
    )


def test_captions_and_attributes_are_read_in_the_order_of_the_rows(tmp_path):
    write_captioned(tmp_path / "train", [10, 20, 30], kind="plain", parts=[{"place": "left"}])
    write_captioned(tmp_path / "test", [40])
    write_captioned(tmp_path / "novel", [50, 60])
    train, test, novel = (data.load(str(tmp_path), split, image_size=8) for split in ("train", "test", "novel"))
    assert greys(train) == [30, 20, 10] and greys(test) == [40] and greys(novel) == [60, 50]
    assert train.captions == tuple((f"grey {g}", f"灰色 {g}") for g in (30, 20, 10))
    assert train.records[0] == {"grey": 30, "kind": "plain", "parts": [{"place": "left"}]} and len(train.records) == 3
    assert train.classes == () and train.labels.tolist() == [-1, -1, -1]
    assert train.pixels.shape == (3, 3, 8, 8)


@pytest.mark.parametrize("inside", ["", "train"])
def test_without_a_test_folder_every_tenth_row_is_held_out(tmp_path, inside):
    write_captioned(tmp_path / inside, list(range(20)))
    train, test = (data.load(str(tmp_path), split, image_size=8) for split in ("train", "test"))
    assert greys(test) == [10, 0] and [record["grey"] for record in test.records] == [10, 0]
    assert len(train) == len(train.captions) == len(train.records) == 18


def test_a_caption_may_be_a_string_and_pictures_may_lie_deeper_and_lines_may_be_blank(tmp_path):
    write_picture(tmp_path / "train" / "cats" / "0.png", 70)
    write_picture(tmp_path / "train" / "mask.png", 0)  # no row names it
    row = {"file_name": "cats/0.png", "text": "a cat\u2028on a mat"}  # a line's end to Unicode, and not to JSON
    write_rows(tmp_path / "train", ["", row, "   "])
    write_captioned(tmp_path / "test", [40])
    images = data.load(str(tmp_path), "train", image_size=8)
    assert images.captions == (("a cat\u2028on a mat",),) and images.records == ({},) and greys(images) == [70]


def test_a_set_without_captions_has_none(folder):
    images = data.load(str(folder), "train", image_size=8)
    assert images.captions == () and images.records == ()


@pytest.mark.parametrize("split", ["novel", "", ".", "..", "train/..", "cat"])
def test_a_split_that_the_set_lacks_is_refused_in_one_sentence(folder, mnist_folder, split):
    for dataset, data_dir in ((str(folder), None), ("mnist", mnist_folder)):
        with pytest.raises(DataError) as error:
            data.load(dataset, split, data_dir, image_size=8)
        assert f"no split {split!r}" in one_sentence(error)


GOOD = {"file_name": "0.png", "text": "a picture"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ("[1]", "no JSON object"),
        ('"text"', "no JSON object"),
        ("null", "no JSON object"),
        ({"text": "a picture"}, "no file_name"),
        ({**GOOD, "file_name": 1}, "no file_name"),
        ({**GOOD, "file_name": ""}, "no file_name"),
        ({"file_name": "1.png"}, "no caption"),
        ({"file_name": "1.png", "text": 5}, "no caption"),
        ({"file_name": "1.png", "text": []}, "no caption"),
        ({"file_name": "1.png", "text": ["one", 2]}, "no caption"),
        ({"file_name": "1.png", "text": {"en": "a picture"}}, "no caption"),
        ({"file_name": "1.png", "text": ""}, "empty caption"),
        ({"file_name": "1.png", "text": ["one", " \n"]}, "empty caption"),
        ({"file_name": "1.png", "text": "x" * 2001}, "2001 characters"),
        ({"file_name": "1.png", "text": "\ud800"}, "surrogate"),
        ({**GOOD, "file_name": "2.png"}, "no picture '2.png'"),
        ({**GOOD, "file_name": "1.png\0"}, "no picture"),
        ({**GOOD, "file_name": "."}, "no picture"),
        ({**GOOD, "file_name": "../0.png"}, "leads out of the folder"),
        ({**GOOD, "file_name": "/0.png"}, "leads out of the folder"),
        (GOOD, "line 1 already"),
        ({**GOOD, "file_name": "./0.png"}, "line 1 already"),
        ({**GOOD, "file_name": "bad.png"}, "cannot be read as a picture"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_in_one_sentence(tmp_path, row, said):
    for i in range(2):
        write_picture(tmp_path / "train" / f"{i}.png", grey=i)
    write_picture(tmp_path / "0.png", grey=0)
    (tmp_path / "train" / "bad.png").write_text("this is no picture")
    write_rows(tmp_path / "train", [GOOD, json.dumps(row) if isinstance(row, dict) else row])
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path), "train", image_size=8)
    text = one_sentence(error)
    assert said in text and "metadata.jsonl, line 2" in text and len(text) < 400
    text.encode()


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe{}"])
def test_a_metadata_file_without_a_row_is_refused_in_one_sentence(tmp_path, content):
    write_picture(tmp_path / "train" / "0.png", 0)
    (tmp_path / "train" / "metadata.jsonl").write_bytes(content)
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path), "train")
    assert "metadata.jsonl" in one_sentence(error)


def test_a_split_whose_captions_are_missing_is_refused_in_one_sentence(tmp_path):
    write_captioned(tmp_path / "train", [10])
    write_picture(tmp_path / "test" / "0.png", 0)
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path), "test")
    assert "metadata.jsonl" in one_sentence(error)
