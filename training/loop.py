"""One training loop for every part: schedule, averaged weights, progress, checkpoints that survive a kill at any time.

Everything random in step k comes from (seed, name of the part, k), so a resumed run goes on as if never stopped, but
for the earlier scenes that `stream.py` draws from again: it holds none yet after a stop.
Budgets count samples, not seconds: a stopped or slowed process loses nothing.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .muon import Muon


class Part(Protocol):
    """What is trained: its modules, its loss, and how one sees how far it is."""

    name: str
    net: nn.Module

    def muon(self, name: str, p: nn.Parameter) -> bool:
        """Whether Muon (rather than AdamW) trains this parameter."""
        ...

    def loss(self, rng: random.Random, batch: int, done: float) -> tuple[Tensor, int]:
        """The mean loss of a fresh batch, and how many samples were in it; *done* is the part of the budget used."""
        ...

    def show(self, net: nn.Module) -> tuple[dict[str, float], Tensor]:
        """Numbers on held-out data, and pictures (N, 3, H, W) from 0 to 1 to look at."""
        ...


@dataclass(frozen=True)
class Budget:
    """How long and how fast a part is trained."""

    samples: int
    batch: int
    lr: float
    flat: float = 0.4
    average: float = 0.998
    every: float = 600.0
    """Seconds from one score and one grid of pictures to the next."""


_CHECKPOINT_SECONDS = 120.0
_PROGRESS_SECONDS = 30.0


def fit(
    part: Part,
    budget: Budget,
    out: Path,
    seed: int = 0,
    say: Callable[[str], None] = print,
    *,
    begun: Mapping[str, str] | None = None,
) -> nn.Module:
    """Train a part until its budget is used up, going on from its checkpoint if there is one; the averaged weights.

    Raises:
        SystemExit: the checkpoint was *begun* in another way: what it was told to begin from and to learn from.
    """
    run = _Run(part, budget, out, seed, dict(begun or {}))
    run.resume()
    if run.finished:
        say(f"{part.name}: already there, after {run.seen} samples; ask for more --samples, or name another --out")
    clock = {"said": time.monotonic(), "saved": time.monotonic(), "scored": time.monotonic(), "seen": run.seen}
    while run.seen < budget.samples:
        run.step()
        now = time.monotonic()
        if now - clock["said"] > _PROGRESS_SECONDS:
            rate = (run.seen - clock["seen"]) / (now - clock["said"])
            say(f"{part.name}: {run.seen}/{budget.samples} samples, loss {run.smooth:.4f}, {rate:.1f}/s")
            clock["said"], clock["seen"] = now, run.seen
        if now - clock["saved"] > _CHECKPOINT_SECONDS:
            run.save()
            clock["saved"] = time.monotonic()
        if now - clock["scored"] > budget.every:
            run.show(say)
            clock["scored"] = time.monotonic()
    if not run.finished:
        run.finished = True
        run.show(say)
        run.save()
    return run.average.eval()


class _Run:
    def __init__(self, part: Part, budget: Budget, out: Path, seed: int, begun: dict[str, str]) -> None:
        self.part, self.budget, self.seed, self.begun = part, budget, seed, begun
        self.path = out / f"{part.name}.pt"
        self.log = out / f"{part.name}.jsonl"
        self.grid = out / f"{part.name}.png"
        self.average = copy.deepcopy(part.net).requires_grad_(False)
        named = [(n, p) for n, p in part.net.named_parameters() if p.requires_grad]
        muon = [p for n, p in named if part.muon(n, p)]
        taken = {id(p) for p in muon}
        matrices = [p for n, p in named if id(p) not in taken and p.ndim >= 2 and "embedding" not in n]
        taken |= {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in taken]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
        fused = {"fused": True} if named[0][1].is_cuda else {"foreach": True}
        adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=budget.lr, betas=(0.9, 0.97), **fused)
        self.optimisers: list[torch.optim.Optimizer] = [adam, *([Muon(muon, budget.lr)] if muon else [])]
        self.parameters = [p for _, p in named]
        self.steps = self.seen = 0
        self.smooth = float("nan")
        self.finished = False

    def step(self) -> None:
        rng = random.Random(f"{self.seed}/{self.part.name}/{self.steps}")
        torch.manual_seed(rng.getrandbits(60))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.budget.lr * self._schedule()
        loss, samples = self.part.loss(rng, self.budget.batch, self.seen / self.budget.samples)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        self.seen += samples
        if self.steps % 10 == 1:  # reading the loss makes a GPU wait
            value = loss.item()
            self.smooth = value if math.isnan(self.smooth) else self.smooth + 0.1 * (value - self.smooth)
        self._follow()

    def _schedule(self) -> float:
        done = self.seen / self.budget.samples
        warm = min(1.0, (self.steps + 1) / 60)
        if done < self.budget.flat:
            return warm
        falling = (done - self.budget.flat) / (1 - self.budget.flat)
        return warm * (0.04 + 0.96 * 0.5 * (1 + math.cos(math.pi * min(1.0, falling))))

    @torch.no_grad()
    def _follow(self) -> None:
        """The averaged weights follow; at first fast, as there is nothing yet to keep."""
        keep = min(self.budget.average, (self.steps + 1) / (self.steps + 12))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.part.net.parameters()), 1 - keep)
        for mine, theirs in zip(self.average.buffers(), self.part.net.buffers(), strict=True):
            mine.copy_(theirs)

    def show(self, say: Callable[[str], None]) -> None:
        self.average.eval()
        with torch.no_grad():
            scores, pictures = self.part.show(self.average)
        save_grid(pictures, self.grid)
        line = {"seen": self.seen, "loss": round(self.smooth, 5)} | {k: round(v, 4) for k, v in scores.items()}
        with self.log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        say(f"{self.part.name}: {line}")

    def save(self) -> None:
        state = {
            "net": self.part.net.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "steps": self.steps,
            "seen": self.seen,
            "smooth": self.smooth,
            "finished": self.finished,
            "begun": self.begun,
        }
        atomically(self.path, lambda path: torch.save(state, path))

    def resume(self) -> None:
        if not self.path.exists():
            return
        state = torch.load(self.path, map_location=self.parameters[0].device, weights_only=True)
        before = state.get("begun", self.begun)
        other = [name for name in self.begun if name != "command" and before.get(name) != self.begun[name]]
        self.begun = before
        if other:
            raise SystemExit(f"{self.path} was begun with another {' and '.join(other)}: name another --out")
        self.part.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.steps, self.seen, self.smooth = state["steps"], state["seen"], state["smooth"]
        self.finished = state["finished"] and self.seen >= self.budget.samples


def atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside and rename, so that a kill leaves the old file or the new one, never half of one."""
    beside = path.with_suffix(path.suffix + ".new")
    write(beside)
    beside.replace(path)


def save_grid(pictures: Tensor, path: Path, columns: int = 8) -> None:
    """Write pictures (N, 3, H, W) as one PNG, row by row."""
    count, _, height, width = pictures.shape
    rows = -(-count // columns)
    sheet = torch.zeros(rows * columns, 3, height, width)
    sheet[:count] = pictures.cpu().float().clamp(0, 1)
    sheet = (
        sheet.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    )
    Image.fromarray((sheet * 255).round().byte().numpy().astype(np.uint8)).save(path)
