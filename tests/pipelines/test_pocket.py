"""The pocket models do what a user of diffusers expects of any pipeline."""

import pytest
import torch
from deadheat.pipelines import POCKET, KnobError, UnsupportedError, for_task, load
from PIL import Image

from deadheat import accelerate

from ..families import FAMILIES

PROMPT = "a fox above a mushroom on a striped teal background"


@pytest.fixture(scope="module", params=POCKET)
def pocket(request):
    return load(request.param, device="cpu")


def drawn(pipe, prompt=PROMPT, seed=0, **more):
    more = {"num_inference_steps": 3, "guidance_scale": 4.0, **more}
    if "image" not in more:
        more |= {"height": 128, "width": 128}
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), output_type="pt", **more).images


def test_one_seed_one_picture(pocket):
    assert torch.equal(drawn(pocket), drawn(pocket))
    assert not torch.equal(drawn(pocket), drawn(pocket, seed=1))


def test_unknown_words_change_nothing(pocket):
    strange = "a majestic fox above, hm, a mushroom 42 on a striped teal background"
    assert torch.equal(drawn(pocket), drawn(pocket, strange.replace(", hm,", "")))
    assert torch.equal(drawn(pocket, ""), drawn(pocket, "Elefant überall; 3 Astronauten!"))


def test_words_that_something_joins(pocket):
    plain = drawn(pocket, "a fox above a red moon on a pink background")
    for joined in ("a fox above a red-moon on a pink background", "a fox/above(a😀red_moon)2on a pink background"):
        assert torch.equal(plain, drawn(pocket, joined))


def test_the_run_report_lists_unknown_words(pocket):
    with accelerate(pocket, "ab-cache") as run:
        drawn(pocket, "a majestic fox", negative_prompt="blurry moon")
    assert run.report().ignored_words == ("majestic", "blurry")
    assert "ignored: majestic, blurry" in str(run.report())


def test_one_that_was_saved_draws_the_same(pocket, tmp_path):
    pocket.save_pretrained(tmp_path)
    saved = load(tmp_path)
    torch.testing.assert_close(drawn(saved), drawn(pocket), rtol=0, atol=1e-4)  # memory laid out otherwise
    start, mask = drawn(pocket), Image.new("L", (128, 128), 255)
    both = [
        drawn(for_task(pipe, "inpainting"), image=start, mask_image=mask, strength=0.7) for pipe in (pocket, saved)
    ]
    torch.testing.assert_close(*both, rtol=0, atol=1e-4)


def test_a_long_prompt_of_unknown_words_keeps_the_known_ones(pocket):
    assert torch.equal(drawn(pocket), drawn(pocket, "extraordinarily photorealistic " * 20 + PROMPT))


def test_negative_prompts_steer(pocket):
    assert not torch.equal(drawn(pocket), drawn(pocket, negative_prompt="a fox"))


def test_batches_and_two_pictures_a_prompt(pocket):
    assert drawn(pocket, [PROMPT, "a large pizza"]).shape == (2, 3, 128, 128)
    assert drawn(pocket, num_images_per_prompt=2).shape == (2, 3, 128, 128)


def test_image_to_image_keeps_more_at_less_strength(pocket):
    pipe = for_task(pocket, "image-to-image")
    start = drawn(pocket, "a large pizza on a plain red background")
    change = [
        (drawn(pipe, image=start, strength=strength, num_inference_steps=10) - start).abs().mean().item()
        for strength in (0.2, 0.9)
    ]
    assert change[0] < change[1]


def test_inpainting_keeps_what_the_mask_spares(pocket):
    pipe = for_task(pocket, "inpainting")
    start = drawn(pocket, "a large pizza on a plain red background", num_inference_steps=8)
    mask = Image.new("L", (128, 128))
    mask.paste(255, (0, 0, 64, 128))
    picture = drawn(pipe, image=start, mask_image=mask, strength=0.9, num_inference_steps=8, height=128, width=128)
    change = (picture - start).abs().mean((0, 1, 2))
    assert change[80:].mean() < 0.5 * change[:48].mean()


def test_a_task_that_is_not_there():
    pipe = FAMILIES["lumina2"].build()
    with pytest.raises(UnsupportedError, match="no inpainting pipeline for Lumina2Pipeline"):
        for_task(pipe, "inpainting")
    with pytest.raises(KnobError, match="did you mean inpainting"):
        for_task(pipe, "in-painting")
