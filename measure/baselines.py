"""Keep the pictures of untouched pipelines, so that trying another accelerator does not draw them again."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .environment import hardware, scheduler_settings
from .timing import weights_fingerprint

MOST_BYTES = 512 * 2**20


class Baselines:
    """Pictures by everything that they depend on.

    Args:
        folder: where they are kept.
        description: what ``describe`` says of the pipeline.
        settings: the comparison's settings.
        pipe: the pipeline.
    """

    def __init__(self, folder: str | Path, description: dict[str, Any], settings: dict[str, Any], pipe: Any) -> None:
        self.folder = Path(folder)
        asked = {name: settings[name] for name in ("steps", "guidance", "negative", "size")}
        self._key = {
            **description,
            **asked,
            "weights": weights_fingerprint(pipe),
            "scheduler_config": scheduler_settings(pipe),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "hardware": hardware(),
        }

    def _file(self, prompt: str, seed: int) -> Path:
        text = json.dumps({**self._key, "prompt": prompt, "seed": seed}, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"

    def get(self, prompt: str, seed: int) -> Tensor | None:
        """Return the picture, or None; a damaged file counts as none."""
        file = self._file(prompt, seed)
        try:
            picture: Tensor = load_file(file)["picture"]
        except (OSError, SafetensorError, KeyError):
            return None
        os.utime(file)
        return picture

    def put(self, prompt: str, seed: int, picture: Tensor) -> None:
        """Keep a picture; the longest unused ones make room. Where nothing can be written, nothing is kept."""
        file = self._file(prompt, seed)
        part = file.with_suffix(f".{os.getpid()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"picture": picture.contiguous()}, part)
            part.replace(file)
        except (OSError, SafetensorError):
            return
        kept = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for old in kept:
            total += old.stat().st_size
            if total > MOST_BYTES:
                old.unlink(missing_ok=True)
