"""Edits of a part of a picture, sparse against dense, interleaved in one process.

    python -m benchmarks.editing [pocket-unet] [--rounds 5] [--areas 0.3 1.2 5 15 40 100] [--out benchmarks/results]
    python -m benchmarks.editing --size 256
    python -m benchmarks.editing sd15 --steps 4 --rounds 2 --areas 1.2 15

Writes `editing-MODEL.json`, or `editing-MODEL-SIZE.json` for a picture that was enlarged to that size, and `-whole`
where the sparse edit skips no steps (`--recipe ""`): for each area the seconds of every round of the dense and of the
second sparse edit and of plainly fewer steps in its time, those of the first sparse edit with its recording, and the
difference inside and outside the mask.
`sd15` is the UNet and the autoencoder of Stable Diffusion 1.5 at 512 x 512 with random weights: it tells seconds, not
pictures.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from deadheat.measure import EditSession, environment
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from deadheat import load

PROMPT, NEW = "a fox above a mushroom on a striped teal background", "a large pizza"
AREAS = (0.3, 1.2, 5.0, 15.0, 40.0, 100.0)
SD15 = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def full_size() -> Any:
    """Return Stable Diffusion 1.5 with random weights, and the tokenizer of a pocket model."""
    torch.manual_seed(0)
    pocket = load("pocket-unet")
    words = pocket.tokenizer.model_max_length
    config = CLIPTextConfig(
        vocab_size=len(pocket.tokenizer), hidden_size=768, intermediate_size=3072, num_hidden_layers=2,
        num_attention_heads=12, max_position_embeddings=words,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        unet=UNet2DConditionModel(sample_size=64, **SD15).eval(),
        vae=AutoencoderKL(latent_channels=4, sample_size=512, **VAE).eval(),
        text_encoder=CLIPTextModel(config).eval(),
        tokenizer=pocket.tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def square(percent: float, height: int, width: int) -> Tensor:
    """Return a mask of that part of the picture, a little off its middle, where it meets no grid."""
    tall, wide = (round(side * (percent / 100) ** 0.5) for side in (height, width))
    top, left = (min(side - part, round(side * 0.52) - part // 2) for side, part in ((height, tall), (width, wide)))
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[max(0, top) : max(0, top) + tall, max(0, left) : max(0, left) + wide] = True
    return mask


def row(session: EditSession, percent: float, rounds: int, strength: float) -> dict[str, Any]:
    """Return the numbers of one area; the session's recording must not be there yet."""
    mask = square(percent, *session.image.shape[1:])
    result = session.compare(mask, NEW, strength=strength, repeats=rounds)
    found = {"percent": percent, "first_seconds": result.first_seconds} | result.to_dict()
    kept = ("lane", "reason", "active", "calls", "memory", "stages", "warnings", "expected_speedup")
    for lane in ("dense", "sparse"):
        found[lane] = {name: found[lane][name] for name in kept}
    control, said = found["control"], ""
    if control is not None:
        found["control"] = {name: control[name] for name in ("steps", "speedup", "inside", "calls", "stages")}
        said = f"  {control['steps']} steps: {control['speedup']:5.2f} x {result.control_inside:5.1f} dB"
    print(
        f"{percent:5.1f} %  computed {result.sparse.active:6.1%}  {result.sparse.lane:6s}  "
        f"dense {min(result.seconds['dense']):7.3f} s  sparse {min(result.seconds['sparse']):7.3f} s  "
        f"{result.speedup:5.2f} x  first {result.first_seconds or 0:7.3f} s  inside {result.inside:5.1f} dB  "
        f"outside {result.outside:5.1f} dB  {result.sparse.memory / 2**20:6.0f} MiB{said}",
        flush=True,
    )
    return found


def command() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket-unet", help="pocket-unet, pocket-dit, or sd15")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--strength", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--areas", type=float, nargs="+", default=AREAS)
    parser.add_argument("--size", type=int, help="enlarge the picture to so many pixels a side first")
    parser.add_argument("--budget", type=float, default=4.0, help="GiB for the recording")
    parser.add_argument("--recipe", default="ab-cache", help='what skips steps of the sparse edit; "": nothing')
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser


def main() -> None:
    """Run the edits and write the result."""
    parser = command()
    arguments = parser.parse_args()
    if arguments.size and arguments.model == "pocket-dit":
        parser.error("pocket-dit knows no positions beyond 128 pixels: --size is for pocket-unet")
    pipe = full_size() if arguments.model == "sd15" else load(arguments.model)
    settings: dict[str, Any] = {
        "steps": arguments.steps,
        "budget_bytes": int(arguments.budget * 2**30),
        "recipe": arguments.recipe,
    }
    if arguments.model == "sd15":
        image = torch.rand(3, 512, 512, generator=torch.Generator().manual_seed(0))
        settings["guidance"] = 7.5
    else:
        image = EditSession.generated(pipe, prompt=PROMPT, steps=arguments.steps).image
    if arguments.size:
        image = functional.interpolate(image[None], (arguments.size, arguments.size), mode="bicubic")[0].clamp(0, 1)
    rows = []
    for percent in arguments.areas:
        session = EditSession(pipe, image, prompt=PROMPT, **settings)
        rows.append(row(session, percent, arguments.rounds, arguments.strength))
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(pipe),
        "settings": settings | {"strength": arguments.strength, "rounds": arguments.rounds},
        "areas": rows,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1).replace("Infinity", "null")
    whole = "" if arguments.recipe else "whole"
    name = "-".join(filter(None, ("editing", arguments.model, str(arguments.size or ""), whole)))
    (arguments.out / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
