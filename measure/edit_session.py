"""Edit a part of a picture: the sparse edit computes only that part, the dense edit is the ordinary pipeline."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..accelerators import OutputCache
from ..pipelines import InputError, Undo, call_arguments, check_size, family, known_model, model_name, pictures
from .edit_clock import clocked, waiting
from .edit_cost import MARGIN, Cost, matching_steps
from .edit_engine import Engine, Keep, why_dense, windows_part
from .edit_inputs import (
    cell_of,
    cells,
    check_edit,
    check_session,
    inpainting,
    painted_mask,
    pixels,
    read_mask,
    read_picture,
    read_skips,
    usual_size,
)
from .edit_result import Cover, Edit, EditComparison
from .inputs import check_inputs
from .timing import after_each_step

SKIPS = "ab-cache"  # what skips steps of a sparse edit unless asked for something else
MOST_LEARNED = 0.5  # parts of the picture that edits changed, in sum; beyond, the recording's statistics are another's


@dataclass(frozen=True)
class EditEvent:
    """A step of an edit that has just been made, for progress, previews and cancelling.

    Attributes:
        lane: "record", "dense", "sparse", or "control", the dense edit with fewer steps.
        step, steps: number of the step, from 1, and how many there will be.
        latents: the latents after the step.
    """

    lane: str
    step: int
    steps: int
    latents: Tensor


Watch = Callable[[EditEvent], object]


class EditSession:
    """One picture and its edits; what the network computed for the picture is kept for them.

    An edit is diffusers' inpainting of the picture: the mask starts from the picture with noise of the given
    strength, everything else stays the picture, pixel for pixel. The sparse edit computes only windows around the
    mask, and reads the rest from what a plain run over the untouched picture left in every layer. That recording is
    made once, by ``prepare`` or by the first edit. A cache of the network's outputs (``recipe``) may skip steps of the
    sparse edit besides.
    """

    def __init__(
        self,
        pipe: Any,
        image: Any,
        *,
        prompt: str = "",
        negative: str | None = None,
        steps: int = 28,
        guidance: float | None = None,
        seed: int = 0,
        budget_bytes: int = 2**30,
        store: str = "float16",
        every: int = 1,
        grow: int = 4,
        recipe: Any = SKIPS,
    ) -> None:
        """Take a picture.

        Args:
            pipe: a loaded pipeline; it stays as it is.
            image: PIL image, or (3, H, W) in [0, 1].
            prompt: what the picture shows.
            negative: what not to draw.
            steps: denoising steps at strength 1.
            guidance: guidance scale, None is the model's own.
            seed: of the noise, the same for all edits.
            budget_bytes: most bytes for the recording, and for taking edits back; what is beyond is recorded anew.
            store: "float16", "bfloat16" or "float32": how the recording is kept.
            every: record every so many steps; those between read their neighbour's.
            grow: pixels by which a painted mask is grown.
            recipe: what skips steps of a sparse edit, as recipe text or in any other form that ``compare`` takes:
                accelerators that predict the denoiser's output; "" skips none. The dense edit skips none either way.

        Raises:
            InputError: a picture or setting that cannot be used.
            UnsupportedError: the pipeline cannot start from a picture.
            KnobError, PresetError, IncompatibleError: a recipe that is none, or reaches into the network.
        """
        if guidance is None and (model := known_model(model_name(pipe))) is not None:
            guidance = model.guidance
        check_edit(prompt, "prompt", 1.0, steps, guidance)
        check_session(negative, seed, store, budget_bytes=budget_bytes, every=every, grow=grow)
        self.pipe = inpainting(pipe)
        self.cell = cell_of(self.pipe)
        self.image = read_picture(image, self.cell)
        check_size(pipe, self.image.shape[2], self.image.shape[1])
        self.recipe = read_skips(recipe, pipe)
        self.prompt, self.negative, self.guidance = prompt, negative, guidance
        self.steps, self.seed, self.grow = steps, seed, grow
        self.budget_bytes, self.store, self.every = budget_bytes, store, every
        self.history: list[Edit] = []
        self.cost = Cost()
        self.why = why_dense(self.pipe)
        self._engine: Engine | None = None
        self._learned = 0.0
        self._undos: list[Undo | None] = []  # by edit; None where it takes a new recording

    @classmethod
    def generated(cls, pipe: Any, *, prompt: str, **settings: Any) -> "EditSession":
        """Let the pipeline itself draw the picture; the settings are those of the constructor."""
        session = cls(pipe, torch.zeros(3, *usual_size(pipe)), prompt=prompt, **settings)
        height, width = session.image.shape[1:]
        arguments = call_arguments(
            pipe,
            prompt=prompt,
            negative=session.negative,
            steps=session.steps,
            guidance=session.guidance,
            size=(width, height),
            seed=session.seed,
        )
        session.image = pictures(pipe(**arguments))[0]
        return session

    # -- what a mask would cost --------------------------------------------------------------------------------

    def cover(self, mask: Any, painted: Any = None) -> Cover:
        """Say at once what an edit of this mask would cost; for display while somebody paints."""
        chosen = read_mask(painted_mask(mask, painted, self.image, self.cell), self.image)
        active = cells(chosen, self.cell, self.grow)
        part = self._part(active)
        speedup = self.cost.speedup(part, self.steps, self._computed(self.steps))
        lane, reason = self._lane(active, part, speedup)
        area = float(chosen.float().mean())
        speedup = speedup if lane == "sparse" else 1.0
        recorded = self._engine is not None and self._engine.strength > 0
        return Cover(area, part, speedup, lane, reason, recorded, pixels(active, self.cell))

    def _part(self, active: Tensor) -> float:
        return windows_part(active) if family(self.pipe).unet else float(active.float().mean())

    def _computed(self, steps: int) -> int:
        """Return at how many steps the network runs, as far as that is known before."""
        fixed = [a for a in self.recipe.accelerators if isinstance(a, OutputCache)]
        return min([steps, *(len(a.computed(steps)) for a in fixed)])

    def _lane(self, active: Tensor, part: float, speedup: float) -> tuple[str, str]:
        if not active.any():
            return "none", "nothing is painted, so that nothing changes"
        if self.why is not None:
            return "dense", f"only the dense edit works here: {self.why}"
        if active.all():
            return "dense", "the mask covers the whole picture, where the dense edit is the faster one"
        if speedup < MARGIN:
            return "dense", f"with {part:.0%} of the picture to compute, the dense edit is the faster one"
        return "sparse", ""

    @property
    def memory(self) -> int:
        """Bytes of the recording, and of what takes edits back."""
        return (0 if self._engine is None else self._engine.nbytes) + sum(undo.nbytes for undo in self._undos if undo)

    def _recorded(self, strength: float) -> bool:
        """Tell whether there is a recording of the present picture for edits of this strength."""
        return self._engine is not None and self._engine.strength >= strength

    def prepare(self, strength: float = 0.6, watch: Watch | None = None) -> float:
        """Make the recording for edits up to this strength now, not with the first of them; return its seconds.

        Raises:
            InputError: a strength that is none.
        """
        check_edit(self.prompt, "prompt", strength, self.steps, self.guidance)
        _check_watch(watch)
        if self.why is not None or self._recorded(strength):
            return 0.0
        begin = time.perf_counter()
        if self._engine is None:
            keep = Keep(self.budget_bytes, self.store, self.every)
            self._engine = Engine(self.pipe, self.image, keep, self.recipe.accelerators)
        nothing = torch.zeros_like(self.image[0], dtype=torch.bool)
        ask = _Asked(nothing, self.prompt, "prompt", strength, self.image, self.steps)
        self._undos = [None] * len(self._undos)  # what they would put back is in the recording before
        took = self._engine.record(self._arguments(ask, nothing), strength, self._look("record", watch, ask))
        self.cost.recording_took(took, max(1, int(self.steps * strength)))
        if self._engine.too_large:
            self.why, self._engine = self._engine.too_large, None
        return time.perf_counter() - begin

    # -- edits -------------------------------------------------------------------------------------------------

    def edit(
        self,
        mask: Any,
        prompt: str = "",
        *,
        mode: str = "prompt",
        strength: float = 0.6,
        painted: Any = None,
        dense: bool = False,
        keep: bool = True,
        watch: Watch | None = None,
    ) -> Edit:
        """Change the picture where the mask is; the result is the picture of the next edit.

        Args:
            mask: what may change, (H, W) booleans or a PIL image, white or opaque there; None in mode "stroke": where
                *painted* is another than the picture.
            prompt: what it shall become; empty is the picture's own prompt.
            mode: "prompt": the mask's pixels with noise are drawn anew; "inpaint": they are drawn from noise alone,
                whatever *strength*; "stroke": *painted* with noise is drawn anew.
            strength: how much noise, above 0 and at most 1.
            painted: the picture with strokes painted on it, for mode="stroke".
            dense: run the ordinary pipeline whole, whatever is faster.
            keep: whether the result becomes the session's picture, and joins its history.
            watch: called after every step; may raise ``Cancelled``.

        Raises:
            InputError: names what cannot be used.
            Cancelled: from *watch*; the session is as it was.
        """
        _check_watch(watch)
        ask = self._asked(mask, prompt, mode, strength, painted)
        cover = self.cover(ask.mask)
        if cover.lane == "none":
            return self._nothing(ask, cover)
        made = self._dense(ask, cover, watch) if dense or cover.lane == "dense" else self._sparse(ask, cover, watch)
        made.reason = "" if dense else made.reason or cover.reason
        if keep:
            self.keep(made)
        return made

    def keep(self, made: Edit) -> None:
        """Make an edit's result the session's picture: one that was made with ``keep=False``.

        Raises:
            InputError: it is an edit of another picture than the session's present one.
        """
        if not isinstance(made, Edit):
            raise InputError(f"{made!r} is no edit: give what edit(..., keep=False) returned")
        if made.base is not self.image:
            raise InputError("this edit is of a picture before: make it again, of the session's present picture")
        if made.lane == "none":
            return
        self.history.append(made)
        self.image = made.image
        undo, engine = None, self._engine
        if made.drawn is not None and engine is not None and made.drawn.version is engine.version:
            undo = engine.learn(made.drawn, made.mask[:: self.cell, :: self.cell], made.image, made.strength)
            self._learned += made.active
        self._undos.append(undo)
        if undo is None or self._learned > MOST_LEARNED:
            self._forget()
        self._fit()
        made.drawn = None

    def _forget(self) -> None:
        """Let go of the recording: too much of the picture is another by now."""
        self._engine, self._learned, self._undos = None, 0.0, [None] * len(self._undos)

    def _fit(self) -> None:
        """Let go of what takes the oldest edits back, as far as it is beyond the budget."""
        for nth in range(len(self._undos)):
            if self.memory <= self.budget_bytes:
                return
            self._undos[nth] = None

    def undo(self) -> Tensor:
        """Take back the last edit; return the picture that is there again.

        Raises:
            InputError: there is no edit to take back.
        """
        if not self.history:
            raise InputError("there is no edit to take back: this is the picture the session began with")
        last = self.history.pop()
        self.image = last.base
        if (undo := self._undos.pop()) is not None:
            with torch.inference_mode():
                undo()
            self._learned -= last.active
        else:
            self._forget()
        return self.image

    def compare(
        self,
        mask: Any,
        prompt: str = "",
        *,
        mode: str = "prompt",
        strength: float = 0.6,
        painted: Any = None,
        repeats: int = 3,
        control: bool = True,
        watch: Watch | None = None,
    ) -> EditComparison:
        """Make the same edit dense and sparse, interleaved, *repeats* times each after a warm-up; keep neither.

        With *control* the dense edit also runs with as many steps as take as long as the sparse one took.

        Raises:
            InputError, Cancelled: as ``edit``.
        """
        check_inputs(["a fox"], repeats=repeats)
        asked = {"mode": mode, "strength": strength, "painted": painted, "keep": False, "watch": watch}

        def made(dense: bool = False) -> Edit:
            one = self.edit(mask, prompt, dense=dense, **asked)
            one.drawn = None  # it is not to be kept, and large
            return one

        ask = self._asked(mask, prompt, mode, strength, painted)
        first = None if self._recorded(ask.strength) else made()
        lanes: dict[str, Callable[[], Edit]] = {"dense": partial(made, dense=True), "sparse": made}
        last, steps = {lane: make() for lane, make in lanes.items()}, None
        seconds: dict[str, list[float]] = {lane: [] for lane in lanes}
        for turn in range(repeats):
            for lane in list(lanes)[:: 1 if turn % 2 else -1]:
                last[lane] = lanes[lane]()
                seconds[lane].append(last[lane].seconds)
            if turn or not control:
                continue
            steps = matching_steps(last["dense"], last["sparse"], self.steps)  # a warm-up's seconds would mislead
            if steps is not None:
                lanes["control"] = partial(self._dense, replace(ask, steps=steps), self.cover(ask.mask), watch)
                lanes["control"]()
                last["control"] = lanes["control"]()
                seconds["control"] = [last["control"].seconds]
        began = None if first is None else first.seconds + first.stages.get("record", 0.0)
        return EditComparison(last["dense"], last["sparse"], seconds, began, last.get("control"), steps)

    # -- how -----------------------------------------------------------------------------------------------------

    def _asked(self, mask: Any, prompt: str, mode: str, strength: float, painted: Any) -> "_Asked":
        check_edit(prompt, mode, strength, self.steps, self.guidance)
        if (mode == "stroke") != (painted is not None):
            raise InputError(
                "mode is 'stroke', but there is no painted picture: give painted=, the picture with strokes on it"
                if mode == "stroke"
                else f"there is a painted picture, but mode is {mode!r}: say mode='stroke'"
            )
        start = self.image if painted is None else read_picture(painted, self.cell, "painted")
        if start.shape != self.image.shape:
            raise InputError(f"painted is {tuple(start.shape[1:])}, the picture {tuple(self.image.shape[1:])}")
        strength = 1.0 if mode == "inpaint" else float(strength)
        mask = read_mask(painted_mask(mask, painted, self.image, self.cell), self.image)
        return _Asked(mask, prompt.strip() or self.prompt, mode, strength, start, self.steps)

    def _nothing(self, ask: "_Asked", cover: Cover) -> Edit:
        return Edit(self.image, self.image, cover.mask, "none", cover.reason, ask.prompt, ask.mode, ask.strength)

    def _dense(self, ask: "_Asked", cover: Cover, watch: Watch | None) -> Edit:
        """Run diffusers' inpainting as it is, and put the picture back outside the mask."""
        control = ask.steps != self.steps
        made = Edit(self.image, self.image, cover.mask, "dense", "", ask.prompt, ask.mode, ask.strength)
        with clocked(self.pipe) as clock:
            begin = time.perf_counter()
            with after_each_step(self.pipe, self._look("control" if control else "dense", watch, ask)):
                drawn = pictures(self.pipe(**self._arguments(ask, cover.mask)))[0]
            made.image = torch.where(cover.mask, drawn, self.image)
            waiting(self.pipe)()
            made.seconds = time.perf_counter() - begin
        made.stages, made.calls = clock.stages(made.seconds), clock.calls
        made.active, made.expected_speedup, made.memory = 1.0, 1.0, self.memory
        fixed = made.stages["encode"] + made.stages["decode"]
        if not control:
            self.cost.dense_took(made.stages["denoise"], fixed, max(1, int(ask.steps * ask.strength)))
        return made

    def _sparse(self, ask: "_Asked", cover: Cover, watch: Watch | None) -> Edit:
        """Compute only the windows around the mask."""
        recorded = self.prepare(ask.strength, watch)
        if self._engine is None:
            made = self._dense(ask, cover, watch)
            made.reason = f"only the dense edit works here: {self.why}"
            return made
        active = cover.mask[:: self.cell, :: self.cell]
        look = self._look("sparse", watch, ask)
        drawn = self._engine.draw(self._arguments(ask, cover.mask), ask.start, active, look)
        image = torch.where(cover.mask, drawn.picture, self.image)
        made = Edit(image, self.image, cover.mask, "sparse", "", ask.prompt, ask.mode, ask.strength)
        made.seconds, made.stages = drawn.seconds, {"record": recorded} | drawn.stages
        made.active, made.calls, made.memory = cover.active, drawn.calls, self.memory
        made.expected_speedup, made.drawn = cover.speedup, drawn
        made.recipe = str(self.recipe) if self.recipe.accelerators else ""
        made.warnings = self._warnings(recorded) + drawn.warnings
        if self._engine.recording.settled:
            self.cost.sparse_took(cover.active, drawn.stages["denoise"], drawn.computed)
        return made

    def _warnings(self, recorded: float) -> list[str]:
        said = []
        if recorded:
            said.append(
                f"the first edit of a picture takes a plain run over it beforehand, here {recorded:.2f} s; it is not "
                "in the edit's seconds, and further edits do without"
            )
        if self._engine is not None and self._engine.codec.notes is None:
            said.append("the autoencoder decodes the whole picture: its layers cannot be kept within the budget")
        if self._engine is not None and (every := self._engine.recording.every) > self.every:
            said.append(
                f"only every {every}. step is recorded, so that the recording stays within its budget of "
                f"{self.budget_bytes / 2**20:.0f} MiB: the edit may differ more from the dense one"
            )
        return said

    def _arguments(self, ask: "_Asked", mask: Tensor) -> dict[str, Any]:
        height, width = self.image.shape[1:]
        asked = call_arguments(
            self.pipe,
            prompt=ask.prompt,
            negative=self.negative,
            steps=ask.steps,
            guidance=self.guidance,
            size=(width, height),
            seed=self.seed,
        )
        return asked | {"image": ask.start[None], "mask_image": mask[None, None].float(), "strength": ask.strength}

    def _look(self, lane: str, watch: Watch | None, ask: "_Asked") -> Callable[[int, Tensor], None] | None:
        if watch is None:
            return None
        steps = int(ask.steps * ask.strength)

        def look(step: int, latents: Tensor) -> None:
            watch(EditEvent(lane, step + 1, max(steps, step + 1), latents))

        return look


def _check_watch(watch: Any) -> None:
    if watch is not None and not callable(watch):
        raise InputError(f"watch is {watch!r}, not a function of an EditEvent")


@dataclass(frozen=True)
class _Asked:
    """An edit as it was asked for, read and checked."""

    mask: Tensor
    prompt: str
    mode: str
    strength: float
    start: Tensor
    steps: int
