"""Full-size transformers with random weights: seconds against calls, and what a skipped step costs. Wants a GPU.

    python -m benchmarks.full_size flux|sd3|sd3.5|lumina2|wan [--steps 28] [--repeats 5] [--out benchmarks/results]
    python -m benchmarks.full_size flux --tiny --repeats 1 --out /tmp/out

The true architecture at 1024 x 1024 (Wan: 81 frames of 832 x 480), bf16, text given as random embeddings, latents
out: what is timed is the denoising loop alone. Pictures of random weights are noise, so nothing is said of quality.
Writes `full-size-MODEL-STEPS.json`: for every recipe the seconds of its interleaved rounds, its calls, and the seconds
of a skipped step as a part of a computed one. `--tiny` keeps two narrow layers of each kind at a small size, to
try the script on a CPU.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from deadheat.measure import environment
from deadheat.measure.timing import after_each_step, synchronise
from deadheat.presets import Recipe, accelerate, presets
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

SD3 = {
    "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192,
}  # fmt: skip
SD35 = {
    "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192,
    "qk_norm": "rms_norm",
}  # fmt: skip
WAN = {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960}
FEW = {"num_layers": 2, "num_attention_heads": 2}
AB = "ab-cache:every=3"


@dataclass(frozen=True)
class Model:
    """How to build one, what to give it, and what to race on it; *known* is where its presets are found."""

    known: str
    build: Callable[[bool], Any]
    words: dict[str, tuple[int, ...]]
    recipes: tuple[str, ...]
    call: dict[str, Any]
    tiny: dict[str, Any]


def _flux(tiny: bool) -> Any:
    network = FluxTransformer2DModel(guidance_embeds=True, **FEW | {"num_single_layers": 2} if tiny else {})
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return FluxPipeline(scheduler, None, None, None, None, None, network)


def _sd3(shape: dict[str, Any], tiny: bool) -> Any:
    network = SD3Transformer2DModel(**shape | (FEW | {"caption_projection_dim": 128} if tiny else {}))
    return StableDiffusion3Pipeline(network, FlowMatchEulerDiscreteScheduler(shift=3.0), *[None] * 7)


def _lumina2(tiny: bool) -> Any:
    network = Lumina2Transformer2DModel(
        cap_feat_dim=2304, **FEW | {"hidden_size": 192, "num_kv_heads": 2} if tiny else {}
    )
    return Lumina2Pipeline(network, FlowMatchEulerDiscreteScheduler(shift=6.0), None, None, None)


def _wan(tiny: bool) -> Any:
    network = WanTransformer3DModel(**WAN | (FEW if tiny else {}))
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    return WanPipeline(None, None, None, scheduler, network)


SPARSE = ("region-adaptive-published", "region-adaptive:ratio=0.25", "region-adaptive:ratio=0.125,max_gap=16")
PAIR = {"prompt_embeds": (1, 333, 4096), "pooled_prompt_embeds": (1, 2048)}
MODELS = {
    "flux": Model(
        "black-forest-labs/FLUX.1-dev", _flux, {"prompt_embeds": (1, 512, 4096), "pooled_prompt_embeds": (1, 768)},
        ("ab-cache-14", AB, "lemica-10", "lemica-15", "lemica-20", "teacache-published", "first-block-cache",
         "bottleneck-5x", "bottleneck-7x", "region-adaptive:ratio=0.25", "fewer-steps:steps=16"),
        {"height": 1024, "width": 1024, "guidance_scale": 3.5}, {"height": 256, "width": 256},
    ),
    "sd3": Model(
        "stabilityai/stable-diffusion-3-medium-diffusers", lambda tiny: _sd3(SD3, tiny), PAIR,
        (AB, *SPARSE, "bottleneck-2x", "bottleneck-3x", "bottleneck", "fewer-steps:steps=13"),
        {"height": 1024, "width": 1024, "guidance_scale": 7.0}, {"height": 256, "width": 256},
    ),
    "sd3.5": Model(
        "stabilityai/stable-diffusion-3.5-large", lambda tiny: _sd3(SD35, tiny), PAIR,
        (AB, "ab-cache:every=5", "lemica", "easy-cache", "first-block-cache", "region-adaptive:ratio=0.25",
         "fewer-steps:steps=13"),
        {"height": 1024, "width": 1024, "guidance_scale": 4.5}, {"height": 256, "width": 256},
    ),
    "lumina2": Model(
        "Alpha-VLLM/Lumina-Image-2.0", _lumina2, {"prompt_embeds": (1, 256, 2304)},
        (AB, *SPARSE, "bottleneck", "fewer-steps:steps=13"),
        {"height": 1024, "width": 1024, "guidance_scale": 4.0}, {"height": 256, "width": 256},
    ),
    "wan": Model(
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", _wan, {"prompt_embeds": (1, 512, 4096)},
        (AB, "token-carving:keep=0.25,block=128", "token-carving:keep=0.15,block=128", "jenga-base", "jenga-turbo",
         "lemica-20", "fewer-steps:steps=13"),
        {"height": 480, "width": 832, "num_frames": 81, "guidance_scale": 5.0},
        {"height": 128, "width": 128, "num_frames": 9},
    ),
}  # fmt: skip


def built(model: Model, tiny: bool) -> Any:
    """Return the pipeline, on the GPU in bf16 where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            pipe = model.build(tiny)
    finally:
        torch.set_default_dtype(before)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def size_of(model: Model, tiny: bool) -> dict[str, Any]:
    """Return how large a picture is drawn."""
    return model.call | (model.tiny if tiny else {})


def arguments_for(pipe: Any, model: Model, steps: int, tiny: bool) -> dict[str, Any]:
    """Return what the pipeline is called with; both branches of guidance get the same words where there are two."""
    network = pipe.transformer
    drawn = torch.Generator().manual_seed(0)
    given: dict[str, Any] = {
        name: torch.randn(shape, generator=drawn).to(network.device, network.dtype)
        for name, shape in model.words.items()
    }
    if not isinstance(pipe, FluxPipeline):
        given |= {f"negative_{name}": -words for name, words in given.items()}
    if isinstance(pipe, Lumina2Pipeline):
        mask = torch.ones(model.words["prompt_embeds"][:2], dtype=torch.bool, device=network.device)
        given |= {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
    return given | size_of(model, tiny) | {"num_inference_steps": steps, "output_type": "latent"}


def once(pipe: Any, recipe: Recipe | None, given: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Return the seconds of one picture, and what its steps did and took."""
    ends: list[float] = []

    def ended(*_: Any) -> None:
        synchronise(pipe)
        ends.append(time.perf_counter())

    noise = torch.Generator().manual_seed(0)
    with accelerate(pipe, *[recipe] if recipe else []) as session, after_each_step(pipe, ended):
        synchronise(pipe)
        begin = time.perf_counter()
        pipe(**given, generator=noise)
        synchronise(pipe)
        spent = time.perf_counter() - begin
        report = session.report()
    took = [end - before for before, end in zip([begin, *ends], ends, strict=False)]
    kinds: dict[str, list[float]] = {}
    for step, seconds in list(zip(report.steps, took, strict=False))[1:]:  # the first holds the preparations
        kinds.setdefault(step.action, []).append(seconds)
    medians = {kind: statistics.median(seconds) for kind, seconds in kinds.items()}
    return spent, {"calls": report.calls, "asked": report.asked, "step_seconds": medians, "said": report.warnings}


def raced(pipe: Any, recipes: dict[str, Recipe | None], given: dict[str, Any], repeats: int) -> list[dict[str, Any]]:
    """Return a row for every recipe, the baseline first; rounds are interleaved, after one that nobody counts."""
    rows: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in recipes}
    for nth in range(repeats + 1):
        for name, recipe in recipes.items():
            spent, found = once(pipe, recipe, given)
            rows[name] = {"lane": name, "recipe": str(recipe or "")} | found
            if nth:
                seconds[name].append(spent)
    plain = statistics.median(seconds["baseline"])
    for name, row in rows.items():
        row["seconds"], row["speedup"] = seconds[name], plain / statistics.median(seconds[name])
        steps = row["step_seconds"]
        skipped = [steps[kind] for kind in ("extrapolated", "reused") if kind in steps]
        row["skipped_part"] = max(skipped) / steps["computed"] if skipped and "computed" in steps else None
        share = "" if row["skipped_part"] is None else f"  a skipped step {row['skipped_part']:.2%} of a computed one"
        print(f"{name:32s} {statistics.median(seconds[name]):8.3f} s  {row['speedup']:5.2f} x  "
              f"calls {row['calls']}/{rows['baseline']['calls']}{share}", flush=True)  # fmt: skip
    return list(rows.values())


def main() -> None:
    """Run the comparison and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--recipes", nargs="+", help="other recipes or presets than the usual ones")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    model = MODELS[arguments.model]
    known = presets(model.known)
    recipes: dict[str, Recipe | None] = {"baseline": None}
    for text in arguments.recipes or model.recipes:
        recipes[text] = known[text] if text in known else Recipe.parse(text)
    pipe = built(model, arguments.tiny)
    given = arguments_for(pipe, model, arguments.steps, arguments.tiny)
    rows = raced(pipe, recipes, given, arguments.repeats)
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(pipe),
        "settings": {"model": model.known, "steps": arguments.steps, "tiny": arguments.tiny}
        | size_of(model, arguments.tiny),
        "lanes": rows,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"full-size-{arguments.model}-{arguments.steps}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
