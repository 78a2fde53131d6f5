"""What a user may ask for. Narrower than the library, and checked on the server for every client. Knows no gradio."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MOST_STEPS = 100
MOST_REPEATS = 10
PUBLIC = bool(os.environ.get("SPACE_ID"))  # a Space runs only the models that ship with Deadheat


@dataclass(frozen=True)
class Settings:
    """What a user asked for.

    Attributes:
        prompt, negative: what to draw and what not.
        model: a name for ``load``.
        recipe: recipe text.
        steps, guidance, seed, repeats: as ``compare`` takes them.
    """

    prompt: str
    negative: str = ""
    model: str = "pocket-dit"
    recipe: str = "balanced"
    steps: int = 28
    guidance: float = 4.0
    seed: int = 0
    repeats: int = 3

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for ``compare``; a preset is the one that the panel shows, of whatever family it is."""
        from deadheat.presets import presets

        return {
            "recipes": [presets(self.model).get(self.recipe, self.recipe)],
            "prompts": [self.prompt],
            "seeds": [self.seed],
            "steps": self.steps,
            "guidance": self.guidance,
            "negative": self.negative or None,
            "repeats": self.repeats,
        }

    def key(self) -> list[Any]:
        """Return what makes two runs the same, in the order of the page's controls."""
        return list(vars(self).values())

    def checks(self) -> dict[str, Callable[[], Any]]:
        """Return a check for each field; each raises a ``DeadheatError`` that says what is wrong."""
        from deadheat.measure import check_inputs

        fine = ["a fox"]
        return {
            "prompt": lambda: check_inputs([self.prompt or ""]),
            "negative": lambda: check_inputs([self.negative or "nothing"]),
            "model": lambda: check_model(self.model),
            "recipe": lambda: check_recipe(self.recipe, self.model),
            "steps": lambda: _within("steps", self.steps, MOST_STEPS),
            "guidance": lambda: check_inputs(fine, guidance=number("guidance", self.guidance)),
            "seed": lambda: check_inputs(fine, [_whole(self.seed)]),
            "repeats": lambda: _within("repeats", self.repeats, MOST_REPEATS),
        }

    def checked(self) -> "Settings":
        """Return the settings with whole numbers as such, or refuse them.

        Raises:
            DeadheatError: names the field, the value and what it may be.
        """
        for test in self.checks().values():
            test()
        return replace(self, steps=int(self.steps), seed=int(self.seed), repeats=int(self.repeats))

    def complaints(self) -> list[str]:
        """Return for each field what is wrong with it, "" if nothing is."""
        return [_complaint(test) for test in self.checks().values()]


FOLDERS: list[str] = []  # that the app was started with; a client can name no other
SWITCHES: dict[str, Any] = {}  # with which the app was told to load models, such as dtype; the same for every visitor


def offered() -> list[tuple[str, str]]:
    """List the models to choose from, as (title, id): on a Space those that ship with Deadheat."""
    from deadheat.pipelines import models

    known = [(model.title, model.id) for model in models() if model.pocket or not PUBLIC]
    return [*known, *((Path(folder).name, folder) for folder in FOLDERS)]


def _complaint(test: Callable[[], Any]) -> str:
    from deadheat import DeadheatError

    try:
        test()
    except DeadheatError as error:
        return str(error)
    return ""


def _within(name: str, value: Any, most: int) -> None:
    from deadheat import InputError

    if isinstance(value, bool) or _whole(value) not in range(1, most + 1):
        raise InputError(f"{name} is {value!r}, not a whole number between 1 and {most}")


def _whole(value: Any) -> Any:
    """Turn the 28.0 that JSON may carry into 28; everything else stays what it is, to be refused by name."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def number(name: str, value: Any) -> float:
    """Return a number, or refuse what is none by the name of its field.

    Raises:
        InputError: names the field and the value.
    """
    from deadheat import InputError

    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{name} is {value!r}, not a number")
    return value


def words(name: str, value: Any) -> str:
    """Return text, or refuse what is none by the name of its field.

    Raises:
        InputError: names the field and the value.
    """
    from deadheat import InputError

    if not isinstance(value, str):
        raise InputError(f"{name} is {value!r}, not a text")
    return value


def check_model(name: Any) -> None:
    """Refuse a model that cannot be run here.

    Raises:
        LoadError: names the model and what can be.
    """
    from deadheat.pipelines import hub_id, is_folder, nearest

    from deadheat import LoadError

    known = [id_ for _, id_ in offered()]
    if not str(name or "").strip():
        raise LoadError(f"no model is chosen; known: {', '.join(known)}")
    if name in known:
        return
    if PUBLIC:
        raise LoadError(f"{name!r} cannot be run here (run Deadheat yourself for it); {nearest(str(name), known)}")
    if not hub_id(str(name)) or is_folder(str(name)):
        raise LoadError(
            f"no model is called {name!r} (a hub id has the form owner/name; a folder has to be named when the app is "
            f"started, with deadheat app --model FOLDER); {nearest(str(name), known)}"
        )


def check_recipe(text: Any, model: Any = "", meant: Callable[[str], Iterable[str]] | None = None) -> list[str]:
    """Check recipe text of a client, and everything that it means; no path from a client is ever opened.

    Args:
        text: what was typed.
        model: whose presets may be named.
        meant: returns the recipe texts that it stands for; None: it stands for one.

    Returns:
        These recipe texts.

    Raises:
        InputError, KnobError, PresetError: it is no text, empty, wrong, or names a file.
    """
    from deadheat.presets import presets

    from deadheat import KnobError, Recipe

    if not str(text or "").strip():
        raise KnobError("no accelerator is chosen; take one, such as ab-cache:every=3")
    if ".toml" in words("recipe", text):
        raise KnobError(f"{text!r} looks like a file; write the recipe itself, such as ab-cache:every=3")
    if meant is None:
        _check_no_file(presets(str(model)).get(text) or Recipe.of(text))
        return [text]
    found = list(meant(text))
    for one in found:
        try:
            recipe = Recipe.parse(one)
        except KnobError:  # values that make no sense together: a cell that says why, and nothing runs
            continue
        _check_no_file(recipe)
    return found


def _check_no_file(recipe: Any) -> None:
    from deadheat.accelerators import knobs

    from deadheat import KnobError

    for accelerator in recipe.accelerators:
        for name, (default, spec) in knobs(accelerator).items():
            if spec.unit == "path" and getattr(accelerator, name) != default:
                raise KnobError(
                    f"{accelerator.name}:{name} names a file, and a page opens none; run Deadheat yourself"
                )
