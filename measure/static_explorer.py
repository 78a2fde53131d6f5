"""The explorer as plain files: they open from disk, and from any host that can hand out files."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..pipelines import InputError, is_folder
from .cells import Sweep, is_sweep
from .explore import explore_comparison, explore_sweep
from .folders import check_free, full_path, replacing
from .result import Comparison

HERE = Path(__file__).parent
DATA = "data.js"  # a script, for a page opened from disk may not fetch
MARK = "// A static explorer, written by Deadheat.\n"  # how the data of one begins: such a folder may be replaced


def static_explorer(results: Sequence[str | Path], folder: str | Path) -> Path:
    """Write the explorer of one or several results, with their pictures beside it.

    Args:
        results: folders that ``sweep`` or ``compare`` wrote, or the ``sweep.jsonl`` or ``result.json`` in them.
        folder: where the files go: a new one, an empty one, or one with an explorer, which is replaced; what else lies
            beside it stays. Nothing there changes before all results have been read.

    Returns:
        The page to open.

    Raises:
        InputError: the folder holds something else, or cannot be written.
        PresetError: a result is not there, damaged, or of another version.
    """
    target = full_path(folder)
    check_free(target, _is_ours, "an explorer's", "--static")
    with tempfile.TemporaryDirectory(prefix="deadheat-explorer-") as read:
        runs = [_run(full_path(result), Path(read), f"runs/{nth}") for nth, result in enumerate(results)]
        try:
            _write(Path(read), runs)
            with replacing(target) as made:
                shutil.copytree(read, made, dirs_exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {target} cannot be written: {error.strerror or error}") from error
    return target / "index.html"


def _is_ours(folder: Path) -> bool:
    try:
        with (folder / DATA).open(encoding="utf-8") as file:
            return file.read(len(MARK)) == MARK
    except (OSError, ValueError):
        return False


def _run(source: Path, target: Path, name: str) -> dict[str, Any]:
    """Return a result for the explorer, and copy its pictures."""
    folder = source if is_folder(source) else source.parent

    def look(file: str) -> str | None:
        if not (picture := folder / file).is_file():
            return None
        (target / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, target / name / picture.name)
        return f"{name}/{picture.name}"

    if is_sweep(source) or is_sweep(folder):
        return explore_sweep(Sweep.load(source), look)
    return explore_comparison(Comparison.load(source).to_dict(), look)


def _write(target: Path, runs: list[dict[str, Any]]) -> None:
    html, css, js, page, start = (
        (HERE / name).read_text(encoding="utf-8")
        for name in ("explorer.html", "explorer.css", "explorer.js", "static_explorer.html", "static_explorer.js")
    )
    (target / "runs").mkdir(exist_ok=True)
    style = (HERE / "static_explorer.css").read_text(encoding="utf-8")
    parts = {
        "index.html": page.replace("<!-- explorer -->", html),
        "explorer.css": f"{style}#explorer {{\n{css}}}\n",
        "explorer.js": f"function explorer(element, props, watch) {{\n{js}}}\n{start}",
        DATA: f"{MARK}const RUNS = {json.dumps(runs)};\n",
    }
    for name, text in parts.items():
        (target / name).write_text(text, encoding="utf-8")
