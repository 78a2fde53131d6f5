"""Writes trained pipelines as diffusers folders (fp16, safetensors) with a model card beside the weights."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

_CARD = """# {name}

A tiny text-to-image pipeline (`{kind}`) that draws scenes of shapes and pictograms at {side}x{side} pixels.

- **Data**: scenes from the seeded generator in `training/`, drawn fresh (vocabulary: `pipelines/scenes.py`).
- **Made by**: `{command}`, seed {seed}, commit {commit}{start}
- **Samples seen** (denoiser): {seen}; last training loss {loss}.
- **Autoencoder**: {psnr} dB PSNR on fresh scenes.
- **Scores** on {count} fresh prompts, guidance {guidance}, {steps} steps (shares right): {scores}.
- **Words it knows**: those of `deadheat.pipelines.scenes.WORDS`; others are ignored.
- **Limits**: it knows nothing else, and small or thin things come out soft. For testing and demonstration.
- **Licence**: weights under this project's licence. The pictograms it learned come from Noto Color Emoji,
  (c) Google, SIL Open Font License 1.1.
"""


def export(pipe: DiffusionPipeline, folder: Path) -> None:
    """Write half-precision weights, leaving the pipeline itself as it was."""
    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    pipe.save_pretrained(beside)
    again = type(pipe).from_pretrained(beside, dtype=torch.float16, local_files_only=True, **_absent(pipe))
    again.save_pretrained(beside)
    for config in beside.rglob("*.json"):
        _forget_origin(config)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def _forget_origin(config: Path) -> None:
    """Drop the folder that the weights came through: it is nobody's business and holds on no other machine."""
    content = json.loads(config.read_text())
    if isinstance(content, dict) and content.pop("_name_or_path", None):
        config.write_text(json.dumps(content, indent=2) + "\n")


def _absent(pipe: DiffusionPipeline) -> dict[str, None]:
    return {name: None for name, part in pipe.components.items() if part is None}


def card(folder: Path, facts: dict[str, object], scores: dict[str, float]) -> None:
    """Write the model card."""
    listed = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    (folder / "README.md").write_text(_CARD.format(**facts, scores=listed, commit=_commit()))


def _commit() -> str:
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"
