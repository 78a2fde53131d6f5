"""On what something was measured."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..pipelines import describe
from .timing import weights_fingerprint

PACKAGES = ("deadheat", "torch", "diffusers", "transformers", "accelerate", "numpy")


def environment(pipe: Any) -> dict[str, Any]:
    """Return versions, hardware and what the pipeline is, as plain data; its weights by a mark of their own."""
    return {
        "pipeline": describe(pipe),
        "weights": weights_fingerprint(pipe),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": hardware(),
    }


def scheduler_settings(pipe: Any) -> dict[str, str]:
    """Return how the scheduler is set, as texts: infinity is among the values, which JSON does not have."""
    return {name: str(value) for name, value in pipe.scheduler.config.items() if not name.startswith("_")}


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory and GPU of this machine."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {"processor": _processor(), "cores": os.cpu_count(), "memory_gib": _memory(), "gpu": gpu}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "from a checkout" if name == "deadheat" else "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, AttributeError, OSError):
        return None
