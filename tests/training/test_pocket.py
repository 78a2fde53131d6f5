"""The pocket models' trainer, in its smallest size: from nothing to pipelines that draw."""

import random

import pytest
import torch
from deadheat.pipelines import pictures
from diffusers import AutoencoderKL

from deadheat import load
from training import pocket
from training.autoencoder import AutoencoderShape, autoencoder
from training.denoisers import DitPart, UnetPart, dit_net, unet_net
from training.render import Renderer
from training.stream import Stream
from training.tokenizer import build


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which all parts were trained for a step or two."""
    out = tmp_path_factory.mktemp("pocket")
    pocket.main(["--preset", "smoke", "--out", str(out), "--device", "cpu"])
    return out


@pytest.mark.parametrize("name", ["pocket-dit", "pocket-unet"])
def test_what_is_trained_loads_and_draws(trained, name: str):
    folder = trained / "export" / name
    drawn = pictures(load(folder)("a fox", num_inference_steps=2, output_type="pt"))
    assert drawn.shape == (1, 3, 32, 32)
    assert drawn.isfinite().all()
    assert not list(folder.rglob("*.bin"))
    assert f"python -m training.pocket --preset smoke --out {trained}" in (folder / "README.md").read_text()


def test_a_finished_part_is_left_as_it_is(trained):
    before = torch.load(trained / "pocket-dit.pt", weights_only=True)["net"]
    pocket.main(["--preset", "smoke", "--out", str(trained), "--device", "cpu", "--stage", "pocket-dit"])
    after = torch.load(trained / "pocket-dit.pt", weights_only=True)["net"]
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_one_seed_gives_one_model(tmp_path):
    states = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        torch.rand(len(states))  # whatever was drawn before
        command = ["--preset", "smoke", "--out", str(tmp_path / name), "--device", "cpu", "--seed", seed]
        pocket.main([*command, "--stage", "autoencoder", "--samples", "4"])
        states.append(torch.load(tmp_path / name / "autoencoder.pt", weights_only=True)["net"])
    first, again, other = states
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_checkpoint_of_another_training_is_refused(trained):
    command = ["--preset", "smoke", "--out", str(trained), "--device", "cpu", "--stage", "pocket-dit"]
    with pytest.raises(SystemExit, match="begun with another seed: name another --out"):
        pocket.main([*command, "--seed", "1"])
    with pytest.raises(SystemExit, match="begun with another weights and teacher"):
        earlier = str(trained / "export" / "pocket-dit")
        pocket.main([*command, "--init", earlier, "--teacher", earlier])


@pytest.mark.parametrize("wrong", [["--samples", "0"], ["--threads", "-1"], ["--teacher", "nowhere"]])
def test_bad_arguments_are_named(wrong: list[str], capsys):
    with pytest.raises(SystemExit):
        pocket.main(["--preset", "smoke", *wrong])
    assert wrong[1] in capsys.readouterr().err


def test_nothing_to_export_is_said(tmp_path):
    with pytest.raises(SystemExit, match="nothing to export"):
        pocket.main(["--preset", "smoke", "--out", str(tmp_path), "--device", "cpu", "--stage", "export"])


def test_an_earlier_model_is_begun_from_and_learnt_from(trained, tmp_path):
    exported = trained / "export"
    command = ["--preset", "smoke", "--out", str(tmp_path), "--device", "cpu", "--init", str(exported / "pocket-dit")]
    pocket.main([*command, "--teacher", str(exported / "pocket-unet"), "--stage", "pocket-dit"])
    pocket.main([*command, "--init-unet", str(exported / "pocket-unet"), "--stage", "pocket-unet"])
    assert all((tmp_path / f"{name}.jsonl").exists() for name in ("pocket-dit", "pocket-unet"))


@pytest.fixture(scope="module")
def stream():
    """Latents of an untrained autoencoder."""
    torch.manual_seed(0)
    vae: AutoencoderKL = autoencoder(AutoencoderShape((4, 4, 8, 8), latents=4))
    return Stream(Renderer("cpu"), vae, build())


def part(kind: str, stream: Stream, teacher=None, seed: int = 0):
    torch.manual_seed(seed)
    if kind == "dit":
        net = dit_net(stream.tokenizer, {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}, 4, 4)
        torch.nn.init.normal_(net["dit"].proj_out.weight)
        return DitPart(net, stream, 32, teacher=teacher)
    net = unet_net(stream.tokenizer, (16, 32), 4, 4)
    torch.nn.init.normal_(net["unet"].conv_out.weight)
    return UnetPart(net, stream, 32, teacher=teacher)


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_half_of_the_lesson_is_the_picture(kind: str, stream: Stream):
    """Taught by itself, a network sees half of its error, and its square in the loss."""
    latents, ids = stream(random.Random(0), 6, 32)
    errors = []
    for teacher in (None, part(kind, stream)):
        pupil = part(kind, stream, teacher)
        torch.manual_seed(1)
        errors.append(pupil.error(latents, ids))
    assert torch.allclose(errors[1], errors[0] / 4, rtol=1e-3)


def test_the_unets_error_is_that_of_v(stream: Stream):
    unet = part("unet", stream)
    latents, ids = stream(random.Random(0), 6, 32)
    torch.manual_seed(1)
    error = unet.error(latents, ids)
    torch.manual_seed(1)
    level = unet.levels(6)
    noise = torch.randn_like(latents)
    time = (level[:, None] - _levels(unet)).abs().argmin(1)
    words = unet.net["first"](ids).last_hidden_state
    out = unet.net["unet"](unet.scheduler.add_noise(latents, noise, time), time, words, return_dict=False)[0]
    assert torch.allclose(error, (out - unet.scheduler.get_velocity(latents, noise, time)).square().mean(), rtol=1e-4)


def _levels(unet: UnetPart) -> torch.Tensor:
    kept = unet.scheduler.alphas_cumprod
    return (1 - kept).sqrt() / (kept.sqrt() + (1 - kept).sqrt())


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_both_speak_of_the_same_velocity(kind: str, stream: Stream):
    """Noise alone, whose picture is known to be zero: a network that says so for every level is right in both."""
    one = part(kind, stream)
    torch.nn.init.zeros_((one.net["dit"].proj_out if kind == "dit" else one.net["unet"].conv_out).weight)
    level = torch.tensor([0.3, 0.7])[:, None, None, None]
    mixed, ids = torch.randn(2, 4, 4, 4), torch.zeros(2, 16, dtype=torch.long)
    said = one.velocity(mixed, level, ids)
    if kind == "dit":  # velocity 0
        assert torch.allclose(said, torch.zeros_like(said), atol=1e-5)
    else:  # v = 0: picture = signal x, noise = spread x
        wanted = (2 * level - 1) / ((1 - level) ** 2 + level**2) * mixed
        assert torch.allclose(said, wanted, atol=2e-2)
