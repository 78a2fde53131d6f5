"""A few lines that anybody can paste: they load the model, stand the recipe in it, and draw the picture."""

from collections.abc import Sequence


def snippet(
    model: str, recipe: str, *, prompt: str, seed: int = 0, steps: int = 28, guidance: float | None = None,
    negative: str | None = None, size: Sequence[int] | None = None,
) -> str:  # fmt: skip
    """Return code that makes one picture with a recipe, as text or "plain", and runs as it stands.

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
        f"pipe = load({model!r})",
        f"arguments = call_arguments(pipe, prompt={prompt!r}, seed={seed}{given})",
    ]
    lines += [draw] if plain else [f"with accelerate(pipe, {recipe!r}) as run:", f"    {draw}", "print(run.report())"]
    return "\n".join(lines) + "\n"
