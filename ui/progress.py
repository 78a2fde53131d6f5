"""How far a run is, as the page shows it. Knows no gradio."""

import base64
import io
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from .settings import Settings

PREVIEW_SIDE = 256  # pixels of a picture that is shown while it is made
PREVIEW_EVERY = 0.1  # seconds between two previews of the control, which needs none for its strip
WHO = {"baseline": "baseline", "variant": "accelerated", "control": "fewer steps"}

log = logging.getLogger("deadheat.app")


def data_url(picture: Any, kind: str = "png") -> str:
    """Return a picture, (3, H, W) in [0, 1], as a data URL; PNG keeps every value, JPEG is for looking only."""
    from deadheat.measure import to_image

    image, buffer = to_image(picture), io.BytesIO()
    if kind == "jpeg":
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        image.save(buffer, "JPEG", quality=82)
    else:
        image.save(buffer, "PNG")
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(eq=False)
class Progress:
    """How far a run is, and the pictures of its steps.

    Attributes:
        settings: what runs.
        pictures: role -> step (from 0) -> data URL; of the warm-up, where looking costs no measured time.
    """

    settings: Settings
    pictures: dict[str, dict[int, str]] = field(default_factory=dict)
    _lanes: dict[str, dict[str, Any]] = field(default_factory=dict)
    _actions: list[dict[str, str]] = field(default_factory=list)
    _last: float = 0.0

    def page(self, said: str) -> dict[str, Any]:
        """Return what the page should show now."""
        roles = ["baseline", "variant", *(["control"] if "control" in self._lanes else [])]
        return {
            "kind": "running",
            "said": said,
            "lanes": [dict(self._lanes.get(role) or _waiting(role)) for role in roles],
            "actions": list(self._actions),
            "total": self.settings.steps,
        }

    def after(self, event: Any, previews: bool) -> dict[str, Any]:
        """Take in a step that has just been made, and return what the page should show now."""
        lane = self._lanes.setdefault(event.role, _waiting(event.role))
        lane["part"] = event.step / event.steps
        lane["said"] = f"step {event.step} of {event.steps}"
        if event.phase == "warm-up":
            if event.role == "control":
                lane["name"] = f"only {event.steps} steps"
            if event.role == "variant" and event.step > len(self._actions):
                self._actions.append({"action": event.action or "computed"})
            if previews:
                self._look(event, lane)
        return self.page(_said(event))

    def _look(self, event: Any, lane: dict[str, Any]) -> None:
        now = time.monotonic()
        if event.role == "control" and event.step < event.steps and now - self._last < PREVIEW_EVERY:
            return
        picture = _preview(event.pipe, event.latents)
        self._last = now
        if picture is not None:
            lane["picture"] = data_url(picture, "jpeg")
            self.pictures.setdefault(event.role, {})[event.step - 1] = lane["picture"]


def _preview(pipe: Any, latents: Any) -> Any:
    """Decode the latents of a step; None where that cannot be done: a preview is no reason to end a run."""
    from deadheat.pipelines import preview

    side = int(getattr(pipe, "default_sample_size", 0) or 0) * int(getattr(pipe, "vae_scale_factor", 8))
    try:
        return preview(pipe, latents, (side, side))
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        log.info("no preview: %s", error)
        return None


def _waiting(role: str) -> dict[str, Any]:
    return {"name": WHO[role], "said": "waiting", "part": 0.0, "picture": ""}


def _said(event: Any) -> str:
    who = WHO[event.role]
    if event.phase == "warm-up":
        return f"First look: {who}. Not timed yet."
    if event.phase == "timed":
        return f"Timing, round {event.round} of {event.rounds}: {who}. No previews now, looking costs time."
    if event.phase == "memory":
        return f"Measuring memory: {who}. Slower than usual."
    return f"Last pictures: {who}."
