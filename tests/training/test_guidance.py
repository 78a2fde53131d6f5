"""A guidance adapter is trained in seconds, on the tiny pipelines: what is recorded, learnt, kept and written."""

import json
import random
from pathlib import Path

import pytest
import torch
from deadheat.accelerators import GuidanceAdapter, attached
from deadheat.pipelines import Adapter, adapter_shape, inserted, load_adapter, misfit, staged, the_network

from training import guidance
from training.loop import Budget, fit
from training.trajectories import Plan, Trajectories, guided_arguments, record

from ..adapters import random_adapter, saved
from ..families import FAMILIES, leftovers

SCALES = (1.0, 8.0)
WORDS = ["a red cube", "a blue ball", "a green cone", "a red ball", "a blue cube", "a green ball"]


def quiet(text: str) -> None:
    """Says nothing."""


def plan(on: str, **options) -> Plan:
    return Plan(**{"steps": 4, "batch": 2, "sizes": ((64, 64),), "extra": dict(FAMILIES[on].settings), **options})


@pytest.mark.parametrize("on", ["sd15", "sd3", "flux", "qwen", "lumina2", "wan"])
def test_what_is_learnt_is_what_the_solver_got(on: str, tmp_path):
    pipe, wanted = FAMILIES[on].build(), plan(on)
    record(pipe, WORDS[:2], wanted, tmp_path, quiet)
    scale, steps, _ = wanted.batch_of(0)
    seen = drawn_by_itself(pipe, scale, wanted)["prediction"].flatten(0, 1) * (-1 if on == "lumina2" else 1)
    assert scale > 1
    assert len(seen) == 2 * steps
    states = Trajectories(SCALES, tmp_path).sample(random.Random(0), 6, spread=0.0)
    assert states.scale.tolist() == pytest.approx([scale] * 6)
    for guided in states.guided:
        assert min((guided - one).norm() / one.norm() for one in seen) < 5e-3


def drawn_by_itself(pipe, scale: float, plan: Plan) -> dict[str, torch.Tensor]:
    """The latents and predictions that the solver meets in the first batch of a plan, when nothing records."""
    seen = {"latents": [], "prediction": []}

    def watch(now, solve):
        seen["latents"].append(now.latents)
        seen["prediction"].append(now.prediction)
        return solve(now)

    _, steps, size = plan.batch_of(0)
    call = guided_arguments(pipe, scale, prompt=WORDS[:2], steps=steps, size=size, seed=0)
    with staged(pipe) as stage, stage.around_solver(watch):
        pipe(**{**call, "output_type": "latent", **plan.extra})
    return {name: torch.stack(parts) for name, parts in seen.items()}


@pytest.mark.parametrize("on", ["sd15", "sd3", "flux", "qwen", "lumina2", "wan"])
def test_an_adapter_leads_and_real_guidance_is_recorded(on: str, tmp_path):
    pipe, wanted = FAMILIES[on].build(), plan(on)
    clean = leftovers(pipe)
    record(pipe, WORDS[:2], wanted, tmp_path / "led", quiet, along=Path(saved(pipe, tmp_path / "adapter")))
    assert leftovers(pipe) == clean
    record(pipe, WORDS[:2], wanted, tmp_path / "real", quiet)
    led, real = (torch.load(tmp_path / name / "00000.pt", weights_only=True) for name in ("led", "real"))
    adapter = load_adapter(tmp_path / "adapter")[0]
    with guidance.guided_by(pipe, adapter, led["scale"]):
        seen = drawn_by_itself(pipe, 1.0, wanted)
    apart = {name: (shard["latents"] - seen["latents"]).abs().max() for name, shard in (("led", led), ("real", real))}
    assert apart["led"] < 2e-2
    assert apart["led"] < apart["real"] / 2
    for half in ("cond", "uncond"):  # the first state is the same noise, whoever leads from there
        assert torch.allclose(led[half][0], real[half][0], atol=1e-2)
    states = Trajectories(SCALES, tmp_path / "led").sample(random.Random(0), 4, spread=0.0)
    with torch.no_grad():
        out = the_network(pipe)(**{**states.kwargs, "return_dict": False})[0]
    assert torch.allclose(out, states.cond, atol=2e-2)
    with pytest.raises(SystemExit, match="other settings"):
        record(pipe, WORDS[:2], wanted, tmp_path / "led", quiet)


def test_recording_goes_on_where_it_stopped(tmp_path):
    pipe = FAMILIES["sd15"].build()
    record(pipe, WORDS, plan("sd15"), tmp_path, quiet)
    first = torch.load(tmp_path / "00001.pt", weights_only=True)
    (tmp_path / "00001.pt").unlink()
    said = []
    record(pipe, WORDS, plan("sd15"), tmp_path, said.append)
    assert len(said) == 1
    assert torch.equal(torch.load(tmp_path / "00001.pt", weights_only=True)["cond"], first["cond"])
    with pytest.raises(SystemExit, match="other settings"):
        record(pipe, WORDS, plan("sd15", steps=5), tmp_path, quiet)


# nested arguments; arguments that all pictures share; lists of them, and prompts of their own length
@pytest.mark.parametrize("on", ["sdxl", "flux", "qwen", "lumina2"])
def test_a_batch_holds_what_the_denoiser_was_given(on: str, tmp_path):
    pipe = FAMILIES[on].build()
    record(pipe, [*WORDS[:4], "a very long row of yellow words", WORDS[4]], plan(on), tmp_path, quiet)
    data, rng, met = Trajectories(SCALES, tmp_path), random.Random(0), set()
    for _ in range(4):
        states = data.sample(rng, 6, spread=0.0)
        with torch.no_grad():
            out = the_network(pipe)(**{**states.kwargs, "return_dict": False})[0]
        assert torch.allclose(out, states.cond, atol=2e-2)
        met |= {round(scale, 3) for scale in states.scale.tolist()}
    assert met == {round(plan(on).batch_of(n)[0], 3) for n in range(3)}


def test_small_pictures_come_first(tmp_path):
    pipe = FAMILIES["sd15"].build()
    record(pipe, WORDS[:4], plan("sd15", sizes=((32, 32), (64, 64))), tmp_path, quiet)
    data, rng = Trajectories(SCALES, tmp_path), random.Random(0)
    sizes = {done: [len(data.sample(rng, 2, done).scale) for _ in range(40)] for done in (0.0, 1.0)}
    assert set(sizes[0.0]) == {2, 6}
    assert sizes[0.0].count(6) > 25 > 15 > sizes[1.0].count(6)


def test_it_learns_and_leaves_the_base_alone(tmp_path):
    pipe = FAMILIES["sd15"].build()
    record(pipe, WORDS, plan("sd15"), tmp_path / "recorded", quiet)
    record(pipe, WORDS[:2], plan("sd15", seed=9), tmp_path / "held", quiet)
    before = {name: value.clone() for name, value in the_network(pipe).state_dict().items()}
    torch.manual_seed(0)
    adapter = Adapter(adapter_shape(pipe, "gated", 8, SCALES))
    data = [Trajectories(SCALES, tmp_path / name) for name in ("recorded", "held")]
    clean = leftovers(pipe)
    with inserted(the_network(pipe), adapter) as now:
        part = guidance.GuidancePart(the_network(pipe), adapter, now, *data)
        with torch.no_grad():
            assert part.show(adapter)[0]["missing"] == pytest.approx(1.0, abs=1e-2)
        best = fit(part, Budget(240, 4, 2e-2, average=0.9), tmp_path, say=quiet)
        with torch.no_grad():
            assert part.show(best)[0]["missing"] < 0.9
    assert leftovers(pipe) == clean
    assert all(torch.equal(value, before[name]) for name, value in the_network(pipe).state_dict().items())


@pytest.mark.parametrize("on", ["sdxl", "sd3", "flux"])
def test_a_base_in_half_precision_is_taught_in_full(on: str, tmp_path):
    pipe = FAMILIES[on].build().to(torch.bfloat16)
    record(pipe, WORDS[:2], plan(on), tmp_path, quiet)
    data = Trajectories(SCALES, tmp_path)
    adapter = Adapter(adapter_shape(pipe, "gated", 8, SCALES))
    with inserted(the_network(pipe), adapter) as now:
        part = guidance.GuidancePart(the_network(pipe), adapter, now, data, data)
        part.loss(random.Random(0), 2, 0.0)[0].backward()
    assert all(torch.isfinite(residual.out.weight.grad).all() for residual in adapter.residuals)
    assert any(residual.out.weight.grad.abs().max() > 0 for residual in adapter.residuals)


@pytest.mark.parametrize("on", ["sd15", "sd3", "flux"])
def test_blocks_that_run_again_meet_the_same_residuals(on: str, tmp_path):
    """Gradient checkpointing, which training on a GPU turns on, changes no gradient."""
    pipe = FAMILIES[on].build()
    record(pipe, WORDS[:2], plan(on), tmp_path, quiet)
    data, adapter = Trajectories(SCALES, tmp_path), random_adapter(pipe)
    gradients = []
    with inserted(the_network(pipe), adapter) as now:
        part = guidance.GuidancePart(the_network(pipe), adapter, now, data, data)
        for again in (False, True):
            if again:
                the_network(pipe).enable_gradient_checkpointing()
            part.loss(random.Random(0), 2, 0.0)[0].backward()
            gradients.append([p.grad.clone() for p in adapter.residuals.parameters()])
            adapter.zero_grad()
    assert any(gradient.abs().max() > 0 for gradient in gradients[0])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def commanded(on: str, tmp_path):
    """A pipeline, and the command that trains an adapter for it in a moment."""
    pipe = FAMILIES[on].build()
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("\n".join(WORDS))
    extra = [f"--set={name}={json.dumps(value)}" for name, value in FAMILIES[on].settings.items()]
    command = [
        str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--prompts-file", str(tmp_path / "prompts.txt"),
        "--prompts=2", "--judged=2", "--pictures=2", "--steps=2", "--size=64x64", "--width=8", "--samples=8",
        "--batch=2", "--scales", "1", "4", "--device=cpu", *extra,
    ]  # fmt: skip
    return pipe, command


@pytest.mark.parametrize("on", ["sd15", "flux"])
def test_the_command_trains_writes_and_resumes(on: str, tmp_path, capsys):
    pipe, command = commanded(on, tmp_path)
    guidance.main(command)
    folder = tmp_path / "out" / "guidance-adapter"
    whole = (folder / "adapter.safetensors").read_bytes()
    guidance.main(command)
    assert (folder / "adapter.safetensors").read_bytes() == whole
    assert "recorded" in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert "guidance scales 1 to 4" in card
    assert "psnr_adapter" in card
    assert load_adapter(folder)[0].shape.scales == (1.0, 4.0)
    assert misfit(pipe, folder) is None
    with attached(pipe, GuidanceAdapter(weights=str(folder))) as session:
        FAMILIES[on].call(pipe, 2)
    assert session.report().calls == 2
    again = [*command, "--init", str(folder), "--lr=0"]
    again[again.index("--out") + 1] = str(tmp_path / "again")
    guidance.main(again)
    assert len(list((tmp_path / "again" / "along").glob("*.pt"))) == 1
    begun, first = (load_adapter(part)[0].state_dict() for part in (tmp_path / "again" / "guidance-adapter", folder))
    assert all(torch.equal(begun[name], first[name]) for name in first)
    assert "begun from an earlier adapter" in (tmp_path / "again" / "guidance-adapter" / "README.md").read_text()


def test_another_training_is_not_gone_on_with(tmp_path):
    _, command = commanded("sd15", tmp_path)
    guidance.main(command)
    folder = tmp_path / "out" / "guidance-adapter"
    whole = (folder / "adapter.safetensors").read_bytes()
    for more, said in (
        (["--width=9"], "another training .*--width was 8"),
        (["--init", str(folder)], "another training .*--init was"),
        (["--samples=4"], "another training .*--samples was 8"),
    ):
        with pytest.raises(SystemExit, match=said):
            guidance.main([*command, *more])
    with pytest.raises(SystemExit, match="another adapter than the one asked for, in width, scales"):
        other = [*command, "--init", str(folder), "--width=9", "--scales", "1", "16", "--out", str(tmp_path / "other")]
        guidance.main(other)
    assert (folder / "adapter.safetensors").read_bytes() == whole


def test_prompts_are_needed_and_some_are_held_out(tmp_path):
    with pytest.raises(SystemExit, match="--prompts-file"):
        guidance.captions(guidance.arguments(["some/model", "--out", "x"]), 3, "for guidance")
    pocket = guidance.arguments(["pocket-dit", "--out", "x"])
    assert pocket.size == ((64, 64), (128, 128))
    known = guidance.captions(pocket, 20, "for guidance")
    assert not set(known) & set(guidance.captions(pocket, 20, guidance.HELD_OUT))
    (tmp_path / "prompts.txt").write_text("\n".join(WORDS))
    named = guidance.arguments(
        ["some/model", "--out", "x", "--prompts-file", str(tmp_path / "prompts.txt"), "--judged=2"]
    )
    assert guidance.captions(named, 5, "for guidance") == [*WORDS[:4], WORDS[0]]
    assert guidance.captions(named, 2, guidance.HELD_OUT) == WORDS[4:]
    with pytest.raises(SystemExit, match="held out"):
        guidance.captions(guidance.arguments([*_without_judged(tmp_path), "--judged=6"]), 2, "for guidance")


def _without_judged(folder) -> list[str]:
    return ["some/model", "--out", "x", "--prompts-file", str(folder / "prompts.txt")]
