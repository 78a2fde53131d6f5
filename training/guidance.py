"""Trains a guidance adapter for any diffusers pipeline.

    python -m training.guidance pocket-dit --out .checkpoints/adapter-dit
    python -m training.guidance stabilityai/stable-diffusion-xl-base-1.0 --prompts-file captions.txt --prompts 2000 \
        --width 128 --steps 40 --samples 320000 --batch 16 --lr 1e-4 --device cuda --out adapter-sdxl

Records guided pictures (`trajectories.py`), trains the adapter on them, compares it with real guidance and with none
on prompts that it has not seen, and writes `OUT/guidance-adapter`. The same command goes on wherever it stopped. While
it trains only the denoiser is in memory, once: it is the teacher's body and the pupil's. With `--init` an adapter is
trained on, and learns from as many runs again that it has led itself.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from deadheat.measure import psnr
from deadheat.measure.adherence import adherence
from deadheat.pipelines import (
    KINDS,
    POCKET,
    Adapter,
    Now,
    adapter_shape,
    base_of,
    inserted,
    load,
    load_adapter,
    pictures,
    save_adapter,
    staged,
    the_network,
)
from torch import Tensor, nn

from .denoisers import prompts
from .loop import Budget, atomically, fit
from .trajectories import Batch, Led, Plan, Trajectories, guided_arguments, record

ALONG = 2.0  # what is missing along guidance counts as much, beside what is missing across it
HELD_OUT = "held out of guidance"
_JUDGED_SCALES = (2.0, 4.0, 8.0)


class GuidancePart:
    """An adapter in a frozen denoiser, for ``fit``: its loss is the distance from the guided prediction.

    The adapter stands in the denoiser as long as this part does, and goes on knowing of the last batch: gradient
    checkpointing runs the blocks once more while the loss goes backward, and they must meet the same residuals.
    """

    name = "adapter"

    def __init__(self, network: nn.Module, net: Adapter, now: Now, data: Trajectories, held: Trajectories) -> None:
        self.network, self.net, self.now, self.data = network.requires_grad_(False).eval(), net, now, data
        rng = random.Random(0)
        self.held = [held.sample(rng, 8, spread=0.0) for _ in range(8)]
        if data.device.startswith("cuda") and hasattr(network, "enable_gradient_checkpointing"):
            network.enable_gradient_checkpointing()

    def muon(self, name: str, p: nn.Parameter) -> bool:
        """The matrices of the residuals."""
        return name.startswith("residuals") and p.ndim == 2

    def loss(self, rng: random.Random, batch: int, done: float) -> tuple[Tensor, int]:
        """The squared error of a batch, over the length of what guidance adds.

        At the noisiest times guidance is some twenty times as strong (squared) as later: plain squared errors teach
        the first steps of a run and nothing else. And they teach to add less than guidance does where it is hard to
        foresee, so that a picture shows less of its prompt; so the part of the error along guidance counts more.
        """
        states = self.data.sample(rng, batch, done)
        adds = states.guided - states.cond
        error = self._predicted(states, self.net, self.now) - states.guided
        length = _squared(adds).clamp(min=1e-6)
        along = (error * adds).flatten(1).mean(1).square() / length
        return ((_squared(error) + (ALONG - 1) * along) / length.sqrt()).mean(), len(states.scale)

    def predicted(self, states: Batch, adapter: Adapter) -> Tensor:
        """What the denoiser says with this adapter in it, in place of the one that is being trained."""
        self.now.told = None
        with inserted(self.network, adapter) as now:
            return self._predicted(states, adapter, now)

    def _predicted(self, states: Batch, adapter: Adapter, now: Now) -> Tensor:
        device, dtype = states.scale.device.type, next(self.network.parameters()).dtype
        mixed = device == "cuda" or dtype != torch.float32
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            now.told = adapter.told(states.scale, states.kwargs)
            out = self.network(**{**in_dtype(states.kwargs, dtype), "return_dict": False})[0]
        return (torch.stack(out) if isinstance(out, list) else out).float()

    def show(self, net: nn.Module) -> tuple[dict[str, float], Tensor]:
        """The part of guidance that is missing on held-out states, and what all three predict for eight of them."""
        assert isinstance(net, Adapter)
        grid, found = [], []
        for states in self.held:
            out = self.predicted(states, net)
            found.append(torch.stack([_squared(part - states.guided) for part in (out, states.cond)]))
            grid = [_visible(part[:8]) for part in (states.cond, out, states.guided)]
        missing, guidance = torch.cat(found, 1)
        by_time = missing / guidance.sqrt().clamp(min=1e-3)
        return {
            "missing": float(missing.sum() / guidance.sum()),
            "missing at most times": float(by_time.sum() / guidance.sqrt().sum()),
            "guidance": float(guidance.mean()),
        }, torch.cat(grid)


def _squared(part: Tensor) -> Tensor:
    return part.square().flatten(1).mean(1)


def in_dtype(kwargs: Any, dtype: torch.dtype) -> Any:
    """Return a denoiser's arguments in its precision; the time keeps its own."""
    if isinstance(kwargs, dict):
        return {name: value if name == "timestep" else in_dtype(value, dtype) for name, value in kwargs.items()}
    return kwargs.to(dtype) if isinstance(kwargs, Tensor) and kwargs.is_floating_point() else kwargs


def _visible(prediction: Tensor) -> Tensor:
    """Three channels of a prediction as pictures; for latents without rows and columns, as strips."""
    flat = prediction.float().flatten(3) if prediction.ndim > 4 else prediction.float()
    flat = flat.transpose(1, 2)[:, :, None] if flat.ndim == 3 else flat
    three = flat[:, :3].expand(-1, 3, -1, -1)
    low, high = three.amin((1, 2, 3), keepdim=True), three.amax((1, 2, 3), keepdim=True)
    return (three - low) / (high - low).clamp(min=1e-6)


def captions(options: argparse.Namespace, count: int, seed: str) -> list[str]:
    """Prompts from the file, its end held out, or from the pocket models' generator."""
    if options.prompts_file is None:
        if options.model not in POCKET:
            raise SystemExit(f"{options.model} needs --prompts-file, a text file with a prompt on each line")
        held = [] if seed == HELD_OUT else prompts(max(options.judged, 2 * options.pictures), HELD_OUT)
        return [text for text in prompts(2 * count, seed) if text not in held][:count]  # scenes of one thing recur
    lines = [line.strip() for line in Path(options.prompts_file).read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line]
    if len(lines) <= options.judged:
        raise SystemExit(f"{options.prompts_file} has {len(lines)} prompts, and {options.judged} are held out")
    known, held = lines[: -options.judged], lines[-options.judged :]
    source = held if seed == HELD_OUT else known
    return [source[i % len(source)] for i in range(count)]


def recorded(options: argparse.Namespace) -> None:
    """Record what is missing of the pictures to learn from, and of those to test with."""
    pipe = load(options.model, device=options.device)
    plan = Plan(options.steps, options.pictures, options.scales, options.size, options.set)
    record(pipe, captions(options, options.prompts, "for guidance"), plan, options.out / "recorded")
    if options.init:
        words = captions(options, options.prompts, "along an adapter")
        record(pipe, words, replace(plan, seed=500_000), options.out / "along", along=options.init)
    sizes = options.size[-1:]
    held = Plan(options.steps, options.pictures, options.scales, sizes, options.set, seed=1_000_000)
    record(pipe, captions(options, 2 * options.pictures, HELD_OUT), held, options.out / "held")


def trained(options: argparse.Namespace) -> Path:
    """Train the adapter, and write it; the folder."""
    pipe = load(options.model, device=options.device)
    torch.manual_seed(0)
    shape = adapter_shape(pipe, options.kind, options.width, options.scales)
    adapter = Adapter(shape).to(options.device)
    if options.init:
        begun = load_adapter(options.init)[0]
        if asdict(begun.shape) != asdict(shape):
            apart = [name for name, value in asdict(shape).items() if asdict(begun.shape)[name] != value]
            raise SystemExit(f"{options.init} is another adapter than the one asked for, in {', '.join(apart)}")
        adapter.load_state_dict(begun.float().state_dict())
    _same_as_before(options)
    base, network = base_of(pipe), the_network(pipe)
    del pipe  # text encoders and autoencoder go
    known = [options.out / part for part in (("recorded", "along") if options.init else ("recorded",))]
    data = [Trajectories(options.scales, *part, device=options.device) for part in (known, [options.out / "held"])]
    share = sum(p.numel() for p in adapter.parameters()) / sum(p.numel() for p in network.parameters())
    print(f"{options.kind} adapter of width {options.width}: {100 * share:.2f} % of the denoiser's parameters")
    budget = Budget(options.samples, options.batch, options.lr, average=options.average, every=options.every)
    folder = options.out / "guidance-adapter"
    with inserted(network, adapter) as now:
        part = GuidancePart(network, adapter, now, *data)
        best = fit(part, budget, options.out)
        with torch.no_grad():
            numbers, _ = part.show(best)
    facts = {
        "begun": options.init is not None,
        "pictures": options.prompts * (2 if options.init else 1),
        "samples": options.samples,
        "share": share,
        **numbers,
    }
    save_adapter(best.half(), folder, base, facts)  # type: ignore[arg-type]
    return folder


def _same_as_before(options: argparse.Namespace) -> None:
    """Refuse to go on with a training that was begun with other options; only more samples may be asked for."""
    asked = {name: getattr(options, name) for name in ("kind", "width", "init", "batch", "lr", "average")}
    asked |= {"scales": list(options.scales), "init": str(options.init or "")}
    about, samples = options.out / "training.json", options.samples
    if about.exists():
        before = json.loads(about.read_text())
        most = before.pop("samples")
        apart = [f"--{name} was {value}" for name, value in before.items() if asked[name] != value]
        apart += [f"--samples was {most}"] if samples < most else []
        if apart:
            raise SystemExit(f"{options.out} holds another training ({', '.join(apart)}): give another --out")
    text = json.dumps({**asked, "samples": samples})
    atomically(about, lambda path: path.write_text(text))


@contextmanager
def guided_by(pipe: Any, adapter: Adapter, scale: float) -> Iterator[None]:
    """Let the adapter guide; call the pipeline without guidance."""
    with inserted(the_network(pipe), adapter) as now, staged(pipe) as stage:
        led = Led(adapter, now, scale)
        with stage.around_denoiser(lambda link: led.guided):
            yield


def judged(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Compare pictures of the adapter, and of no guidance, with those of real guidance."""
    pipe = load(options.model, device=options.device)
    adapter = load_adapter(folder)[0].to(options.device, next(the_network(pipe).parameters()).dtype)
    words = captions(options, options.judged, HELD_OUT)
    scales = [w for w in _JUDGED_SCALES if options.scales[0] <= w <= options.scales[1]]

    def drawn(scale: float) -> Tensor:
        args = {"steps": 2 * options.steps, "size": options.size[-1], "seed": 7}
        parts = [words[at : at + options.pictures] for at in range(0, len(words), options.pictures)]
        calls = [{**guided_arguments(pipe, scale, prompt=part, **args), **options.set} for part in parts]
        return torch.cat([pictures(pipe(**call)) for call in calls])

    plain, rows = drawn(1.0), []
    for scale in scales:
        with guided_by(pipe, adapter, scale):
            ours = drawn(1.0)
        real = drawn(scale)
        rows.append({"scale": scale} | _numbers(options.model, words, {"none": plain, "adapter": ours, "real": real}))
    return rows


def _numbers(model: str, words: list[str], found: dict[str, Tensor]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name in ("none", "adapter"):
        values = [min(99.0, psnr(a, b)) for a, b in zip(found[name], found["real"], strict=True)]
        numbers[f"psnr_{name}"] = sum(values) / len(values)
    if model in POCKET:
        for name, seen in found.items():
            scores = [score.score for score in adherence(words, seen) if score is not None]
            numbers[f"adherence_{name}"] = 100 * sum(scores) / len(scores)
    return numbers


def card(options: argparse.Namespace, folder: Path, rows: list[dict[str, Any]]) -> str:
    """The README of a trained adapter."""
    about = json.loads((folder / "adapter.json").read_text())
    facts, base = about["trained"], about["base"]
    names = list(rows[0]) if rows else []
    table = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    table += ["| " + " | ".join(f"{row[name]:.1f}" for name in names) + " |" for row in rows]
    text = [
        f"# Guidance adapter for {base['model']}",
        "",
        f"Guides {base['denoiser']} in one pass a step, for guidance scales {options.scales[0]:g} to "
        f"{options.scales[1]:g}; {100 * facts['share']:.1f} % of its parameters, kind `{options.kind}`. "
        "The method: Adapter Guidance Distillation, arXiv:2503.07274.",
        "",
        f"Trained on {facts['pictures']} guided pictures of the model itself, {facts['samples']} samples"
        f"{', begun from an earlier adapter, which guided half of the pictures' if facts['begun'] else ''}. Of what "
        f"guidance adds to a prediction, {100 * facts['missing']:.0f} % (squared) is missing on held-out pictures.",
        "",
        f"{options.judged} held-out prompts, {2 * options.steps} steps, compared with real guidance (PSNR in dB):",
        "",
        *table,
    ]
    return "\n".join(text) + "\n"


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height or width)


def _argument(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, json.loads(value)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a pocket model, a hub id or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything; resumable")
    parser.add_argument("--prompts", type=int, default=320, help="pictures to learn from")
    parser.add_argument("--prompts-file", help="a prompt on each line; pocket models draw theirs by lot")
    parser.add_argument("--judged", type=int, default=16, help="held-out prompts for the comparison")
    parser.add_argument("--steps", type=int, default=14, help="denoising steps of a recorded picture")
    parser.add_argument("--pictures", type=int, default=8, help="pictures in a batch")
    parser.add_argument("--scales", type=float, nargs=2, default=(1.0, 8.0), help="smallest and largest guidance")
    parser.add_argument("--size", type=_size, action="append", help="WIDTHxHEIGHT, several in turn, the largest last")
    parser.add_argument("--set", type=_argument, action="append", default=[], help="NAME=JSON for the pipeline's call")
    parser.add_argument("--init", type=Path, help="an adapter to begin from, and to lead half of the recorded runs")
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    parser.add_argument("--width", type=int, default=25, help="channels inside the adapter")
    parser.add_argument("--samples", type=int, default=24_000, help="states to train on, repeats included")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1.5e-2)
    parser.add_argument("--average", type=float, default=0.99, help="how slowly the averaged weights follow")
    parser.add_argument("--every", type=float, default=120.0, help="seconds from one score to the next")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(given)
    options.scales, options.set = tuple(options.scales), dict(options.set)
    usual: list[tuple[int, int] | None] = [(64, 64), (128, 128)] if options.model in POCKET else [None]
    options.size = tuple(options.size or usual)
    return options


def main(given: list[str] | None = None) -> None:
    """Record, train, compare."""
    options = arguments(given)
    recorded(options)
    folder = trained(options)
    rows = judged(options, folder)
    (folder / "README.md").write_text(card(options, folder, rows), encoding="utf-8")
    for row in rows:
        print({name: round(value, 2) for name, value in row.items()})


if __name__ == "__main__":
    main()
