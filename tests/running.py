"""What the tests share that start the app or a command, and read what it says."""

import contextlib
import io
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from mmdemo.__main__ import main

ROOT = Path(__file__).parent.parent


def start_app(*flags: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "app.py"), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run(*arguments, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess:
    """`python -m mmdemo …` in a process of its own."""
    command, env = [sys.executable, "-m", "mmdemo", *map(str, arguments)], os.environ | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=env)


def quietly(*arguments) -> int:
    """The same in this process, its output thrown away."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main(list(map(str, arguments)))


def one_line(error: str) -> str:
    """What a command writes when it refuses."""
    assert error.startswith("error: ") and error.count("\n") == 1 and error.endswith("\n"), error
    return error


def is_one_sentence(text: str) -> bool:
    """Whether it is fit to be read by a person who has asked for what cannot be done."""
    return 0 < len(text) < 400 and not re.search(r"Traceback|Error:|\n", text)


def is_mapped(tensor, file: Path) -> bool:
    """Whether a tensor lies in a file, and so costs no memory but what the system has to spare."""
    with open("/proc/self/maps") as lines:
        for line in lines:
            ends, *_, name = line.split(maxsplit=5)
            first, last = (int(end, 16) for end in ends.split("-"))
            if first <= tensor.data_ptr() and tensor.data_ptr() + tensor.nbytes <= last:
                return name.strip() == str(file)
    return False


def memory(pid: int, what: str = "VmRSS") -> int:
    """In MB; VmHWM is the most that it ever was."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) // 1000
