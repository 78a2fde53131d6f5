"""DeepCache as its authors published it, beside ours, on pocket-unet: the other cache that is a package of its own.

    pip install --no-deps DeepCache==0.1.1
    python -m benchmarks.peers [--prompts 32] [--repeats 5] [--out benchmarks/results]

(cache-dit's DBCache is raced in `benchmarks.caching`; diffusers' own caches know neither SD3 nor UNets, and run there
through Deadheat.) Writes `peers-pocket-unet.json` and its charts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from deadheat.accelerators import Accelerator
from deadheat.accelerators.knobs import knob
from deadheat.pipelines import Around, Link, Stage
from deadheat.presets import Recipe, presets
from DeepCache import DeepCacheSDHelper

from deadheat import load

from .race import CONTROL, fewer, parser, race

MODEL = "pocket-unet"
THEIRS, OURS = "DeepCache, the package", "deepcache"
FITTED = ("auto-18", "auto-13", "auto-9")


@dataclass(frozen=True)
class PublishedDeepCache(Accelerator):
    """Run the package around a pipeline, as its README shows."""

    name: ClassVar[str] = "published-deepcache"
    title: ClassVar[str] = THEIRS
    paper: ClassVar[str] = "Ma et al. 2023, arXiv:2312.00858"
    neutral: ClassVar[dict[str, Any]] = {"every": 1}
    seat: ClassVar[str] = "deep part of the UNet"

    every: int = knob(3, "cache_interval", low=1, high=10, unit="steps")
    branch: int = knob(0, "cache_branch_id", low=0, high=20)

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        def start(link: Link) -> Around:
            link.run.acted.add(self.name)  # it says nothing of what it does
            return lambda call, network: network(call)

        helper = DeepCacheSDHelper(pipe=stage.pipe)
        helper.set_params(cache_interval=self.every, cache_branch_id=self.branch)
        with stage.around_denoiser(start):
            helper.enable()
            try:
                yield
            finally:
                helper.disable()


def main() -> None:
    """Run the comparison and write the result."""
    made = parser(__doc__)
    arguments = made.parse_args()
    if arguments.model not in (made.get_default("model"), MODEL):
        made.error(f"only {MODEL} is raced here")
    arguments.model = MODEL
    known = presets(MODEL)
    lines = {
        THEIRS: [Recipe((cache,), str(cache)) for cache in (PublishedDeepCache(every=2), PublishedDeepCache())],
        OURS: [Recipe.parse(f"deepcache:every={every}") for every in (2, 3)],
        "fitted-cache": [known[name] for name in FITTED],
        CONTROL: fewer((18, 13, 9)),
    }
    race(load(MODEL), lines, arguments, "peers", metrics=("psnr", "ssim"))


if __name__ == "__main__":
    main()
