"""The edit endpoint for programs: typed, documented, and as careful as the page."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from .api import MODEL, plainly
from .edit_jobs import FileJob, uploaded
from .edit_settings import SKIPS, START, EditSettings


def endpoint() -> None:
    """Add the endpoint; its components are never seen."""
    with gr.Column(visible=False):
        inputs = [
            gr.File(label="image", file_types=["image"]),
            gr.File(label="mask", file_types=["image"]),
            gr.Textbox("a cat above a mushroom on a striped teal background", label="prompt"),
            gr.Textbox(START, label="model"),
            gr.Number(0.6, label="strength"),
            gr.Textbox("prompt", label="mode"),
            gr.Textbox("", label="shows"),
            gr.Number(28, label="steps"),
            gr.Number(4.0, label="guidance"),
            gr.Number(0, label="seed"),
            gr.Checkbox(False, label="sparse"),
            gr.Textbox(SKIPS, label="recipe"),
        ]
        outputs = [gr.JSON(label="numbers"), gr.Image(label="picture", format="png")]
        gr.Button("edit").click(edit, inputs, outputs, api_name="edit", **MODEL)


def edit(  # noqa: PLR0917 - each is an argument of the endpoint
    image: str | None,
    mask: str | None,
    prompt: str,
    model: str = START,
    strength: float = 0.6,
    mode: str = "prompt",
    shows: str = "",
    steps: int = 28,
    guidance: float = 4.0,
    seed: int = 0,
    sparse: bool = False,
    recipe: str = SKIPS,
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Change the part of a picture that a mask shows; outside it every pixel stays as it is.

    Args:
        image: A picture of at most 8 MB, and no more pixels than the model draws; its sides must be multiples of what
            the model needs.
        mask: A picture of the same size, white (or opaque, where it has transparency) where the picture may change.
        prompt: What it shall become, up to 2000 characters.
        model: A model's id; see list_models.
        strength: How much noise, above 0 and at most 1.
        mode: "prompt" draws the mask anew from what is there, "inpaint" from noise alone.
        shows: What the picture shows.
        steps: Denoising steps at strength 1, 1 to 100.
        guidance: Guidance scale.
        seed: Seed of the noise, 0 to 2**63 - 1.
        sparse: Compute around the mask only. The recording that this takes first does not repay itself in one edit, so
            that an edit computes the whole picture, as diffusers does, unless asked.
        recipe: What skips steps of the sparse edit: accelerators that predict the network's output; empty skips none.

    Returns:
        The numbers: lane ("sparse", "dense", or "none" for an empty mask), the reason for it, seconds, part of the
        picture computed, network calls, bytes kept, warnings; and the new picture. Before that, for whoever listens,
        how far it is ("said").
    """
    from deadheat.measure import to_image

    from deadheat import InputError

    with plainly():
        settings = EditSettings("", prompt, mode, strength, model, shows, steps, guidance, seed, 0, recipe).checked()
        if not isinstance(sparse, bool):
            raise InputError(f"sparse is {sparse!r}, not true or false")
        job = FileJob(settings, files=uploaded(settings, (image, mask)), sparse=sparse)
        for news in job.news():
            yield {"said": news["said"]}, None
        found = job.outcome()
    yield found.to_dict(), to_image(found.image)
