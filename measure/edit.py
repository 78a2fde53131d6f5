"""One edit of a picture, without a session that is kept."""

import inspect
from typing import Any

from .edit_result import Edit
from .edit_session import EditSession

ONCE = "a sparse edit needs a plain run over the picture first, which one edit does not repay: further ones would"


def edit(pipe: Any, image: Any, mask: Any, prompt: str = "", *, sparse: bool = False, **settings: Any) -> Edit:
    """Edit a picture once; the settings are those of ``EditSession`` and of its ``edit``.

    A single edit makes a recording that only further edits would gain by, so that it runs dense unless *sparse* asks
    for the other; keep a session for more than one.
    """
    known = set(inspect.signature(EditSession.edit).parameters)
    own = {name: value for name, value in settings.items() if name in known}
    session = EditSession(pipe, image, **{name: value for name, value in settings.items() if name not in known})
    return edit_once(session, mask, prompt, sparse=sparse, **own)


def edit_once(session: EditSession, mask: Any, prompt: str = "", *, sparse: bool = False, **own: Any) -> Edit:
    """Make the one edit of a session: dense, unless asked for the sparse one; its ``reason`` says so."""
    made = session.edit(mask, prompt, **{"dense": not sparse, "keep": False} | own)
    if made.lane == "dense" and not sparse and "dense" not in own:
        made.reason = f"only the dense edit works here: {session.why}" if session.why else ONCE
    made.drawn = None
    return made
