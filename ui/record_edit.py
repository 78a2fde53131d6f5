"""Records the edit that a visitor finds before the first one: ``python -m deadheat.ui.record_edit``."""

import json
import sys

from . import desks
from .edit_jobs import EditJob
from .edit_settings import EditSettings
from .edit_view import recorded

SAMPLES = (  # drawn by pocket-dit, seed 0
    {
        "title": "Fox",
        "file": "fox.png",
        "shows": "a fox above a mushroom on a striped teal background",
        "wish": "a cat above a mushroom on a striped teal background",
        "spot": [0.3, 0.02, 0.72, 0.46],
    },
    {
        "title": "Panda",
        "file": "panda.png",
        "shows": "a large panda on a gradient green background",
        "wish": "a large panda on a gradient blue background",
        "spot": [0.02, 0.02, 0.3, 0.28],
    },
    {
        "title": "Rocket",
        "file": "rocket.png",
        "shows": "a rocket left of a house on a gradient pink background",
        "wish": "a balloon left of a house on a gradient pink background",
        "spot": [0.04, 0.2, 0.48, 0.8],
    },
)


def main() -> None:
    """Draw the samples if they are not there (``--samples`` draws them anew), edit the first, and write both down."""
    desks.FOLDER.mkdir(parents=True, exist_ok=True)
    if not (desks.FOLDER / "samples.json").is_file() or "--samples" in sys.argv:
        _draw()
    first = desks.sample(0)
    settings = EditSettings("", first.wish, strength=0.8, shows=first.shows, rounds=5)
    desk = desks.desk("recording", first.picture, first.shows, settings.model)
    painted = first.painted(desk.size)
    settings = EditSettings(json.dumps({"desk": desk.key, "painted": painted}), *list(vars(settings).values())[1:])
    job = EditJob(settings, desk=desk)
    for _ in job.news():
        pass
    page = recorded(job.page(), painted) | {"wish": first.wish, "shows": first.shows}
    (desks.FOLDER / "page.json").write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")


def _draw() -> None:
    import torch
    from deadheat.measure import to_image

    from deadheat import load

    pipe = load("pocket-dit")
    for one in SAMPLES:
        noise = torch.Generator().manual_seed(0)
        drawn = pipe(one["shows"], guidance_scale=4.0, generator=noise, output_type="pt").images
        to_image(drawn[0]).save(desks.FOLDER / str(one["file"]), optimize=True)
    (desks.FOLDER / "samples.json").write_text(json.dumps(SAMPLES, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
