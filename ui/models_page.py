"""The Models page: what a model is, which accelerators and switches fit it here, and why the rest does not."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

from . import jobs
from .controls import Controls, model_choice
from .page import PRIVATE, RUNS, friendly, refusal
from .settings import check_model, offered
from .view import threads_text

HERE = Path(__file__).parent
START = "pocket-dit"
INTRO = "What a model is, what makes it faster, and what does not fit it and why. A hub model is downloaded first."


def models_page(tab: gr.Tab, tabs: gr.Tabs, compare: Controls) -> None:
    """Lay out the page inside its tab, and wire it; *compare* is the panel that a chosen model goes to."""
    gr.HTML(f"<h1>Models</h1><p>{INTRO}</p>", elem_classes="dh-head")
    with gr.Row(elem_classes="dh-page"):
        with gr.Column(scale=0, min_width=300, elem_classes="dh-panel"), gr.Column(elem_classes="dh-from"):
            chosen = model_choice("models-model")
            look = gr.Button("What fits it?", variant="primary", elem_id="models-look")
            use = gr.Button("Compare on it", elem_id="models-use")
        with gr.Column(min_width=280, elem_classes="dh-main"):
            with gr.Accordion("Code for this model", open=True):
                code = gr.Code("", language="python", interactive=False, show_label=False, elem_id="models-code")
            sheet = _sheet()
    shown = [sheet, code]
    tab.select(_first, sheet, [chosen, *shown], queue=False, **PRIVATE)
    look.click(_look, chosen, shown, **RUNS, **PRIVATE)
    steps, guidance = compare.fields[4:6]
    taken = [compare.model, steps, guidance, compare.more, tabs]
    use.click(_use, chosen, taken, **PRIVATE)


def _sheet() -> gr.HTML:
    """Return the one component that draws everything; its template is fixed, so no text is ever read as HTML."""
    html, js = ((HERE / f"models.{kind}").read_text(encoding="utf-8") for kind in ("html", "js"))
    css = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("stage.css", "models.css"))
    return gr.HTML(
        None, html_template=html, css_template=css, js_on_load=js, apply_default_css=False, elem_id="models-sheet"
    )


def _first(sheet: Any) -> tuple[Any, ...]:
    """Fill the page when it is first opened."""
    names = gr.update(choices=offered())
    return (names, gr.skip(), gr.skip()) if sheet else (names, *_page(START))


def _look(model: str) -> Iterator[tuple[Any, Any]]:
    """Load the model, in turn with the runs of others, and say what fits it."""
    yield {"kind": "looking", "about": model}, gr.skip()
    try:
        check_model(model)  # here, whatever a client sends: no folder that it names is opened
        with jobs.in_turn():
            page = _page(model)
    except Exception as error:  # noqa: BLE001 - the page must not stay as if it were loading
        yield {"kind": "refused", "said": friendly(error)}, gr.skip()
        return
    yield page


def _use(model: str) -> tuple[Any, ...]:
    """Take the model to the Compare page, with the steps and the guidance it is usually run with."""
    from deadheat.pipelines import known_model

    from deadheat import DeadheatError

    try:
        check_model(model)
    except DeadheatError as error:
        raise refusal(error) from error
    usual = known_model(model)
    rest = (usual.steps, usual.guidance) if usual else (gr.skip(), gr.skip())
    return gr.update(value=model, choices=offered()), *rest, gr.update(open=True), gr.update(selected="compare")


@cache
def _page(name: str) -> tuple[dict[str, Any], str]:
    """Return what the page shows of a model, and the code for it."""
    from deadheat.measure import doctor, snippet
    from deadheat.pipelines import known_model

    from deadheat import ACCELERATORS

    known = known_model(name)
    steps, guidance = (known.steps, known.guidance) if known else (28, None)
    pipe = jobs.beside(name) if known and known.pocket else jobs.model(name)
    found = doctor(pipe, steps)
    facts, fits = found["pipeline"], found["accelerators"]
    rows = [
        {
            "name": ACCELERATORS[key].title,
            "code": key,
            "about": row["why_not"] or (ACCELERATORS[key].__doc__ or "").partition("\n")[0],
            "notes": row["cautions"],
        }
        for key, row in fits.items()
    ]
    page = {
        "kind": "sheet",
        "about": f"{known.title}: {known.about}" if known else name,
        "cards": _cards(facts),
        "presets": [
            {"name": title, "about": preset["about"], "notes": []} for title, preset in found["presets"].items()
        ],
        "fits": [row for row in rows if fits[row["code"]]["works"]],
        "not": [row for row in rows if not fits[row["code"]]["works"]],
        "switches": [
            {"name": switch, "about": f"no: {why}" if why else "works", "notes": []}
            for switch, why in found["switches"].items()
        ],
    }
    prompt = known.prompts[0] if known and known.prompts else "a fox"
    recipe = "balanced" if "balanced" in found["presets"] else "ab-cache"
    return page, snippet(name, recipe, prompt=prompt, steps=steps, guidance=guidance, system=facts["system"])


def _cards(facts: dict[str, Any]) -> list[dict[str, Any]]:
    millions = facts["parameters"] / 1e6
    size = f"{millions:.1f} M" if millions < 1000 else f"{millions / 1000:.1f} B"
    return [
        {"label": "Family", "value": facts["family"], "said": [facts["pipeline"]]},
        {"label": "Denoiser", "value": f"{size} parameters", "said": [facts["denoiser"]]},
        {"label": "Scheduler", "value": facts["scheduler"].removesuffix("Scheduler"), "said": [facts["scheduler"]]},
        {
            "label": "Runs in",
            "value": f"{facts['dtype']} on {facts['device']}",
            "said": [facts["system"].get("memory", "all-on-device").replace("-", " "), threads_text(facts["threads"])],
        },
    ]
