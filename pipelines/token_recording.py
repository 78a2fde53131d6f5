"""What a transformer computed for a picture, step by step, and edits that compute some of its tokens."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .asked import guidance_scale
from .call import Around, Call, Link, Network
from .families import family
from .recording import DTYPES, nearest
from .stage import Stage
from .tokens import Held, around_tokens
from .undo import Undo

Kept = dict[str, Any]  # "keys": by attention, keys and values; "out": the last layer's output


Part = tuple[int, Tensor, Tensor]  # of a noted tensor: dimension of its tokens, which of them, their new values


@dataclass(eq=False)
class TokenTrace:
    """What one edit computed: parts of what was noted, and the new values there.

    Attributes:
        levels: the recording, by noise level and branches.
        rows: the active tokens.
        text_last: whether text tokens stand behind them.
        room: most bytes that it may take.
        passes: the noted call, and what was computed of each of its tensors.
        nbytes: bytes of that.
        dropped: whether it was more, so that nothing is left of it.
    """

    levels: dict[tuple[float, Any], Kept]
    rows: Tensor
    text_last: bool
    room: int
    passes: list[tuple[Kept, list[Part]]] = field(default_factory=list)
    nbytes: int = 0
    dropped: bool = False

    def add(self, noted: Kept, fresh: Kept) -> None:
        """Take note of a call that computed the active tokens."""
        if self.dropped:
            return
        parts: list[Part] = []
        for old, new in zip(_tensors(noted), _tensors(fresh), strict=True):
            dim = 1 if old is noted["out"] else old.ndim - 2
            rows = self.rows.to(new.device) + (0 if self.text_last else old.shape[dim] - noted["out"].shape[1])
            parts.append((dim, rows.to(old.device), new.index_select(dim, rows).to(old)))
        self.passes.append((noted, parts))
        self.nbytes += sum(new.nbytes for *_, new in parts)
        if self.nbytes > self.room:
            self.passes.clear()
            self.nbytes, self.dropped = 0, True

    def learn(self) -> Undo:
        """Write what was computed into the recording; return what takes that back.

        A step that was skipped takes the tokens of the step that ran with the nearest noise.
        """
        self._fill()
        held = []
        for noted, parts in self.passes:
            for whole, (dim, rows, new) in zip(_tensors(noted), parts, strict=True):
                held.append((whole, dim, rows, whole.index_select(dim, rows)))
                whole.index_copy_(dim, rows, new)
        self.passes.clear()
        self.nbytes = 0

        def put_back() -> None:
            for whole, dim, rows, before in reversed(held):
                whole.index_copy_(dim, rows, before)

        return Undo.of(put_back, [before for *_, before in held])

    def _fill(self) -> None:
        passes = {id(noted): parts for noted, parts in self.passes}
        ran = [key for key, noted in self.levels.items() if id(noted) in passes]
        for (level, branches), noted in self.levels.items():
            known = [other for other, its in ran if its == branches]
            if (level, branches) not in ran and level <= max(known, default=0.0):  # noisier ones stay as they were
                self.passes.append((noted, passes[id(self.levels[nearest(known, level), branches])]))


class TokenRecording:
    """What a transformer computed for a picture at the steps of a run.

    Attributes:
        network: the transformer.
        every: every so many steps are kept; raised where the budget asks for it.
        too_large: whether not even one step is within the budget.
        settled: whether the next edit of the last one's kind takes as long.
    """

    settled = True

    def __init__(self, network: nn.Module, *, store: str = "float16", budget: int = 2**30, every: int = 1) -> None:
        self.network, self.budget, self.every, self.store = network, budget, every, DTYPES[store]
        self.too_large = False
        self._levels: dict[tuple[float, Any], Kept] = {}
        self._fresh: Held = {}

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(map(_bytes, self._levels.values()))

    @contextmanager
    def recording(self, stage: Stage) -> Iterator[None]:
        """Keep what the runs of *stage* compute."""
        self._levels.clear()
        self.too_large = False

        def start(link: Link) -> Around:
            return self._record

        def memory(call: Call) -> Held:
            return self._fresh

        with stage.around_denoiser(start), around_tokens(stage, lambda link: _Chosen(None, None), memory):
            yield

    def _record(self, call: Call, network: Network) -> Tensor:
        self._fresh = {}
        out = network(call)
        kept = self._fresh.pop((call.branches, call.shape), None)
        if kept is not None and not self.too_large and call.step % self.every == 0:
            noted = self._noted(kept)
            if not self._levels:
                fitting = max(0, self.budget) // (_bytes(noted) * (2 if self._apart(call) else 1))
                self.too_large = not fitting
                self.every = max(self.every, math.ceil(call.steps / max(1, fitting)))
            if not self.too_large:
                self._levels[call.sigma, call.branches] = noted
        return out

    @staticmethod
    def _apart(call: Call) -> bool:
        """Tell whether a second call, of the unconditional half, follows at every step."""
        pipe = call.run.pipe
        return family(pipe).guidance == "separate" and guidance_scale(pipe) > 1

    def _noted(self, kept: Kept) -> Kept:
        keys = {name: tuple(part.to(self.store, copy=True) for part in pair) for name, pair in kept["keys"].items()}
        return {"keys": keys, "out": kept["out"].to(self.store, copy=True)}

    @contextmanager
    def editing(self, stage: Stage, rows: Tensor) -> Iterator[TokenTrace]:
        """Let the runs of *stage* compute the image tokens of these *rows*; the rest is the recording's."""
        text_last = stage.family.text == "last" or stage.family.text is None
        trace = TokenTrace(self._levels, rows, text_last, self.budget - self.nbytes)
        on = next(self.network.parameters())

        now: list[tuple[Kept, Kept]] = []  # what the call that is under way reads, and its copy that it writes to

        def memory(call: Call) -> Held:
            levels = [level for level, branches in self._levels if branches == call.branches]
            if not levels:
                return {}
            noted = self._levels[min(levels, key=lambda level: abs(level - call.sigma)), call.branches]
            keys = {
                name: tuple(part.to(on.device, on.dtype, copy=True) for part in pair)
                for name, pair in noted["keys"].items()
            }
            fresh = {"step": call.step - 1, "keys": keys, "out": noted["out"].to(on.device, on.dtype, copy=True)}
            now[:] = [(noted, fresh)]
            return {(call.branches, call.shape): fresh}

        def around(call: Call, network: Network) -> Tensor:
            out = network(call)
            for noted, fresh in now:
                trace.add(noted, fresh)
            now.clear()
            return out

        with (
            stage.around_denoiser(lambda link: around),
            around_tokens(stage, lambda link: _Chosen(link, rows), memory),
        ):
            yield trace


@dataclass(eq=False)
class _Chosen:
    """Always the same tokens; None for all."""

    link: Link | None
    rows: Tensor | None

    def active(self, call: Call, tokens: int, known: bool) -> Tensor | None:
        if self.rows is None or not known:
            return None
        if self.link is not None:
            self.link.note("partial", f"{len(self.rows)} of {tokens} image tokens")
        return self.rows


def _tensors(kept: Kept) -> list[Tensor]:
    return [kept["out"], *(part for pair in kept["keys"].values() for part in pair)]


def _bytes(kept: Kept) -> int:
    return sum(part.nbytes for part in _tensors(kept))
