"""Frames are found in every layout, as large as the call says, and are put back as they were."""

import pytest
import torch
from deadheat.pipelines import on_frames, staged

from ..families import FAMILIES


@pytest.mark.parametrize("on", ["sd3", "flux", "wan", "ltx", "lumina2"])
def test_frames_of_a_real_call(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    seen: list[tuple[int, ...]] = []

    def noted(frames: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(frames.shape))
        return frames

    def start(link):
        def around(call, network):
            out = network(call)
            same = on_frames(call, stage.family.latents, out, noted)
            assert torch.equal(same, out)
            return out

        return around

    with staged(pipe) as stage, stage.around_denoiser(start):
        tiny.call(pipe, 1, height=64, width=96)
    assert all(2 * shape[-1] == 3 * shape[-2] for shape in seen)
    assert len(seen) == (2 if tiny.guidance == "separate" else 1)
