"""A few lines that anybody can paste: they load the model, stand the recipe in it, and draw the picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..pipelines import System, hub_id


def snippet(
    model: str, recipe: str, *, prompt: str, seed: int = 0, steps: int = 28, guidance: float | None = None,
    negative: str | None = None, size: Sequence[int] | None = None, system: Mapping[str, Any] | None = None,
    revision: str = "",
) -> str:  # fmt: skip
    """Return code that makes one picture with a recipe, as text or "plain", and runs as it stands.

    *system* holds the switches that the model was loaded with, as ``describe`` tells them; the code sets those that
    are not the usual ones, but for the device, which the next machine may not have. *revision* is that of a hub model.

    >>> snippet("pocket-dit", "plain", prompt="a fox", system={"device": "cpu", "dtype": "bfloat16"}).splitlines()[3]
    "pipe = load('pocket-dit', dtype='bfloat16')"
    >>> print(snippet("pocket-dit", "ab-cache:every=4", prompt="a fox"))
    from deadheat import accelerate, load
    from deadheat.pipelines import call_arguments, pictures
    <BLANKLINE>
    pipe = load('pocket-dit')
    arguments = call_arguments(pipe, prompt='a fox', seed=0, steps=28)
    with accelerate(pipe, 'ab-cache:every=4') as run:
        image = pictures(pipe(**arguments))[0]  # (3, height, width) in [0, 1]
    print(run.report())
    <BLANKLINE>
    """
    call = {"negative": negative, "steps": steps, "guidance": guidance, "size": tuple(size) if size else None}
    given = "".join(f", {name}={value!r}" for name, value in call.items() if value is not None)
    draw = "image = pictures(pipe(**arguments))[0]  # (3, height, width) in [0, 1]"
    plain = recipe == "plain"
    lines = [
        f"from deadheat import {'load' if plain else 'accelerate, load'}",
        "from deadheat.pipelines import call_arguments, pictures",
        "",
        f"pipe = {load_code(model, system or {}, revision)}",
        f"arguments = call_arguments(pipe, prompt={prompt!r}, seed={seed}{given})",
    ]
    lines += [draw] if plain else [f"with accelerate(pipe, {recipe!r}) as run:", f"    {draw}", "print(run.report())"]
    return "\n".join(lines) + "\n"


def load_code(model: str, system: Mapping[str, Any], revision: str = "") -> str:
    """Return the call that loads a model, with the switches that are not the usual ones.

    >>> load_code("owner/name", {}, "my-branch")
    "load('owner/name', revision='my-branch')"
    """
    usual = asdict(System()) | {"dtype": "float32" if system.get("device") == "cpu" else "bfloat16"}
    given = {name: system.get(name, value) for name, value in usual.items() if name != "device"}
    set_ = {name: value for name, value in given.items() if value != usual[name]}
    if revision and hub_id(model):  # a folder has none, even where it lies in the hub's cache
        set_ = {"revision": revision, **set_}
    return f"load({', '.join([repr(model), *(f'{name}={value!r}' for name, value in set_.items())])})"
