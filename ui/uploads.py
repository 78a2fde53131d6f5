"""Result files from strangers: read from bytes, within limits, never from a path. Knows no gradio."""

import io
import json
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from .pictures import data_url

MOST_BYTES = 64 * 2**20  # of everything in a zip, unpacked
MOST_FILES = 4000
MOST_CELLS = 20_000
MOST_SHOWN = 400  # pictures on the page
MOST_METRICS = 20
MOST_WORDS = 10_000  # of what stands in the code of every point
NAMES = ("sweep.jsonl", "result.json")
TAKEN = "take the sweep.jsonl of a sweep, the result.json of a comparison, or their folder as a zip"
DAMAGED = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError, OverflowError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError, EOFError, OSError,
)  # fmt: skip

Look = Callable[[str], str | None]


def explored(raw: bytes) -> dict[str, Any]:
    """Return an uploaded result for the explorer.

    Raises:
        InputError: it is no result, damaged, or larger than is taken here; says what would be taken.
    """
    from deadheat import DeadheatError, InputError

    try:
        page = _zipped(raw) if raw[:4] == b"PK\x03\x04" else _read(raw, lambda _: None)
    except DeadheatError as error:
        raise InputError(_without_paths(str(error))) from error
    except DAMAGED as error:
        raise InputError(f"this file cannot be read as a result ({type(error).__name__}); {TAKEN}") from error
    return {**page, "badge": f"loaded, {page['badge']}"}


def _without_paths(text: str) -> str:
    """Drop the name of our own temporary file: the visitor knows another one."""
    words = (PurePosixPath(word).name if word.startswith("/") else word for word in text.split(" "))
    return " ".join(words)


def _read(raw: bytes, look: Look) -> dict[str, Any]:
    """Tell by its content what a file is."""
    from deadheat.measure import SCHEMA
    from deadheat.measure.explore import explore_comparison

    from deadheat import InputError

    first = json.loads(raw.strip().partition(b"\n")[0] if b'"deadheat sweep"' in raw[:400] else raw)
    if not isinstance(first, dict):
        raise InputError(f"this is no result of Deadheat; {TAKEN}")
    if first.get("kind") == "deadheat sweep":
        return _sweep(raw, first, look)
    if first.get("schema") != SCHEMA:
        raise InputError(f"this is no result of this version: its schema is {first.get('schema')!r}; {TAKEN}")
    _check_repeated(first["settings"], first["settings"]["model"])
    return explore_comparison(first, look)


def _sweep(raw: bytes, header: dict[str, Any], look: Look) -> dict[str, Any]:
    from deadheat.measure import Sweep
    from deadheat.measure.explore import explore_sweep

    from deadheat import InputError

    _check_repeated(header["settings"], header["model"])
    large = InputError(f"this sweep has more than {MOST_CELLS} cells; look at it with deadheat report")
    if max(_planned(header["settings"]), raw.count(b"\n")) > MOST_CELLS:
        raise large
    with tempfile.TemporaryDirectory(prefix="deadheat-upload-") as folder:
        file = Path(folder) / "sweep.jsonl"
        file.write_bytes(raw if raw.endswith(b"\n") else raw + b"\n")
        found = Sweep.load(file)
    if not found.cells:
        raise InputError("this sweep has no finished cell yet")
    points = {(cell.recipe, cell.steps) for cell in found.cells}
    if len(points) * len({(cell.prompt, cell.seed) for cell in found.cells}) > MOST_CELLS:
        raise large  # every point has a place for every prompt and seed
    return explore_sweep(found, look)


def _planned(s: dict[str, Any]) -> int:
    """Return how many cells a sweep may have, without making a list of them."""
    from deadheat.measure.plan import SHARE

    fewer = len(SHARE) if s["control"] is None else len(s["control"])
    return (1 + fewer + len(s["recipes"])) * len(s["prompts"]) * len(s["seeds"]) * len(s["steps"])


def _check_repeated(s: dict[str, Any], model: str) -> None:
    """Refuse long words that the page would repeat at every point."""
    from deadheat import InputError

    if len(s["metrics"]) > MOST_METRICS:
        raise InputError(f"this result has {len(s['metrics'])} metrics; at most {MOST_METRICS} are taken")
    words = len(json.dumps([model, s["negative"], s["size"], s["guidance"], s["metrics"]]))
    if words > MOST_WORDS:
        raise InputError(f"the settings of this result have {words} characters; at most {MOST_WORDS} are taken")


def _zipped(raw: bytes) -> dict[str, Any]:
    """Read a result and its pictures out of a zip; nothing is unpacked to disk."""
    from deadheat import InputError

    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_FILES or sum(entry.file_size for entry in entries) > MOST_BYTES:
            raise InputError(f"this zip holds more than {MOST_FILES} files or {MOST_BYTES // 2**20} MB; {TAKEN}")
        names = sorted((e.filename for e in entries), key=lambda name: (name.count("/"), name))
        result = next((name for name in names if PurePosixPath(name).name in NAMES), None)
        if result is None:
            raise InputError(f"this zip holds neither {NAMES[0]} nor {NAMES[1]}; {TAKEN}")
        home, held, left = PurePosixPath(result).parent, set(names), [MOST_SHOWN]

        @cache
        def look(file: str) -> str | None:
            name = str(home / file)
            if name not in held or left[0] <= 0:
                return None
            left[0] -= 1
            return data_url(io.BytesIO(archive.read(name)))

        return _read(archive.read(result), look)
