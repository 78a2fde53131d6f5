"""Imports point one way, and only the app knows gradio. See CONTRIBUTING.md, "Which way imports point"."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["pipelines", "accelerators", "presets", "measure", "app"]  # each may import those on its left
MAY_IMPORT = {layer: {*LAYERS[:i]} for i, layer in enumerate(LAYERS)} | {
    "ui": {*LAYERS[:4], "deadheat"},
    "app": {*LAYERS[:4], "deadheat", "ui"},
    "training": {"pipelines", "measure"},
    "deadheat": {*LAYERS},
}
GRADIO = {"app", "ui"}


def sources() -> list[Path]:
    """Every file of ours outside the tests and benchmarks."""
    folders = sorted(ROOT / layer for layer in MAY_IMPORT)
    return sorted([*(path for folder in folders for path in folder.rglob("*.py")), *ROOT.glob("app.py")])


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path, source: str) -> Iterator[tuple[str, bool]]:
    """Each imported name in full, as "deadheat.measure.compare.compare", and whether it was written relatively."""
    home = path.relative_to(ROOT).parent.parts
    home = home if home[:1] == ("deadheat",) else ("deadheat", *home)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (*home[: len(home) - node.level + 1], node.module) if node.level else (node.module,)
            for alias in node.names:
                yield ".".join(filter(None, (*base, alias.name))), node.level > 0


def complaints(path: Path, source: str) -> Iterator[str]:
    """What this file may not import, a sentence each."""
    here = layer_of(path)
    for name, relative in imports(path, source):
        top, *rest = name.split(".")
        if top == "gradio" and here not in GRADIO:
            yield f"{here} must not know gradio"
        if top != "deadheat" or rest == ["__version__"]:
            continue
        there = rest[0] if rest and rest[0] in MAY_IMPORT else "deadheat"
        if there == here:
            continue
        if there not in MAY_IMPORT[here]:
            yield f"{here} must not import {name}"
        if any(part.startswith("_") for part in rest):
            yield f"{name} is private to {there}"
        if not relative and here in LAYERS[:4]:
            yield f"inside the package write {name} relatively"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path):
    assert not list(complaints(path, path.read_text()))


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("pipelines/a.py", "from ..accelerators import ABCache", "must not import deadheat.accelerators.ABCache"),
        ("pipelines/a.py", "def f():\n    from .. import accelerate", "must not import deadheat.accelerate"),
        ("accelerators/a.py", "from deadheat.pipelines import patched", "relatively"),
        ("measure/a.py", "from ..pipelines.patch import _put_back", "private"),
        ("measure/a.py", "import gradio as gr", "must not know gradio"),
        ("presets/deep/a.py", "from ...measure import compare", "must not import"),
        ("training/a.py", "from deadheat.presets import Recipe", "must not import"),
        ("training/a.py", "import deadheat", "must not import"),
    ],
)
def test_what_is_refused(path: str, source: str, words: str):
    (complaint,) = complaints(ROOT / path, source)
    assert words in complaint


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pipelines/a.py", "from .patch import _put_back\nfrom .. import __version__\nimport torch"),
        ("measure/a.py", "from ..presets import Recipe\nfrom ..accelerators.knobs import knob"),
        ("deadheat/__main__.py", "from .app import main\nfrom .measure import compare\nfrom . import load"),
        ("app.py", "import gradio as gr\nfrom deadheat import compare\nfrom deadheat.measure import table"),
        ("training/a.py", "from deadheat.pipelines.scenes import WORDS\nfrom .render import picture"),
    ],
)
def test_what_is_allowed(path: str, source: str):
    assert not list(complaints(ROOT / path, source))
