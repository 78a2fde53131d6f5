"""What guidance costs and what is lost by spending less on it: real guidance, the adapter, and the rest.

    python -m benchmarks.guidance [pocket-dit] [--pictures 96] [--prompts 8] [--repeats 7] [--out benchmarks/results]

Writes `guidance-MODEL.json`. Seconds: all lanes interleaved in one process, one picture at a time, guidance 4.
Quality, at guidance 2, 4, 6 and 8: prompt adherence in percent, PSNR to the picture of real guidance in dB, and over
the pictures of all scales the Fréchet distance of the pocket eye's features to rendered scenes. Prompts are fresh; a
few of the simplest scenes are among those that an adapter was trained on, with other noise. Pictures for quality are
kept in `--kept`, by all that they were made with, so that a stopped run goes on. What is lost when pictures are drawn
one at a time (in a batch, the least alike branches decide for all), and seconds of a few lanes in more rounds:

    python -m benchmarks.guidance pocket-dit --part quality --pictures 64 --batch 1 --scales 4
      --name guidance-one-pocket-dit --lanes "no guidance" adapter "adapter, real for a tenth" guidance-cache/4
      adaptive-guidance "adaptive-guidance, never anew" guidance-interval
    python -m benchmarks.guidance pocket-unet --part seconds --prompts 2 --repeats 21
      --name guidance-pocket-unet-seconds --lanes adapter "adapter x ab-cache/5" "adapter x ab-cache/6"
      guidance-interval adaptive-guidance guidance-cache/4
    python -m benchmarks.guidance pocket-unet --part seconds --prompts 2 --repeats 11
      --name adaptive-guidance-pocket-unet --lanes adaptive-guidance guidance-interval
"""

import argparse
import json
from datetime import UTC, datetime
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from deadheat.accelerators import ACCELERATORS, GuidanceAdapter
from deadheat.measure import compare, environment, frechet, psnr
from deadheat.measure.adherence import adherence, look
from deadheat.measure.timing import weights_fingerprint
from deadheat.pipelines import call_arguments, pictures, shipped
from deadheat.presets import Recipe, presets
from torch import Tensor

from deadheat import accelerate, load
from training.denoisers import prompts

from .truth import rendered

STEPS, GUIDANCE, SCALES = 28, 4.0, (2.0, 4.0, 6.0, 8.0)
TEXTS = {
    "no guidance": "guidance-interval:start=0,stop=0",
    "adapter": "guidance-adapter",
    "adapter, real for a tenth": "guidance-adapter:after=0.1",
    "adapter x ab-cache/2": "guidance-adapter + ab-cache:every=2",
    "adapter x ab-cache/3": "guidance-adapter + ab-cache:every=3",
    "adapter x ab-cache/4": "guidance-adapter + ab-cache:every=4",
    "adapter x ab-cache/5": "guidance-adapter + ab-cache:every=5",
    "adapter x ab-cache/6": "guidance-adapter + ab-cache:every=6",
    "adapter x lemica": "guidance-adapter + lemica",
    "ab-cache/3": "ab-cache:every=3",
    "guidance-interval": "guidance-interval",
    "guidance-interval to a half": "guidance-interval:start=0,stop=0.5",
    "guidance-interval, nearly all": "guidance-interval:start=0,stop=0.8",
    "adaptive-guidance": "adaptive-guidance",
    "adaptive-guidance, never anew": "adaptive-guidance:again=0",
    "guidance-cache": "guidance-cache",
    "guidance-cache/4": "guidance-cache:every=4",
    "plain, 15 steps": "fewer-steps:steps=15",
    "plain, 9 steps": "fewer-steps:steps=9",
}
FITTED = ("auto-16", "auto-13")


def lanes(pipe: Any, model: str) -> dict[str, Recipe]:
    """Return what can run with this model, by name."""
    found = {name: Recipe.parse(text) for name, text in TEXTS.items()}
    known = presets(model)
    for preset in FITTED:
        if preset in known:
            found[f"adapter x {preset}"] = Recipe((GuidanceAdapter(), *known[preset].accelerators))
            found[preset] = Recipe(known[preset].accelerators)
    usable = {name: cls.supports(pipe) is None for name, cls in ACCELERATORS.items()}
    named = {k: r for k, r in found.items() if all(usable[a.name] for a in r.accelerators)}
    return {name: Recipe(recipe.accelerators, title=name) for name, recipe in named.items()}


def seconds(pipe: Any, recipes: dict[str, Recipe], count: int, repeats: int) -> dict[str, Any]:
    """Return wall clock and calls of every lane, interleaved."""
    result = compare(
        pipe, list(recipes.values()), prompts=prompts(count, "guidance benchmark"), steps=STEPS, guidance=GUIDANCE,
        repeats=repeats, metrics=("psnr",), control=False, memory=False,
    )  # fmt: skip
    print(result.table())
    rows = {"real guidance": {"seconds": result.baseline.seconds, "calls": result.baseline.calls}}
    for lane in result.variants:
        rows[lane.name] = {
            "recipe": lane.recipe,
            "seconds": lane.seconds,
            "speedup": lane.speedup,
            "speedup_range": lane.speedup_range,
            "calls": lane.calls,
            "stages": lane.stages,
        }
    return {"environment": result.environment, "settings": result.settings, "lanes": rows}


def drawn(pipe: Any, recipe: Recipe, words: list[str], scale: float, batch: int) -> Tensor:
    """Return the pictures of a lane."""
    found = []
    for at in range(0, len(words), batch):
        arguments = call_arguments(pipe, prompt=words[at : at + batch], steps=STEPS, guidance=scale, seed=at)
        with accelerate(pipe, recipe):
            found.append(pictures(pipe(**arguments)))
    return torch.cat(found)


def quality(pipe: Any, recipes: dict[str, Recipe], given: argparse.Namespace) -> dict[str, Any]:
    """Return adherence and PSNR of every lane at every scale, and its Fréchet distance over all of them."""
    count, batch = given.pictures, given.batch
    words = prompts(count, "guidance benchmark")
    given.kept.mkdir(parents=True, exist_ok=True)
    features: dict[str, list[Tensor]] = {}
    rows: dict[str, Any] = {}
    for scale in given.scales:
        truth = None
        for name, recipe in {"real guidance": Recipe(), **recipes}.items():
            file = given.kept / f"{made_with(pipe, recipe)} {scale:g} {count} by {batch}.pt"
            if not file.exists():
                torch.save((drawn(pipe, recipe, words, scale, batch) * 255).round().byte(), file)
            seen = torch.load(file, weights_only=True).float() / 255
            truth = seen if truth is None else truth
            features.setdefault(name, []).append(look(seen).features)
            rows.setdefault(name, {})[f"{scale:g}"] = scored(words, seen, truth)
            print(f"{name}, guidance {scale:g}: {rows[name][f'{scale:g}']}")
    reference = look(rendered(len(given.scales) * count)).features
    for name, parts in features.items():
        rows[name]["frechet"] = frechet(torch.cat(parts), reference)
    for name, recipe in recipes.items():
        rows[name]["made with"] = made_with(pipe, recipe)
    return rows


def made_with(pipe: Any, recipe: Recipe) -> str:
    """Return a mark of the weights, of every knob, and of the shipped adapter where the recipe has one."""
    adapted = any(isinstance(part, GuidanceAdapter) for part in recipe.accelerators)
    adapter = (shipped(pipe) / "adapter.safetensors").read_bytes() if adapted else b""  # type: ignore[operator]
    about = f"{weights_fingerprint(pipe)} {recipe.to_toml() if recipe.accelerators else ''}".encode()
    return sha256(about + adapter).hexdigest()[:16]


def scored(words: list[str], seen: Tensor, truth: Tensor) -> dict[str, float | None]:
    """Return adherence in percent and PSNR to the pictures of real guidance, means; None where all are the same."""
    scores = [found.score for found in adherence(words, seen) if found is not None]
    apart = [value for value in map(psnr, seen, truth) if isfinite(value)]
    return {"adherence": 100 * sum(scores) / len(scores), "psnr": sum(apart) / len(apart) if apart else None}


def command() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket-dit")
    parser.add_argument("--pictures", type=int, default=96, help="pictures a lane and scale, for quality")
    parser.add_argument("--batch", type=int, default=8, help="pictures drawn together, for quality")
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES), help="guidance scales, for quality")
    parser.add_argument(
        "--lanes", nargs="+", help="only these, by name; pictures' numbers of others stay if weights are the same"
    )
    parser.add_argument("--name", help="of the result file, instead of guidance-MODEL")
    parser.add_argument("--prompts", type=int, default=8, help="prompts for the seconds")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--part", choices=("seconds", "quality", "both"), default="both")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--kept", type=Path, default=Path("out/guidance"), help="where pictures wait for the end")
    return parser


def main() -> None:
    """Run both parts and write the result."""
    parser = command()
    arguments = parser.parse_args()
    pipe = load(arguments.model)
    known = lanes(pipe, arguments.model)
    if unknown := [name for name in arguments.lanes or () if name not in known]:
        parser.error(f"--lanes has {unknown[0]!r}, which is none of: {', '.join(known)}")
    recipes = {k: r for k, r in known.items() if not arguments.lanes or k in arguments.lanes}
    if arguments.lanes and arguments.part != "quality" and not arguments.name:
        parser.error("--lanes needs --name with seconds: those of a part of the lanes would replace those of all")
    file = arguments.out / f"{arguments.name or f'guidance-{arguments.model}'}.json"
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    record["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    if arguments.part != "quality":
        record["time"] = seconds(pipe, recipes, arguments.prompts, arguments.repeats)
    if arguments.part != "seconds":
        rows = quality(pipe, recipes, arguments)
        about = {name: getattr(arguments, name) for name in ("pictures", "batch", "scales")}
        before = record.get("quality", {})
        if arguments.lanes and about == {name: before.get(name) for name in about}:
            marks = {name: made_with(pipe, recipe) for name, recipe in known.items()}
            same = {k: row for k, row in before["lanes"].items() if row.get("made with") == marks.get(k)}
            rows = same | rows
        record["quality"] = {**about, "environment": environment(pipe), "lanes": rows}
    arguments.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
