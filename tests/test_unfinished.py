"""Long work that is stopped, and what of it is not done again."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest
import torch
from torch import Tensor

from mmdemo.errors import PackError
from mmdemo.unfinished import AT_ONCE, Unfinished


@pytest.fixture
def made() -> list[int]:
    return []


def part(unfinished: Unfinished, made: list[int], key: object = "one", *tensors: Tensor) -> int:
    """A number that is another each time it is made."""

    def make() -> Tensor:
        made.append(len(made))
        time.sleep(0.02)  # longer than to look whether it is made
        return torch.tensor(made[-1])

    return int(unfinished.part(make, key, *tensors))


def test_a_part_is_made_once_until_all_is_done(tmp_path: Path, made: list[int]):
    folder = tmp_path / "some" / "work"
    with pytest.raises(KeyboardInterrupt), Unfinished(folder) as stopped:
        assert part(stopped, made) == 0 and stopped.seconds == 0
        raise KeyboardInterrupt
    with Unfinished(folder) as again:
        assert part(again, made) == 0 and 0 < again.seconds < 1
        assert part(again, made, "two") == 1
    assert not folder.exists()
    with Unfinished(folder) as anew:
        assert part(anew, made) == 2


def test_what_other_work_has_kept_stays(tmp_path: Path, made: list[int]):
    part(Unfinished(tmp_path, "long"), made)
    with Unfinished(tmp_path, "short") as short:
        assert part(short, made) == 1
    assert part(Unfinished(tmp_path, "long"), made) == 0


def test_another_key_or_tensor_is_another_part(tmp_path: Path, made: list[int]):
    x, y = torch.tensor([1, 2]), torch.tensor([1, 3])
    asked = [("weights", ("a",)), ("others", ("a",)), ("weights", ("b",)), ("weights", ("a", x)), ("weights", ("a", y))]
    for _ in range(2):
        assert [part(Unfinished(tmp_path, key), made, *what) for key, what in asked] == list(range(5))


def test_a_damaged_part_is_made_anew(tmp_path: Path, made: list[int]):
    part(Unfinished(tmp_path), made)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert [part(Unfinished(tmp_path), made) for _ in range(2)] == [1, 1]


def test_the_same_work_twice_at_once_is_done_once(tmp_path: Path, made: list[int]):
    done = Barrier(2)  # whoever is done first leaves nothing behind

    def slowly() -> list[int]:
        with Unfinished(tmp_path / "work") as work:
            parts = [part(work, made, key) for key in range(5) if not time.sleep(0.01)]
            done.wait(20)
            return parts

    with ThreadPoolExecutor(2) as both:
        one, other = both.submit(slowly), both.submit(slowly)
        assert one.result() == other.result() == made == [*range(5)]
    assert not (tmp_path / "work").exists()


def test_whoever_waits_for_another_counts_that_time_once(tmp_path: Path):
    begun = Event()

    def make() -> Tensor:
        begun.set()
        time.sleep(0.3)
        return torch.tensor(1)

    with ThreadPoolExecutor(1) as other:
        running, waiting = other.submit(Unfinished(tmp_path).part, make, "one"), Unfinished(tmp_path)
        assert begun.wait(5) and waiting.part(make, "one") == running.result()
    assert waiting.seconds < 0.2, "it is on the clock of whoever waited already"


def test_what_cannot_be_kept_is_a_sentence(tmp_path: Path, made: list[int]):
    (tmp_path / "file").write_text("")
    with pytest.raises(PackError, match="cannot be written"):
        part(Unfinished(tmp_path / "file" / "work"), made)


def test_at_once_nothing_is_kept(made: list[int]):
    assert [part(AT_ONCE, made) for _ in range(2)] == [0, 1]
