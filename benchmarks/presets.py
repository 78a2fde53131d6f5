"""Writes the presets of a pocket model that hang on its weights, after these were trained on.

    python -m benchmarks.presets fit pocket-dit    records 32 runs and writes auto-18 to auto-7
    python -m benchmarks.presets goals pocket-dit  writes faithful, balanced and fast, with what `benchmarks.caching`
                                                   measured of them: scores from `caching-MODEL.json`, speed-ups from
                                                   `caching-MODEL-31-rounds.json`

One preset of another model or pipeline is `deadheat calibrate auto MODEL --calls N`.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from deadheat.measure.calibrate import asked_for, made_with
from deadheat.measure.fit import fitted, measured
from deadheat.presets import Recipe

from deadheat import load
from training.denoisers import prompts

PRESETS = Path(__file__).parent.parent / "presets"
RESULTS = Path(__file__).parent / "results"
STEPS, GUIDANCE, SEED, PROMPTS = 28, 4.0, 1000, 32
CALLS = (18, 16, 13, 11, 9, 7)
GOALS = {
    "faithful": (16, "hard to tell from the plain picture"),
    "balanced": (13, "fine detail moves a little"),
    "fast": (9, "small things may change"),
}


def fit(model: str) -> None:
    """Record the runs once, and write a fitted cache for every number of calls."""
    pipe, words = load(model), prompts(PROMPTS, "calibration prompts")
    recording = measured(pipe, words, STEPS, guidance=GUIDANCE, seed=SEED)
    for calls in CALLS:
        what = f"{STEPS} steps, {calls} computed, {asked_for(pipe, words, GUIDANCE, SEED)}"
        about = f"Calibrated: {model}, {what}; {made_with(pipe)}."
        _write(Recipe((fitted(recording, calls),), f"auto-{calls}", about), model)


def goals(model: str) -> None:
    """Name three of them by what they are for, and say what the benchmark found."""
    record, rounds = (
        json.loads((RESULTS / f"caching-{model}{part}.json").read_text(encoding="utf-8"))
        for part in ("", "-31-rounds")
    )
    count, lanes = len(record["settings"]["prompts"]), {lane["lane"]: lane for lane in record["lanes"]}
    speedups = {lane["lane"]: lane["speedup"] for lane in rounds["lanes"]}
    for goal, (calls, what) in GOALS.items():
        recipe = Recipe.from_toml(PRESETS / model / f"auto-{calls}.toml")
        score = lanes[f"auto-{calls}"]["scores"]["psnr"]
        about = (
            f"Expect {speedups[f'auto-{calls}']:.1f}x, PSNR {score['mean']:.0f} dB in the mean and "
            f"{score['worst']:.0f} dB at worst ({count} held-out prompts, two CPU cores): {what}. {recipe.about}"
        )
        _write(replace(recipe, title=goal, about=about), model)


def _write(recipe: Recipe, model: str) -> None:
    path = PRESETS / model / f"{recipe.title}.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    print(path.name, recipe.about[:120])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fit", "goals"))
    parser.add_argument("model", choices=("pocket-dit", "pocket-unet"))
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    {"fit": fit, "goals": goals}[arguments.what](arguments.model)
