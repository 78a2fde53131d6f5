"""Edits of a picture: nothing outside the mask changes, full and empty masks, undo, budgets, and bad input."""

import argparse
import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from deadheat.accelerators import ABCache
from deadheat.measure import Edit, EditSession, compare, edit
from deadheat.measure.edit_cost import Cost, matching_steps
from deadheat.measure.edit_engine import Engine
from deadheat.measure.edit_inputs import cells, pixels, read_picture
from deadheat.measure.edit_session import SKIPS
from deadheat.pipelines import (
    Cancelled,
    IncompatibleError,
    InputError,
    KnobError,
    UnsupportedError,
    for_task,
    load,
    preview,
)
from deadheat.pipelines.recording import Trace
from deadheat.pipelines.token_recording import TokenTrace
from deadheat.pipelines.undo import Undo
from deadheat.ui import edit_settings
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel
from PIL import Image

from deadheat import _edit

from ..families import FAMILIES, leftovers

STEPS = 6
FOX = (
    "a cat above a mushroom on a striped purple background",  # what it is to become
    "a fox above a mushroom on a striped teal background",
)


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch):
    """Tiny networks are all overhead: what an edit took must not decide about the next."""
    monkeypatch.setattr(Cost, "sparse_took", lambda *_: None)


@pytest.fixture(scope="module")
def pipe():
    return FAMILIES["sd15"].build()


def picture(seed: int = 0, side: int = 64) -> torch.Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))


def fox() -> torch.Tensor:
    return read_picture(Image.open(Path(__file__).parents[2] / "assets" / "recorded" / "edit" / "fox.png"), 8)


def square(top: int = 20, left: int = 20, side: int = 8, of: int = 64) -> torch.Tensor:
    mask = torch.zeros(of, of, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def begun(pipe, **settings) -> EditSession:
    return EditSession(pipe, picture(), **{"prompt": "a red cube", "steps": STEPS, "guidance": 4.0, **settings})


def test_only_the_mask_changes_and_the_pipeline_stays_as_it_was(pipe):
    before, plain = leftovers(pipe), FAMILIES["sd15"].call(pipe)
    session = begun(pipe)
    made = session.edit(square(), "a blue ball", strength=0.5)
    assert made.lane == "sparse"
    assert made.calls == 2 * 3
    assert 0 < made.active < 0.5
    assert torch.equal(made.image[:, ~made.mask], picture()[:, ~made.mask])
    assert not torch.equal(made.image[:, made.mask], picture()[:, made.mask])
    assert made.mask[square()].all()
    assert made.stages["record"] > 0
    assert "plain run" in made.warnings[0]
    assert set(made.to_dict()) >= {"seconds", "stages", "active", "calls", "memory", "area", "lane"}
    assert leftovers(pipe) == before
    assert torch.equal(FAMILIES["sd15"].call(pipe), plain)


def test_the_second_edit_needs_no_recording_and_is_deterministic(pipe):
    session = begun(pipe)
    first = session.edit(square(), "a blue ball", keep=False)
    again = [session.edit(square(), "a blue ball", keep=False) for _ in range(3)]  # by forward, proved, by tape
    assert [made.stages["record"] for made in again] == [0.0] * 3
    for made in again:
        torch.testing.assert_close(made.image, first.image, atol=1e-4, rtol=0)
    assert session.memory == again[0].memory > 0


def test_dense_is_the_ordinary_pipeline(pipe):
    session = begun(pipe)
    made = session.edit(square(), "a blue ball", strength=0.5, dense=True)
    ordinary = for_task(pipe, "inpainting")(
        "a blue ball",
        image=picture()[None],
        mask_image=made.mask[None, None].float(),
        height=64,
        width=64,
        strength=0.5,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images[0]
    assert torch.equal(made.image, torch.where(made.mask, ordinary, picture()))
    assert made.calls == 2 * 3


def test_a_full_mask_is_dense_bit_for_bit(pipe):
    full = torch.ones(64, 64, dtype=torch.bool)
    session = begun(pipe)
    made = session.edit(full, "a blue ball", keep=False)
    assert made.lane == "dense"
    assert "covers the whole picture" in made.reason
    assert torch.equal(made.image, session.edit(full, "a blue ball", dense=True).image)


def test_an_empty_mask_returns_the_picture_at_once(pipe):
    session = begun(pipe)
    made = session.edit(torch.zeros(64, 64), "a blue ball")
    assert made.lane == "none"
    assert made.image is session.image
    assert made.calls == made.seconds == 0
    assert session.memory == 0
    assert session.history == []


def test_edits_accumulate_and_can_be_undone(pipe):
    session = begun(pipe)
    reference = session.edit(square(), "a blue ball", keep=False)
    one = session.edit(square(), "a blue ball")
    two = session.edit(square(0, 40), "a blue ball")
    assert two.lane == "sparse"
    assert two.stages["record"] == 0
    assert torch.equal(two.base, one.image)
    assert torch.equal(two.image[:, one.mask & ~two.mask], one.image[:, one.mask & ~two.mask])
    assert session.history == [one, two]
    assert torch.equal(session.undo(), one.image)
    assert torch.equal(session.undo(), picture())
    torch.testing.assert_close(session.edit(square(), "a blue ball").image, reference.image, atol=1e-4, rtol=0)
    session.undo()
    with pytest.raises(InputError, match="no edit to take back"):
        session.undo()


def test_after_a_dense_edit_the_picture_is_recorded_anew(pipe):
    session = begun(pipe)
    session.edit(square(), "a blue ball")
    session.edit(square(0, 40), "a blue ball", dense=True)
    assert session.memory == 0
    assert session.edit(square(40, 0), "a blue ball").stages["record"] > 0
    session.undo(), session.undo(), session.undo()
    assert torch.equal(session.image, picture())


@pytest.mark.parametrize("store", ["float16", "bfloat16", "float32"])
def test_memory_stays_within_the_budget(pipe, store: str):
    usual = begun(pipe, store=store)
    usual.edit(square(), "a blue ball", keep=False)
    budget = usual._engine.recording.nbytes // 2
    session = begun(pipe, store=store, budget_bytes=budget)
    made = session.edit(square(), "a blue ball", keep=False)
    assert made.lane == "sparse"
    assert made.memory <= budget
    assert any("step is recorded" in said for said in made.warnings)
    tight = begun(pipe, store=store, budget_bytes=1000)
    made = tight.edit(square(), "a blue ball", keep=False)
    assert made.lane == "dense"
    assert "give more as budget_bytes" in made.reason
    assert tight.memory <= 1000


def test_strokes_inpainting_and_prompts(pipe):
    session, painted = begun(pipe), picture()
    painted[:, square()] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    drawn = [
        session.edit(square(), "a blue ball", mode="stroke", painted=painted, keep=False),
        session.edit(square(), "a blue ball", mode="inpaint", keep=False),
        session.edit(square(), "a blue ball", mode="prompt", keep=False),
    ]
    assert drawn[1].strength == 1.0
    assert drawn[1].calls == 2 * STEPS
    for nth, made in enumerate(drawn):
        assert made.lane == "sparse"
        assert not torch.equal(made.image, drawn[nth - 1].image)


@pytest.mark.parametrize(
    ("name", "strength", "first", "second"),
    [
        ("pocket-unet", 0.8, (slice(8, 48), slice(44, 84)), (slice(8, 48), slice(88, 104))),
        ("pocket-dit", 1.0, (slice(8, 36), slice(52, 80)), (slice(16, 26), slice(60, 70))),
    ],
)
def test_the_second_edit_knows_the_first(name: str, strength: float, first, second, monkeypatch):
    pipe, prompt, shown = load(name, device="cpu"), *FOX
    masks = [torch.zeros(128, 128, dtype=torch.bool) for _ in range(2)]
    masks[0][first] = masks[1][second] = True
    settings = {"prompt": shown, "steps": 8, "store": "float32"}

    def both():
        session = EditSession(pipe, fox(), **settings)
        session.edit(masks[0], prompt, strength=strength)
        made = session.edit(masks[1], prompt, strength=strength, keep=False)
        assert (made.lane, made.stages["record"]) == ("sparse", 0.0)
        return made

    made = both()
    scratch = EditSession(pipe, made.base, **settings).edit(masks[1], prompt, strength=strength)
    monkeypatch.setattr(Engine, "learn", lambda *_: Undo((), 0))
    ignorant = both()
    off, without = ((one.image - scratch.image)[:, scratch.mask].abs().mean() for one in (made, ignorant))
    assert off < 0.7 * without, (off, without)


@pytest.mark.parametrize(
    ("name", "steps", "strength", "where"),
    [
        ("pocket-unet", 28, 0.2, [(slice(64), slice(40, 104)), (slice(24, 32), slice(56, 64))]),
        ("pocket-dit", 24, 0.3, [(slice(8, 56), slice(40, 88)), (slice(24, 40), slice(56, 72))]),
    ],
)
def test_steps_that_an_edit_skipped_know_it_too(name: str, steps: int, strength: float, where, monkeypatch):
    pipe, prompt, shown = load(name, device="cpu"), *FOX
    masks = [torch.zeros(128, 128, dtype=torch.bool) for _ in where]
    for mask, part in zip(masks, where, strict=True):
        mask[part] = True
    settings = {"prompt": shown, "steps": steps, "store": "float32", "recipe": "ab-cache:every=3"}

    def second():
        session = EditSession(pipe, fox(), **settings)
        session.edit(masks[0], prompt, strength=0.8)
        return session.edit(masks[1], prompt, strength=strength, keep=False)  # at noise levels that were skipped

    made = second()
    scratch = EditSession(pipe, made.base, **settings).edit(masks[1], prompt, strength=strength)
    for trace in (Trace, TokenTrace):
        monkeypatch.setattr(trace, "_fill", lambda self: None)  # those that ran alone
    off, without = ((one.image - scratch.image)[:, scratch.mask].abs().mean() for one in (made, second()))
    assert off < 0.75 * without, (off, without)


@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_a_recipe_skips_steps_of_the_sparse_edit(name: str):
    family = FAMILIES[name]
    pipe, image = family.build(), picture(side=64)
    before, plain = leftovers(pipe), family.call(pipe)

    def session(recipe) -> EditSession:
        return EditSession(pipe, image, prompt="a red cube", steps=20, guidance=4.0, store="float32", recipe=recipe)

    asked = {"strength": 1.0, "keep": False}
    whole, neutral = (session(recipe).edit(square(), "a blue ball", **asked) for recipe in ("", ABCache(every=1)))
    assert torch.equal(whole.image, neutral.image)
    assert whole.calls == neutral.calls == 2 * 20
    assert any("runs the network at every step" in text for text in neutral.warnings)
    skipping = session("ab-cache:every=3")
    made = skipping.edit(square(), "a blue ball", **asked)
    assert made.calls == 2 * len(ABCache(every=3).computed(20))
    assert (made.recipe, whole.recipe) == ("ab-cache", "")
    assert torch.equal(made.image[:, ~made.mask], image[:, ~made.mask])
    assert not any("skipping" in text for text in made.warnings)
    assert made.expected_speedup > 1.3 * whole.expected_speedup
    assert skipping.edit(square(), "a blue ball", dense=True, **asked).calls == 2 * 20
    assert leftovers(pipe) == before
    assert torch.equal(family.call(pipe), plain)
    kept = skipping.edit(square(), "a blue ball", strength=1.0)
    skipping.edit(square(0, 40), "a blue ball", strength=0.5)
    skipping.undo()
    skipping.undo()
    again = skipping.edit(square(), "a blue ball", **asked)
    assert again.stages["record"] == 0
    torch.testing.assert_close(again.image, kept.image, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("recipe", "error", "said"),
    [
        ("ab-cash", KnobError, "ab-cache"),
        ("ab-cache:place=deep", IncompatibleError, "takes the deep part of the UNet, and a sparse edit goes with"),
        ("guidance-interval", IncompatibleError, "takes the guidance"),
        ("ab-cache + lemica", IncompatibleError, "both take the denoiser output"),
        (3, KnobError, "3 is no recipe"),
        ("teacache", IncompatibleError, "an empty recipe skips no step"),
    ],
)
def test_what_cannot_skip_steps_of_an_edit(pipe, recipe, error: type[Exception], said: str):
    with pytest.raises(error, match=said):
        EditSession(pipe, picture(), recipe=recipe)


def test_the_page_and_the_command_skip_what_the_library_skips(pipe):
    assert SKIPS == edit_settings.SKIPS == str(EditSession(pipe, picture()).recipe)
    parser = argparse.ArgumentParser()
    _edit.takes_edit(parser)
    assert parser.parse_args(["sd15", "--image", "a", "--mask", "b", "--out", "c.png"]).recipe == SKIPS


def test_recordings_that_are_gone_are_not_held(pipe):
    session = begun(pipe)
    session.edit(square(), "a blue ball", strength=0.5)
    old = [weakref.ref(notes) for notes in session._engine.recording._levels.values()]
    assert old
    session.edit(square(0, 40), "a blue ball", strength=1.0)  # recorded again
    gc.collect()
    assert [notes() for notes in old] == [None] * len(old)
    engine = weakref.ref(session._engine)
    session.edit(square(40, 0), "a blue ball", dense=True)
    gc.collect()
    assert engine() is None
    assert session.memory == 0


def test_what_takes_edits_back_counts_and_is_bounded(pipe):
    session = begun(pipe)
    session.edit(square(), "a blue ball", keep=False)
    alone = session.memory
    session.edit(square(), "a blue ball")
    one = session.memory - alone
    assert one > 0
    session.budget_bytes = alone + one + one // 2
    pictures = [session.image]
    for left in (0, 40):
        session.edit(square(0, left), "a blue ball", strength=0.5)
        pictures.append(session.image)
        assert session.memory <= session.budget_bytes
    assert session._undos[0] is None
    assert session._undos[-1] is not None
    assert torch.equal(session.undo(), pictures[1])
    assert session.memory > 0
    assert torch.equal(session.undo(), pictures[0])
    assert torch.equal(session.undo(), picture())
    assert session.memory == 0  # and so it is recorded anew
    assert session.edit(square(), "a blue ball").stages["record"] > 0


def test_an_edit_can_be_kept_later(pipe):
    session = begun(pipe)
    one, other = (session.edit(square(), text, keep=False) for text in ("a blue ball", "a cone"))
    assert session.history == []
    session.keep(other)
    assert session.history == [other]
    assert session.image is other.image
    assert other.drawn is None
    with pytest.raises(InputError, match="of a picture before"):
        session.keep(one)
    assert torch.equal(session.undo(), picture())
    stale = session.edit(square(), "a blue ball", strength=0.5, keep=False)
    session.prepare(1.0)
    session.keep(stale)  # what it read from is gone: nothing of it goes into the recording
    assert session.memory == 0


def test_networks_that_are_given_the_mask_are_edited_dense_and_right():
    nine = FAMILIES["sd15"].build()
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(nine.unet.config, in_channels=9).eval()
    pipe = StableDiffusionInpaintPipeline(**nine.components | {"unet": unet}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    session = begun(pipe)
    made = session.edit(square(), "a blue ball", strength=0.5)
    assert made.lane == "dense"
    assert "its network is given the mask" in made.reason
    ordinary = pipe(
        "a blue ball",
        image=picture()[None],
        mask_image=made.mask[None, None].float(),
        height=64,
        width=64,
        strength=0.5,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images[0]
    assert torch.equal(made.image, torch.where(made.mask, ordinary, picture()))
    once = edit(pipe, picture(), square(), "a blue ball", steps=STEPS, strength=0.5, guidance=4.0, sparse=True)
    assert "its network is given the mask" in once.reason


def test_strokes_are_their_own_mask(pipe):
    session, painted = begun(pipe), picture()
    painted[1, square()] = 1 - painted[1, square()].round()
    painted[0] = (painted[0] + 0.01).clamp(max=1)  # no more than rounding might do
    made = session.edit(None, "a blue ball", mode="stroke", painted=painted, keep=False)
    given = session.edit(square(), "a blue ball", mode="stroke", painted=painted, keep=False)
    assert torch.equal(made.mask, given.mask)
    assert torch.equal(session.cover(None, painted).mask, given.mask)
    assert session.edit(None, "a ball", mode="stroke", painted=session.image).lane == "none"


def test_scattered_masks(pipe):
    mask = square(0, 0, 2) | square(60, 60, 2)
    made = begun(pipe, grow=0).edit(mask, "a blue ball")
    assert made.lane == "sparse"
    assert made.active <= 8 / 64
    assert torch.equal(made.image[:, ~made.mask], picture()[:, ~made.mask])


def test_cancelling_leaves_everything_as_it_was(pipe):
    before, session = leftovers(pipe), begun(pipe)
    for stop in ("record", "sparse", "dense"):
        seen = []

        def watch(event, stop=stop, seen=seen):
            seen.append(event)
            if event.lane == stop and event.step == 2:
                raise Cancelled("stop")

        with pytest.raises(Cancelled):
            session.edit(square(), "a blue ball", watch=watch, dense=stop == "dense")
        assert seen[-1].steps == 3
        assert torch.equal(session.image, picture())
        assert session.history == []
    assert leftovers(pipe) == before
    assert session.edit(square(), "a blue ball").lane == "sparse"


def test_compare(pipe):
    result = begun(pipe).compare(square(), "a blue ball", repeats=2)
    assert (result.dense.lane, result.sparse.lane) == ("dense", "sparse")
    assert {lane: len(seconds) for lane, seconds in result.seconds.items()} == {"dense": 2, "sparse": 2, "control": 2}
    assert result.outside == float("inf")
    assert result.first_seconds > result.sparse.seconds > 0
    assert result.to_dict()["speedup"] == result.speedup > 0
    assert result.to_dict()["outside"] is None
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_control_of_an_edit_is_the_dense_edit_of_fewer_steps(pipe):
    session, seen = begun(pipe, steps=10), []
    cost = replace(session.cost)
    result = session.compare(square(), "a blue ball", strength=0.5, repeats=1, watch=seen.append)
    fewer = begun(pipe, steps=result.control_steps).edit(square(), "a blue ball", strength=0.5, dense=True)
    assert 2 <= result.control_steps < 10
    assert torch.equal(result.control.image, fewer.image)
    assert result.control.calls == fewer.calls < result.dense.calls
    assert {event.steps for event in seen if event.lane == "control"} == {result.control_steps // 2}
    assert result.to_dict()["control"]["steps"] == result.control_steps
    assert result.to_dict()["control"]["inside"] == result.control_inside > 0
    json.dumps(result.to_dict(), allow_nan=False)
    assert session.cost.dense != cost.dense  # learnt from the dense edits
    alone = session.compare(square(), "a blue ball", strength=0.5, repeats=1, control=False)
    assert (alone.control, alone.control_inside, alone.to_dict()["control"]) == (None, None, None)
    assert list(alone.seconds) == ["dense", "sparse"]
    whole = session.compare(torch.ones(64, 64), "a blue ball", repeats=1)  # no sparse edit to hold anything against
    assert whole.control is None


def test_fewer_steps_that_are_closer_in_no_more_time_are_a_warning(pipe):
    result = begun(pipe, steps=10).compare(square(), "a blue ball", repeats=1)
    grey = torch.full_like(result.dense.image, 0.5)
    lanes = {"dense": grey, "sparse": grey + 0.05, "control": grey + 0.04}
    parts = {lane: replace(getattr(result, lane), image=image) for lane, image in lanes.items()}
    pair = replace(result, **parts, seconds={"dense": [1.0], "sparse": [0.2], "control": [0.2]})
    (said,) = pair.warnings
    assert said.startswith(
        f"plainly fewer steps do better here: a dense edit of {result.control_steps} took no longer"
    )
    assert not replace(pair, seconds=pair.seconds | {"control": [0.21]}).warnings
    assert not replace(pair, control=replace(pair.control, image=grey + 0.06)).warnings


@pytest.mark.parametrize(
    ("strength", "sparse", "steps"), [(0.6, 0.5, 4), (0.6, 0.2, 2), (0.6, 0.01, 2), (0.6, 1.9, 9), (1.0, 0.7, 3)]
)
def test_the_steps_that_match_a_time(strength: float, sparse: float, steps: int):
    still = torch.zeros(3, 8, 8)
    one = Edit(still, still, still[0] > 0, "sparse", "", "", "prompt", strength, seconds=sparse)
    dense = replace(one, seconds=0.1 + 0.2 * int(10 * strength), stages={"denoise": 0.2 * int(10 * strength)})
    assert matching_steps(dense, one, 10) == steps
    assert matching_steps(dense, replace(one, lane="dense"), 10) is None
    assert matching_steps(dense, one, 1) is None


def test_a_sparse_edit_far_from_the_dense_one_is_a_warning(pipe):
    result = begun(pipe).compare(square(), "a blue ball", repeats=1)
    grey = torch.full_like(result.dense.image, 0.5)
    for by, warned in ((0.05, False), (0.1, True)):  # 26 and 20 dB
        dense, sparse = replace(result.dense, image=grey), replace(result.sparse, image=grey + by)
        pair = replace(result, dense=dense, sparse=sparse)
        assert bool(pair.warnings) is warned
        assert pair.to_dict()["warnings"] == pair.warnings


def test_cover_is_told_before_anything_runs(pipe):
    session = begun(pipe)
    shares = [session.cover(square(side=side)) for side in (2, 16, 30)]
    assert [cover.active for cover in shares] == sorted(cover.active for cover in shares)
    assert shares[0].speedup > shares[1].speedup >= 1
    assert not shares[0].recorded
    assert session.cover(torch.ones(64, 64)).lane == "dense"
    assert session.cover(torch.zeros(64, 64)).lane == "none"
    session.prepare()
    assert session.cover(square()).recorded


def test_a_transformer_edits_by_its_tokens():
    dit = load("pocket-dit", device="cpu")
    session = EditSession(dit, picture(side=128), prompt="a large pizza", steps=4)
    mask = square(40, 40, 12, of=128)
    made = session.edit(mask, "a fox", strength=0.5)
    assert made.lane == "sparse"
    assert made.active == 0.0625 or made.active < 0.1
    assert torch.equal(made.image[:, ~made.mask], picture(side=128)[:, ~made.mask])
    again = session.edit(square(80, 80, 12, of=128), "a fox", strength=0.5)
    assert again.stages["record"] == 0
    session.undo(), session.undo()
    torch.testing.assert_close(session.edit(mask, "a fox", strength=0.5).image, made.image, atol=1e-4, rtol=0)


def test_one_edit_and_a_generated_picture(pipe):
    made = edit(pipe, picture(), square(), "a blue ball", steps=STEPS, strength=0.5, guidance=4.0)
    assert made.lane == "dense"
    assert "one edit does not repay" in made.reason
    asked = edit(pipe, picture(), square(), "a blue ball", steps=STEPS, strength=0.5, guidance=4.0, sparse=True)
    assert asked.lane == "sparse"
    assert asked.drawn is None
    session = EditSession.generated(pipe, prompt="a red cube", steps=2, guidance=4.0)
    assert session.image.shape == (3, 64, 64)


def test_cells():
    mask = square(7, 8, 1, of=16)
    assert cells(mask, 8, 0).tolist() == [[False, True], [False, False]]
    assert cells(mask, 8, 1).all()
    assert pixels(torch.tensor([[True, False]]), 2).tolist() == [[True, True, False, False]] * 2


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (None, "not a picture"),
        ("cat.png", "not a picture"),
        (np.zeros((64, 64, 3)), "give a PIL image"),
        (torch.zeros(4, 64, 64), r"not \(3, height, width\)"),
        (torch.full((3, 64, 64), 255.0), "divide bytes by 255"),
        (torch.zeros(3, 64, 60), "scale or crop it to 64 x 64"),
        (Image.new("RGB", (4096, 4096)), "scale it down to 2048 x 2048"),
        (torch.zeros(3, 64, 64).numpy().astype(str), "not a picture"),
    ],
)
def test_bad_pictures(pipe, image, said: str):
    with pytest.raises(InputError, match=said):
        EditSession(pipe, image)


def test_bad_masks(pipe):
    session = begun(pipe)
    with pytest.raises(InputError, match="there is no mask"):
        session.edit(None, "a blue ball")
    with pytest.raises(InputError, match="both need the same height and width"):
        session.edit(square(of=32), "a blue ball")
    with pytest.raises(InputError, match="mask is a str"):
        session.edit("mask", "a blue ball")
    with pytest.raises(InputError, match="mask is a ndarray"):
        session.edit(np.full((64, 64), "x"), "a blue ball")
    with pytest.raises(InputError, match="mask is a Tensor"):
        session.edit(torch.zeros(64, 64, dtype=torch.complex64), "a blue ball")
    with pytest.raises(InputError, match="no numbers"):
        session.edit(torch.full((64, 64), float("nan")), "a blue ball")
    with pytest.raises(InputError, match="give one channel"):
        session.edit(torch.ones(3, 64, 64), "a blue ball")


def test_bad_settings_of_an_edit(pipe):
    session = begun(pipe)
    with pytest.raises(InputError, match="prompt is None, not a text"):
        session.edit(square(), None)
    with pytest.raises(InputError, match="watch is 3, not a function"):
        session.edit(square(), "a blue ball", watch=3)
    with pytest.raises(InputError, match="repeats is -1"):
        session.compare(square(), "a blue ball", repeats=-1)
    with pytest.raises(InputError, match="None is no edit"):
        session.keep(None)
    with pytest.raises(InputError, match="strength is 0, not above 0"):
        session.edit(square(), "a blue ball", strength=0)
    with pytest.raises(InputError, match="less than one step"):
        session.edit(square(), "a blue ball", strength=0.1)
    with pytest.raises(InputError, match="did you mean stroke"):
        session.edit(square(), "a blue ball", mode="strok")
    with pytest.raises(InputError, match="give painted="):
        session.edit(square(), "a blue ball", mode="stroke")
    with pytest.raises(InputError, match="say mode='stroke'"):
        session.edit(square(), "a blue ball", painted=picture())
    with pytest.raises(InputError, match="steps is 0"):
        EditSession(pipe, picture(), steps=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"every": 0}, "every is 0, not a whole number between 1 and"),
        ({"store": "int8"}, "store is 'int8', not one of float16, bfloat16, float32"),
        ({"grow": -1}, "grow is -1, not a whole number between 0 and"),
        ({"grow": 1.5}, "grow is 1.5"),
        ({"seed": "a"}, "seed is 'a', not a whole number"),
        ({"budget_bytes": -1}, "budget_bytes is -1"),
        ({"negative": 3}, "negative is 3, not a text"),
        ({"prompt": None}, "prompt is None, not a text"),
        ({"guidance": "4"}, "guidance is '4', not a number"),
    ],
)
def test_bad_settings_of_a_session(pipe, settings, said: str):
    with pytest.raises(InputError, match=said):
        EditSession(pipe, picture(), **settings)


@pytest.mark.parametrize("what", [None, 3, "pocket-unet", object()])
def test_what_is_no_pipeline(what):
    with pytest.raises(UnsupportedError, match="not a pipeline"):
        EditSession(what, picture())


def test_pictures_beyond_the_grid_of_places():
    pipe = load("pocket-dit", device="cpu")
    with pytest.raises(InputError, match="height is 192, and this model draws at most 128"):
        EditSession(pipe, torch.zeros(3, 192, 64))
    with pytest.raises(InputError, match="width is 256, and this model draws at most 128"):
        compare(pipe, "ab-cache", prompts=["a fox"], size=(256, 128))


def test_arrays_and_sixteen_bits(pipe):
    deep = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    gray = EditSession(pipe, deep).image
    assert gray.std() > 0.25 and gray.max() == 1
    array = (picture().permute(1, 2, 0) * 255).byte().numpy()
    assert torch.equal(EditSession(pipe, array).image, EditSession(pipe, Image.fromarray(array)).image)
    session = begun(pipe)
    assert torch.equal(session.cover(square()[..., None].numpy()).mask, session.cover(square()).mask)


def test_pixart_is_told_what_there_is_instead():
    with pytest.raises(UnsupportedError, match="the accelerator sparse-edit works while it draws one"):
        EditSession(FAMILIES["pixart"].build(), picture())


@pytest.mark.parametrize("name", ["wan", "pixart", "lumina2"])
def test_pipelines_that_cannot_start_from_a_picture(name: str):
    with pytest.raises(UnsupportedError, match="take "):
        EditSession(FAMILIES[name].build(), picture())


def test_pil_pictures_and_masks(pipe):
    image = Image.fromarray((picture().permute(1, 2, 0) * 255).byte().numpy())
    mask = Image.fromarray(square().byte().numpy() * 255)
    session = EditSession(pipe, image, steps=STEPS, guidance=4.0)
    assert torch.equal(session.cover(mask).mask, session.cover(square()).mask)
    clear = Image.new("RGBA", mask.size)
    clear.putalpha(mask)  # black, and opaque where it may change
    assert torch.equal(session.cover(clear).mask, session.cover(square()).mask)


def test_a_stronger_edit_records_again_and_undo_still_is_exact(pipe):
    session = begun(pipe)
    reference = session.edit(square(), "a blue ball", strength=0.5, keep=False)
    session.edit(square(0, 40), "a blue ball", strength=0.5)
    assert session.edit(square(), "a blue ball", strength=1.0).stages["record"] > 0
    session.undo(), session.undo()
    torch.testing.assert_close(
        session.edit(square(), "a blue ball", strength=0.5).image, reference.image, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("name", ["pocket-unet", "pocket-dit"])
def test_after_a_weaker_edit_the_noisier_steps_are_recorded_again(name: str):
    """They are of the picture before, and would bring it back around the next edit."""
    pipe, masks = load(name, device="cpu"), [square(side=40, of=128), square(70, 20, 24, of=128)]
    session = EditSession(pipe, picture(side=128), prompt="a large pizza", steps=8)
    session.prepare(0.8)
    painted = picture(side=128)
    painted[:, masks[0]] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    session.edit(masks[0], mode="stroke", painted=painted, strength=0.4)
    again = session.edit(masks[1], strength=0.4, keep=False)
    assert again.stages["record"] == 0
    assert session.edit(masks[1], strength=0.8, keep=False).stages["record"] > 0
    other = EditSession(pipe, picture(side=128), prompt="a large pizza", steps=8)
    other.prepare(0.8)
    other.edit(masks[0], strength=0.4)
    other.undo()
    assert other.edit(masks[1], strength=0.8, keep=False).stages["record"] == 0  # all of it is right again


@pytest.mark.parametrize("sides", [(72, 104), (104, 88)])
def test_pictures_whose_latents_are_odd(pipe, sides: tuple[int, int]):
    image = torch.rand(3, *sides, generator=torch.Generator().manual_seed(0))
    session = EditSession(pipe, image, prompt="a red cube", steps=STEPS, guidance=4.0)
    for top, left in ((0, 0), (sides[0] - 8, sides[1] - 8), (40, 40)):
        mask = torch.zeros(sides, dtype=torch.bool)
        mask[top : top + 8, left : left + 8] = True
        for _ in range(2):
            assert session.edit(mask, "a blue ball", strength=0.5, keep=False).lane == "sparse"


def test_an_interrupted_window_leaves_no_half_tape(pipe):
    session = begun(pipe)
    session.prepare()
    entered = []

    def stop(*_):
        entered.append(1)
        if len(entered) == 1:
            raise KeyboardInterrupt

    handle = session.pipe.unet.mid_block.resnets[0].norm1.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        session.edit(square(), "a blue ball", keep=False)
    handle.remove()
    made = session.edit(square(), "a blue ball", keep=False)
    assert torch.equal(made.image, begun(pipe).edit(square(), "a blue ball", keep=False).image)


def test_weights_that_windows_cannot_read_are_edited_dense():
    whole = FAMILIES["sd15"].build()
    cpu_offload(whole.unet, execution_device=torch.device("cpu"))
    packed = FAMILIES["sd15"].build()
    packed.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    for pipe, said in ((whole, "lie elsewhere until they run"), (packed, "8 bits")):
        session = begun(pipe)
        assert said in session.cover(square()).reason
        made = session.edit(square(), "a blue ball", strength=0.5)
        assert made.lane == "dense"
        assert said in made.reason


@pytest.mark.parametrize("name", ["pocket-unet", "pocket-dit"])
def test_what_an_edit_computed_stays_within_the_budget(name: str):
    pipe, side = load(name, device="cpu"), 128
    settings = {"prompt": "a red cube", "steps": 10, "guidance": 4.0, "store": "float32"}
    mask = square(8, 8, 32, of=side)
    usual = EditSession(pipe, picture(side=side), **settings)
    made = usual.edit(mask, "a blue ball", keep=False)
    assert made.drawn.trace.nbytes > 0
    budget = made.memory + made.drawn.trace.nbytes // 2
    tight = EditSession(pipe, picture(side=side), budget_bytes=budget, **settings)
    same = tight.edit(mask, "a blue ball", keep=False)
    assert torch.equal(same.image, made.image)
    assert made.memory == same.memory <= budget
    assert same.drawn.trace.nbytes == 0
    tight.keep(same)  # it cannot go on from there
    assert tight.memory == 0
    assert tight.edit(mask, "a blue ball", keep=False).stages["record"] > 0
    assert torch.equal(tight.undo(), picture(side=side))


def test_without_guidance_the_whole_budget_is_used():
    pipe = load("pocket-dit", device="cpu")
    settings = {"prompt": "a large pizza", "steps": 20, "guidance": 1.0}
    usual = EditSession(pipe, picture(side=128), **settings)
    usual.prepare()
    tight = EditSession(pipe, picture(side=128), budget_bytes=usual.memory + 1000, **settings)
    tight.prepare()
    assert tight.memory == usual.memory


@pytest.mark.parametrize("name", ["pocket-unet", "pocket-dit"])
def test_previews_show_the_picture_around_the_mask(name: str):
    session = EditSession(load(name, device="cpu"), picture(side=128), prompt="a large pizza", steps=4)
    session.prepare()
    seen = []
    made = session.edit(
        square(of=128), watch=lambda event: seen.append((event.lane, preview(session.pipe, event.latents)))
    )
    assert {lane for lane, _ in seen} == {"sparse"}
    for _, shown in seen:
        far = ~made.mask
        far[:60, :60] = False  # the window is larger than the mask
        assert (shown - picture(side=128))[:, far].abs().max() < 1e-5


def test_a_strength_is_checked_before_recording(pipe):
    session = begun(pipe)
    for strength in (2, 0, -1, 0.01, float("nan"), "0.5", None):
        with pytest.raises(InputError, match="strength"):
            session.prepare(strength)
    with pytest.raises(InputError, match="watch is 3"):
        session.prepare(watch=3)
    session.prepare(0.5)
    assert session.compare(square(), strength=1.0, repeats=1).first_seconds > 0  # recorded anew, for more noise


def test_the_callers_picture_is_his_own(pipe):
    mine = picture()
    session = EditSession(pipe, mine, steps=STEPS, guidance=4.0)
    session.edit(square(), "a blue ball", strength=0.5)
    mine.zero_()
    assert torch.equal(session.undo(), picture())


def test_flux_edits_by_its_tokens():
    session = begun(FAMILIES["flux"].build())
    made = session.edit(square(), "a blue ball", strength=0.5)
    assert made.lane == "sparse"
    assert torch.equal(made.image[:, ~made.mask], picture()[:, ~made.mask])
    again = session.edit(square(40, 40), "a blue ball", strength=0.5)
    assert again.stages["record"] == 0
    session.undo(), session.undo()
    assert torch.equal(session.edit(square(), "a blue ball", strength=0.5).image, made.image)
