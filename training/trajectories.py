"""Records guided pictures as they come about: at each step what the denoiser was asked, and what both halves said.

No data set is needed, and no teacher afterwards: from both halves the guided prediction follows for every scale near
the one that the picture was made with. An adapter that guides a run itself meets states that real
guidance never leads to, for what is missing adds up: runs can be recorded along an adapter, too (after Ross et al.
2011, https://arxiv.org/abs/1011.0686).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from deadheat.pipelines import (
    PAIR,
    Adapter,
    Around,
    Call,
    Link,
    Network,
    Now,
    call_arguments,
    combined,
    family,
    inserted,
    keeps_length,
    load_adapter,
    staged,
    the_network,
)
from torch import Tensor

from .loop import atomically

_SMALL = (0.8, 0.2)  # part of the batches at smaller sizes, when training begins and ends
_GOLDEN = 0.6180339887  # its multiples fall evenly between 0 and 1, however many


@dataclass(frozen=True)
class Plan:
    """What is recorded.

    Attributes:
        steps: denoising steps of a picture; each batch takes up to a quarter more or fewer, so that times differ.
        batch: pictures in a batch; they share a guidance scale.
        scales: smallest and largest guidance scale.
        sizes: (width, height) in pixels, taken in turn; None is the pipeline's own.
        extra: further arguments of the pipeline's call.
        seed: another seed, other scales and other noise.
    """

    steps: int = 14
    batch: int = 8
    scales: tuple[float, float] = (1.0, 8.0)
    sizes: tuple[tuple[int, int] | None, ...] = (None,)
    extra: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def batch_of(self, number: int) -> tuple[float, int, tuple[int, int] | None]:
        """Return scale, steps and size of the batch with this number."""
        rng = random.Random(f"{self.seed}/{number}")
        low, high = max(1.05, self.scales[0]), self.scales[1]
        steps = rng.randint(round(0.75 * self.steps), round(1.25 * self.steps))
        return low + (high - low) * (number * _GOLDEN % 1), max(1, steps), self.sizes[number % len(self.sizes)]


def record(
    pipe: Any,
    prompts: Sequence[str],
    plan: Plan,
    out: Path,
    say: Callable[[str], None] = print,
    *,
    along: Path | None = None,
) -> None:
    """Write a file for each batch of prompts; those that are there already are not made again.

    Real guidance leads from step to step, or the adapter in the folder *along*.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = out / "plan.json"
    asked = json.dumps({**vars(plan), "prompts": list(prompts)} | ({"along": along} if along else {}), default=str)
    leads = load_adapter(along)[0].to(pipe.device, next(the_network(pipe).parameters()).dtype) if along else None
    if about.exists() and about.read_text() != asked:
        raise SystemExit(f"{out} holds pictures recorded with other settings: give another --out, or remove it")
    about.write_text(asked)
    batches = [list(prompts[at : at + plan.batch]) for at in range(0, len(prompts), plan.batch)]
    for number, words in enumerate(batches):
        file = out / f"{number:05}.pt"
        if not file.exists():
            shard = _guided(pipe, words, plan, number, leads)
            atomically(file, lambda path, shard=shard: torch.save(shard, path))  # type: ignore[misc]
            say(f"recorded {number + 1}/{len(batches)} batches, scale {shard['scale']:.2f}")


def _guided(pipe: Any, words: list[str], plan: Plan, number: int, leads: Adapter | None) -> dict[str, Any]:
    scale, steps, size = plan.batch_of(number)
    given = guided_arguments(pipe, scale, prompt=words, steps=steps, size=size, seed=plan.seed + number)
    with ExitStack() as stack:
        led = None
        if leads is not None:
            led = Led(leads, stack.enter_context(inserted(the_network(pipe), leads)), scale)
        seen, stage = _Seen(led), stack.enter_context(staged(pipe))
        stack.enter_context(stage.around_denoiser(seen.start))
        pipe(**{**given, "output_type": "latent", **plan.extra})
    return seen.shard(scale, len(words))


def guided_arguments(pipe: Any, scale: float, **wanted: Any) -> dict[str, Any]:
    """Return arguments as ``call_arguments`` does, with real guidance of this scale; 1 is none."""
    if family(pipe).scale == "guidance_scale":
        return call_arguments(pipe, guidance=scale, **wanted)
    against = {"negative_prompt": " "} if scale > 1 else {}  # FLUX is guided only against something
    return call_arguments(pipe, **wanted) | {family(pipe).scale: scale} | against


@dataclass(frozen=True)
class Led:
    """An adapter that guides the run in place of real guidance."""

    adapter: Adapter
    now: Now
    scale: float

    def guided(self, call: Call, network: Network) -> Tensor:
        """Return what it makes of a conditional call."""
        self.now.told = self.adapter.told(torch.full((call.batch,), self.scale), call.kwargs)
        try:
            return network(call)
        finally:
            self.now.told = None


class _Seen:
    """The conditional calls of a run, and what both halves gave."""

    def __init__(self, led: Led | None) -> None:
        self.led = led
        self.given: dict[str, Any] = {}
        self.first = ""
        self.as_long = False
        self.states: list[dict[str, Tensor]] = []
        self.waits: tuple[Call, Tensor, Tensor] | None = None

    def start(self, link: Link) -> Around:
        def around(call: Call, network: Network) -> Tensor:
            out = network(call)
            if call.branches == PAIR:
                asked = call.conditional()
                self._keep(asked, *out.chunk(2))
                return out if self.led is None else torch.cat([self.led.guided(asked, network)] * 2)
            if call.branches == ("cond",):
                self.waits = (call, out, out if self.led is None else self.led.guided(call, network))
                return self.waits[2]
            if call.branches == ("uncond",) and self.waits is not None:
                self._keep(self.waits[0], out, self.waits[1])
                return out if self.led is None else self.waits[2]  # both halves alike: the scale adds nothing
            return out

        return around

    def _keep(self, call: Call, uncond: Tensor, cond: Tensor) -> None:
        if not self.given:
            self.first, self.as_long = call.first, keeps_length(call.run.pipe)
            self.given = _copied({k: v for k, v in call.kwargs.items() if k not in (call.first, "timestep")})
        time = torch.as_tensor(call.kwargs["timestep"]).float()
        time = time.expand(call.batch) if time.ndim == 0 or len(time) == 1 else time
        state = {"latents": call.latents, "uncond": uncond, "cond": cond}
        self.states.append({k: v.half().cpu() for k, v in state.items()} | {"timestep": time.cpu().clone()})

    def shard(self, scale: float, count: int) -> dict[str, Any]:
        if not self.states:
            raise SystemExit("the pipeline ran without guidance, so there is nothing to learn")
        states = {name: torch.stack([state[name] for state in self.states]) for name in self.states[0]}
        about = {"scale": scale, "count": count, "first": self.first, "as long": self.as_long, "given": self.given}
        return about | states


def _copied(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_copied(value) for value in tree]
    return tree.detach().cpu().clone() if isinstance(tree, Tensor) else tree


@dataclass(frozen=True)
class Batch:
    """States to learn from.

    Attributes:
        kwargs: the conditional call's arguments.
        scale: (N,) guidance scales.
        cond, guided: the conditional prediction, and the guided one.
    """

    kwargs: dict[str, Any]
    scale: Tensor
    cond: Tensor
    guided: Tensor


class Trajectories:
    """What was recorded, read from disk as it is needed."""

    def __init__(self, scales: tuple[float, float], *folders: Path, device: str = "cpu") -> None:
        self.scales, self.device = scales, device
        files = [file for folder in folders for file in sorted(folder.glob("*.pt"))]
        self.shards = [torch.load(file, mmap=True, weights_only=True) for file in files]
        self.groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        self.alike: dict[Any, list[dict[str, Any]]] = {}  # in one batch: Qwen-Image's prompts differ in length
        for shard in self.shards:
            self.groups.setdefault(tuple(shard["latents"].shape[2:]), []).append(shard)
            self.alike.setdefault(_form(shard), []).append(shard)
        self.largest = max(torch.Size(shape).numel() for shape in self.groups)

    def sample(self, rng: random.Random, count: int, done: float = 0.5, spread: float = 0.5) -> Batch:
        """Return *count* states of the largest size, or up to three times as many of a smaller one.

        When training begins most are small, and when it ends most are large. Their scales lie around those of their
        pictures, farther away with a larger *spread*.
        """
        small = [shape for shape in self.groups if torch.Size(shape).numel() < self.largest]
        first, last = _SMALL
        if small and rng.random() < first + (last - first) * done:
            shape = rng.choice(small)
        else:
            shape = rng.choice([shape for shape in self.groups if shape not in small])
        count *= min(3, self.largest // torch.Size(shape).numel())
        first_one = rng.choice(self.groups[shape])
        alike = self.alike[_form(first_one)]
        chosen = [first_one, *(rng.choice(alike) for _ in range(count - 1))]
        at = [(rng.randrange(len(shard["latents"])), rng.randrange(shard["count"])) for shard in chosen]
        low, high = self.scales
        near = [1 + (shard["scale"] - 1) * 2 ** rng.uniform(-spread, spread) for shard in chosen]
        scale = torch.tensor([min(high, max(low, w)) for w in near], device=self.device)

        def stacked(name: str) -> Tensor:
            parts = [shard[name][step, row] for shard, (step, row) in zip(chosen, at, strict=True)]
            return torch.stack(parts).float().to(self.device)

        rows = [(shard["given"], row, shard["count"]) for shard, (_, row) in zip(chosen, at, strict=True)]
        kwargs = {chosen[0]["first"]: stacked("latents"), "timestep": stacked("timestep"), **self._gathered(rows)}
        cond, uncond = stacked("cond"), stacked("uncond")
        guided = combined(uncond, cond, scale.view(-1, *[1] * (cond.ndim - 1)), first_one.get("as long", False))
        return Batch(kwargs, scale, cond, guided)

    def _gathered(self, rows: list[tuple[Any, int, int]]) -> Any:
        """Take each state's row of all that has a row for each picture; everything else is for all."""
        first, _, count = rows[0]
        if isinstance(first, dict):
            return {key: self._gathered([(tree[key], row, n) for tree, row, n in rows]) for key in first}
        if isinstance(first, list) and len(first) == count:
            return [tree[row] for tree, row, _ in rows]
        if not isinstance(first, Tensor):
            return first
        if first.ndim and len(first) == count:
            first = torch.stack([tree[row] for tree, row, _ in rows])
        return (first.float() if first.is_floating_point() else first).to(self.device)


def _form(shard: dict[str, Any]) -> Any:
    """Return what the states of two recorded batches must have in common to stand in one call."""

    def form(tree: Any) -> Any:
        if isinstance(tree, dict):
            return tuple((key, form(value)) for key, value in tree.items())
        rows = isinstance(tree, (Tensor, list)) and len(tree) == shard["count"]
        if isinstance(tree, Tensor):
            return tuple(tree.shape[rows:])
        return "each" if rows else repr(tree)

    return tuple(shard["latents"].shape[2:]), form(shard["given"])
