"""The Edit page: the panel, the canvas with both lanes beside it, and how an edit reaches them."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from . import desks, jobs
from .controls import model_choice
from .edit_jobs import EditJob
from .edit_settings import SKIPS, START, EditSettings
from .page import OVER, PRIVATE, RUNS, checked, friendly, last_word
from .settings import MOST_REPEATS, MOST_STEPS, offered

HERE = Path(__file__).parent
RECORDED = desks.FOLDER / "page.json"
INTRO = (
    "Paint over what should change and say what it should become. Only that part is computed; the rest stays as it is."
)
MODES = [("New prompt", "prompt"), ("From noise", "inpaint"), ("Strokes", "stroke")]
PAPER = "(paper, ...rest) => [window.deadheatPaper ? window.deadheatPaper() : '', ...rest]"
TELL = "(...now) => { window.dispatchEvent(new CustomEvent('deadheat-edit', {detail: now})); return []; }"
FROM_COMPARE = """(...given) => {
  const look = document.querySelector('#stage .dh-fast'), said = document.querySelector('#stage .dh');
  const prompt = said ? ((said.dataset.about || '').match(/“(.*)”/) || ['', ''])[1] : '';
  return [look ? look.src : '', prompt, given[2]];
}"""


@dataclass(eq=False)
class Panel:
    """The components of the left panel.

    Attributes:
        fields: what an edit takes, in the order of ``EditSettings``.
    """

    samples: list[gr.Button]
    upload: gr.UploadButton
    compare: gr.Button
    hidden: list[gr.Textbox]
    fields: list[Any]
    go: gr.Button
    stop: gr.Button

    @property
    def model(self) -> Any:
        return self.fields[4]

    @property
    def shows(self) -> Any:
        return self.fields[5]


def edit_page(tab: gr.Tab) -> None:
    """Lay out the page inside its tab, and wire it."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.is_file() else None
    gr.HTML(f"<h1>Edit a picture</h1><p>{INTRO}</p>", elem_classes="dh-head")
    with gr.Row(elem_classes="dh-page"):
        with gr.Column(scale=0, min_width=300, elem_classes="dh-panel"):
            left = _panel(recorded)
        with gr.Column(min_width=280, elem_classes="dh-main"):
            stage = _stage(recorded)
            with gr.Accordion("Code for this edit", open=False):
                snippet = recorded["snippet"] if recorded else ""
                code = gr.Code(snippet, language="python", interactive=False, show_label=False)
    _wire(left, stage, code)
    tab.select(_library, None, left.model, queue=False, **PRIVATE)
    tab.select(None, left.fields[1:], None, js=TELL, **PRIVATE)


def _panel(recorded: Any) -> Panel:
    titles = desks.samples()
    with gr.Column(elem_classes="dh-from"):
        gr.HTML("<b>Picture</b>")
        with gr.Row(elem_classes="dh-samples"):
            samples = [
                gr.Button(
                    one["title"], icon=desks.FOLDER / one["file"], size="sm", min_width=80, elem_id=f"sample-{n}"
                )
                for n, one in enumerate(titles)
            ]
        with gr.Row(elem_classes="dh-buttons"):
            upload = gr.UploadButton("Upload", file_types=["image"], size="sm", min_width=90, elem_id="edit-upload")
            compare = gr.Button("From Compare", size="sm", min_width=90, elem_id="from-compare")
    shown = recorded or {}
    wish = gr.Textbox(shown.get("wish", ""), label="It should become", lines=2, max_lines=6, elem_id="edit-prompt")
    with gr.Row(elem_classes="dh-buttons"):
        go = gr.Button("Edit", variant="primary", elem_id="edit-go", scale=3)
        stop = gr.Button("Stop", elem_id="edit-stop", interactive=False, scale=1, min_width=70)
    with gr.Column(elem_classes="dh-kind"):
        mode = gr.Radio(MODES, value="prompt", label="How", elem_id="edit-mode")
        strength = gr.Slider(
            0.1, 1, 0.8, step=0.05, label="Strength", info="how far from what is there", elem_id="edit-strength"
        )
    with gr.Accordion("More settings", open=False, elem_id="edit-more"):
        others = _more(shown.get("shows", ""))
    hidden = [gr.Textbox("", visible="hidden") for _ in range(3)]
    fields = [hidden[0], wish, mode, strength, *others]
    return Panel(samples, upload, compare, hidden[1:], fields, go, stop)


def _more(shows: str) -> list[Any]:
    return [
        model_choice("edit-model", START),
        gr.Textbox(shows, label="The picture shows", info="better recordings, better edits", elem_id="edit-shows"),
        gr.Slider(1, MOST_STEPS, 28, step=1, label="Steps", info="at strength 1", elem_id="edit-steps"),
        gr.Slider(0, 20, 4, step=0.5, label="Guidance scale", elem_id="edit-guidance"),
        gr.Number(0, label="Seed", precision=0, elem_id="edit-seed"),
        gr.Slider(
            0, MOST_REPEATS, 3, step=1, label="Timed rounds", info="0: the sparse edit alone", elem_id="edit-rounds"
        ),
        gr.Textbox(SKIPS, label="Skipped steps", info="of the sparse edit; empty: none", elem_id="edit-recipe"),
    ]


def _stage(value: Any) -> gr.HTML:
    """Return the one component that draws everything; its template is fixed, so no text is ever read as HTML."""
    html, js = ((HERE / f"edit.{kind}").read_text(encoding="utf-8") for kind in ("html", "js"))
    css = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("stage.css", "edit.css"))
    return gr.HTML(
        value,
        html_template=html,
        css_template=css,
        js_on_load=js,
        apply_default_css=False,
        elem_id="edit-stage",
        server_functions=[cover],
    )


def cover(asked: Any) -> dict[str, Any]:
    """Say what an edit of the painting would cost, while somebody paints."""
    return desks.cover(asked)


def _wire(left: Panel, stage: gr.HTML, code: gr.Code) -> None:
    shown = [stage, code, left.go, left.stop]
    pressed = [left.go.click, left.fields[1].submit]
    gr.on(pressed, _run, left.fields, shown, validator=_complaints, js=PAPER, **RUNS, **PRIVATE)
    left.stop.click(_stop, None, shown, queue=False, **PRIVATE)  # the run says the same once more, as its last word
    gr.on([field.change for field in left.fields[1:]], None, left.fields[1:], None, js=TELL, **PRIVATE)
    placed = [stage, left.shows]
    for nth, button in enumerate(left.samples):
        button.click(_sample(nth), left.model, [*placed, left.fields[1]], queue=False, **PRIVATE)
    left.upload.upload(_upload, [left.upload, left.model], placed, queue=False, **PRIVATE)
    taken = [*left.hidden, left.model]
    left.compare.click(_from_compare, taken, placed, js=FROM_COMPARE, queue=False, **PRIVATE)
    stage.upload(_dropped, left.model, placed, queue=False, **PRIVATE)
    stage.undo(_back, None, stage, queue=False, **PRIVATE)


def _run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
    """Make an edit and tell the page how it goes."""
    owner = _owner(request)
    job: EditJob | None = None
    try:
        settings = checked(EditSettings(*values))
        desk = desks.find(owner, settings.paper_parts()[0], settings.model)
        desks.read_painting(settings.paper_parts()[1], desk.size)
        job = jobs.begin(owner, lambda: EditJob(settings, desk=desk))
        buttons = (gr.update(interactive=False, value="Editing …"), gr.update(interactive=True))
        for news in job.news():
            yield (news | {"run": job.number}, gr.skip(), *buttons)
            buttons = (gr.skip(), gr.skip())
        page = job.page()
    except gr.Error:
        raise
    except Exception as error:  # noqa: BLE001 - the page must not stay as if it were running
        yield (last_word(error, _stopped(job.number if job else None)), gr.skip(), *_at_rest())
        return
    finally:
        if job is not None:
            jobs.forget(owner, job)
    yield (page, page["snippet"], *_at_rest())


def _owner(request: gr.Request) -> str:
    """Return what a visitor is called here: their runs on the other pages are none of this page's."""
    return f"{request.session_hash}/edit"


def _at_rest() -> tuple[Any, Any]:
    return gr.update(interactive=True, value="Edit"), gr.update(interactive=False)


def _stop(request: gr.Request) -> tuple[Any, ...]:
    run = jobs.stop(_owner(request))
    said = _stopped(None, OVER) if run is None else _stopped(run)
    return (said, gr.skip(), *_at_rest())


def _stopped(run: int | None, said: str = "Stopped. The picture is as it was.") -> dict[str, Any]:
    return {"kind": "stopped", "said": said, "run": run}


def _complaints(*values: Any) -> list[dict[str, Any]]:
    """Check every field; what is wrong stands in red below it."""
    return [gr.validate(not said, said) for said in EditSettings(*values).complaints()]


def _sample(nth: int) -> Any:
    def take(model: str, request: gr.Request) -> tuple[Any, Any, Any]:
        chosen = desks.sample(nth)
        page, shows = _placed(request, lambda: (chosen.picture, chosen.shows), model)
        painted = chosen.painted(tuple(page["size"])) if "size" in page else ""
        return page | {"painted": painted}, shows, chosen.wish

    return take


def _upload(path: Any, model: str, request: gr.Request) -> tuple[Any, Any]:
    from deadheat.measure import open_picture

    return _placed(request, lambda: (open_picture(path, "the upload"), ""), model)


def _from_compare(picture: str, prompt: str, model: str, request: gr.Request) -> tuple[Any, Any]:
    from deadheat.measure import decode_picture

    return _placed(request, lambda: (decode_picture(picture, "the picture in Compare"), prompt), model)


def _dropped(model: str, request: gr.Request, event: gr.EventData) -> tuple[Any, Any]:
    from deadheat.measure import decode_picture

    text = str((event._data or {}).get("picture", ""))
    return _placed(request, lambda: (decode_picture(text, "what was dropped"), ""), model)


def _placed(request: gr.Request, read: Any, model: str) -> tuple[Any, Any]:
    """Put a picture on the visitor's desk; what cannot be one is said above the picture that was there."""
    owner = _owner(request)
    jobs.stop(owner)
    try:
        picture, shows = read()
        page = desks.desk(owner, picture, shows, str(model)).page()
    except Exception as error:  # noqa: BLE001 - the page must hear of it
        return _stopped(None, friendly(error)), gr.skip()
    return page, shows


def _back(request: gr.Request, event: gr.EventData) -> Any:
    """Go back to a picture of the past, by its number; the one before the last by default."""
    found = desks.of(_owner(request))
    if found is None or len(found.past) < 2:
        return _stopped(None, "There is no edit to take back.")
    to = (event._data or {}).get("to")
    jobs.stop(_owner(request))
    painted = found.back(to if isinstance(to, int) and not isinstance(to, bool) else len(found.past) - 2)
    return found.page(painted)


def _library() -> Any:
    """Fill the list of models, and load the usual one behind the visitor's back."""
    threading.Thread(target=jobs.warm_up, args=(START,), name="deadheat-warm-up", daemon=True).start()
    return gr.update(choices=offered())
