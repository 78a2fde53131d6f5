"""Recipes as text, as TOML, and as presets."""

import re
from pathlib import Path

import pytest
from deadheat.accelerators import ACCELERATORS, ABCache, FittedCache, GuidanceInterval, LeMiCa
from deadheat.presets import presets, recipe

from deadheat import KnobError, PresetError, Recipe


@pytest.mark.parametrize("cls", ACCELERATORS.values(), ids=ACCELERATORS)
def test_every_accelerator_survives_text_and_toml(cls, tmp_path):
    made = cls(**cls.neutral)
    assert Recipe.parse(str(made)).accelerators == (made,)
    file = tmp_path / "mine.toml"
    file.write_text(Recipe((made,), 'with "quotes" \\').to_toml())
    again = Recipe.from_toml(file)
    assert again.accelerators == (made,) and again.title == 'with "quotes" \\'


def test_order_is_kept():
    recipe = Recipe.parse("guidance-interval:stop=0.6 + ab-cache:order=1,every=2")
    assert recipe.accelerators == (GuidanceInterval(stop=0.6), ABCache(order=1, every=2))
    assert Recipe.of([GuidanceInterval(stop=0.6), "ab-cache:order=1,every=2"]) == recipe


def test_shipped_presets_can_be_read():
    assert {"faithful", "balanced", "fast"} <= set(presets("pocket-dit"))
    assert Recipe.of("balanced").accelerators


SHIPPED = sorted(Path(recipe.__file__).parent.glob("*/*.toml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_shipped_preset_says_where_it_comes_from(file):
    made = Recipe.from_toml(file)
    assert made.accelerators
    assert re.search("(?i)published.* not measured here|Calibrated: |Not calibrated for your model", made.about)
    assert file.stem not in ACCELERATORS  # its name would hide the accelerator's
    (accelerator, *_) = made.accelerators
    if (budget := file.stem.rpartition("-")[2]).isdecimal():
        of = accelerator.of if isinstance(accelerator, LeMiCa | FittedCache) else int(made.title.split()[-1])
        assert len(accelerator.computed(of)) == int(budget)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("black-forest-labs/FLUX.1-dev", {"lemica-10", "lemica-26", "ab-cache-14", "magcache-14"}),
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", {"lemica-14", "lemica-25"}),
        ("Tongyi-MAI/Z-Image-Turbo", {"lemica-5", "lemica-7"}),
        ("pocket-dit", {"magcache-13"}),
    ],
)
def test_a_model_finds_its_presets(model: str, names: set[str]):
    assert names | {"balanced"} <= set(presets(model))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ab-cash", "did you mean ab-cache"),
        ("balancd", "did you mean balanced"),
        ("ab-cache:ordr=2", "did you mean order"),
        ("ab-cache:order=9", r"ABCache.order is 9, not between 1 and 5"),
        ("ab-cache:order=two", "whole number"),
        ("ab-cache:axis=time", "sigma, index"),
        ("ab-cache:order", "has no value"),
        ("", "empty"),
        ("ab-cache + ", "empty"),
        ("guidance-interval:start=0.9,stop=0.1", "swap"),
    ],
)
def test_slips_are_named(text, says):
    with pytest.raises(KnobError, match=says):
        Recipe.of(text)


@pytest.mark.parametrize(
    "text",
    [
        "title = ",
        "title = 'x'",
        "accelerators = 3",
        "[[accelerators]]\nname='ab-cache'\nevery=99",
        "[[accelerators]]\nevery=2",
        "colour = 'red'\n[[accelerators]]\nname='ab-cache'",
    ],
)
def test_a_wrong_file_is_named(text, tmp_path):
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(PresetError, match=r"wrong\.toml"):
        Recipe.of(str(file))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PresetError, match="cannot be read"):
        Recipe.of(str(tmp_path / "no.toml"))
