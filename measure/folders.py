"""Folders that results go to: which may be taken, and how what was made takes its place there."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..pipelines import InputError


def full_path(name: str | Path) -> Path:
    """Return the absolute path of what was typed; ~ is the user's home.

    Raises:
        InputError: it is somebody's home whom nobody knows here.
    """
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError as error:
        raise InputError(f"{name} begins with a home that is not known here; write the whole path") from error


def check_free(target: Path, ours: Callable[[Path], bool], whose: str, option: str) -> None:
    """Refuse a folder that holds other files than what is ours.

    Args:
        target: the folder; it need not be there.
        ours: says whether a folder that is not empty is one of ours.
        whose: whose files those are, as "a comparison's".
        option: how the user gave the folder, as "--out".

    Raises:
        InputError: names the folder, and what is in the way.
    """
    try:
        taken = target.exists() and not target.is_dir()
        foreign = target.is_dir() and any(target.iterdir()) and not ours(target)
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"the folder {target} cannot be written: {why}; give another {option}") from error
    if taken:
        raise InputError(f"{target} is a file; give a folder")
    if foreign:
        raise InputError(f"the folder {target} holds other files than {whose}; give another {option}")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a folder to fill; what is in it at the end takes the place of what has the same name in *target*.

    What else lies in *target* stays. All is made within it first, so that little can go wrong at the end.
    """
    target.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".new-", dir=target))
    made, old = beside / "made", beside / "old"
    try:
        made.mkdir()
        old.mkdir()
        yield made
        for path in sorted(made.iterdir(), key=Path.is_file):  # folders first, what names their files last
            place = target / path.name
            if place.is_dir():  # it cannot be replaced as it is
                place.rename(old / path.name)
            path.replace(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
