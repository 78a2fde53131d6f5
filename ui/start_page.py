"""The Start here page: three short steps for a newcomer."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from .page import PRIVATE

INTRO = "Three steps, a few minutes. Nothing is downloaded, and no graphics card is needed."
STEPS = [
    (
        "Run it",
        "On <b>Compare</b>, press <b>Run both</b>. The small model that ships with Deadheat draws your prompt twice "
        "from the same noise: as it is, and with an accelerator that leaves out work. Both are timed, in turns. In "
        "the strip below the pictures, solid steps were computed, outlined ones were predicted from those before, and "
        "striped ones ran in part.",
        "Open Compare",
        "compare",
    ),
    (
        "Judge it",
        "Drag the divider, or press <kbd>F</kbd> to flip: is it the same picture? <b>PSNR</b> says how close it is; "
        "above about 40 dB hardly anyone sees a difference. Then look at <b>plainly fewer steps</b>: the same time "
        "spent without any method. What does not beat that is not worth having. <b>Explore</b> shows many settings in "
        "one chart.",
        "Open Explore",
        "explore",
    ),
    (
        "Take it along",
        "Copy the code below the pictures: it runs as it stands. For your own model, look under <b>Models</b> what "
        "fits it and why. And on <b>Edit</b>, paint over a part of a picture: only that part is computed anew.",
        "Open Models",
        "models",
    ),
]


def start_page(tabs: gr.Tabs) -> None:
    """Lay out the page; its buttons open the others."""
    gr.HTML(f"<h1>Start here</h1><p>{INTRO}</p>", elem_classes="dh-head")
    with gr.Row(elem_classes="dh-start"):
        for number, (title, said, button, page) in enumerate(STEPS, 1):
            with gr.Column(min_width=240):
                gr.HTML(f"<h2><i>{number}</i>{title}</h2><p>{said}</p>", elem_classes="dh-first")
                opens = gr.Button(button, elem_id=f"start-{page}", variant="primary" if number == 1 else "secondary")
                opens.click(_opens(page), None, tabs, queue=False, **PRIVATE)


def _opens(page: str) -> Callable[[], Any]:
    def select() -> Any:
        return gr.update(selected=page)

    return select
