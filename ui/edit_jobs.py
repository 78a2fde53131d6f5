"""An edit in a thread of its own: recorded, made dense and sparse, watched step by step. Knows no gradio."""

from dataclasses import dataclass, field
from typing import Any

from .desks import Desk, make_room, placed, read_painting, tidy
from .edit_settings import EditSettings
from .edit_view import edit_page
from .jobs import Job, model
from .progress import data_url

LANES = {"dense": "dense", "sparse": "sparse", "control": "fewer steps"}  # by name, as the page calls them


@dataclass(eq=False)
class Done:
    """A finished edit.

    Attributes:
        kept: the edit whose picture is on the desk now.
        compared: the same edit dense and sparse, timed; None where only one of them was made.
        pipe: the pipeline that made it.
        recorded: seconds that went into recording the picture before; 0 if it was recorded already.
    """

    kept: Any
    compared: Any
    pipe: Any
    recorded: float


@dataclass(eq=False)
class EditProgress:
    """How far an edit is, as the page shows it.

    Attributes:
        rounds: how often all lanes will be timed.
        passes: how often each lane has begun.
    """

    rounds: int
    passes: dict[str, int] = field(default_factory=dict)
    _lanes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def page(self, said: str) -> dict[str, Any]:
        """Return what the page should show now."""
        lanes = LANES if self.rounds else {"sparse": "sparse"}
        waiting = {"said": "waiting", "part": 0.0, "picture": ""}
        told = [{"name": name, **self._lanes.get(lane, waiting)} for lane, name in lanes.items()]
        return {"kind": "running", "said": said, "lanes": told}

    def after(self, event: Any, pipe: Any, size: tuple[int, int]) -> dict[str, Any]:
        """Take in a step that has just been made, and return what the page should show now."""
        if event.step == 1:
            self.passes[event.lane] = self.passes.get(event.lane, 0) + 1
        if event.lane == "record":
            return self.page(
                f"Recording the picture, once, so that all its edits are fast: step {event.step} of {event.steps}"
            )
        lane = self._lanes.setdefault(event.lane, {"said": "", "part": 0.0, "picture": ""})
        lane["said"], lane["part"] = f"step {event.step} of {event.steps}", event.step / event.steps
        if self.passes[event.lane] == 1 and (picture := _preview(pipe, event.latents, size)) is not None:
            lane["picture"] = data_url(picture, "jpeg")
        return self.page(self._said(event.lane))

    def _said(self, lane: str) -> str:
        nth = self.passes[lane] - 1
        if not self.rounds:
            return "Drawing the edit."
        if nth == 0:
            return f"First look: {LANES[lane]}. Not timed yet."
        if nth > self.rounds:
            return "Last picture."
        return f"Timing, round {nth} of {self.rounds}: {LANES[lane]}. No previews now, looking costs time."

    def looks(self, event: Any) -> bool:
        """Tell whether the page should hear of a step: while the stopwatch runs, of the first one only."""
        return event.step == 1 or self.passes.get(event.lane, 0) == 1


@dataclass(eq=False)
class EditJob(Job):
    """One edit under way.

    Attributes:
        settings: what was asked for.
        desk: the picture that is edited.
    """

    settings: EditSettings  # type: ignore[assignment]
    desk: Desk = None  # type: ignore[assignment]

    def _plan(self) -> Any:
        return EditProgress(self.settings.rounds)

    def page(self) -> dict[str, Any]:
        """Return the finished edit for the page.

        Raises:
            DeadheatError: the edit was stopped, or could not be done.
        """
        return edit_page(self.outcome(), self.settings, self.desk)

    def _work(self) -> Any:
        self._news.put(self.progress.page("loading the model"))
        pipe = model(self.settings.model)
        self._check()
        make_room(self.desk)
        with self.desk.busy:
            session = self.desk.session_for(pipe, self.settings)
            given = _given(self.settings, self.desk)
            self._size = self.desk.size
            self._pipe = session.pipe
            done = _done(session, given, self.settings.rounds, self._look)
            new = placed(done.kept.image, _said(done.kept))
            with self._ending:  # whoever pressed Stop before was told that nothing changed
                self._check()
                session.keep(done.kept)
                self.desk.add(new, self.settings.paper_parts()[1])
                self.result = done
        tidy()
        return done

    def _look(self, event: Any) -> None:
        self._check()
        if self.progress.looks(event):
            self._news.put(self.progress.after(event, self._pipe, self._size))


@dataclass(eq=False)
class FileJob(Job):
    """One edit of a picture and a mask that a program handed in; nobody watches its pictures.

    Attributes:
        settings: what was asked for.
        files: the picture and the mask.
        sparse: whether the sparse edit was asked for.
    """

    settings: EditSettings  # type: ignore[assignment]
    files: tuple[Any, Any] = (None, None)
    sparse: bool = False

    def _plan(self) -> Any:
        return EditProgress(0)

    def _work(self) -> Any:
        return made(model(self.settings.model), self.settings, self.files, sparse=self.sparse, watch=self._look)

    def _look(self, event: Any) -> None:
        self._check()
        self._news.put({"said": f"step {event.step} of {event.steps}"})


def uploaded(settings: EditSettings, files: tuple[str | None, str | None]) -> tuple[Any, Any]:
    """Return the picture and the mask that were uploaded.

    Raises:
        InputError: a file that cannot be used.
    """
    from deadheat.measure import mask_picture, open_picture

    from deadheat import InputError

    if settings.mode == "stroke":
        raise InputError("mode is 'stroke', which wants a painted canvas; here take prompt or inpaint")
    for name, file in zip(("image", "mask"), files, strict=True):
        if not file:
            raise InputError(f"there is no {name}; upload one")
    image, mask = (open_picture(str(file), f"the {name}") for name, file in zip(("image", "mask"), files, strict=True))
    return image.convert("RGB"), mask_picture(mask)


def made(pipe: Any, settings: EditSettings, files: tuple[Any, Any], *, sparse: bool, watch: Any = None) -> Any:
    """Make one edit of a picture with a mask.

    Raises:
        DeadheatError: a picture that this model cannot take, or an edit that cannot be made.
    """
    from deadheat.measure import edit_once, usual_size

    from deadheat import EditSession, InputError

    image, mask = files
    height, width = usual_size(pipe)
    if image.width * image.height > height * width:
        raise InputError(
            f"the image has {image.width} x {image.height} pixels, but {settings.model} draws {width} x {height}: "
            "scale the image and its mask down to that size"
        )
    session = EditSession(pipe, image, **settings.session())
    how = {"mode": settings.mode, "strength": settings.strength}
    return edit_once(session, mask, settings.prompt, sparse=sparse, watch=watch, **how)


def _given(settings: EditSettings, desk: Desk) -> dict[str, Any]:
    """Return the arguments for ``EditSession.edit`` from what was painted."""
    mask, strokes = read_painting(settings.paper_parts()[1], desk.size)
    given = {"mask": mask, "prompt": settings.prompt, "mode": settings.mode, "strength": settings.strength}
    if settings.mode != "stroke":
        return given
    from PIL import Image
    from torch import where

    from .desks import tensor

    flat = Image.new("RGB", strokes.size)
    flat.paste(strokes.convert("RGB"))
    inside = tensor(mask.convert("RGB")) > 0
    return given | {"painted": where(inside, tensor(flat), desk.past[-1].image)}


def _done(session: Any, given: dict[str, Any], rounds: int, watch: Any) -> Done:
    compared, recorded = None, 0.0
    if session.cover(given["mask"]).lane == "sparse":
        recorded = session.prepare(1.0 if given["mode"] == "inpaint" else given["strength"], watch)
        if rounds and session.cover(given["mask"]).lane == "sparse":  # what is beyond the budget runs dense
            compared = session.compare(**given, repeats=rounds, watch=watch)
    return Done(session.edit(**given, keep=False, watch=watch), compared, session.pipe, recorded)


def _said(edit: Any) -> str:
    text = edit.prompt if len(edit.prompt) <= 60 else f"{edit.prompt[:57]}…"
    return f"{edit.lane}, {edit.seconds:.2f} s: {text}"


def _preview(pipe: Any, latents: Any, size: tuple[int, int]) -> Any:
    """Decode the latents of a step; None where that cannot be done: a preview is no reason to end an edit."""
    from deadheat.pipelines import preview

    try:
        return preview(pipe, latents, size)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
        return None
