"""Slow faults, which the tests leave out: python tests/faults.py [share] [threads] [load] [live] [memory].

All take some 70 minutes. Each starts the app with the packs that ship, on a port of its own, and prints what it
measured and whether that is within its bound. docs/faults.md holds the results.
"""

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))
from running import ROOT, free_port  # noqa: E402

API = "/gradio_api"


@contextmanager
def served(leak: bool = False) -> Iterator[tuple[str, int]]:
    """The app's address and process, its models loaded."""
    command = [__file__, "leaking-app"] if leak else [str(ROOT / "app.py")]
    command = [sys.executable, *command, "--port", free_port(), "--device", "cpu"]
    app = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    address = app.stdout.readline().split()[-1]
    while httpx.get(f"{address}/health").status_code != 200:
        time.sleep(0.2)
    yield address, app.pid
    app.send_signal(signal.SIGTERM)
    try:
        _, complaint = app.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        app.kill()
        _, complaint = app.communicate()
    well = app.returncode == 0 and "Traceback" not in complaint
    report("the app ends well, and without a traceback", well)
    if not well:
        print(f"exit code {app.returncode}\n{complaint[-2000:]}", flush=True)


def ask(address: str, name: str, data: list, by: str, http: httpx.Client | None = None) -> tuple[int, float, str]:
    """As a proxy asks for somebody.  Gives the status, the seconds to the end, and what was answered."""
    http, began = http or httpx, time.perf_counter()
    asked = http.post(f"{address}{API}/call/{name}", json={"data": data}, headers={"X-Forwarded-For": by}, timeout=60)
    if asked.status_code != 200:
        return asked.status_code, time.perf_counter() - began, asked.text
    told = http.get(f"{address}{API}/call/{name}/{asked.json()['event_id']}", timeout=1200)
    return told.status_code, time.perf_counter() - began, told.text


def report(what: str, good: bool) -> None:
    print(f"{'ok  ' if good else 'FAIL'}  {what}", flush=True)
    FAILED.extend([] if good else [what])


FAILED: list[str] = []


def p95(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.95 * (len(seconds) - 1) + 0.5)]


# ----------------------------------------------------------------------------------------------------------- a share


def share(seconds: float = 60) -> None:
    """Five users draw ten digits each, again and again: alone, and beside one who asks for 25 times 64 in 100 steps."""
    brief, long = ["mnist", "all", 10], ["mnist", "all", 64, 0, 100]
    with served() as (address, _):

        def user(number: int) -> list[float]:
            until, took = time.monotonic() + seconds, []
            while time.monotonic() < until:
                status, spent, told = ask(address, "sample", brief, f"10.0.1.{number}")
                assert status == 200 and "event: complete" in told, told
                took.append(spent)
                time.sleep(1)
            return took

        with ThreadPoolExecutor(5) as five, ThreadPoolExecutor(400) as crowd:
            alone = sum(five.map(user, range(5)), [])
            http = httpx.Client(limits=httpx.Limits(max_connections=None))
            greedy = [crowd.submit(ask, address, "sample", long, "10.0.2.1", http) for _ in range(25)]
            time.sleep(3)
            beside = sum(five.map(user, range(5)), [])
            left = sum(not one.done() for one in greedy)
            more = asyncio.run(flood(address, "sample", long, "10.0.2.1", 300))
            http.close()  # and with it whoever listened
    apart = f"{p95(alone):.1f} s alone, {p95(beside):.1f} s beside {left} long requests"
    report(f"p95 of {len(alone)} and {len(beside)} requests of five users: {apart}", p95(beside) <= 2 * p95(alone))
    late = [spent for status, spent in more if status == 429]
    report(f"of 300 more {len(late)} were refused, the last after {max(late):.2f} s", len(late) > 250 and max(late) < 1)


async def flood(address: str, name: str, data: list, by: str, count: int) -> list[tuple[int, float]]:
    """So many requests at once, each the status and the seconds. By bare sockets: hundreds of clients are slow."""
    url, body = httpx.URL(f"{address}{API}/call/{name}"), json.dumps({"data": data})
    head = f"POST {url.path} HTTP/1.1\r\nHost: {url.host}\r\nX-Forwarded-For: {by}\r\nContent-Type: application/json"
    request = f"{head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()

    async def one() -> tuple[int, float]:
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(request)
        status = int((await reader.readline()).split()[1])
        writer.close()
        return status, time.perf_counter() - began

    return await asyncio.gather(*(one() for _ in range(count)))


# --------------------------------------------------------------------------------------------------------- threads


def threads(runs: int = 200) -> None:
    """Eight threads on three packs at once draw what one alone draws, to the bit."""
    from mmdemo.studio import Studio

    studio = Studio([ROOT / "weights"], device="cpu")
    requests = [("mnist", "7"), ("cifar10", "cat"), ("faces", "a person with green hair")]
    wanted = {n: studio.sample(*requests[n % 3], seed=n, steps=3).images[0].tobytes() for n in range(12)}

    def draw(thread: int) -> int:
        order = random.Random(thread)
        places = [order.randrange(12) for _ in range(runs)]
        drawn = (studio.sample(*requests[n % 3], seed=n, steps=3).images[0].tobytes() == wanted[n] for n in places)
        return sum(drawn)

    with ThreadPoolExecutor(8) as pool:
        same = sum(pool.map(draw, range(8)))
    report(f"{same} of {8 * runs} pictures drawn by eight threads are those drawn alone", same == 8 * runs)


# ------------------------------------------------------------------------------------------------------------ load


# Thirty browsers are here on the machine of the app. Each asks for sixty frames a second for as long as it is open,
# since gradio's message that it loads leaves a loop behind; two cores would draw those and do nothing else.
FEW_FRAMES = "window.requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), 250)"
PATIENCE = 120_000  # milliseconds for each wait


def load(students: int = 30) -> None:
    """A class opens the page at once, and each draws."""
    from browsing import CHROMIUM, QUIET, sync_api

    with served() as (address, pid), sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        pages = [chromium.new_page() for _ in range(students)]
        for page in pages:
            page.add_init_script(FEW_FRAMES)
        began, before = time.perf_counter(), processor(pid)
        for page in pages:
            page.goto(address, wait_until="commit", timeout=PATIENCE)
        for page in pages:
            page.get_by_role("tab", name="Sample", exact=True).click(timeout=PATIENCE)
        for page in pages:
            page.locator("#sample .mm-foot a").wait_for(timeout=PATIENCE)
        opened = time.perf_counter() - began
        for page in pages:
            page.get_by_role("button", name="Draw", exact=True).click()
        drawn = 0
        for page in pages:
            page.locator("#sample .mm-status", has_text="drawn in").wait_for(timeout=PATIENCE)
            page.locator("#sample button", has_text="Stop").and_(page.locator(":disabled")).wait_for(timeout=PATIENCE)
            drawn += 1
        spent, used = time.perf_counter() - began, processor(pid) - before
        chromium.close()
    what = f"all had the first pictures after {opened:.0f} s and their own after {spent:.0f} s"
    report(f"{drawn} of {students} students drew: {what}; the app took {used:.0f} s of a core", drawn == students)


# ------------------------------------------------------------------------------------------------------------ live


# The page moves the hand itself, as often as a browser tells of a mouse: Playwright takes a fifth of a core for it, and
# comes to 28 moves a second beside what it measures.
DRAG = """(seconds) => new Promise((done) => {
  const square = document.querySelector('.mm-square'), { x, y, width, height } = square.getBoundingClientRect();
  let moves = 0, pictures = 0;
  const watch = new MutationObserver(() => { pictures += 1; }), began = performance.now();
  watch.observe(square.querySelector('img'), { attributeFilter: ['src'] });
  const hand = setInterval(() => {
    moves += 1;
    const place = { clientX: x + 3 * moves % width, clientY: y + 2 * moves % height };
    square.dispatchEvent(new PointerEvent('pointermove', { pointerId: 1, ...place }));
    const took = (performance.now() - began) / 1000;
    if (took < seconds) return;
    clearInterval(hand);
    watch.disconnect();
    done(pictures / took);
  }, 1000 / 60);
})"""


def live(seconds: float = 10) -> None:
    """A hand drags in the square of every pack that has one, in a browser on the same cores."""
    from browsing import CHROMIUM, QUIET, choose_pack, sync_api

    with served() as (address, _), sync_api.sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET).new_page()
        page.goto(address)
        page.get_by_role("tab", name="Compare", exact=True).click()
        page.get_by_role("tab", name="Live", exact=True).click()
        for pack in ("mnist", "faces", "cifar10"):
            choose_pack(page, pack)
            page.locator(".mm-foot p", has_text="of fast").wait_for(timeout=PATIENCE)
            page.wait_for_timeout(20_000)  # other tabs draw their first pictures
            page.locator(".mm-square").scroll_into_view_if_needed()
            box = page.locator(".mm-square").bounding_box()
            page.mouse.move(box["x"] + 9, box["y"] + 9)
            page.mouse.down()
            rate = page.evaluate(DRAG, seconds)
            page.mouse.up()
            report(f"{pack}: {rate:.1f} pictures a second follow the hand", rate >= 15)


# ---------------------------------------------------------------------------------------------------------- memory


def memory(minutes: float = 60, leak: bool = False) -> None:
    """Eight users do all there is to do; one of them opens pages.  leak: as a control, every answer leaves 100 kB."""
    with served(leak=leak) as (address, pid):
        until, sizes, done = time.monotonic() + 60 * minutes, [], [0] * 8
        with ThreadPoolExecutor(9) as pool:
            users = [pool.submit(user_of_all, address, n, until, done) for n in range(7)]
            users.append(pool.submit(user_of_pages, address, until, done))
            while time.monotonic() < until:
                sizes.append((time.monotonic(), resident(pid)))
                time.sleep(5)
            for one in users:
                one.result()
    later = lowest(sizes[len(sizes) // 2 :])  # above that is what a request needs for a moment
    grown = 3600 * slope(later)
    what = (
        f"{sum(done)} requests in {minutes:g} minutes: {sizes[0][1]:.0f} MB at first, {later[0][1]:.0f} MB half way, "
    )
    report(f"{what}{later[-1][1]:.0f} MB in the end: {grown:.0f} MB an hour in the second half", (grown > 10) == leak)


def user_of_all(address: str, number: int, until: float, done: list[int]) -> None:
    order, by = random.Random(number), f"10.0.3.{number}"
    tokens = [[order.randrange(64) for _ in range(8)] for _ in range(8)]
    photograph = ROOT / "docs" / "denoise.png"
    with httpx.Client() as http:
        while time.monotonic() < until:
            label, pack = str(order.randrange(10)), order.choice(["mnist", "faces"])
            (path,) = http.post(f"{address}{API}/upload", files={"files": photograph.open("rb")}, timeout=60).json()
            sent = {"path": path, "meta": {"_type": "gradio.FileData"}}
            name, data = order.choice([
                ("sample", ["mnist", label, order.randrange(1, 5), None, 4]),
                ("denoise", ["mnist", label, None, 5]),
                ("morph", ["mnist", label, None, 0, 1, 3, 4]),
                ("compare", ["mnist", "steps", [1, 2], "guidance", [1, 2]]),
                ("reconstruct", [pack, sent]),
                ("edit", ["mnist", sent, label, 0.5, None, 4]),
                ("restore", ["mnist", sent, "upscale", None, None, 4, None, None, 2]),
                ("classify", ["mnist", sent]),
                ("synthesize", ["mnist", order.randrange(1, 20), label, False, None, 4]),
                ("noise", ["mnist", sent, None, 4]),
                ("decode", ["mnist", tokens]),
                ("code", ["mnist", order.randrange(64)]),
                ("codebook", ["mnist"]),
                ("code_map", ["mnist"]),
                ("packs", []),
                ("sample", ["nowhere", label]),
            ])  # fmt: skip
            ask(address, name, data, by, http)
            done[number] += 1


def user_of_pages(address: str, until: float, done: list[int]) -> None:
    from browsing import CHROMIUM, QUIET, sync_api

    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        while time.monotonic() < until:
            page = chromium.new_page()
            page.goto(address)
            for tab in ("Reconstruct", "Sample", "Denoise"):
                page.get_by_role("tab", name=tab, exact=True).click()
                page.wait_for_timeout(2000)
            page.get_by_role("button", name="Denoise", exact=True).click()
            page.wait_for_timeout(2000)
            page.close()
            done[7] += 1
        chromium.close()


def processor(pid: int) -> float:
    """Seconds that a process has taken of all cores."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) / 100


def resident(pid: int) -> float:
    """In MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def lowest(points: list[tuple[float, float]], seconds: float = 60) -> list[tuple[float, float]]:
    """The lowest of each minute."""
    minutes: dict[int, tuple[float, float]] = {}
    for when, size in points:
        minute = int(when // seconds)
        minutes[minute] = min(minutes.get(minute, (when, size)), (when, size), key=lambda one: one[1])
    return list(minutes.values())


def slope(points: list[tuple[float, float]]) -> float:
    """Of the line with the least squares."""
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def leaking_app(flags: list[str]) -> None:
    """The app, but every picture that it answers stays for ever."""
    sys.argv[1:] = flags
    import app
    from mmdemo.ui import endpoints

    kept, own_file = [], endpoints.own_file
    endpoints.own_file = lambda image: kept.append(bytearray(b"x" * 100_000)) or own_file(image)
    sys.exit(app.main())


FAULTS: dict[str, Callable] = {"share": share, "threads": threads, "load": load, "live": live, "memory": memory}


def main() -> int:
    if sys.argv[1:2] == ["leaking-app"]:
        leaking_app(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"some of: {', '.join(FAULTS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=60, help="how long memory is watched (default: %(default)s)")
    parser.add_argument("--leak", action="store_true", help="watch an app that leaks, to see that it is caught")
    args = parser.parse_args()
    for name in args.faults or FAULTS:
        print(name, flush=True)
        FAULTS[name](**({"minutes": args.minutes, "leak": args.leak} if name == "memory" else {}))
    return int(bool(FAILED))


if __name__ == "__main__":
    sys.exit(main())
