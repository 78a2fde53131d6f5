"""What people type: names that no disk takes, and texts that no file can hold."""

from pathlib import Path


def is_folder(name: str | Path) -> bool:
    """Tell whether there is such a folder; a name that is too long, or that nobody may look up, is none."""
    try:
        return Path(name).is_dir()
    except OSError:
        return False


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written as UTF-8; of a terminal's other bytes Python makes half characters.

    >>> is_unicode("a fox"), is_unicode("caf" + chr(0xDCE9))
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
