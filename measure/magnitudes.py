"""How the size of the blocks' residual changes from step to step (MagCache, arXiv:2506.09045, section 3.2)."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..accelerators import MagCache
from ..pipelines import Call, UnsupportedError, around_stack, call_arguments, family, model_name, staged
from ..presets import Recipe
from .calibrate import asked_for, check_calibration, made_with, own_guidance


class _Sizes:
    """Lets the blocks run, and notes |r_i| / |r_(i-1)| of their residual, a mean over tokens, by step."""

    def __init__(self) -> None:
        self.before: dict[tuple[str, ...], Tensor] = {}
        self.ratios: dict[int, list[float]] = defaultdict(list)

    def instead(self, call: Call, hidden: Tensor) -> None:
        return None

    def learn(self, call: Call, value: Tensor) -> None:
        size = value.float().norm(dim=-1)
        if (before := self.before.get(call.branches)) is not None:
            self.ratios[call.step].append(float((size / before.clamp_min(1e-12)).mean()))
        self.before[call.branches] = size


def magnitude_ratios(
    pipe: Any, prompts: Sequence[str], steps: int, *, guidance: float | None = None, seed: int = 0
) -> tuple[float, ...]:
    """Measure MagCache's ratios in one run of all prompts: one a step, after a 1 for the first.

    The conditional and the unconditional call count alike.

    Raises:
        UnsupportedError: the blocks are not described, or did not run at every step.
    """
    if (why := MagCache.supports(pipe)) is not None:
        raise UnsupportedError(f"the ratios of {type(pipe).__name__} cannot be measured: {why}")
    sizes = _Sizes()
    arguments = call_arguments(pipe, prompt=list(prompts), steps=steps, guidance=guidance, seed=seed)
    with staged(pipe) as stage, around_stack(stage, lambda link: sizes), torch.no_grad():
        pipe(**{**arguments, "output_type": "latent"})
        taken = len(stage.runs[-1].steps)
    missing = [step for step in range(1, taken) if step not in sizes.ratios]
    if missing:
        raise UnsupportedError(f"{type(pipe).__name__} ran no blocks, or others than before, at steps {missing}")
    return (1.0, *(round(sum(found) / len(found), 5) for _, found in sorted(sizes.ratios.items())))


def calibrate_magnitudes(
    pipe: Any, prompts: Sequence[str], *, steps: int = 28, guidance: float | None = None, seed: int = 0
) -> Recipe:
    """Measure a model's ratios, and return MagCache with them.

    Raises:
        InputError: a value that cannot be used.
        UnsupportedError: they cannot be measured.
    """
    check_calibration(prompts, steps, guidance, seed)
    guidance = own_guidance(pipe) if guidance is None else guidance
    ratios = magnitude_ratios(pipe, prompts, steps, guidance=guidance, seed=seed)
    magcache = MagCache(ratios=" ".join(f"{ratio:g}" for ratio in ratios))
    computed = len(magcache.computed(len(ratios)))
    what = f"{steps} steps, {computed} computed, {asked_for(pipe, prompts, guidance, seed)}"
    about = f"Calibrated: {model_name(pipe)} ({family(pipe).name}), {what}; {made_with(pipe)}."
    return Recipe((magcache,), f"magcache-{computed}", about)
