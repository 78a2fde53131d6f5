"""The left panel: what to draw, on which model, with which accelerators. Sliders are made from the knobs."""

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .settings import MOST_REPEATS, MOST_STEPS, PUBLIC, offered

NONE = "none"
FIRST = ("AB-Cache", "ab-cache")
CHIPS = {
    "fox above a mushroom": "a fox above a mushroom on a striped teal background",
    "panda": "a large panda on a gradient green background",
    "rocket and house": "a rocket left of a house on a gradient pink background",
    "penguin and tree": "a penguin right of a tree on a striped blue background",
}
JOIN = "(a, b) => [a, b].filter(Boolean).join(' + ')"
START = "(name) => name === 'none' ? '' : name"
TELL = "(...now) => { window.dispatchEvent(new CustomEvent('deadheat-settings', {detail: now})); return []; }"


@dataclass(eq=False)
class Slot:
    """One accelerator of the recipe: the choice, and its part of the recipe text."""

    choice: gr.Dropdown
    part: gr.Textbox


@dataclass(eq=False)
class Controls:
    """The components of the left panel.

    Attributes:
        fields: what a run takes, in the order of ``Settings``.
        ready: turns true when the library is there and the lists can be filled.
    """

    prompt: gr.Textbox
    model: gr.Dropdown
    recipe: gr.Textbox
    fields: list[Any]
    slots: list[Slot]
    ready: gr.State
    go: gr.Button
    stop: gr.Button


def controls() -> Controls:
    """Lay out the left panel."""
    ready = gr.State(False)
    prompt = gr.Textbox(CHIPS["fox above a mushroom"], label="Prompt", lines=2, max_lines=6, elem_id="prompt")
    gr.Examples([[text] for text in CHIPS.values()], [prompt], example_labels=list(CHIPS), label="Try")
    with gr.Row(elem_classes="dh-buttons"):
        go = gr.Button("Run both", variant="primary", elem_id="go", scale=3)
        stop = gr.Button("Stop", elem_id="stop", interactive=False, scale=1, min_width=70)
    with gr.Column(elem_classes="dh-how"):
        slots = [_slot("Accelerator", FIRST, ready, "first"), _slot("Together with", (NONE, NONE), ready, "second")]
        recipe = gr.Textbox(FIRST[1], label="Recipe", elem_id="recipe", info="what runs, as on the command line")
    with gr.Accordion("More settings", open=False, elem_id="more"):
        model, others = _more()
    negative, steps, guidance, seed, repeats = others
    fields = [prompt, negative, model, recipe, steps, guidance, seed, repeats]
    made = Controls(prompt, model, recipe, fields, slots, ready, go, stop)
    _wire(made)
    return made


def _more() -> tuple[gr.Dropdown, list[Any]]:
    model = gr.Dropdown(
        [("Pocket DiT", "pocket-dit")],
        value="pocket-dit",
        label="Model",
        allow_custom_value=not PUBLIC,
        info=None if PUBLIC else "or type a hub id or a local folder",
        elem_id="model",
    )
    others = [
        gr.Textbox("", label="Negative prompt", elem_id="negative"),
        gr.Slider(1, MOST_STEPS, 28, step=1, label="Steps", elem_id="steps"),
        gr.Slider(0, 20, 4, step=0.5, label="Guidance scale", elem_id="guidance"),
        gr.Number(0, label="Seed", precision=0, elem_id="seed"),
        gr.Slider(1, MOST_REPEATS, 3, step=1, label="Timed rounds", info="5 for a firm number", elem_id="repeats"),
    ]
    return model, others


def _slot(label: str, value: tuple[str, str], ready: gr.State, name: str) -> Slot:
    choice = gr.Dropdown([value], value=value[1], label=label, elem_id=name)
    part = gr.Textbox("" if value[1] == NONE else value[1], visible="hidden")

    @gr.render(inputs=[choice, ready], triggers=[ready.change, choice.change], show_progress="hidden")
    def panel(chosen: str, is_ready: bool) -> None:
        if is_ready and chosen != NONE:
            _knobs(chosen, part, name)

    return Slot(choice, part)


def _knobs(chosen: str, part: gr.Textbox, slot: str) -> None:
    """Lay out the knobs of an accelerator; each change is written into its part of the recipe, in the browser."""
    from deadheat.accelerators import ACCELERATORS, knobs

    found = knobs(ACCELERATORS[chosen])
    made = [_widget(name, default, spec, f"{slot}-{name}") for name, (default, spec) in found.items()]
    names, defaults = list(found), [default for default, _ in found.values()]
    write = (
        f"(...now) => {{ const names = {json.dumps(names)}, usual = {json.dumps(defaults)};"
        " const said = names.map((k, i) => [k, now[i], usual[i]]).filter(([k, a, b]) => String(a) !== String(b));"
        f" return {json.dumps(chosen)} + (said.length ? ':' + said.map(([k, a]) => k + '=' + a).join(',') : ''); }}"
    )
    gr.on([w.change for w in made], None, made, part, js=write, api_visibility="private", show_progress="hidden")


def _widget(name: str, default: Any, spec: Any, elem_id: str) -> Any:
    label, about = name.replace("_", " "), spec.what
    if spec.choices:
        return gr.Dropdown(list(spec.choices), value=default, label=label, info=about, elem_id=elem_id)
    if isinstance(default, bool):
        return gr.Checkbox(default, label=label, info=about, elem_id=elem_id)
    step = 1 if isinstance(default, int) else 0.01
    return gr.Slider(spec.low, spec.high, default, step=step, label=label, info=about, elem_id=elem_id)


def _wire(made: Controls) -> None:
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    parts = [slot.part for slot in made.slots]
    for slot in made.slots:
        slot.choice.change(None, slot.choice, slot.part, js=START, **quiet)
    gr.on([part.change for part in parts], None, parts, made.recipe, js=JOIN, **quiet)
    gr.on([field.change for field in made.fields], None, made.fields, None, js=TELL, **quiet)


def waiting(made: Controls) -> list[Any]:
    """Return the components that wait for the library."""
    return [made.model, *(slot.choice for slot in made.slots), made.ready]


def filled() -> tuple[Any, ...]:
    """Return what they hold when it is there; importing it takes seconds, which the first page does not wait for."""
    from deadheat.accelerators import ACCELERATORS

    every = [(cls.title, name) for name, cls in ACCELERATORS.items()]
    return gr.update(choices=offered()), gr.update(choices=every), gr.update(choices=[(NONE, NONE), *every]), True
