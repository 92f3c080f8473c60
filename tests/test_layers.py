"""The house's rules (README, "The house"), read from its source and from what an import brings in."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "mmdemo").rglob("*.py"))
HEAVY = {"torch", "torchvision", "torchmetrics", "diffusers", "transformers", "accelerate", "gradio", "numpy", "PIL"}


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> set[str]:
    """Every module a file imports, anywhere in it, but for what only type checkers read."""
    found = set()
    pending = [ast.parse(file.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: imports are absolute here"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        pending += ast.iter_child_nodes(node)
    return found


IMPORTS = {name_of(file): imports(file) for file in MODULES}


def reaches(module: str, *targets: str) -> set[str]:
    return {one for one in IMPORTS[module] for target in targets if one == target or one.startswith(target + ".")}


def loaded_by(statement: str, blocked: str = "") -> set[str]:
    """The top-level modules in memory after a statement, in a Python of its own.  blocked: a module made absent."""
    script = f"import sys\nif {blocked!r}: sys.modules[{blocked!r}] = None\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_rules_are_checked_on_real_modules():
    assert {"mmdemo", "mmdemo.studio", "mmdemo.models.dit", "mmdemo.training.vqvae", "mmdemo.__main__"} <= set(IMPORTS)
    assert "torch" in IMPORTS["mmdemo.codec"] and reaches("mmdemo.codec", "mmdemo.images")


def test_only_the_app_and_the_page_import_gradio():
    assert {name for name in IMPORTS if reaches(name, "gradio", "gradio_client")} <= {
        name for name in IMPORTS if name.startswith("mmdemo.ui")
    }


def test_the_models_import_nothing_of_the_rest():
    for name in IMPORTS:
        if name.startswith("mmdemo.models"):
            assert all(one.startswith("mmdemo.models") for one in reaches(name, "mmdemo")), name


def test_codec_and_pipeline_know_no_packs_studio_page_or_training():
    for name in ("mmdemo.codec", "mmdemo.pipeline", "mmdemo.images"):
        higher = ("packs", "studio", "drawing", "stored", "views", "ui", "training", "data", "evaluate")
        forbidden = (f"mmdemo.{above}" for above in higher)
        assert not reaches(name, *forbidden), name
    assert not reaches("mmdemo.images", "mmdemo.codec", "mmdemo.pipeline", "mmdemo.models")
    assert not reaches("mmdemo.codec", "mmdemo.pipeline")


def test_packs_know_nothing_above_them():
    for above in ("studio", "drawing", "stored", "views", "ui", "training", "evaluate", "data", "__main__"):
        assert not reaches("mmdemo.packs", f"mmdemo.{above}")


def test_training_and_studio_meet_only_through_a_pack_on_disk():
    training = {name for name in IMPORTS if name.startswith("mmdemo.training")}
    above = ("mmdemo.studio", "mmdemo.drawing", "mmdemo.views", "mmdemo.ui", "mmdemo.evaluate")
    for name in training:
        assert not reaches(name, *above), name
    for name in (
        "mmdemo.studio",
        "mmdemo.drawing",
        "mmdemo.views",
        *(name for name in IMPORTS if name.startswith("mmdemo.ui")),
    ):
        assert not reaches(name, "mmdemo.training", "mmdemo.data", "mmdemo.evaluate"), name


def test_the_page_talks_to_the_studio_alone():
    """A tab is handed the studio and knows no model."""
    for name in (name for name in IMPORTS if name.startswith("mmdemo.ui")):
        below = ("models", "codec", "pipeline", "packs")
        assert not reaches(name, "torch", "diffusers", *(f"mmdemo.{module}" for module in below)), name


def test_nothing_imports_the_page_or_the_command_line():
    for name in IMPORTS:
        assert name.startswith("mmdemo.ui") or not reaches(name, "mmdemo.ui"), name
        assert not reaches(name, "mmdemo.__main__"), name


def test_importing_the_package_imports_nothing_heavy():
    assert not loaded_by("import mmdemo; mmdemo.__version__") & HEAVY


@pytest.mark.parametrize("module", ["mmdemo.studio", "mmdemo.stored", "mmdemo.packs", "mmdemo.training.config"])
def test_what_a_page_needs_before_its_models_imports_no_models(module):
    assert not loaded_by(f"import {module}") & {"torch", "diffusers", "torchvision", "transformers", "gradio"}


def test_the_studio_answers_without_torch(tiny_weights):
    """Lists, codebooks and refusals of bad arguments are there before the models are."""
    script = f"""
from mmdemo.studio import Studio
studio = Studio(weights=[{str(tiny_weights)!r}])
assert len(studio.packs()) == 4
studio.codebook("tiny"), studio.code("tiny", 1)
for attempt in (
    lambda: studio.sample("tiny", "oval"),
    lambda: studio.sample("broken", "circle"),
    lambda: studio.decode("tiny", [[99]]),
    lambda: studio.reconstruct("tiny", "nowhere.png"),
):
    try:
        attempt()
    except ValueError:
        continue
    raise SystemExit("not refused")
"""
    assert not loaded_by(script) & {"torch", "diffusers", "torchvision"}


def test_only_data_sets_and_their_measures_use_torchvision_and_torchmetrics():
    """Both take seconds to import, and the app needs neither to list, draw or decode."""
    assert {name for name in IMPORTS if reaches(name, "torchvision")} == {"mmdemo.data"}
    assert {name for name in IMPORTS if reaches(name, "torchmetrics")} <= {"mmdemo.evaluate", "mmdemo.codec"}


@pytest.mark.parametrize("absent", ["gradio", "torchvision"])
def test_without_gradio_or_torchvision_packs_are_opened_and_sampled(tiny_weights, absent):
    script = f"""
from mmdemo.studio import Studio
made = Studio(weights=[{str(tiny_weights)!r}], device="cpu").sample("tiny", "circle", steps=1)
assert made.images[0].size == (16, 16)
"""
    loaded = loaded_by(script, blocked=absent)
    assert "torch" in loaded and not loaded & {"torchmetrics", "mmdemo.data", "mmdemo.training"}


def test_importing_does_no_work(tmp_path):
    """No folder made, no device probed, no thread started, no global seed or setting changed."""
    script = f"""
import os, threading, torch
os.chdir({str(tmp_path)!r})
state, threads, precision = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
import mmdemo.studio, mmdemo.pipeline, mmdemo.codec, mmdemo.packs, mmdemo.training.vqvae, mmdemo.training.dit
assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
assert torch.get_default_dtype() == precision and torch.is_grad_enabled()
assert not torch.cuda.is_initialized()
assert os.listdir() == []
"""
    loaded_by("import sys; sys.path.insert(0, " + repr(str(ROOT)) + ")\n" + script)


def test_no_file_names_a_folder_of_somebodys_machine():
    private = re.compile(r"""(?<![\w.])/(home|root|Users|work|mnt|tmp)/\w""")
    for file in (*MODULES, ROOT / "app.py", *(ROOT / "mmdemo").rglob("*.js"), *(ROOT / "mmdemo").rglob("*.css")):
        if file.is_file():
            assert not private.search(file.read_text(encoding="utf-8")), file.name


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_every_module_says_what_it_knows(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert len(ast.get_docstring(tree) or "") > 20


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_errors_are_caught_by_name_and_input_is_never_asserted(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
            caught = {ast.unparse(one) for one in getattr(node.type, "elts", [node.type])}
            assert not caught & {"Exception", "BaseException"}, f"line {node.lineno}: catches everything"
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: assert vanishes under python -O"


def test_the_global_seed_is_set_by_training_alone():
    """It would mix up concurrent users."""
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.manual_seed", "torch.seed"):
                assert "training" in file.parts or file.name == "classifier.py", f"{file.name}, line {node.lineno}"
