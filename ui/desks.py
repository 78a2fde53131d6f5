"""The picture that each visitor edits, and its past. Knows no gradio."""

import base64
import io
import json
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import jobs
from .edit_settings import EditSettings
from .progress import data_url

FOLDER = Path(__file__).parent.parent / "assets" / "recorded" / "edit"
MOST_DESKS = 40
MOST_BYTES = 2**30  # of the pictures on all desks
MOST_SESSIONS = 2  # each may hold hundreds of megabytes
LONGEST = 24  # pictures of a desk
INK = (255, 90, 54, 255)  # the page's brush
UNKNOWN_SIDE = 512  # of a picture for a model that does not tell its size before it is loaded

_DESKS: "OrderedDict[str, Desk]" = OrderedDict()
_LOOKING = threading.Lock()  # at the desks: visitors come in threads of their own


@dataclass(frozen=True)
class Placed:
    """One picture of a desk's past.

    Attributes:
        image: (3, H, W) in [0, 1].
        url: the same for the page.
        small: the same for the strip.
        said: how it came about, in a few words.
        painted: what was painted on it for the next one, as the page sent it.
    """

    image: Any
    url: str
    small: str
    said: str
    painted: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        return int(self.image.nbytes) + len(self.url) + len(self.small) + len(self.painted)


@dataclass(eq=False)
class Desk:
    """A picture under edit.

    Attributes:
        given: width and height of the picture as it was handed in.
        shows: what it shows, as far as anybody said.
        note: what was done to it, for the visitor to know.
        past: the pictures so far, the present one last.
        key: what the page calls this desk by.
        busy: held while somebody reads or changes the session.
    """

    given: tuple[int, int]
    shows: str
    note: str
    model: str
    past: list[Placed] = field(default_factory=list)
    key: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    session: Any = None
    made_for: Any = None
    busy: Any = field(default_factory=threading.RLock, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return int(self.past[-1].image.shape[2]), int(self.past[-1].image.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes that its pictures take in memory."""
        return sum(placed.nbytes for placed in self.past)

    def fits(self, settings: EditSettings) -> bool:
        """Tell whether the session is one of the present picture with these settings."""
        wanted = (settings.model, settings.session())  # of a model that was loaded anew no session is left
        return self.session is not None and self.made_for == wanted and self.session.image is self.past[-1].image

    def session_for(self, pipe: Any, settings: EditSettings) -> Any:
        """Return the session of the present picture; call it while the model is yours."""
        from deadheat.measure import EditSession

        if not self.fits(settings):
            self.session = None  # before the new one, not beside it
            self.session = EditSession(pipe, self.past[-1].image, **settings.session())
            self.past[-1] = replace(self.past[-1], image=self.session.image)  # by which it is known again
            self.made_for = (settings.model, settings.session())
        return self.session

    def add(self, new: Placed, painted: str) -> None:
        """Put a new picture on the desk; *painted* is what led to it."""
        self.past[-1] = replace(self.past[-1], painted=painted)
        self.past.append(new)
        del self.past[1 : max(1, len(self.past) - LONGEST)]

    def back(self, to: int) -> str:
        """Go back to a picture of the past; return what had been painted on it."""
        with self.busy:  # a stopped edit goes on reading until its step has ended
            while len(self.past) - 1 > max(0, to):
                self.past.pop()
                if (session := self.session) is not None and session.history:
                    session.undo()
            return self.past[-1].painted

    def page(self, painted: str = "") -> dict[str, Any]:
        """Return what the page should show of it."""
        return {"kind": "picture", "picture": self.past[-1].url, "painted": painted, "note": self.note, **self.state()}

    def state(self) -> dict[str, Any]:
        """Return what the page's canvas and strip need to know."""
        width, height = self.size
        past = [{"picture": placed.small, "said": placed.said} for placed in self.past]
        return {"desk": self.key, "size": [width, height], "history": past}


@dataclass(frozen=True)
class Sample:
    """A picture to begin with.

    Attributes:
        picture: a PIL image.
        shows: what it shows.
        wish: what it might become.
        spot: where: left, top, right and bottom of an ellipse, in parts of the picture.
    """

    picture: Any
    shows: str
    wish: str
    spot: tuple[float, float, float, float]

    def painted(self, size: tuple[int, int]) -> str:
        """Return the ellipse as the page's brush would have painted it."""
        from PIL import Image, ImageDraw

        strokes, buffer = Image.new("RGBA", size), io.BytesIO()
        ImageDraw.Draw(strokes).ellipse([part * size[n % 2] for n, part in enumerate(self.spot)], fill=INK)
        strokes.save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def desk(owner: str, picture: Any, shows: str, model: str, note: str = "") -> Desk:
    """Put a picture on somebody's desk, at the size of the model; what was there is gone."""
    from deadheat.measure import fitted_picture

    width, height = _size(model, picture.size)
    if picture.size != (width, height):
        note = f"cropped and scaled from {picture.width} × {picture.height} to {width} × {height} pixels" + (
            f"; {note}" if note else ""
        )
    fitting = fitted_picture(picture.convert("RGB"), (width, height))
    made = Desk(picture.size, shows, note, model)
    made.past.append(placed(tensor(fitting), "the picture"))
    with _LOOKING:
        _DESKS[owner] = made
        _DESKS.move_to_end(owner)
    tidy()
    return made


def placed(image: Any, said: str) -> Placed:
    """Return a picture for the past of a desk."""
    return Placed(image, data_url(image), data_url(image, "jpeg"), said)


def tidy() -> None:
    """Clear the desks that nobody used for longest, as far as there are too many, or too much on them."""
    with _LOOKING:
        kept = sum(found.nbytes for found in _DESKS.values())
        while len(_DESKS) > MOST_DESKS or (kept > MOST_BYTES and len(_DESKS) > 1):
            kept -= _DESKS.popitem(last=False)[1].nbytes


def find(owner: str, key: str, model: str) -> Desk:
    """Return somebody's desk, at the size of the model; without one, the first sample is put there.

    Raises:
        InputError: the page shows a picture that is no longer here.
    """
    from deadheat import InputError

    if not key:
        first = sample(0)
        if owner and _size(model, first.picture.size) != first.picture.size:
            raise InputError(f"{model} wants pictures of another size: pick the picture again, and it is fitted")
        return desk(owner, first.picture, first.shows, model)
    found = of(owner)
    if found is None or found.key != key:
        raise InputError("this picture is no longer on the server, which keeps the last ones only: pick it again")
    if found.model != model and _size(model, found.given) != found.size:
        raise InputError(f"{model} wants pictures of another size: pick the picture again")
    found.model = model
    with _LOOKING:
        if owner in _DESKS:
            _DESKS.move_to_end(owner)
    return found


def by_key(key: str, model: str) -> Desk | None:
    """Return the desk that the page calls by this key; without one it shows the first sample, as for everybody."""
    if not key:
        shared = of("")
        return shared if shared is not None and shared.model == model else find("", "", model)
    with _LOOKING:
        return next((found for found in _DESKS.values() if found.key == key), None)


def of(owner: str) -> Desk | None:
    """Return somebody's desk."""
    with _LOOKING:
        return _DESKS.get(owner)


def cover(asked: Any) -> dict[str, Any]:
    """Say what an edit of a painting would cost; nothing while somebody has the model, or it would have to be loaded.

    Args:
        asked: what the canvas holds, and the page's other fields in the order of ``EditSettings``, if it knows them.
    """
    from deadheat.measure import EditSession

    from deadheat import DeadheatError

    try:
        settings = EditSettings(json.dumps(asked[0]), *(asked[1] or [""])).checked()
        key, painted = settings.paper_parts()
        found = by_key(key, settings.model)
        with jobs.if_idle() as idle:
            if not idle or found is None or not jobs.free(settings.model):
                return {}
            with found.busy:
                pipe = jobs.model(settings.model)
                other = not found.fits(settings)  # that one is not given up for a look
                known = EditSession(pipe, found.past[-1].image, **settings.session()) if other else found.session
                told = known.cover(read_painting(painted, found.size)[0])
    except (DeadheatError, TypeError, IndexError, KeyError):
        return {}
    found_out = {"active": told.active, "speedup": told.speedup, "lane": told.lane, "recorded": told.recorded}
    return found_out | {"cell": known.cell, "reason": told.reason}


def read_painting(text: str, size: tuple[int, int]) -> tuple[Any, Any]:
    """Return what was painted: the mask as gray, and the strokes as RGBA.

    Raises:
        InputError: nothing is painted, or not on this picture.
    """
    from deadheat.measure import decode_picture

    from deadheat import InputError

    strokes = decode_picture(text, "the painting").convert("RGBA")
    if strokes.size != size:
        raise InputError(
            f"the painting has {strokes.width} x {strokes.height} pixels, the picture {size[0]} x {size[1]}"
        )
    mask = strokes.getchannel("A").point(lambda alpha: 255 * (alpha > 127))
    if mask.getextrema() == (0, 0):
        raise InputError("nothing is painted yet: brush over what should change, then press Edit")
    return mask, strokes


def samples() -> list[dict[str, Any]]:
    """List the sample pictures: "file", "title", "shows", "wish" and "spot"."""
    listed = FOLDER / "samples.json"
    return json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else []


def sample(nth: int) -> Sample:
    """Return a sample picture."""
    from deadheat.measure import open_picture

    chosen = samples()[nth]
    return Sample(open_picture(FOLDER / chosen["file"]), chosen["shows"], chosen["wish"], tuple(chosen["spot"]))


def tensor(picture: Any) -> Any:
    """Return a PIL image as (3, H, W) in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255


def make_room(latest: Desk) -> None:
    """Let go of the oldest recordings of others, before a desk has one; sessions of dense edits have none."""
    held = [found for found in _recorded() if found is not latest]
    for found in held[: max(0, len(held) - MOST_SESSIONS + 1)]:
        found.session = None


def _recorded() -> list[Desk]:
    with _LOOKING:
        sessions = [(found, found.session) for found in _DESKS.values()]
    return [found for found, session in sessions if session is not None and session.memory]


class _Sessions:
    """The sessions of all desks: each keeps its model in memory."""

    def holds(self) -> bool:
        return bool(_recorded())

    def let_go(self) -> None:
        with _LOOKING:
            for found in _DESKS.values():
                found.session = None


jobs.tell(_Sessions())


def _size(model: str, given: tuple[int, int]) -> tuple[int, int]:
    from deadheat.pipelines import known_model

    if known := known_model(model):
        return known.size
    scale = min(1.0, UNKNOWN_SIDE / max(given))
    width, height = (max(64, round(side * scale / 64) * 64) for side in given)
    return width, height
