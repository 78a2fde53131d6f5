"""What a noise level means: schedulers count it in units of their own."""

from typing import Any

from torch import Tensor

MOST_NOISE = 1000.0  # stands for nothing but noise, where the ratio has no end


def flows(scheduler: Any) -> bool:
    """Tell whether the latents are (1 - sigma) picture + sigma noise, as in flow matching."""
    config = scheduler.config
    return (
        "FlowMatch" in type(scheduler).__name__
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


def noise_to_signal(scheduler: Any, sigma: float) -> float:
    """Return sigma as EDM counts it, noise over picture, at most ``MOST_NOISE``.

    >>> from diffusers import FlowMatchEulerDiscreteScheduler
    >>> noise_to_signal(FlowMatchEulerDiscreteScheduler(), 0.75)
    3.0
    """
    if flows(scheduler):
        return min(sigma / (1 - sigma), MOST_NOISE) if sigma < 1 else MOST_NOISE
    return min(sigma, MOST_NOISE)


def clean(scheduler: Any, sigma: float, latents: Tensor, prediction: Tensor) -> Tensor:
    """Return the picture that a prediction at this noise level stands for, in latents.

    Without flow matching *latents* are what the network is given: (picture + sigma noise) / sqrt(1 + sigma^2).
    Channels that only one of the two tensors has (a learned variance, an image to start from) are left out.
    """
    both = tuple(slice(min(pair)) for pair in zip(latents.shape, prediction.shape, strict=True))
    x, out = latents[both].float(), prediction[both].float()
    if flows(scheduler):
        return x - sigma * out
    match scheduler.config.get("prediction_type", "epsilon"):
        case "sample":
            return out
        case "v_prediction":
            return (x - sigma * out) / (1 + sigma**2) ** 0.5
        case _:
            return x * (1 + sigma**2) ** 0.5 - sigma * out
