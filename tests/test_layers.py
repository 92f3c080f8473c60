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


NAMES = {name_of(file) for file in MODULES}


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
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if names <= NAMES else names | {node.module}  # a package's module alone, or more of it
        pending += ast.iter_child_nodes(node)
    return found


IMPORTS = {name_of(file): imports(file) for file in MODULES}


def reaches(module: str, *targets: str) -> set[str]:
    return {one for one in IMPORTS[module] for target in targets if one == target or one.startswith(target + ".")}


def loaded_by(statement: str, blocked: tuple[str, ...] = ()) -> set[str]:
    """The top-level modules in memory after a statement, in a Python of its own.  blocked: modules made absent."""
    script = f"import sys\nsys.modules |= dict.fromkeys({blocked!r})\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_rules_are_checked_on_real_modules():
    assert "torch" in IMPORTS["mmdemo.codec"] and reaches("mmdemo.codec", "mmdemo.images")


def tree() -> list[str]:
    """The files that the README names under "The house", in its order."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").split("## The house")[1].split("```")[1].splitlines()
    folders, files = [], []
    for line in filter(None, lines):
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth:] = [name]  # a folder ends with a slash
        files.append("".join(folders))
    return files


# From the bottom up. A module may import what stands above it in this list, and nothing else of the project.
ORDER = [name_of(ROOT / file) for file in tree() if file.startswith("mmdemo/") and file.endswith(".py")]
# What the list alone would allow: these meet only through a pack on disk.
APART = ["mmdemo.results mmdemo.tokens mmdemo.sampling mmdemo.catalogue mmdemo.shelf mmdemo.studio mmdemo.synthesis "
         "mmdemo.ui".split(),
         "mmdemo.data mmdemo.jpeg mmdemo.training mmdemo.classifier mmdemo.reader mmdemo.asked mmdemo.metrics "
         "mmdemo.judging mmdemo.evaluate mmdemo.classified mmdemo.teaching mmdemo.card".split()]  # fmt: skip
# Who may import what is heavy, or another's concern. (For the page: it is handed the studio and knows no model.)
ONLY = {
    "gradio": {"mmdemo.ui"},
    "starlette": {"mmdemo.ui"},
    "torchvision": {"mmdemo.data", "mmdemo.augmentation"},  # takes seconds to import, and the app needs neither it
    "sklearn": {"mmdemo.classifier"},
    "cv2": {"mmdemo.mended"},  # only to be held against
    "torchmetrics": {"mmdemo.metrics", "mmdemo.codec"},  # nor this, to list, draw or decode
}
NOT_IN_THE_PAGE = ("torch", "diffusers", "mmdemo.models", "mmdemo.codec", "mmdemo.schedules", "mmdemo.pipeline")


def imported(module: str) -> set[str]:
    """The project's modules among what a module imports."""
    return IMPORTS[module] & set(ORDER) - {"mmdemo"}


def within(module: str, packages: list[str] | set[str]) -> bool:
    return any(module == one or module.startswith(one + ".") for one in packages)


def test_the_readme_names_every_file_once_and_none_that_is_not():
    there = [file for folder in ("mmdemo", "docs") for file in (ROOT / folder).rglob("*") if file.is_file()]
    there = sorted(str(file.relative_to(ROOT)) for file in there if file.suffix != ".pyc")
    files = [file for file in tree() if not file.endswith("/") and "*" not in file]
    assert there == sorted(file for file in files if file.startswith(("mmdemo/", "docs/")))
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_what_stands_before_it(module):
    allowed = set(ORDER[: ORDER.index(module)])
    assert imported(module) - {module} <= allowed


@pytest.mark.parametrize(("one", "other"), [APART, APART[::-1]], ids=["studio", "training"])
def test_training_and_studio_meet_only_through_a_pack_on_disk(one, other):
    for module in ORDER:
        if within(module, one):
            assert not {name for name in imported(module) if within(name, other)}, module


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_imported_only_where_it_belongs(library):
    assert all(within(module, ONLY[library]) for module in IMPORTS if reaches(module, library))


def test_the_page_knows_no_model():
    for module in ORDER:
        assert not within(module, ["mmdemo.ui"]) or not reaches(module, *NOT_IN_THE_PAGE), module


def test_importing_the_package_imports_nothing_heavy():
    assert not loaded_by("import mmdemo; mmdemo.__version__") & HEAVY


@pytest.mark.parametrize("module", ["mmdemo.studio", "mmdemo.catalogue", "mmdemo.packs", "mmdemo.training.config"])
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


def test_without_gradio_and_torchvision_packs_are_opened_and_sampled(tiny_weights):
    script = f"""
from mmdemo.studio import Studio
made = Studio(weights=[{str(tiny_weights)!r}], device="cpu").sample("tiny", "circle", steps=1)
assert made.images[0].size == (16, 16)
"""
    loaded = loaded_by(script, blocked=("gradio", "torchvision"))
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
            last = node.body[-1]
            chained = isinstance(last, ast.Raise) and last.cause is not None and ast.unparse(last.cause) == node.name
            everything = caught & {"Exception", "BaseException"}
            assert not everything or chained, f"line {node.lineno}: catches everything, and does not pass it on"
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: assert vanishes under python -O"


def test_the_global_seed_is_set_by_training_alone():
    """It would mix up concurrent users."""
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.manual_seed", "torch.seed"):
                assert "training" in file.parts or file.name in ("classifier.py", "reader.py"), (
                    f"{file.name}, line {node.lineno}"
                )


def test_the_package_needs_what_it_imports_and_requirements_add_the_tests_alone():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
    assert required == project["dependencies"] + project["optional-dependencies"]["test"]
    declared = {re.match(r"[\w-]+", one)[0].replace("-", "_") for one in project["dependencies"]}
    declared |= {
        "PIL",
        "cv2",
        "markdown_it",
        "sklearn",
        "mmdemo",
    }  # imported by another name
    imported = {name.split(".")[0] for names in IMPORTS.values() for name in names}
    assert imported - set(sys.stdlib_module_names) <= declared
