"""What no browser would send: `python tests/fuzz.py [--bodies 10000] [--seed 0] [--schema]`, some minutes.

Starts the app with the packs it comes with and sends it valid requests that were changed at random, the same ones for
the same seed. A fault is a 5xx, an answer that does not come within PATIENCE, a traceback on the app's stderr, or an
accepted event that ends neither in a result nor in one sentence. Of each kind the shortest request is told; if there
is any, the status is 1.

--schema: afterwards schemathesis makes requests up from the app's own openapi.json. `pip install schemathesis` before;
nothing else in the project needs it.
"""

import argparse
import base64
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))  # as pytest does

from running import free_port, is_one_sentence, start_app

from mmdemo.studio import VERBS

PATIENCE = 10  # seconds
ONE_EACH = httpx.Limits(max_keepalive_connections=0)  # a connection: after a 500 the app closes it, sooner or later
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR4nGOMYoAAJgaKGAAbfgBqEMfrVAAAAABJRU5ErkJggg=="
URI = f"data:image/png;base64,{PNG}"
ARGUMENTS = {
    "pack": "mnist", "code": 1, "by": 2, "tokens": [[1, 2], [3, 4]], "label": "7",
    "other_label": "3", "seed": 3, "other_seed": 4, "count": 2, "steps": 1, "guidance": 1.0, "strength": 0.5,
    "x": "steps", "xs": [1, 2], "y": "seed", "ys": [1, 2], "invert": "auto",
}  # fmt: skip
SERVED = {  # what the page's scripts ask
    "describe_code": ["mnist", 1],
    "replace_code": ["mnist", [[1, 2], [3, 4]], 1, 2],
    "weigh_words": ["faces", {"label": "a face", "seed": 1, "steps": 2}, 1],
    "model_card": ["mnist"],
    "try_again": ["mnist"],
    "decode_tokens": ["mnist", [[1, 2], [3, 4]]],
    "second_picture": ["mnist", URI, 32, "auto"],
    "between": ["mnist", URI, URI, 32],
}
STRANGE = [
    None, True, False, 0, -1, 0.5, 2**31, 2**63, 2**64, -(2**64), 10**400, 1e308, float("nan"), float("inf"), -0.0, "",
    " ", "0", "x" * 5000, "\ud800", "\0", "<b>&amp;", "../../../etc/passwd", "é" * 300, [], {}, [[]], [None],
    {"": None}, {"path": "/etc/passwd"}, {"path": "x" * 5000, "meta": {"_type": "gradio.FileData"}},
    {"__type__": "update"}, {"path": "http://127.0.0.1:9/x.png", "url": 3, "meta": {"_type": "gradio.FileData"}},
    "http://[", "data:,", "@deep@",
]  # fmt: skip
TYPES = ["application/json", "text/plain", "", "application/json; charset=utf-16", "application/x-www-form-urlencoded",
         "multipart/form-data", "multipart/form-data; boundary=x", "application/xml", "\u00e9"]  # fmt: skip


@dataclass
class Request:
    method: str
    route: str  # as it is counted
    path: str
    body: bytes = b""
    kind: str = "application/json"

    def __str__(self) -> str:
        body = repr(self.body)[1:]
        path = self.path if len(self.path) < 200 else f"{self.path[:100]}… ({len(self.path)} characters)"
        body = body if len(body) < 400 else f"{body[:300]}… ({len(self.body)} bytes)"
        return f"{self.method} {path} [{self.kind}] {body}"


@dataclass
class Report:
    statuses: Counter = field(default_factory=Counter)
    ends: Counter = field(default_factory=Counter)
    faults: dict[str, Request] = field(default_factory=dict)

    def fault(self, kind: str, request: Request) -> None:
        last = self.faults.get(kind, request)
        self.faults[kind] = min(last, request, key=lambda one: len(one.path) + len(one.body))


class App:
    """The app in a process of its own, and what it writes on stderr."""

    def __enter__(self):
        self.process, self.complaints = start_app("--port", free_port(), "--device", "cpu"), []
        self.read = 0  # lines of these
        threading.Thread(target=self._listen, daemon=True).start()
        self.url = self.process.stdout.readline().split()[-1]
        self.client = httpx.Client(base_url=f"{self.url}/gradio_api", timeout=PATIENCE, limits=ONE_EACH)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.complaints.append(line)

    def raised(self, wait: float) -> str:
        """What was raised since this was last asked, by the last line of its traceback; "" if nothing was."""
        time.sleep(wait)
        if any("Traceback" in line for line in self.complaints[self.read :]):
            time.sleep(0.1)  # for the rest of it
        lines, self.read, found = self.complaints[self.read :], len(self.complaints), ""
        for i, line in enumerate(lines):
            if "Traceback" in line:
                found = next((one.strip() for one in lines[i + 1 :] if one[0] not in " +|\n"), found)
        return re.sub(r"name: .*|`.*?`|'.*?'|argument: \w+|\S+\(\)|-?\d+", "…", found)[:200]

    def send(self, request: Request) -> httpx.Response:
        headers = {"Content-Type": request.kind.encode()} if request.kind else {}
        made = self.client.build_request(request.method, request.path, content=request.body, headers=headers)
        # A GET may answer with a stream without end; whatever else does is over once it is read.
        answer = self.client.send(made, stream=True)
        try:
            if request.method == "POST":
                answer.read()
        finally:
            answer.close()
        return answer


# ----------------------------------------------------------------------------------------------------- what is sent


def valid(app: App) -> list[Request]:
    """A request for every route, and for every function behind it."""
    config = httpx.get(f"{app.url}/config", timeout=60).json()
    (path,) = app.client.post("/upload", files={"files": ("a.png", base64.b64decode(PNG))}).json()
    picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
    known = ARGUMENTS | {"image": picture, "other": picture}

    def post(route: str, path: str, body) -> Request:
        return Request("POST", route, path, body if isinstance(body, bytes) else json.dumps(body).encode())

    made = []
    for name, verb in {"packs": None, **VERBS}.items():
        given = {one: known.get(one) for one in (verb.arguments if verb else ())}
        made.append(post("/call", f"/call/{name}", {"data": list(given.values()), "session_hash": "s"}))
        made.append(post("/call/v2", f"/call/v2/{name}", given))
    for event in config["dependencies"]:
        body = {"data": [None] * len(event["inputs"]), "fn_index": event["id"], "session_hash": "s", "event_data": None}
        made.append(post("/queue/join", "/queue/join", body | {"trigger_id": event["id"]}))
    for component in config["components"]:
        for name in component["props"].get("server_fns") or ():
            body = {"session_hash": "s", "component_id": component["id"], "fn_name": name, "data": SERVED.get(name, [])}
            made.append(post("/component_server", "/component_server", body))
    file = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc\r\n--x--\r\n'
    made.append(Request("POST", "/upload", "/upload?upload_id=u", file, "multipart/form-data; boundary=x"))
    made.append(post("/cancel", "/cancel", {"session_hash": "s", "fn_index": 0, "event_id": "e"}))
    made.append(post("/reset", "/reset", {"event_id": "e"}))
    for path in ("/call/packs/e", "/queue/data?session_hash=s", "/file=a.png", "/heartbeat/s", "/info"):
        made.append(Request("GET", re.split("[?=]", path)[0], path))
    return made


def mutated(chance: random.Random, request: Request, number: int) -> Request:
    """A valid request, changed in up to three ways, in its body or around it, in a session of its own."""
    path, body, kind = request.path, request.body, request.kind
    if body and kind == "application/json":
        content = json.loads(body)
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
            content = changed(chance, content)
        deep = chance.choice((200, 2000, 100_000))
        text = json.dumps(content).replace('"@deep@"', "[" * deep + "]" * deep)
        text = text.replace('"session_hash": "s"', f'"session_hash": "s{number}"')
        body = text.encode()
    if body and chance.random() < 0.15:
        body = broken(chance, body)
    if chance.random() < 0.05:
        kind = chance.choice(TYPES)
    if chance.random() < (0.05 if request.method == "POST" else 0.9):
        path = elsewhere(chance, path)
    return Request(request.method, request.route, path, body, kind)


def changed(chance: random.Random, value):
    """One place of a JSON value, changed: anything else, left out, added, or under another name."""
    if isinstance(value, dict) and value:
        value, key, how = dict(value), chance.choice(list(value)), chance.random()
        if how < 0.6:
            value[key] = changed(chance, value[key])
        elif how < 0.75:
            del value[key]
        elif how < 0.9:
            value[chance.choice((key[:-1], f"{key}s", key.upper(), "", "x" * 5000))] = value.pop(key)
        else:
            value[chance.choice(("extra", "oauth_token", "request", "simple_format", "batched", "event_id"))] = strange(
                chance
            )
        return value
    if isinstance(value, list) and value and chance.random() < 0.8:
        at, how = chance.randrange(len(value)), chance.random()
        if how < 0.7:
            return [*value[:at], changed(chance, value[at]), *value[at + 1 :]]
        return value[:at] if how < 0.85 else [*value, *[strange(chance)] * chance.choice((1, 3, 1000))]
    return strange(chance)


def strange(chance: random.Random):
    return chance.choice(STRANGE)


def broken(chance: random.Random, body: bytes) -> bytes:
    """Bytes that may be no JSON, or no text at all."""
    at = chance.randrange(len(body))
    return chance.choice(
        (b"", body[:at], body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :], body * 2, b"\xef\xbb\xbf" + body,
         body.decode("utf-8", "replace").encode("utf-16"), b"null", b"[]", b'"', b"\0" * 100)
    )  # fmt: skip


def elsewhere(chance: random.Random, path: str) -> str:
    end = chance.choice(
        ("x" * 5000, "%00", "%ff", "/..", "%2e%2e%2f" * 20, "?a=" + "y" * 5000, "/", "//", "%F0%9F%98%80")
    )
    cut = path.rindex("/") + 1 if chance.random() < 0.5 else len(path)
    return path[:cut] + end


# -------------------------------------------------------------------------------------------------------- what comes


def ended(app: App, request: Request, answer: httpx.Response) -> str:
    """How an accepted event ended, "" if well."""
    event = answer.json()["event_id"]
    path = f"/call/packs/{event}"
    if request.route == "/queue/join":
        session = json.loads(request.body)["session_hash"]
        if not session.isprintable():  # no address can name it, so nobody will ever ask
            return ""
        path = f"/queue/data?session_hash={quote(session)}"
    stream, kind = app.client.stream("GET", path), None
    with stream as lines:
        for line in lines.iter_lines():
            name, _, rest = line.partition(": ")
            if name == "event":
                kind = rest
            elif name == "data" and kind in ("complete", "error"):
                return "" if kind == "complete" else unsaid(json.loads(rest))
            elif name == "data" and kind is None:
                told = json.loads(rest)
                if told["msg"] == "process_completed" and told["event_id"] == event:
                    return "" if told["success"] else unsaid(told["output"])
                if told["msg"] in ("unexpected_error", "close_stream"):
                    return f"ended by {told['msg']}: {told.get('message')}"
    return "ended without a word"


def unsaid(error) -> str:
    text = error.get("error") if isinstance(error, dict) else error
    return "" if isinstance(text, str) and is_one_sentence(text) else f"error without a sentence: {text!r:.100}"


def fuzz(app: App, bodies: int, seed: int) -> Report:
    chance, report = random.Random(seed), Report()
    requests = valid(app)
    routes = sorted({one.route for one in requests})
    by_route = {route: [one for one in requests if one.route == route] for route in routes}
    weights = [10 if by_route[route][0].method == "POST" else 1 for route in routes]
    for number in range(bodies):
        request = mutated(chance, chance.choice(by_route[chance.choices(routes, weights)[0]]), number)
        trouble, wait = "", 0.1 if request.method == "GET" else 0.0
        try:
            answer = app.send(request)
            report.statuses[request.route, answer.status_code] += 1
            if answer.status_code >= 500:
                trouble, wait = str(answer.status_code), 0.1
            elif answer.status_code == 200 and request.route in ("/call", "/call/v2", "/queue/join"):
                trouble = ended(app, request, answer)
                report.ends[trouble or "well"] += 1
        except httpx.TimeoutException:
            trouble = f"nothing within {PATIENCE} s"
        except httpx.RequestError as error:
            trouble = repr(error)
        raised = app.raised(wait)
        if trouble or raised:
            report.fault(f"{request.route}: {trouble or 'a traceback'} ({raised})", request)
    return report


def draws(app: App) -> bool:
    request = Request("POST", "/call", "/call/sample", json.dumps({"data": ["mnist", "7", 1, 0, 2]}).encode())
    return ended(app, request, app.send(request)) == ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schema", action="store_true", help="also run schemathesis on the app's openapi.json")
    options = parser.parse_args()
    if options.schema and not shutil.which("schemathesis"):
        parser.error("--schema needs schemathesis: pip install schemathesis")
    with App() as app:
        report = fuzz(app, options.bodies, options.seed)
        if not draws(app):
            report.fault("the app does not draw any more", Request("POST", "/call", "/call/sample"))
        status = 0
        if options.schema:
            schema = f"{app.url}/gradio_api/openapi.json"
            command = ["schemathesis", "run", schema, "--checks", "not_a_server_error", "--seed", str(options.seed)]
            with tempfile.TemporaryDirectory() as folder:  # it leaves one of its own where it is called
                status = subprocess.run(command, cwd=folder).returncode
    for (route, code), count in sorted(report.statuses.items()):
        print(f"{route:20} {code} {count:6}")
    for how, count in report.ends.most_common():
        print(f"ended {how}: {count}")
    for kind, request in report.faults.items():
        print(f"FAULT {kind}\n      {request}")
    return int(bool(report.faults or status))


if __name__ == "__main__":
    sys.exit(main())
