"""The left panel: what to draw, on which model, with which accelerators. Sliders are made from the knobs."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import gradio as gr

from .jobs import beside
from .settings import MOST_REPEATS, MOST_STEPS, PUBLIC, offered

NONE = "none"
OWN = "own mix"
FIRST, FIRST_PRESET = ("Fitted cache", "fitted-cache"), "balanced"
CHIPS = {
    "fox above a mushroom": "a fox above a mushroom on a striped teal background",
    "panda": "a large panda on a gradient green background",
    "rocket and house": "a rocket left of a house on a gradient pink background",
    "penguin and tree": "a penguin right of a tree on a striped blue background",
}
# What was typed last (stage.js notes it) stays in the field until something else is chosen: the answer to what was
# typed before may come when somebody types on already.
JOIN = """(a, b, named) => {
  const text = [a, b].filter(Boolean).join(' + ');
  return window.deadheatTyped ?? JSON.parse(named || '{}')[text] ?? text;
}"""
CHOSEN = "() => { window.deadheatTyped = undefined; return []; }"
# A new choice starts with its own defaults; the space is for a panel whose knobs were moved: same text is no news.
CHOOSE = f"""(chosen, wanted) => {{
  window.deadheatTyped = undefined;
  const text = chosen === '{NONE}' ? '' : chosen;
  return [text && text === wanted ? text + ' ' : text, text];
}}"""
TELL = "(...now) => { window.dispatchEvent(new CustomEvent('deadheat-settings', {detail: now})); return []; }"


QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(eq=False)
class Slot:
    """One accelerator of the recipe: the choice, its part of the recipe text, and what its panel of knobs starts with.

    Whatever sets one sets all three at once, so that a panel is made once, and nothing that somebody does with its
    knobs is taken back by a later answer to the same news.
    """

    choice: gr.Dropdown
    part: gr.Textbox
    wanted: gr.Textbox


@dataclass(eq=False)
class Controls:
    """The components of the left panel.

    Attributes:
        fields: what a run takes, in the order of ``Settings``.
        named: the names of the model's presets by their recipe text, as JSON; hidden.
    """

    model: gr.Dropdown
    more: gr.Accordion
    preset: gr.Dropdown
    recipe: gr.Textbox
    prompt: gr.Textbox
    fields: list[Any]
    slots: list[Slot]
    named: gr.Textbox
    go: gr.Button
    stop: gr.Button


def controls() -> Controls:
    """Lay out the left panel."""
    prompt = gr.Textbox(CHIPS["fox above a mushroom"], label="Prompt", lines=2, max_lines=6, elem_id="prompt")
    gr.Examples([[text] for text in CHIPS.values()], [prompt], example_labels=list(CHIPS), label="Try")
    with gr.Row(elem_classes="dh-buttons"):
        go = gr.Button("Run both", variant="primary", elem_id="go", scale=3)
        stop = gr.Button("Stop", elem_id="stop", interactive=False, scale=1, min_width=70)
    with gr.Column(elem_classes="dh-how"):
        first = [FIRST_PRESET, OWN]
        # no choice until the library is there: filling the lists would take back what somebody chose before
        preset = gr.Dropdown(first, value=FIRST_PRESET, label="Preset", elem_id="preset", interactive=False)
        slots = [_slot("Accelerator", FIRST, "first"), _slot("Together with", (NONE, NONE), "second")]
        about = "what runs, as on the command line"
        recipe = gr.Textbox(FIRST_PRESET, label="Recipe", elem_id="recipe", interactive=False, info=about, max_lines=4)
    with gr.Accordion("More settings", open=False, elem_id="more") as more:
        model, others = _more()
    negative, steps, guidance, seed, repeats = others
    fields = [prompt, negative, model, recipe, steps, guidance, seed, repeats]
    named = gr.Textbox("{}", visible="hidden")
    made = Controls(model, more, preset, recipe, prompt, fields, slots, named, go, stop)
    _wire(made)
    return made


def _more() -> tuple[gr.Dropdown, list[Any]]:
    model = model_choice("model")
    others = [
        gr.Textbox("", label="Negative prompt", elem_id="negative"),
        gr.Slider(1, MOST_STEPS, 28, step=1, label="Steps", elem_id="steps"),
        gr.Slider(0, 20, 4, step=0.5, label="Guidance scale", elem_id="guidance"),
        gr.Number(0, label="Seed", precision=0, elem_id="seed"),
        gr.Slider(1, MOST_REPEATS, 3, step=1, label="Timed rounds", info="5 for a firm number", elem_id="repeats"),
    ]
    return model, others


def model_choice(elem_id: str, value: str = "pocket-dit") -> gr.Dropdown:
    """Lay out the list of models, for now with those that ship; the library fills in the others."""
    return gr.Dropdown(
        [("Pocket DiT", "pocket-dit"), ("Pocket UNet", "pocket-unet")],
        value=value,
        label="Model",
        allow_custom_value=not PUBLIC,
        info=None if PUBLIC else "or type a hub id; a folder of yours: deadheat app --model FOLDER",
        elem_id=elem_id,
        interactive=True,
    )


def _slot(label: str, value: tuple[str, str], name: str) -> Slot:
    choice = gr.Dropdown([value], value=value[1], label=label, elem_id=name, interactive=False)
    slot = Slot(choice, gr.Textbox("", visible="hidden"), gr.Textbox("", visible="hidden"))

    # One at a time: both panels of a page write into one session's blocks, and Gradio does not guard them.
    @gr.render(
        slot.wanted,
        triggers=[slot.wanted.change],
        show_progress="hidden",
        concurrency_limit=1,
        concurrency_id="knobs",
    )
    def panel(wanted: str) -> None:
        if wanted:
            _knobs(wanted, slot, name)

    return slot


def _knobs(wanted: str, slot: Slot, name: str) -> None:
    """Lay out the knobs of an accelerator; each change is written into its part of the recipe, in the browser."""
    from deadheat.accelerators import knobs
    from deadheat.accelerators.recipe_text import UNSAFE

    from deadheat import Recipe

    now = Recipe.parse(wanted).accelerators[0]
    found = knobs(now)
    plain = [knob for knob, (_, spec) in found.items() if spec.low is not None]
    names = [*plain, *(knob for knob in found if knob not in plain)]
    made = [_widget(knob, getattr(now, knob), found[knob][1], f"{name}-{knob}") for knob in plain]
    if len(names) > len(plain):
        with gr.Accordion("More knobs", open=False):
            made += [
                _widget(knob, getattr(now, knob), found[knob][1], f"{name}-{knob}") for knob in names[len(plain) :]
            ]
    usual = [found[knob][0] for knob in names]
    write = (
        f"(wanted, part, ...now) => {{ const names = {json.dumps(names)}, usual = {json.dumps(usual)};"
        f" if (wanted !== {json.dumps(wanted)}) return part;"  # this panel is about to be another one
        " window.deadheatTyped = undefined;"
        " const said = names.map((k, i) => [k, now[i], usual[i]]).filter(([k, a, b]) => String(a) !== String(b));"
        f" const quoted = (a) => RegExp({json.dumps(UNSAFE.pattern)}).test(a)"
        """ ? '"' + String(a).replaceAll('"', '""') + '"' : a;"""
        f" return {json.dumps(now.name)}"
        " + (said.length ? ':' + said.map(([k, a]) => k + '=' + quoted(a)).join(',') : ''); }"
    )
    gr.on([w.input for w in made], None, [slot.wanted, slot.part, *made], slot.part, js=write, **QUIET)


def _widget(name: str, default: Any, spec: Any, elem_id: str) -> Any:
    label, about = name.replace("_", " "), spec.what
    if spec.choices:
        return gr.Dropdown(
            list(spec.choices), value=default, label=label, info=about, elem_id=elem_id, interactive=True
        )
    if isinstance(default, bool):
        return gr.Checkbox(default, label=label, info=about, elem_id=elem_id, interactive=True)
    if isinstance(default, str):
        return gr.Textbox(default, label=label, info=about, elem_id=elem_id, interactive=True)
    step = 1 if isinstance(default, int) else 0.01
    return gr.Slider(
        spec.low, spec.high, default, step=step, label=label, info=about, elem_id=elem_id, interactive=True
    )


def _wire(made: Controls) -> None:
    parts = [slot.part for slot in made.slots]
    for slot in made.slots:
        slot.choice.input(None, [slot.choice, slot.wanted], [slot.wanted, slot.part], js=CHOOSE, **QUIET)
    gr.on([part.change for part in parts], None, [*parts, made.named], made.recipe, js=JOIN, **QUIET)
    gr.on([made.preset.input, made.model.change], None, None, None, js=CHOSEN, **QUIET)
    gr.on([field.change for field in made.fields], None, made.fields, None, js=TELL, **QUIET)
    picked = [thing for slot in made.slots for thing in (slot.choice, slot.wanted)]
    # what is picked or typed while an answer is waited for counts, too: without always_last it would be passed over
    last: dict[str, Any] = {"queue": False, "trigger_mode": "always_last", **QUIET}
    now = [*(slot.wanted for slot in made.slots), *parts]
    made.preset.input(_pick, [made.preset, made.model, *now], [*picked, *parts], **last)
    typed = [made.recipe.blur, made.recipe.submit]
    gr.on(typed, _typed, [made.recipe, made.model, *now], [*picked, *parts], **last)
    made.recipe.change(_preset_of, [made.recipe, made.model], made.preset, queue=False, **QUIET)
    others = [made.preset, made.named, *picked, *parts]
    made.model.change(_other_model, [made.model, made.preset, made.recipe, *now], others, queue=False, **QUIET)


def _shipped(model: Any) -> dict[str, str]:
    """Return the presets of a model that fit into the two slots, as recipe text."""
    from deadheat.presets import presets

    return {name: str(recipe) for name, recipe in presets(str(model)).items() if len(recipe.accelerators) <= 2}


def _pick(preset: str, model: Any, *now: str) -> list[Any]:
    """Set both slots, and their parts of the recipe, as a model's preset wants them."""
    known = _shipped(model)
    return _slots(known[preset], *now) if preset in known else [gr.skip()] * 6


def _typed(recipe: str, model: Any, *now: str) -> list[Any]:
    """Set both slots as a typed recipe wants them, if they have room for it; what is wrong with it a run will say."""
    from deadheat import DeadheatError

    try:
        return _slots(_shipped(model).get(recipe, recipe), *now)
    except DeadheatError:
        return [gr.skip()] * 6


def _slots(recipe: str, *now: str) -> list[Any]:
    """Return what a recipe wants of both slots; *now* is what was wanted before, and the parts that came of it."""
    from deadheat.accelerators import recipe_parts

    from deadheat import Recipe

    names = [accelerator.name for accelerator in Recipe.parse(recipe).accelerators]
    if len(names) > 2:
        return [gr.skip()] * 6
    names, texts = [*names, NONE][:2], [*recipe_parts(recipe), ""][:2]  # as typed
    wanted = [
        # knobs moved since are set back only by news, and the same text once more is none: so with a space, or without
        text if before.strip() != text or part == text else text + " " * (before == text)
        for text, before, part in zip(texts, now[:2], now[2:], strict=True)
    ]
    return [names[0], wanted[0], names[1], wanted[1], *texts]


def _preset_of(recipe: str, model: Any) -> Any:
    """Name the preset that this recipe is, if it is one, and say what to expect of it."""
    known = _shipped(model)
    name = recipe if recipe in known else next((name for name, text in known.items() if text == recipe), OWN)
    return gr.update(value=name, info=_expect(name, model))


def _expect(preset: str, model: Any) -> str:
    """Return the first sentence of what a preset says about itself."""
    from deadheat.presets import presets

    return presets(str(model))[preset].about.split(". ")[0] if preset != OWN else ""


def _other_model(model: Any, preset: str, recipe: str, *now: str) -> list[Any]:
    """Offer this model's presets; one that was picked becomes this model's own of that name, or the first."""
    known = _shipped(model)
    kept = next((name for name in (preset, recipe) if name in known), OWN if preset == OWN else FIRST_PRESET)
    shown = gr.update(choices=[*known, OWN], value=kept, info=_expect(kept, model))
    return [shown, _named(model), *_pick(kept, model, *now)]


def _named(model: Any) -> str:
    """Return the names of a model's presets by their recipe text, as JSON; of two with the same text the first counts.

    Of a model that is not known by name only those made for it: its family, which shows once it is loaded, may call
    another recipe by one of the other names.
    """
    from deadheat.pipelines import known_model
    from deadheat.presets import own_presets

    known, own = known_model(str(model)), own_presets(str(model))
    sure = {name: text for name, text in _shipped(model).items() if known or name in own}
    return json.dumps({text: name for name, text in reversed(sure.items())})


@cache
def _accelerators() -> list[tuple[str, str]]:
    """Return every accelerator; behind those that fit the pocket model the others, which want another one."""
    from deadheat import ACCELERATORS

    pipe = beside("pocket-dit")  # whoever has another model in use keeps it
    fits = {name: cls.supports(pipe) is None for name, cls in ACCELERATORS.items()}
    titles = [(cls.title + ("" if fits[n] else " (not for Pocket DiT)"), n) for n, cls in ACCELERATORS.items()]
    return sorted(titles, key=lambda pair: not fits[pair[1]])


def waiting(made: Controls) -> list[Any]:
    """Return the components that wait for the library."""
    first, second = made.slots
    slots = [first.choice, first.wanted, first.part, second.choice]
    return [made.model, made.preset, made.recipe, made.named, *slots]


def filled() -> list[Any]:
    """Return what they hold when it is there; importing it takes seconds, which the first page does not wait for."""
    every, known = _accelerators(), _shipped("pocket-dit")
    about = _expect(FIRST_PRESET, "pocket-dit")
    presets = gr.update(choices=[*known, OWN], value=FIRST_PRESET, info=about, interactive=True)
    recipe, first = gr.update(interactive=True), gr.update(choices=every, interactive=True)
    wanted = known[FIRST_PRESET]
    # its part of the recipe comes at once, too: later it would overwrite what somebody is typing
    slots = [first, wanted, wanted, gr.update(choices=[(NONE, NONE), *every], interactive=True)]
    return [gr.update(choices=offered()), presets, recipe, _named("pocket-dit"), *slots]
