"""Writes a sweep's folder so that a crash at any moment loses nothing that was finished."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..pipelines import InputError
from .cells import FILE, KIND, SCHEMA_VERSION, Sweep, parse_line, whole_lines
from .folders import check_free, full_path
from .points import SweepCell

LOCK = "sweep.lock"
OTHER_OUT = "give another --out"


class SweepFile:
    """The only writer of a sweep's folder, for as long as the block lasts.

    The operating system holds the lock and lets go of it when the process dies, however it dies.

    Args:
        folder: where the sweep goes; made if it is not there.

    Raises:
        InputError: somebody else writes there, it cannot be written, or it holds other files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = full_path(folder)
        self._lock: IO[str] | None = None

    def __enter__(self) -> "SweepFile":
        check_free(self.folder, _is_ours, "a sweep's", "--out")
        try:
            (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror or error}; {OTHER_OUT}") from error
        if not _locked(self._lock):
            self._lock.seek(0)
            who = self._lock.read().strip() or "another process"
            self._lock.close()
            raise InputError(
                f"{who} writes a sweep to {self.folder} already; let it finish or stop it, or {OTHER_OUT}"
            )
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()}")
        self._lock.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def header(self) -> dict[str, Any] | None:
        """Cut off a torn last line, and return the header, or None where nothing was begun.

        Raises:
            PresetError: the file is damaged, or of another version.
        """
        file = self.folder / FILE
        if not file.exists():
            return None
        raw = file.read_bytes()
        end = whole_lines(raw)
        if end < len(raw):
            os.truncate(file, end)
        return parse_line(file, 0, raw[:end].partition(b"\n")[0]) if end else None

    def begin(self, header: dict[str, Any]) -> None:
        """Write the first line."""
        self._append([{"kind": KIND, "schema": SCHEMA_VERSION, **header}])

    def add(self, finished: Iterable[tuple[SweepCell, bytes | None]]) -> None:
        """Write finished cells with their pictures, as PNG; pictures first, so that no line names a missing one."""
        rows = []
        for cell, picture in finished:
            if picture is not None and cell.picture is not None:
                part = self.folder / f"{cell.picture}.part"
                part.write_bytes(picture)
                part.replace(self.folder / cell.picture)
            rows.append(cell.to_dict())
        self._append(rows)

    def _append(self, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        with (self.folder / FILE).open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def load(self) -> Sweep:
        """Read what has been written so far."""
        return Sweep.load(self.folder)


def _is_ours(folder: Path) -> bool:
    return (folder / LOCK).exists() or (folder / FILE).exists()


def _locked(file: IO[str]) -> bool:
    """Take the lock of a file; says whether nobody else has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def check_same(header: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with another sweep than the one in the folder.

    Raises:
        InputError: names what differs.
    """
    old, new = ({"model": h["model"], **h["settings"]} for h in (header, wanted))
    given = json.loads(json.dumps(new))
    differ = [name for name in given if old.get(name) != given[name]]
    if differ:
        said = "; ".join(f"{name} was {_short(old.get(name))} and is now {_short(given[name])}" for name in differ)
        raise InputError(
            f"{folder} holds another sweep: {said}. Give the same values to go on with it, or {OTHER_OUT}"
        )


def check_same_ground(header: dict[str, Any], environment: dict[str, Any], folder: Path) -> None:
    """Refuse to go on where pictures would not come out the same: other weights, scheduler, device, or versions.

    Raises:
        InputError: names what differs.
    """
    if "scheduler" not in header["environment"]:
        raise InputError(
            f"the sweep in {folder} was begun by an earlier version, which kept neither how the scheduler was set nor "
            f"the weights beside the denoiser's: nobody can tell whether they are the same. Please {OTHER_OUT}"
        )
    old, new = _ground(header["environment"]), _ground(json.loads(json.dumps(environment)))
    differ = [name for name in new if old.get(name) != new[name]]
    if differ:
        said = "; ".join(f"{name} was {_short(old.get(name))} and is now {_short(new[name])}" for name in differ)
        raise InputError(f"the sweep in {folder} was begun elsewhere: {said}. Go on there, or {OTHER_OUT}")


def _ground(environment: dict[str, Any]) -> dict[str, Any]:
    """Return what pictures depend on; threads and the number of a GPU are for each cell to say."""
    pipe = {name: value for name, value in environment["pipeline"].items() if name != "threads"}
    switches = {name: value for name, value in pipe.pop("system").items() if name != "device"}
    pipe["device"] = pipe["device"].partition(":")[0]
    scheduler = {f"the scheduler's {name}": value for name, value in environment["scheduler"].items()}
    return {**pipe, **switches, **scheduler, **environment["versions"], "weights": environment["weights"]}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
