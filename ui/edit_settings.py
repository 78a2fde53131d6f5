"""What a user may ask of an edit, checked on the server for every client. Knows no gradio."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .settings import MOST_REPEATS, MOST_STEPS, Settings, check_recipe, words

START = "pocket-unet"
SKIPS = "ab-cache"  # the library's own; importing it takes seconds, which the first page does not wait for


@dataclass(frozen=True)
class EditSettings:
    """What a user asked for.

    Attributes:
        paper: what the page's canvas holds, as JSON: "desk", which picture it shows, and "painted", a PNG.
        prompt: what the picture shall become where it is painted.
        mode, strength: as ``EditSession.edit`` takes them.
        model: a name for ``load``.
        shows: what the picture shows.
        steps, guidance, seed: as ``EditSession`` takes them.
        rounds: how often dense and sparse are timed; 0 makes the sparse edit alone.
        recipe: what skips steps of the sparse edit; "" skips none.
    """

    paper: str
    prompt: str
    mode: str = "prompt"
    strength: float = 0.6
    model: str = START
    shows: str = ""
    steps: int = 28
    guidance: float = 4.0
    seed: int = 0
    rounds: int = 3
    recipe: str = SKIPS

    def session(self) -> dict[str, Any]:
        """Return the arguments for ``EditSession``."""
        how = {"steps": self.steps, "guidance": self.guidance, "seed": self.seed}
        return {"prompt": self.shows, **how, "recipe": self.recipe}

    def key(self) -> list[Any]:
        """Return what makes two edits the same but for the painting, in the order of the page's controls."""
        return list(vars(self).values())[1:]

    def paper_parts(self) -> tuple[str, str]:
        """Return which picture the canvas showed, and what was painted.

        Raises:
            InputError: it is not what the page sends.
        """
        from deadheat import InputError

        try:
            parts = json.loads(self.paper or "{}")
        except ValueError:
            parts = None
        if not isinstance(parts, dict):
            raise InputError("the painting did not arrive as the page sends it; reload the page")
        return str(parts.get("desk") or ""), str(parts.get("painted") or "")

    def checks(self) -> dict[str, Callable[[], None]]:
        """Return a check for each field; each raises a ``DeadheatError`` that says what is wrong."""
        from deadheat.measure import check_edit

        other = Settings("a fox", "", self.model, "ab-cache", self.steps, self.guidance, self.seed).checks()
        usual = ("prompt", 1.0, MOST_STEPS, None)
        return {
            "paper": lambda: None,  # looked at when it is read: what is wrong with it belongs above the picture
            "prompt": lambda: check_edit(self.prompt or "", *usual),
            "mode": lambda: check_edit("", self.mode, 1.0, MOST_STEPS, None),
            "strength": lambda: check_edit("", self.mode, self.strength, _steps(self.steps), None),
            "model": other["model"],
            "shows": lambda: check_edit(self.shows or "", *usual),
            "steps": other["steps"],
            "guidance": other["guidance"],
            "seed": other["seed"],
            "rounds": lambda: _check_rounds(self.rounds),
            "recipe": lambda: _check_skips(self.recipe, self.model),
        }

    def checked(self) -> "EditSettings":
        """Return the settings with whole numbers as such, or refuse them.

        Raises:
            DeadheatError: names the field, the value and what it may be.
        """
        for test in self.checks().values():
            test()
        words = replace(self, prompt=self.prompt or "", shows=self.shows or "", recipe=(self.recipe or "").strip())
        return replace(words, steps=int(self.steps), seed=int(self.seed), rounds=int(self.rounds))

    def complaints(self) -> list[str]:
        """Return for each field what is wrong with it, "" if nothing is."""
        from deadheat import DeadheatError

        said = []
        for test in self.checks().values():
            try:
                test()
                said.append("")
            except DeadheatError as error:
                said.append(str(error))
        return said


def _steps(steps: Any) -> int:
    """Return the steps to check a strength with; what is no number of steps is complained about by its own field."""
    good = isinstance(steps, (int, float)) and not isinstance(steps, bool) and 1 <= steps <= MOST_STEPS
    return int(steps) if good else MOST_STEPS


def _check_skips(recipe: Any, model: Any) -> None:
    if words("recipe", recipe or "").strip():
        check_recipe(recipe, model)


def _check_rounds(rounds: Any) -> None:
    from deadheat import InputError

    if isinstance(rounds, bool) or rounds not in range(MOST_REPEATS + 1):
        raise InputError(f"rounds is {rounds!r}, not a whole number between 0 and {MOST_REPEATS}")
