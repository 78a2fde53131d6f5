"""What fits a model on this machine, and why the rest does not."""

from typing import Any

from ..accelerators import ACCELERATORS
from ..pipelines import CHOICES, System, describe
from ..presets import presets


def doctor(pipe: Any, steps: int = 28) -> dict[str, Any]:
    """Examine a pipeline without running it.

    Args:
        pipe: a diffusers pipeline, such as ``load`` returns.
        steps: denoising steps that are meant to be run.

    Returns:
        Plain data: "pipeline" (what it is, see ``describe``), "accelerators" (name -> "works", "why_not" or None, and
        "cautions"), "switches" ("memory=model-offload" -> why it is refused here, or None) and "presets" (name ->
        "recipe" and "about").
    """
    facts = describe(pipe)
    fits: dict[str, dict[str, Any]] = {}
    for name, cls in ACCELERATORS.items():
        why = cls.supports(pipe)
        fits[name] = {"works": why is None, "why_not": why, "cautions": [] if why else cls().cautions(pipe, steps)}
    device = facts["device"]
    switches = {
        f"{switch}={value}": System(**{switch: value, "device": device}).refusals().get(switch)
        for switch, values in CHOICES.items()
        if switch != "dtype"
        for value in values[1:]
    }
    known = presets(facts["model"], facts["family"])
    made = {name: {"recipe": str(recipe), "about": recipe.about} for name, recipe in known.items()}
    return {"pipeline": facts, "accelerators": fits, "switches": switches, "presets": made}
