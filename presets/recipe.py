"""What a recipe is, and the three ways to write one down."""

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..accelerators import ACCELERATORS, Accelerator, knob_texts, read, recipe_parts
from ..pipelines import KnobError, PresetError, family, known_model, model_name, nearest

HERE = Path(__file__).parent
ANY = "any"  # the folder of presets that fit every model
FAMILY = "family--"  # how folders of presets for a family begin


@dataclass(frozen=True)
class Recipe:
    """Accelerators in the order a denoiser call meets them, outermost first; none is the plain pipeline.

    Attributes:
        accelerators: the accelerators with their knobs.
        title: name for people; empty for a recipe that was just typed.
        about: a sentence: where its numbers come from.

    >>> str(Recipe.parse("ab-cache:every=4 + guidance-interval"))
    'ab-cache:every=4 + guidance-interval'
    """

    accelerators: tuple[Accelerator, ...] = ()
    title: str = ""
    about: str = ""

    def __str__(self) -> str:
        return " + ".join(map(str, self.accelerators)) or "plain"

    @classmethod
    def of(cls, what: Any, pipe: Any = None) -> "Recipe":
        """Return the recipe that *what* means: a recipe, an accelerator, several, a preset, a TOML path, or text.

        Raises:
            KnobError, PresetError: nothing is called so.
        """
        if isinstance(what, Recipe):
            return what
        if isinstance(what, Accelerator):
            return cls((what,))
        if isinstance(what, Path):
            return cls.from_toml(what)
        if isinstance(what, str):
            return cls._named(what, pipe)
        if isinstance(what, Iterable):
            return cls(tuple(a for part in what for a in cls.of(part, pipe).accelerators))
        raise KnobError(f"{what!r} is no recipe: give an accelerator, a preset's name, recipe text or a TOML path")

    @classmethod
    def _named(cls, text: str, pipe: Any) -> "Recipe":
        if text.endswith(".toml"):
            return cls.from_toml(Path(text))
        known = presets(model_name(pipe), family(pipe).name) if pipe is not None else presets("")
        if text in known:
            return known[text]
        try:
            return cls.parse(text)
        except KnobError as error:
            bare = text.strip().isidentifier() or text.strip().replace("-", "").isalnum()
            if bare and text not in ACCELERATORS:
                raise KnobError(
                    f"no preset or accelerator is called {text!r}; {nearest(text, [*known, *ACCELERATORS])}"
                ) from error
            raise

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """Read ``name:knob=value,knob=value + name + ...``; a value with a comma or a plus in it stands in quotes.

        Raises:
            KnobError: an unknown accelerator or knob (with the nearest name), or a value out of range.
        """
        return cls(tuple(_accelerator(part) for part in recipe_parts(text)))

    @classmethod
    def from_toml(cls, path: str | Path) -> "Recipe":
        """Read a recipe from a TOML file.

        Raises:
            PresetError: the file is not there, is no TOML, or has something in it that no recipe has.
        """
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PresetError(f"the preset {path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
            raise PresetError(f"the preset {path} is no TOML: {error}") from error
        unknown = set(data) - {"title", "about", "accelerators"}
        rows = data.get("accelerators")
        if unknown or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            what = f"it has {', '.join(sorted(unknown))}" if unknown else "it has no [[accelerators]]"
            raise PresetError(
                f"the preset {path} is no recipe: {what}; a recipe has title, about and [[accelerators]]"
            )
        try:
            made = tuple(_made(str(row.pop("name", "")), row) for row in rows)
        except KnobError as error:
            raise PresetError(f"the preset {path} is wrong: {error}") from error
        return cls(made, str(data.get("title", Path(path).stem)), str(data.get("about", "")))

    def to_toml(self) -> str:
        """Write the recipe as TOML, every knob with its value.

        >>> print(Recipe.parse("guidance-cutoff").to_toml())
        title = "guidance-cutoff"
        <BLANKLINE>
        [[accelerators]]
        name = "guidance-cutoff"
        after = 0.6
        <BLANKLINE>
        """
        lines = [f"title = {_toml(self.title or str(self))}"]
        lines += [f"about = {_toml(self.about)}"] if self.about else []
        lines += [] if self.accelerators else ["accelerators = []"]
        for accelerator in self.accelerators:
            lines += ["", "[[accelerators]]", f"name = {_toml(accelerator.name)}"]
            lines += [f"{f.name} = {_toml(getattr(accelerator, f.name))}" for f in fields(accelerator)]  # type: ignore[arg-type]
        return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON leaves DEL as it is
    return str(value)


def _accelerator(text: str) -> Accelerator:
    name, settings = knob_texts(text)
    return _made(name, dict(settings))


def _made(name: str, settings: dict[str, Any]) -> Accelerator:
    cls = ACCELERATORS[name]
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in settings:
        if key not in known:
            raise KnobError(f"{cls.name} has no knob {key!r}; {nearest(key, known)}")
    return cls(**{key: read(known[key], v) if isinstance(v, str) else v for key, v in settings.items()})


def presets(model: str, kind: str = "") -> dict[str, Recipe]:
    """Return the presets for a model by name; its own come before its family's, and these before those for any model.

    Args:
        model: its name, as ``load`` takes it; "" for none.
        kind: name of its family; looked up where the model is known by name.
    """
    return {**_in(HERE / ANY), **own_presets(model, kind)}


def own_presets(model: str, kind: str = "") -> dict[str, Recipe]:
    """Return the presets made for a model, or for its family."""
    known = known_model(model)
    kind = kind or (known.family if known else "")
    named = re.sub(r"[^a-z0-9.]+", "-", kind.lower()).strip("-")
    own = model.lower().replace("/", "--")
    return {**_in(HERE / f"{FAMILY}{named}"), **(_in(HERE / own) if own in _folders() else {})}


def _folders() -> set[str]:
    """Names of the folders here: what a client calls a model is looked up among them, and is never a path."""
    return {path.name for path in HERE.iterdir() if path.is_dir()}


def _in(folder: Path) -> dict[str, Recipe]:
    return {file.stem: Recipe.from_toml(file) for file in sorted(folder.glob("*.toml"))}


def preset_names(model: str, kind: str = "") -> list[str]:
    """List the names of the presets for a model."""
    return list(presets(model, kind))
