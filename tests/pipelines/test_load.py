"""What `load` takes, and what it says about what it does not take."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from deadheat.pipelines import (
    CHOICES,
    KnobError,
    LoadError,
    System,
    UnsupportedError,
    call_arguments,
    describe,
    load,
    model_name,
    pictures,
    staged,
    twin,
)

from ..families import FAMILIES, executed, leftovers

CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without an accelerator refuses")


@pytest.fixture(scope="module")
def pocket():
    return load("pocket-dit", device="cpu")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    FAMILIES["sd15"].build().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def refusal(model, **switches) -> str:
    with pytest.raises(LoadError) as error:
        load(model, **switches)
    said = str(error.value)
    assert "\n" not in said
    return said


def test_pocket(pocket):
    assert type(pocket).__name__ == "StableDiffusion3Pipeline"
    assert pocket.transformer.dtype == torch.float32
    assert model_name(pocket) == "pocket-dit"
    told = describe(pocket)
    assert told["family"] == "Stable Diffusion 3"
    assert told["dtype"] == "float32"
    assert json.dumps(told)


def test_pocket_appends_no_t5_tokens(pocket):
    """A user need not know that this model was trained without them."""
    seen = []

    def start(link):
        def around(call, network):
            seen.append(call.kwargs["encoder_hidden_states"].shape)
            return network(call)

        return around

    arguments = call_arguments(pocket, prompt="a fox", steps=2, guidance=4.0, size=(128, 128))
    with staged(pocket) as stage, stage.around_denoiser(start):
        found = pictures(pocket(**arguments))
    assert found.shape == (1, 3, 128, 128)
    assert {shape[1] for shape in seen} == {pocket.tokenizer.model_max_length}


def test_an_object_is_passed_through():
    pipe = FAMILIES["flux"].build()
    before = leftovers(pipe)
    assert load(pipe) is pipe
    assert leftovers(pipe) == before
    assert "passed through as it is" in refusal(pipe, dtype="float16")


def test_a_folder(saved: Path):
    tiny = FAMILIES["sd15"]
    pipe = load(str(saved), device="cpu")
    assert torch.equal(tiny.call(pipe), tiny.call(tiny.build()))
    assert torch.equal(tiny.call(load(saved, device="cpu")), tiny.call(pipe))


def test_an_unknown_name_suggests_the_nearest():
    assert "did you mean pocket-dit?" in refusal("pocket-dot")
    assert "owner/name" in refusal("zzzz")


@pytest.mark.parametrize("model", [None, 3, object(), torch.nn.Linear(1, 1)], ids=lambda x: type(x).__name__)
def test_something_else(model):
    assert f"cannot load a {type(model).__name__}" in refusal(model)


def test_an_empty_folder(tmp_path: Path):
    assert "no model_index.json" in refusal(tmp_path)


def test_the_folder_above(saved: Path):
    assert str(saved) in refusal(saved.parent)


def test_pickled_weights_are_not_opened(saved: Path):
    for weights in saved.rglob("*.safetensors"):
        torch.save({}, weights.with_suffix(".bin"))
        weights.unlink()
    assert "pickled" in refusal(saved)


def test_one_pickled_component_is_not_opened(saved: Path):
    (weights,) = (saved / "unet").glob("*.safetensors")
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    refusal(saved)


@pytest.mark.parametrize("kept", [0, 4, 0.5])
def test_damaged_weights(saved: Path, kept: float):
    (weights,) = (saved / "unet").glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(kept if kept != 0.5 else len(whole) / 2)])
    assert str(saved) in refusal(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"_class_name": "NoSuchPipeline"}', "{}"])
def test_a_damaged_index(saved: Path, text: str):
    (saved / "model_index.json").write_text(text)
    refusal(saved)


def test_a_component_is_missing(saved: Path):
    shutil.rmtree(saved / "unet")
    refusal(saved)


def test_the_hub_cannot_be_reached():
    assert "pocket-dit" in refusal("nobody/nothing-of-the-kind")


# --------------------------------------------------------------------------------------------------- system switches


@pytest.mark.parametrize("switch", CHOICES)
def test_switches_are_checked(switch: str):
    with pytest.raises(KnobError, match=f"{switch} is 'zzz', not one of"):
        System(**{switch: "zzz"})


def test_torchs_own_objects_are_switches_too():
    pipe = load("pocket-dit", dtype=torch.float32, device=torch.device("cpu"))
    assert describe(pipe)["system"]["dtype"] == "float32" and describe(pipe)["system"]["device"] == "cpu"
    with pytest.raises(KnobError, match=r"dtype is 'float64', not one of"):
        load("pocket-dit", dtype=torch.float64)


def test_a_revision_is_of_the_hub(saved: Path):
    for model in ("pocket-dit", saved, FAMILIES["sd15"].build()):
        assert "only models of the hub have revisions" in refusal(model, revision="main")


def test_an_unknown_switch_suggests_the_nearest():
    with pytest.raises(KnobError, match="did you mean dtype"):
        load("pocket-dit", dtyp="float32")


@CPU
@pytest.mark.parametrize(
    "switches",
    [
        {"device": "cuda"},
        {"device": "nonsense"},
        {"memory": "model-offload"},
        {"memory": "group-offload"},
        {"memory": "sequential-offload"},
        {"attention": "xformers"},
        {"attention": "flash"},
        {"attention": "sage"},
        {"quantisation": "int8"},
        {"quantisation": "nf4"},
    ],
    ids=str,
)
def test_switches_that_do_nothing_here_are_refused(switches: dict[str, str]):
    (name,) = switches
    with pytest.raises(UnsupportedError, match=f"{name}={switches[name]} does not work here: "):
        load("pocket-dit", **switches)


@CPU
def test_automatic_is_float32_on_a_cpu():
    assert System().resolved() == System(device="cpu", dtype="float32")


# --------------------------------------------------------------------------------------------------------------- twins


@pytest.mark.parametrize("on", ["sd15", "flux", "wan"])
def test_twins_share_weights_and_nothing_else(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    before = leftovers(pipe)
    other = twin(pipe)
    assert torch.equal(tiny.call(pipe), tiny.call(other))
    ours, theirs = tiny.denoiser(pipe), tiny.denoiser(other)
    assert ours is not theirs
    assert pipe.scheduler is not other.scheduler
    assert [p.data_ptr() for p in ours.parameters()] == [p.data_ptr() for p in theirs.parameters()]
    with executed(tiny, other) as seen:
        tiny.call(pipe)
    assert not seen.calls
    assert leftovers(pipe) == before


def test_a_hooked_pipeline_has_no_twin():
    pipe = FAMILIES["sd15"].build()
    with staged(pipe), pytest.raises(UnsupportedError, match="cannot have a twin"):
        twin(pipe)
