"""A Run: work that is watched, stopped or waited for."""

from dataclasses import dataclass

import pytest

from mmdemo.results import Run


@dataclass
class Answer:
    images: list


def work(done: list, total: int = 3):
    """Three steps, each of which is noted; and that it was ended."""
    try:
        for i in range(total):
            done.append(i)
            yield i
        return Answer(images=["a"])
    finally:
        done.append("ended")


def test_nothing_is_done_before_the_first_of_it_is_asked_for():
    done = []
    run = Run(work(done))
    assert done == []
    assert next(run) == 0 and done == [0]


def test_watched_to_its_end_and_waited_for_it_gives_one_and_the_same_result():
    done = []
    run = Run(work(done))
    assert list(run) == [0, 1, 2] and done == [0, 1, 2, "ended"]
    result = run.result()
    assert result == Answer(["a"]) and run.result() is result and next(run, None) is None
    assert done == [0, 1, 2, "ended"], "it was done twice"


def test_waiting_for_the_result_does_what_is_left():
    done = []
    run = Run(work(done))
    next(run)
    assert run.result() == Answer(["a"]) and done == [0, 1, 2, "ended"]


def test_what_the_result_has_the_run_has_too():
    done = []
    run = Run(work(done))
    assert run.images is run.result().images and done == [0, 1, 2, "ended"]
    with pytest.raises(AttributeError, match="pictures"):
        run.pictures  # noqa: B018


def test_what_no_result_has_is_not_worked_for():
    done = []
    assert not hasattr(Run(work(done)), "_repr_html_") and done == []


@pytest.mark.parametrize("watched", [0, 2])
def test_closed_it_ends_at_once_and_has_no_result(watched):
    done = []
    run = Run(work(done))
    for _ in range(watched):
        next(run)
    run.close()
    assert done == [*range(watched), *(["ended"] if watched else [])] and next(run, None) is None
    for ask in (run.result, lambda: run.images):
        with pytest.raises(ValueError, match="ended before it was done"):
            ask()


def test_closed_after_its_end_it_keeps_its_result():
    run = Run(work([]))
    result = run.result()
    run.close()
    assert run.result() is result


def test_an_error_in_the_work_reaches_whoever_waits():
    def fails():
        yield 1
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        Run(fails()).result()
