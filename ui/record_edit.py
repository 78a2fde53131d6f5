"""Records the edit that a visitor finds before the first one: ``python -m deadheat.ui.record_edit``."""

import base64
import io
import json
import sys
from typing import Any

from PIL import Image, ImageDraw

from . import desks
from .edit_jobs import EditJob
from .edit_settings import EditSettings
from .edit_view import recorded

SAMPLES = (  # title, file, prompt, seed; drawn by pocket-dit
    ("Fox", "fox.png", "a fox above a mushroom on a striped teal background", 0),
    ("Panda", "panda.png", "a large panda on a gradient green background", 0),
    ("Rocket", "rocket.png", "a rocket left of a house on a gradient pink background", 0),
)
SPOT = (0.3, 0.02, 0.72, 0.46)  # what is painted on the first one: left, top, right, bottom in parts of the picture
WISH = "a cat above a mushroom on a striped teal background"


def main() -> None:
    """Draw the samples if they are not there (``--samples`` draws them anew), edit the first, and write both down."""
    desks.FOLDER.mkdir(parents=True, exist_ok=True)
    if not (desks.FOLDER / "samples.json").is_file() or "--samples" in sys.argv:
        _draw()
    picture, shows = desks.sample(0)
    settings = EditSettings("", WISH, strength=0.8, shows=shows, rounds=5)
    desk = desks.desk("recording", picture, shows, settings.model)
    painted = _painting(desk.size)
    settings = EditSettings(json.dumps({"desk": desk.key, "painted": painted}), *list(vars(settings).values())[1:])
    job = EditJob(settings, desk=desk)
    for _ in job.news():
        pass
    page = recorded(job.page(), painted) | {"wish": WISH, "shows": shows}
    (desks.FOLDER / "page.json").write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")


def _draw() -> None:
    import torch
    from deadheat.measure import to_image

    from deadheat import load

    pipe = load("pocket-dit")
    for _, file, prompt, seed in SAMPLES:
        drawn = pipe(
            prompt, guidance_scale=4.0, generator=torch.Generator().manual_seed(seed), output_type="pt"
        ).images
        to_image(drawn[0]).save(desks.FOLDER / file, optimize=True)
    listed: list[dict[str, Any]] = [{"title": title, "file": file, "prompt": text} for title, file, text, _ in SAMPLES]
    (desks.FOLDER / "samples.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def _painting(size: tuple[int, int]) -> str:
    """Return what the page's brush would have painted, as the page sends it."""
    strokes, buffer = Image.new("RGBA", size), io.BytesIO()
    box = [part * size[n % 2] for n, part in enumerate(SPOT)]
    ImageDraw.Draw(strokes).ellipse(box, fill=(255, 90, 54, 255))
    strokes.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


if __name__ == "__main__":
    main()
