"""What one pass instead of two can save at most, and what the adapter leaves of it: a step of each, by pictures.

    python -m benchmarks.one_pass [--rounds 12] [--out benchmarks/results]

Writes `one-pass.json`: seconds of a forward of each pocket denoiser for the latents of one or more pictures, for twice
as many, and for the first with the shipped adapter in it, interleaved. The transformer has random weights, as its own
know no positions beyond 128 pixels; seconds do not depend on them.
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
from deadheat.pipelines import inserted, load_adapter, shipped
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from deadheat import load

CASES = ((128, 1), (128, 4), (192, 1), (256, 1))  # pixels, and pictures that are drawn at once
WORDS = 16


def networks() -> dict[str, tuple[nn.Module, Path, Callable[[Tensor], dict[str, Any]]]]:
    """Return each denoiser, its adapter's folder, and what it is called with for latents (B, C, H, W)."""
    unet, dit = load("pocket-unet"), load("pocket-dit")
    known = dit.transformer.config
    larger = {**known, "pos_embed_max_size": max(size for size, _ in CASES) // 8}

    def of_unet(latents: Tensor) -> dict[str, Any]:
        words = torch.zeros(len(latents), WORDS, unet.unet.config.cross_attention_dim)
        return {"sample": latents, "timestep": torch.tensor(500), "encoder_hidden_states": words}

    def of_dit(latents: Tensor) -> dict[str, Any]:
        return {
            "hidden_states": latents,
            "encoder_hidden_states": torch.zeros(len(latents), WORDS, known.joint_attention_dim),
            "pooled_projections": torch.zeros(len(latents), known.pooled_projection_dim),
            "timestep": torch.full((len(latents),), 500.0),
        }

    return {
        "pocket-unet": (unet.unet, adapter_of(unet), of_unet),
        "pocket-dit": (SD3Transformer2DModel.from_config(larger).eval(), adapter_of(dit), of_dit),
    }


def adapter_of(pipe: Any) -> Path:
    """Return the folder of the adapter that ships for a pocket model."""
    folder = shipped(pipe)
    assert folder is not None
    return folder


@torch.inference_mode()
def timed(name: str, size: int, pictures: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of every round: of one pass, of two, and of one with the adapter."""
    network, folder, arguments = networks()[name]
    adapter = load_adapter(folder)[0].float()
    seconds: dict[str, list[float]] = {"one": [], "two": [], "adapter": []}
    with inserted(network, adapter) as now:
        for turn in range(rounds + 1):  # the first warms up
            for passes, found in seconds.items():
                count = pictures * (2 if passes == "two" else 1)
                given = arguments(torch.randn(count, 8, size // 8, size // 8))
                begin = time.perf_counter()
                now.told = adapter.told(torch.full((count,), 4.0), given) if passes == "adapter" else None
                network(**given)
                if turn:
                    found.append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    rows = []
    for name in ("pocket-unet", "pocket-dit"):
        for size, pictures in CASES:
            seconds = timed(name, size, pictures, given.rounds)
            two = median(seconds["two"])
            most, adapter = two / median(seconds["one"]), two / median(seconds["adapter"])
            rows.append(
                {"model": name, "pixels": size, "pictures": pictures, "most": most, "adapter": adapter}
                | {"seconds": seconds}
            )
            print(
                f"{name}, {pictures} of {size} pixels: {1000 * two:.0f} ms a guided step, {most:.2f}x at most, "
                f"{adapter:.2f}x with the adapter"
            )
    found = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "hardware": hardware(), "rows": rows}
    found["threads"] = torch.get_num_threads()
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "one-pass.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
