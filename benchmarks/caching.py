r"""Every feature cache on a pocket model, interleaved in one process, with plainly fewer steps beside them.

    python -m benchmarks.caching [pocket-dit] [--prompts 32] [--repeats 5] [--out benchmarks/results]
    python -m benchmarks.caching --prompts 3 --repeats 31 --name caching-pocket-dit-31-rounds --lanes auto-16 auto-13 \
        auto-9 fewer-steps:steps=16 fewer-steps:steps=13 fewer-steps:steps=9 easy-cache sea-cache sada:start=0.2 \
        ab-cache sea-cache:threshold=0.5,most=4
    python -m benchmarks.caching pocket-unet --prompts 3 --repeats 31 --name caching-pocket-unet-31-rounds --lanes \
        auto-16 auto-13 auto-9 fewer-steps:steps=16 fewer-steps:steps=13 fewer-steps:steps=9 deepcache:every=2 \
        deepcache sada:start=0.2

Writes `caching-MODEL.json` (every number, with hardware and versions) and charts of seconds against PSNR and SSIM.
cache-dit's DBCache joins where it is installed (`pip install 'deadheat[peers]'`); the others need nothing more. The
prompts are held out: the fitted cache's presets were calibrated on others, with other seeds.
"""

from typing import Any

from deadheat.accelerators import ACCELERATORS
from deadheat.presets import Recipe, presets

from deadheat import load

from .race import CONTROL, fewer, parser, race

FEWER = (18, 16, 13, 11, 9, 7)
RECIPES = {  # a line of the chart: its settings, from faithful to fast
    "ab-cache": ("ab-cache:every=2", "ab-cache:every=3", "ab-cache:every=4,order=1"),
    "lemica": ("lemica",),
    "easy-cache": ("easy-cache", "easy-cache:threshold=0.1"),
    "sada": ("sada:start=0.2", "sada:start=0.1,most=3"),
    "clockwork": ("clockwork:clock=2", "clockwork:clock=4"),
    "deepcache": ("deepcache:every=2", "deepcache:every=3"),
    "encoder-propagation": ("encoder-propagation",),
    "layer-cache": ("layer-cache:every=2",),
    "taylor-seer": ("taylor-seer:every=2", "taylor-seer"),
    "pyramid-attention-broadcast": ("pyramid-attention-broadcast",),
    "faster-cache": ("faster-cache",),
    "teacache": ("teacache", "teacache:threshold=0.3"),
    "magcache": ("magcache-13",),
    "first-block-cache": ("first-block-cache", "first-block-cache:threshold=0.2"),
    "sea-cache": ("sea-cache", "sea-cache:threshold=0.5,most=4"),
    "db-cache": ("db-cache", "db-cache:threshold=0.15"),
}


def lines(pipe: Any, model: str) -> dict[str, list[Recipe]]:
    """Return what can run here: the fitted cache's presets of this model, every cache that fits it, the control."""
    known = presets(model)
    fitted = [recipe for name, recipe in known.items() if name.startswith("auto-")]
    found = {"fitted-cache": fitted} if fitted else {}
    for name, texts in RECIPES.items():
        if name in ACCELERATORS and ACCELERATORS[name].supports(pipe) is None:
            found[name] = [known[text] if text in known else Recipe.parse(text) for text in texts if text in known or
                           text.partition(":")[0] in ACCELERATORS]  # fmt: skip
    found[CONTROL] = fewer(FEWER)
    return {name: recipes for name, recipes in found.items() if recipes}


def main() -> None:
    """Run the comparison and write the result."""
    arguments = parser(__doc__).parse_args()
    pipe = load(arguments.model)
    race(pipe, lines(pipe, arguments.model), arguments, "caching", metrics=("psnr", "ssim"))


if __name__ == "__main__":
    main()
