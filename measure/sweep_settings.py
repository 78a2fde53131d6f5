"""What a sweep is about: checked, with ranges written out, as its header holds it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..pipelines import InputError, KnobError, PresetError, family, known_model, model_name
from ..presets import Recipe, presets
from .grammar import expand
from .inputs import check_inputs


def sweep_settings(
    pipe_or_model: Any,
    recipes: Any,
    *,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int | Sequence[int],
    guidance: float | None,
    negative: str | None,
    size: tuple[int, int] | None,
    metrics: Sequence[str],
    repeats: int,
    control: Sequence[int] | None,
) -> dict[str, Any]:
    """Return what a sweep depends on, as its header holds it, after checking it.

    Raises:
        InputError, KnobError, PresetError: something cannot be used.
    """
    listed = [steps] if isinstance(steps, int) else list(steps)
    if not listed:
        raise InputError("there is no number of steps; give at least one, such as 28")
    if not metrics:
        raise KnobError("there is no metric; give at least one, such as psnr")
    for count in [*listed, *(control or ())]:
        check_inputs(prompts, seeds, steps=count, repeats=repeats, size=size, guidance=guidance, metrics=metrics,
                     negative=negative)  # fmt: skip
    if wrong := [count for count in control or () if count >= max(listed)]:
        raise InputError(f"control is {wrong[0]}, not fewer than the {max(listed)} steps that it stands beside")
    name = name_of(pipe_or_model)
    model = known_model(name)
    chosen = sweep_recipes(pipe_or_model, recipes)
    return {
        "recipes": list(chosen),
        "titles": _titles(chosen),
        "prompts": list(dict.fromkeys(prompts)),
        "seeds": list(dict.fromkeys(seeds)),
        "steps": list(dict.fromkeys(listed)),
        "guidance": model.guidance if guidance is None and model else guidance,
        "negative": negative,
        "size": list(size) if size else None,
        "repeats": repeats,
        "metrics": list(metrics),
        "control": None if control is None else sorted(set(control)),
    }


def _titles(chosen: Mapping[str, str]) -> dict[str, str]:
    """Return recipe text -> title where it has one; of two that would read the same, the later gets its number."""
    names: dict[str, str] = {}
    for nth, (text, title) in enumerate(chosen.items(), 1):
        name = title or text
        names[text] = f"{name} ({nth})" if name in names.values() else name
    return {text: name for text, name in names.items() if name != text or chosen[text]}


def sweep_recipes(pipe_or_model: Any, recipes: Any) -> dict[str, str]:
    """Return recipe text -> title ("" where it has none) of everything that is meant, each once, in order.

    Raises:
        KnobError, PresetError: something is called by no known name, or has a value outside its range; or a preset is
            meant whose recipe depends on the family of a model that is not loaded.
    """
    listed = recipes if isinstance(recipes, (list, tuple)) else [recipes]
    loaded = not isinstance(pipe_or_model, (str, Path))
    name = name_of(pipe_or_model)
    known = presets(name, family(pipe_or_model).name if loaded else "")
    guess = not loaded and known_model(name) is None
    found: dict[str, str] = {}
    for what in listed:
        if guess and isinstance(what, str) and what in known:
            raise PresetError(
                f"which recipe {what!r} is depends on the family of {name}, and that shows once it is loaded; write "
                "the recipe itself (deadheat doctor --json names those of presets), or give sweep() a loaded pipeline"
            )
        for text, title in _meant(known, what):
            found[text] = found.get(text) or title
    if not found:
        raise InputError("there is no recipe; give at least one, such as ab-cache:every=2..5")
    return found


def _meant(known: Mapping[str, Recipe], what: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(what, str) or what.endswith(".toml") or what in known:
        recipe = known[what] if isinstance(what, str) and what in known else Recipe.of(what)
        yield str(recipe), recipe.title
        return
    if not any(mark in what for mark in ("..", "|")):
        yield str(Recipe.of(what)), ""
        return
    for text in expand(what):
        yield _written(text), ""


def _written(text: str) -> str:
    """Write a combination as its recipe would; one that makes no sense stays as it is and fails in its cell."""
    try:
        return str(Recipe.parse(text))
    except KnobError:
        return text


def name_of(pipe_or_model: Any) -> str:
    """Return the name of a model, loaded or not."""
    return str(pipe_or_model) if isinstance(pipe_or_model, (str, Path)) else model_name(pipe_or_model)
