"""The Compare page: the panel, the stage where pictures and numbers stand, and how a run reaches them."""

import json
import logging
import threading
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import gradio as gr

from . import jobs
from .controls import Controls, controls, filled, waiting
from .settings import Settings

HERE = Path(__file__).parent
RECORDED = HERE.parent / "assets" / "recorded" / "compare" / "page.json"
# The runs of all pages: each tells that it waits for the model, and can be stopped, while another has it.
RUNS: dict[str, Any] = {"concurrency_id": "runs", "concurrency_limit": 16}
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
OVER = "There is nothing to stop any more."  # where Stop was pressed with the result under way

log = logging.getLogger("deadheat.app")


def compare_page(demo: gr.Blocks) -> Controls:
    """Lay out the page and wire it; return its panel, for a model that is chosen elsewhere."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.is_file() else None
    gr.HTML((HERE / "head.html").read_text(encoding="utf-8"), elem_classes="dh-head")
    with gr.Row(elem_classes="dh-page"):
        with gr.Column(scale=0, min_width=300, elem_classes="dh-panel"):
            left = controls()
        with gr.Column(min_width=280, elem_classes="dh-main"):
            stage = _stage(recorded)
            with gr.Accordion("Code for the accelerated picture", open=True):
                snippet = recorded["snippet"] if recorded else ""
                code = gr.Code(snippet, language="python", interactive=False, show_label=False, elem_id="snippet")
    _wire(left, stage, code)
    demo.load(_library, None, waiting(left), queue=False, **PRIVATE)
    return left


def _stage(value: Any) -> gr.HTML:
    """Return the one component that draws everything; its template is fixed, so no text is ever read as HTML."""
    html, css, js = ((HERE / f"stage.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    return gr.HTML(
        value, html_template=html, css_template=css, js_on_load=js, apply_default_css=False, elem_id="stage"
    )


def _wire(left: Controls, stage: gr.HTML, code: gr.Code) -> None:
    shown = [stage, code, left.go, left.stop]
    pressed = [left.go.click, left.prompt.submit]
    gr.on(pressed, _run, left.fields, shown, validator=_complaints, **RUNS, **PRIVATE)
    left.stop.click(_stop, None, shown, queue=False, **PRIVATE)  # the run says the same once more, as its last word


def _run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
    """Run a comparison and tell the page how it goes."""
    owner = str(request.session_hash)
    job = jobs.start(checked(Settings(*values)), owner)
    buttons = (gr.update(interactive=False, value="Running …"), gr.update(interactive=True))
    try:
        for news in job.news():
            yield (news | {"run": job.number}, gr.skip(), *buttons)
            buttons = (gr.skip(), gr.skip())
        page = job.page()
    except Exception as error:  # noqa: BLE001 - the page must not stay as if it were running
        yield (last_word(error, _stopped(job.number)), gr.skip(), *_at_rest())
        return
    finally:
        jobs.forget(owner, job)
    yield (page, page["snippet"], *_at_rest())


class Checkable(Protocol):
    """What a user asked for, whatever page it was."""

    def checked(self) -> Self: ...


Asked = TypeVar("Asked", bound=Checkable)


def checked(settings: Asked) -> Asked:
    """Return the settings, or raise the error that visitors of the page see."""
    from deadheat import DeadheatError

    try:
        return settings.checked()
    except DeadheatError as error:
        raise refusal(error) from error


def refusal(error: Exception) -> gr.Error:
    """Return the error for a page, which reads it as HTML: no word of a visitor or of a file may be markup there."""
    return gr.Error(escape(str(error), quote=False), print_exception=False)


def friendly(error: Exception) -> str:
    """Return a sentence for people; what nobody foresaw goes to the log with its traceback."""
    from deadheat import DeadheatError

    if isinstance(error, DeadheatError):
        return str(error)
    log.error("a run failed", exc_info=error)
    return f"This run failed, and should not have: {type(error).__name__}. The log says more; the page still works."


def last_word(error: Exception, stopped: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a run without a result: *stopped*, with the error where it was none of that."""
    from deadheat.pipelines import Cancelled

    return stopped if isinstance(error, Cancelled) else stopped | {"said": friendly(error)}


def _stopped(run: int | None) -> dict[str, Any]:
    """Return what the page shows when somebody pressed Stop; of that run it wants no more news."""
    said = "Stopped. Nothing was measured; below stands the result before."
    return {"kind": "stopped", "said": OVER if run is None else said, "run": run}


def _at_rest() -> tuple[Any, Any]:
    return gr.update(interactive=True, value="Run both"), gr.update(interactive=False)


def _stop(request: gr.Request) -> tuple[Any, ...]:
    run = jobs.stop(str(request.session_hash))
    return (_stopped(run), gr.skip(), *_at_rest())


def _complaints(*values: Any) -> list[dict[str, Any]]:
    """Check every field; what is wrong stands in red below it."""
    return [gr.validate(not said, said) for said in Settings(*values).complaints()]


def _library() -> list[Any]:
    """Fill the lists that wait for the library, and load the model behind the first visitor's back."""
    lists = filled()
    threading.Thread(target=jobs.warm_up, name="deadheat-warm-up", daemon=True).start()
    return lists
