"""What one pass instead of two can save at most: a step without and with the unconditional half, by pictures.

    python -m benchmarks.one_pass [--rounds 12] [--out benchmarks/results]

Writes `one-pass.json`: seconds of a forward of each pocket denoiser for the latents of one or more pictures, and for
twice as many, interleaved. The transformer has random weights, as its own know no positions beyond 128 pixels; seconds
do not depend on them.
"""

import argparse
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from deadheat.measure import hardware
from diffusers import SD3Transformer2DModel
from torch import Tensor

from deadheat import load

CASES = ((128, 1), (128, 4), (192, 1), (256, 1))  # pixels, and pictures that are drawn at once
WORDS = 16


def forwards() -> dict[str, Callable[[Tensor], Any]]:
    """Return a forward of each denoiser, for latents (B, C, H, W)."""
    unet, known = load("pocket-unet").unet, load("pocket-dit").transformer.config
    dit = SD3Transformer2DModel.from_config(
        {**known, "pos_embed_max_size": max(size for size, _ in CASES) // 8}
    ).eval()

    def of_unet(latents: Tensor) -> Any:
        words = torch.zeros(len(latents), WORDS, unet.config.cross_attention_dim)
        return unet(latents, 500, encoder_hidden_states=words)

    def of_dit(latents: Tensor) -> Any:
        return dit(
            latents,
            encoder_hidden_states=torch.zeros(len(latents), WORDS, dit.config.joint_attention_dim),
            pooled_projections=torch.zeros(len(latents), dit.config.pooled_projection_dim),
            timestep=torch.full((len(latents),), 500.0),
        )

    return {"pocket-unet": of_unet, "pocket-dit": of_dit}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    rows = []
    for name, forward in forwards().items():
        for size, pictures in CASES:
            seconds: dict[str, list[float]] = {"one": [], "two": []}
            for turn in range(given.rounds + 1):  # the first warms up
                for passes, count in (("one", pictures), ("two", 2 * pictures)):
                    latents = torch.randn(count, 8, size // 8, size // 8)
                    begin = time.perf_counter()
                    with torch.inference_mode():
                        forward(latents)
                    if turn:
                        seconds[passes].append(time.perf_counter() - begin)
            most = median(seconds["two"]) / median(seconds["one"])
            rows.append({"model": name, "pixels": size, "pictures": pictures, "most": most, "seconds": seconds})
            print(
                f"{name}, {pictures} of {size} pixels: {1000 * median(seconds['two']):.0f} ms a guided step, "
                f"{most:.2f}x at most"
            )
    found = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "hardware": hardware(), "rows": rows}
    found["threads"] = torch.get_num_threads()
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "one-pass.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
