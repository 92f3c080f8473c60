"""The gate and the turns: how large a request may be, who may compute when, and what is left of it all in the end."""

import asyncio
import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import chain
from pathlib import Path

import httpx
import pytest
from browsing import SlowStudio, launched
from running import free_port, is_one_sentence, memory, start_app

from mmdemo.studio import Studio
from mmdemo.ui import build_demo, gate, turns
from mmdemo.ui.sessions import Sessions
from mmdemo.ui.sweep import sweep_files

API = "/gradio_api"
LONG = ["tiny", "circle", 1, 0, 200]  # arguments of a sample that takes 200 steps
BRIEF = ["tiny", "circle", 1, 0, 4]


def asked(address: str, name: str, data: list, by: str = "10.0.0.1", **options) -> httpx.Response:
    """As a proxy on this machine asks for somebody: the app believes whom it says."""
    return httpx.post(f"{address}{API}/call/{name}", json={"data": data}, headers={"X-Forwarded-For": by}, **options)


def answer(address: str, name: str, data: list, by: str = "10.0.0.1") -> str:
    event = asked(address, name, data, by).json()["event_id"]
    return httpx.get(f"{address}{API}/call/{name}/{event}", timeout=60).text


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------------ size


ROUTES = [
    "call/decode",
    "call/upload",
    "run/upload",
    "api/upload",
    "queue/join",
    "component_server",
    "cancel",
    "upload",
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("counted", [True, False], ids=["counted", "chunked"])
def test_every_route_refuses_too_large_a_body_without_holding_it(running_app, route: str, counted: bool):
    address, pid = running_app
    until(lambda: httpx.get(f"{address}/health").status_code == 200)  # or what is loaded meanwhile would count
    most = gate.BOUNDS.get(f"{API}/{route}", gate.OTHERS).bytes
    pieces, before = 4 * most // 1_000_000, memory(pid)
    content = (b" " * 1_000_000 for _ in range(pieces))
    headers = {"Content-Type": "application/json"} | ({"Content-Length": str(pieces * 1_000_000)} if counted else {})
    if route == "upload":
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        content, headers["Content-Type"] = chain([head], content), "multipart/form-data; boundary=x"
        headers.pop("Content-Length", None)
    reply = httpx.post(f"{address}{API}/{route}", content=content, headers=headers, timeout=30)
    assert reply.status_code == 413 and str(most)[:2] in reply.text
    assert memory(pid) - before < 50


def test_a_request_that_takes_too_long_to_come_is_ended():
    async def trickle():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def app(scope, receive, send):
        while (await receive())["type"] == "http.request":
            pass

    sent = []

    async def send(message):
        sent.append(message)

    body = gate.Body(trickle, replace(gate.OTHERS, seconds=0.1))
    asyncio.run(body.give(app, {"type": "http", "headers": [], "method": "POST"}, send))
    assert sent[0]["status"] == 408


def test_a_room_is_shared_by_addresses_and_so_many_may_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gate, "WAITING", 5)

    async def visit(room: gate.Room, address: str) -> None:
        async with room.place(address) as free:
            order.append(address if free else "refused")
            await asyncio.sleep(0.01)

    async def everybody() -> None:
        room = gate.Room(2)
        await asyncio.gather(*(visit(room, address) for address in ["a", "a", "a", "a", "b", "c", "a", "a"]))

    order = []
    asyncio.run(everybody())
    assert order.count("refused") == 1 and max(order.index("b"), order.index("c")) < 5 and order[-1] == "a"


# ------------------------------------------------------------------------------------------------------ raw requests


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("call/nothing", {"data": []}),
        ("call/v2/nothing", {}),
        ("call/v2/sample", {"pack": "tiny"}),
        ("call/v2/sample", {"pack": "tiny", "lable": "circle"}),
        ("call/" + "a" * 5000, {"data": []}),
        ("queue/join", {"data": [], "fn_index": 99999, "session_hash": "s"}),
        ("queue/join", {"data": [], "fn_index": 1, "session_hash": ""}),
        ("component_server", {"data": [], "component_id": 99999, "session_hash": "s", "fn_name": "listing"}),
        ("component_server", {"data": [], "component_id": "x", "session_hash": "s", "fn_name": "listing"}),
        ("call/sample", '{"dat": Infinity}'),
        ("reset", '"\\ud800"'),
        ("cancel", b"\xb6"),
        ("call/sample", "[" * 100_000),
        ("queue/join", '{"data": [], "fn_index": 1, "session_hash": "s", "event_data": [' + "[]," * 60_000 + "[]]}"),
        ("queue/join", {"data": [], "fn_index": 1, "session_hash": "s" * 1000}),
        ("component_server", {"data": [], "component_id": 1, "session_hash": "s" * 1000, "fn_name": "listing"}),
        ("upload", b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\n1\r\n--x--\r\n'),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_request_for_what_is_not_there_is_answered_in_one_sentence(app: str, route: str, body: dict | str | bytes):
    content = json.dumps(body) if isinstance(body, dict) else body
    kind = "multipart/form-data; boundary=x" if route == "upload" else "application/json"
    reply = httpx.post(f"{app}{API}/{route}", content=content, headers={"Content-Type": kind})
    assert 400 <= reply.status_code < 500 and is_one_sentence(reply.json()["detail"]), reply.text


@pytest.mark.parametrize(
    "path",
    [
        f"{API}/call/sample/unknown",
        f"{API}/queue/data?session_hash=u",
        f"{API}/heartbeat/%00",
        f"{API}/dev/reload",
        "/?page=x",
    ],
)
def test_there_is_nothing_to_listen_to_where_nothing_was_asked(app: str, path: str):
    reply = httpx.get(f"{app}{path}", timeout=5)
    assert reply.status_code in (400, 404) and is_one_sentence(reply.json()["detail"])


def test_every_function_of_the_page_that_is_given_nothing_answers_or_refuses_in_one_sentence(app: str):
    asked = []
    for one in httpx.get(f"{app}/config").json()["dependencies"]:
        if one["backend_fn"] and not one["cancels"]:
            body = {"data": [None] * len(one["inputs"]), "fn_index": one["id"], "session_hash": "nothing"}
            asked.append(httpx.post(f"{app}{API}/queue/join", json=body).json()["event_id"])
    ended = {}
    while len(ended) < len(asked):
        with httpx.stream("GET", f"{app}{API}/queue/data?session_hash=nothing", timeout=30) as stream:
            messages = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line]
        ended |= {one["event_id"]: one for one in messages if one["msg"] == "process_completed"}
    assert len(asked) > 50
    for one in ended.values():
        assert one["success"] or is_one_sentence(one["output"]["error"] or ""), one["output"]


def test_health_says_that_the_models_are_loaded(app: str):
    until(lambda: httpx.get(f"{app}/health").json() == {"status": "ready"})


# ------------------------------------------------------------------------------------------------------------ turns


@pytest.fixture
def slow(tiny_weights: Path) -> Iterator[tuple[str, SlowStudio]]:
    """The page of a studio that takes 50 ms a step."""
    studio = SlowStudio([tiny_weights], device="cpu")
    studio.load("tiny")
    with launched(studio) as address:
        studio.seconds = 0.05
        yield address.rstrip("/"), studio


@contextmanager
def listening(address: str, events: list[str]) -> Iterator[None]:
    with ExitStack() as streams, httpx.Client(limits=httpx.Limits(max_connections=100)) as client:
        for event in events:
            streams.enter_context(client.stream("GET", f"{address}{API}/call/sample/{event}", timeout=60))
        yield


@pytest.mark.parametrize("name", ["sample", "morph", "denoise"])
def test_what_nobody_listens_to_is_not_computed(slow, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(turns, "UNHEARD", 0.5)
    address, studio = slow
    data = {"morph": ["tiny", "circle", "square", 0, 1, 3, 200], "denoise": ["tiny", "circle", 0, 200]}.get(name, LONG)
    event = asked(address, name, data).json()["event_id"]
    assert studio.stopped.wait(2)
    studio.stopped.clear()
    event = asked(address, name, data).json()["event_id"]
    with httpx.stream("GET", f"{address}{API}/call/{name}/{event}", timeout=5) as reply:
        assert reply.status_code == 200
        assert not studio.stopped.wait(1)  # somebody listens
        monkeypatch.setattr(turns, "UNHEARD", 60)  # of no use to whoever listened, and left
    assert studio.stopped.wait(0.5)  # a few steps


def test_a_page_that_is_closed_right_after_a_click_is_not_computed_for(slow):
    address, studio = slow
    functions = httpx.get(f"{address}/config").json()["dependencies"]
    sample = next(one["id"] for one in functions if one["api_name"] == "sample")

    def ask(*data) -> None:
        asking = {"data": data, "fn_index": sample, "session_hash": "page"}
        assert httpx.post(f"{address}{API}/queue/join", json=asking).status_code == 200

    listening = f"{address}{API}/queue/data?session_hash=page"
    ask("tiny", "circle", 1, 0, 1)
    assert "process_completed" in httpx.get(listening, timeout=20).text
    studio.stopped.clear()
    ask(*LONG)  # a page listens anew for that
    with httpx.stream("GET", listening):
        assert not studio.stopped.wait(0.5)
    assert studio.stopped.wait(0.5)  # a few steps


def test_whoever_listens_to_what_is_gone_meanwhile_is_told_so_and_let_go(slow):
    address, _ = slow
    functions = httpx.get(f"{address}/config").json()["dependencies"]
    sample = next(one["id"] for one in functions if one["api_name"] == "sample")
    asking = {"data": LONG, "fn_index": sample, "session_hash": "page"}
    event = httpx.post(f"{address}{API}/queue/join", json=asking).json()["event_id"]  # a name, but of no session
    told = httpx.get(f"{address}{API}/queue/data?session_hash={event}", timeout=20).text
    assert '"session_not_found":true' in told.replace(" ", "")


def test_a_function_of_the_page_ends_with_the_script_that_called_it(slow):
    address, studio = slow
    components = httpx.get(f"{address}/config").json()["components"]
    component = next(one["id"] for one in components if "weigh_words" in one["props"].get("server_fns", ()))
    again = {"label": "circle", "seed": 0, "steps": 200}
    asking = {"data": ["tiny", again, 0], "component_id": component, "fn_name": "weigh_words", "session_hash": "s"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}{API}/component_server", json=asking, timeout=1)
    assert studio.stopped.wait(1)


def test_a_client_has_a_share_and_is_told_when_to_come_back(slow, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(turns.SHARE, "models", 6)
    monkeypatch.setitem(turns.MOST, "models", 8)
    address, _ = slow
    replies = [asked(address, "sample", LONG) for _ in range(7)]
    assert [reply.status_code for reply in replies] == [200] * 6 + [429]
    others = [asked(address, "sample", LONG, by="10.0.0.2") for _ in range(3)]
    assert [reply.status_code for reply in others] == [200, 200, 503]
    for reply in (replies[-1], others[-1]):
        assert int(reply.headers["retry-after"]) > 0 and "come back" in reply.json()["detail"]
        assert reply.elapsed.total_seconds() < 1
    assert "event: complete" in answer(address, "codebook", ["tiny"])  # what is not computed is answered still


def test_somebody_with_many_long_runs_does_not_hold_up_the_others(slow):
    address, _ = slow

    def alone() -> float:
        began = time.perf_counter()
        assert "event: complete" in answer(address, "sample", BRIEF, by="10.0.0.2")
        return time.perf_counter() - began

    usual = min(alone() for _ in range(3))
    greedy = [asked(address, "sample", LONG).json()["event_id"] for _ in range(20)]
    with listening(address, greedy):
        beside = sorted(alone() for _ in range(5))
        assert beside[2] < 2 * usual + 0.5  # each of theirs takes ten seconds
        assert len(turns.TURNS._runs) >= 4  # they were there all the while


def test_of_each_client_one_run_goes_first_and_short_ones_before_long_ones():
    places = turns.Turns(width=2)
    runs = [turns._Run(asker) for asker in ("a", "a", "b", "c", "d")]
    places._runs = [*runs[:2], turns._Run("a")]
    assert places._going() == runs[:2]  # of whoever is alone, so many
    places._runs = runs
    assert places._going() == [runs[0], runs[2]]
    runs[0].served = turns.SHORT + 1
    assert places._going() == [runs[2], runs[3]]


def test_what_nobody_asked_for_takes_a_fifth_of_the_time_that_others_want_and_still_less_of_a_hands():
    places, first, mine = turns.Turns(), turns._Run("", turns.UNASKED), turns._Run("a")
    places._runs, first.step, first.rested = [first, mine], 1.0, time.monotonic()
    assert places._going() == [mine]
    first.rested -= turns.SPARE[turns.ASKED] * first.step
    assert places._going() == [mine, first]
    mine.kind = turns.FOLLOWING
    assert places._going() == [mine]
    first.rested -= turns.SPARE[turns.FOLLOWING] * first.step
    assert places._going() == [mine, first]
    places._runs, first.rested = [first], time.monotonic()
    assert places._going() == []  # a hand's next picture may be asked for in a moment
    places._asked -= turns.QUIET
    assert places._going() == [first]


def test_a_first_picture_leaves_the_time_to_what_is_asked_for(slow, monkeypatch: pytest.MonkeyPatch):
    address, studio = slow
    monkeypatch.setitem(turns.SPARE, turns.ASKED, 1e6)

    def draw_first():
        with turns.turns_of(turns.UNASKED):
            return len(list(turns.in_turns(studio.sample("tiny", "circle", seed=0, steps=9))))

    with ThreadPoolExecutor(1) as others:
        with listening(address, [asked(address, "sample", LONG).json()["event_id"]]):
            until(lambda: turns.TURNS._runs)
            drawing = others.submit(draw_first)
            time.sleep(1)  # it would be done twice over
            assert not drawing.done() and len(turns.TURNS._runs) == 2
        assert drawing.result(10) == 9


def test_sixty_token_edits_at_once_hold_little_and_hold_nobody_up(running_app):
    address, pid = running_app
    components = httpx.get(f"{address}/config").json()["components"]
    (component,) = (one["id"] for one in components if "decode_tokens" in one["props"].get("server_fns", ()))
    until(lambda: httpx.get(f"{address}/health").status_code == 200)
    body = {"data": ["tiny", [[1] * 64] * 64], "component_id": component, "fn_name": "decode_tokens"}
    seen, several = threading.Event(), []

    with httpx.Client(base_url=f"{address}{API}", timeout=60) as client, ThreadPoolExecutor(60) as crowd:

        def edit(by: str) -> float:
            headers, began = {"X-Forwarded-For": by}, time.perf_counter()
            made = client.post("/component_server", json=body | {"session_hash": "s"}, headers=headers)
            assert made.json()["image"].startswith("data:image/png")
            return time.perf_counter() - began

        def keep_on():
            while not seen.is_set():
                several.append(edit("10.0.0.1"))

        alone, before = max(edit("10.0.0.2") for _ in range(3)), memory(pid)
        many = [crowd.submit(keep_on) for _ in range(60)]
        try:
            until(lambda: len(several) > 3)
            beside = [edit("10.0.0.2") for _ in range(3)]
        finally:
            seen.set()
        for one in many:
            one.result()
    assert memory(pid) - before < 100
    typical = statistics.median(beside)
    assert typical < max(several) / 4 and typical < 5 * alone + 0.5


# ----------------------------------------------------------------------------------------------- in the end, and after


def test_of_visitors_little_is_kept_and_no_strangers_request_takes_the_place_of_an_open_page(tiny_weights: Path):
    sessions = Sessions(lambda name: name == "open")
    sessions.set_blocks(build_demo(Studio([tiny_weights])))
    sessions.capacity = 5
    for name in ("open", *map(str, range(20))):
        kept = sessions[name]
        kept._update_value_in_config(next(iter(kept.blocks_config.blocks)), "a picture")
        assert not kept.config_values.keys()
    assert list(sessions.session_data) == ["open", "16", "17", "18", "19"]
    for name in sessions.session_data:
        sessions.time_last_used[name] -= timedelta(hours=1)
    sessions.sweep()
    assert list(sessions.session_data) == ["open"]


def test_files_are_swept_by_size_and_by_age(tmp_path: Path):
    for i in range(10):
        (tmp_path / str(i)).mkdir()
        file = tmp_path / str(i) / "image.png"
        file.write_bytes(bytes(1000))
        os.utime(file, (time.time() - 100 * (10 - i),) * 2)
    gone = sweep_files(tmp_path, most=4500, oldest=10_000)
    assert gone == {str(tmp_path / str(i) / "image.png") for i in range(6)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["6", "7", "8", "9"]
    assert len(sweep_files(tmp_path, most=10**9, oldest=250)) == 2
    assert len(sweep_files(tmp_path, many=1)) == 1


def test_a_signal_lets_what_runs_end_and_leaves_no_file(tiny_weights: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    port = free_port()
    left = tmp_path / f"mmdemo-127.0.0.1-{port}" / "left" / "by-one-that-was-killed.png"
    left.parent.mkdir(parents=True)
    left.touch()
    os.utime(left.parent.parent, (time.time() - 100,) * 2)
    app = start_app("--port", port, "--weights", str(tiny_weights), "--device", "cpu")
    address = app.stdout.readline().split()[-1]
    until(lambda: httpx.get(f"{address}/health").status_code == 200)
    assert not left.exists()
    answer(address, "sample", ["tiny", "circle", 1, 0, 4])
    assert list(tmp_path.rglob("*.png"))  # what was answered
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(answer, address, "sample", ["mnist", "all", 16, 0, 50])
        time.sleep(0.5)
        app.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{address}/health").json() == {"status": "stopping"}, 5)
        assert asked(address, "sample", BRIEF).status_code == 503
        assert "event: complete" in running.result(30)
    _, complaint = app.communicate(timeout=20)
    assert app.returncode == 0 and "Traceback" not in complaint
    assert list(tmp_path.iterdir()) == []
