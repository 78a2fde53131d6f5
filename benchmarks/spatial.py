"""Every spatial accelerator on a pocket model, interleaved in one process, with plainly fewer steps beside them.

    python -m benchmarks.spatial [pocket-dit] [--prompts 32] [--repeats 5] [--out benchmarks/results]

Writes `spatial-MODEL.json` and charts of seconds against faithfulness and against quality by itself: prompt adherence,
and the Fréchet distance of all pictures of a lane to rendered scenes. Beside the settings stands the plain pipeline
at fewer and fewer steps.
"""

from typing import Any

from deadheat.accelerators import ACCELERATORS
from deadheat.presets import Recipe

from deadheat import load

from .race import CONTROL, fewer, parser, race

FEWER = (24, 21, 18, 16, 13, 11, 9)
RECIPES = {  # a line of the chart: its settings; the first is the default
    "region-adaptive": ("region-adaptive", "region-adaptive:ratio=0.25"),
    "bottleneck": ("bottleneck", "bottleneck:transition=renoise"),
    "progressive-resolution": ("progressive-resolution",),
    "token-carving": ("token-carving", "token-carving:block=16"),
    "token-merging": ("token-merging",),
    "region-adaptive + cache": ("ab-cache:every=2 + region-adaptive",),
    "bottleneck + cache": ("ab-cache:every=2 + bottleneck",),
}


def lines(pipe: Any) -> dict[str, list[Recipe]]:
    """Return what can run here, and the control."""
    found = {}
    for name, texts in RECIPES.items():
        recipes = [Recipe.parse(text) for text in texts]
        if all(ACCELERATORS[a.name].supports(pipe) is None for recipe in recipes for a in recipe.accelerators):
            found[name] = recipes
    return found | {CONTROL: fewer(FEWER)}


def main() -> None:
    """Run the comparison and write the result."""
    arguments = parser(__doc__).parse_args()
    pipe = load(arguments.model)
    race(pipe, lines(pipe), arguments, "spatial", metrics=("psnr", "ssim", "adherence"))


if __name__ == "__main__":
    main()
