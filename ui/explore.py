"""The Explore page: which setting is the best, as a chart of everything that was measured."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from . import jobs
from .controls import model_choice
from .page import OVER, PRIVATE, RUNS, checked, last_word, refusal
from .recommend import recorded
from .settings import MOST_REPEATS, MOST_STEPS
from .sweeping import DEFAULT, SweepJob, SweepSettings
from .uploads import explored

HERE = Path(__file__).parent
FIRST_PROMPT = "a fox above a mushroom on a striped teal background"
INTRO = "Every point is a setting that was measured: how long a picture takes, and what that costs in quality."


def explore_page() -> None:
    """Lay out the page and wire it."""
    gr.HTML(f"<h1>Find the best setting</h1><p>{INTRO}</p>", elem_classes="dh-head")
    with gr.Row(elem_classes="dh-page"):
        with gr.Column(scale=0, min_width=300, elem_classes="dh-panel"), gr.Column(elem_classes="dh-how"):
            fields, go, stop = _fields()  # on a phone below the chart, which is there already
            upload = _upload()
        with gr.Column(min_width=280, elem_classes="dh-main"):
            explorer = _explorer(recorded())
    shown = [explorer, go, stop]
    go.click(_run, fields, shown, validator=_complaints, **RUNS, **PRIVATE)
    stop.click(_stop, None, shown, queue=False, **PRIVATE)  # the run says the same once more, as its last word
    upload.upload(_load, upload, explorer, **PRIVATE)  # queued: of what is not, Gradio shows no error


def _fields() -> tuple[list[Any], gr.Button, gr.Button]:
    """Lay out the panel: what to measure."""
    recipes = gr.Textbox(
        "\n".join(DEFAULT),
        label="Settings to try",
        info="one a line; a knob may have several values: every=2|4 or every=2..5",
        lines=6,
        max_lines=14,
        elem_id="explore-recipes",
    )
    prompts = gr.Textbox(FIRST_PROMPT, label="Prompts", info="one a line", lines=2, elem_id="explore-prompts")
    with gr.Row(elem_classes="dh-buttons"):
        go = gr.Button("Measure them", variant="primary", elem_id="explore-go", scale=3)
        stop = gr.Button("Stop", elem_id="explore-stop", interactive=False, scale=1, min_width=70)
    with gr.Accordion("More settings", open=False, elem_id="explore-more"):
        rest = [
            model_choice("explore-model"),
            gr.Slider(1, MOST_STEPS, 28, step=1, label="Steps", elem_id="explore-steps"),
            gr.Slider(0, 20, 4, step=0.5, label="Guidance scale", elem_id="explore-guidance"),
            gr.Number(0, label="Seed", precision=0, elem_id="explore-seed"),
            gr.Slider(
                1, MOST_REPEATS, 3, step=1, label="Timed rounds", info="5 for a firm number", elem_id="explore-repeats"
            ),
        ]
    return [recipes, prompts, *rest], go, stop


def _upload() -> gr.UploadButton:
    """Lay out how to look at a result of one's own; it comes as bytes, so that no path is ever opened."""
    kinds = [".jsonl", ".json", ".zip"]
    button = gr.UploadButton("Load a result file", type="binary", file_types=kinds, elem_id="explore-load")
    gr.Markdown("A `sweep.jsonl`, a `result.json`, or their folder as a zip, up to 8 MB. Nothing is kept.")
    return button


def _explorer(value: Any) -> gr.HTML:
    """Return the one component that draws everything; its template is fixed, so no text is ever read as HTML."""
    files = HERE.parent / "measure"  # the static explorer is made of the same three
    html, css, js = ((files / f"explorer.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    return gr.HTML(
        value, html_template=html, css_template=css, js_on_load=js, apply_default_css=False, elem_id="explorer"
    )


def _run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
    """Run a sweep and tell the page how it goes."""
    owner = f"{request.session_hash}/explore"
    asked = checked(SweepSettings(*values))
    job = jobs.begin(owner, lambda: SweepJob(asked))
    buttons = (gr.update(interactive=False, value="Measuring …"), gr.update(interactive=True))
    try:
        for news in job.news():
            yield (news, *buttons)
            buttons = (gr.skip(), gr.skip())
        page = job.page()
    except Exception as error:  # noqa: BLE001 - the page must not stay as if it were running
        yield (last_word(error, _stopped(job.number)), *_at_rest())
        return
    finally:
        jobs.forget(owner, job)
    yield (page, *_at_rest())


def _stopped(run: int | None) -> dict[str, Any]:
    said = {"said": "Stopped. What was measured until then stays.", "early": "Stopped before a cell was finished."}
    words = said if run is not None else dict.fromkeys(said, OVER)
    return {"kind": "stopped", **words, "run": run, "badge": "stopped"}


def _at_rest() -> tuple[Any, Any]:
    return gr.update(interactive=True, value="Measure them"), gr.update(interactive=False)


def _stop(request: gr.Request) -> tuple[Any, ...]:
    run = jobs.stop(f"{request.session_hash}/explore")
    return (_stopped(run), *_at_rest())


def _complaints(*values: Any) -> list[dict[str, Any]]:
    """Check every field; what is wrong stands in red below it."""
    return [gr.validate(not said, said) for said in SweepSettings(*values).complaints()]


def _load(raw: bytes) -> Any:
    """Show an uploaded result; a bad one is a sentence, and what stood there stays."""
    from deadheat import DeadheatError

    try:
        return explored(raw)
    except DeadheatError as error:
        raise refusal(error) from error
