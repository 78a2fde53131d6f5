"""The browser app: ``python app.py``, ``deadheat app``, or the entry of a Hugging Face Space."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves this machine; gradio reads it at import
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as on the command line; before torch is imported

import argparse
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
from deadheat.ui import api, edit_api, edit_page, explore, models_page, page, settings, start_page

HERE = Path(page.__file__).parent
SYSTEM = ("device", "dtype", "memory")
THEME = gr.themes.Soft(
    primary_hue="indigo",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],  # fonts of the visitor's machine: none is fetched
    font_mono=["ui-monospace", "monospace"],
).set(
    block_title_background_fill="none",
    block_title_background_fill_dark="none",
    block_title_text_color="*body_text_color",
    block_title_text_color_dark="*body_text_color",
    block_title_padding="0",
    body_text_color_subdued="*neutral_500",  # 4.5 : 1 on white and on cards
    body_text_color_subdued_dark="*neutral_400",
    block_title_text_weight="600",
    block_shadow="none",
    block_border_width="0px",
    block_padding="0px",
    block_background_fill="transparent",
    block_background_fill_dark="transparent",
    input_border_width="1px",
    input_border_width_dark="1px",
    input_border_color="*neutral_300",
    input_border_color_dark="*neutral_600",
    input_shadow="none",
)


def build() -> gr.Blocks:
    """Return the app, not yet started."""
    with gr.Blocks(title="Deadheat", analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)) as blocks:
        with gr.Tabs(elem_classes="dh-tabs") as tabs:
            with gr.Tab("Compare", id="compare"):
                compare = page.compare_page(blocks)
            with gr.Tab("Edit", id="edit") as edit:
                edit_page.edit_page(edit)
            with gr.Tab("Explore", id="explore"):
                explore.explore_page()
            with gr.Tab("Models", id="models") as models:
                models_page.models_page(models, tabs, compare)
            with gr.Tab("Start here", id="start"):
                start_page.start_page(tabs)
        api.endpoints()
        edit_api.endpoint()
    # The knobs of every visitor come through this queue too: it is far longer than the runs that wait in it should be.
    blocks.queue(max_size=200, default_concurrency_limit=4)
    return blocks


demo = build()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the app until it is stopped.

    Returns:
        0 when it was stopped, 2 when the port is taken, a folder holds no model, or a switch cannot work here.
    """
    parser = argparse.ArgumentParser(prog="deadheat app", description="Open Deadheat in the browser.")
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    parser.add_argument("--host", default="0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1")
    parser.add_argument("--model", action="append", default=[], help="a local folder to offer too; again for more")
    for switch in SYSTEM:
        parser.add_argument(f"--{switch}", help="of every model, as deadheat compare has it")
    given = parser.parse_args(arguments)
    for folder in given.model:
        if not (Path(folder) / "model_index.json").is_file():
            print(f"deadheat: --model is {folder}: no folder that pipe.save_pretrained(...) wrote", file=sys.stderr)
            return 2
    switches = {name: value for name in SYSTEM if (value := getattr(given, name))}
    if refused := _refused(switches):
        print(f"deadheat: {refused}", file=sys.stderr)
        return 2
    settings.SWITCHES.update(switches)
    settings.FOLDERS[:] = [str(Path(folder).absolute()) for folder in given.model]
    if taken := _taken(given.host, given.port):
        print(f"deadheat: {taken}", file=sys.stderr)
        return 2
    launch(given.host, given.port)
    return 0


def launch(host: str, port: int, block: bool = True) -> None:
    """Start the server."""
    demo.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        theme=THEME,
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        show_error=True,
        ssr_mode=False,
        share=False,
        run_history=False,
        mcp_server=find_spec("mcp") is not None,  # the endpoints as tools, with `pip install 'deadheat[mcp]'`
        max_file_size="8mb",
        state_session_capacity=200,  # each visit keeps its components for an hour
        footer_links=["api", "settings"],
    )


def _refused(switches: dict[str, Any]) -> str:
    """Return why models cannot be loaded with these switches here, or ""."""
    if not switches:  # looking would import torch, for which the first page need not wait
        return ""
    from deadheat.pipelines import System

    from deadheat import DeadheatError

    try:
        System(**switches).resolved()
    except DeadheatError as error:
        return str(error)
    return ""


def _taken(host: str, port: int) -> str:
    """Return why nothing can listen there, or ""."""
    if not 0 < port < 65536:
        return f"port {port} is not between 1 and 65535; give another --port"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"port {port} on {host} cannot be used ({error.strerror}); give another one: --port {port + 1}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
