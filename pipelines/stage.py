"""The clock of a pipeline, and the place around its denoiser.

The scheduler is the clock: ``set_timesteps`` starts a run, ``step`` ends a step. Nothing is guessed from timestep
values, and no pipeline needs a callback.
"""

import functools
import inspect
import operator
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import KDPM2DiscreteScheduler
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from .asked import asked
from .call import MIXED, PAIR, Around, Call, Link, Solver, SolverStep, Start, Watcher
from .errors import UnsupportedError
from .families import Family, denoisers, family
from .load import model_name
from .patch import patched
from .pocket import ignored_words
from .run import Run, Step


@dataclass(eq=False)
class Stage:
    """A pipeline with its clock running, and the places where accelerators stand in it.

    Attributes:
        pipe: the pipeline.
        family: its description.
        denoisers: its networks, by attribute name.
        runs: the runs so far, oldest first.
        call: the call that is going through the network at this moment, for accelerators inside the network.
        owner: name of the accelerator that is being attached.
    """

    pipe: Any
    family: Family
    denoisers: dict[str, nn.Module]
    runs: list[Run] = field(default_factory=list)
    call: Call | None = None
    owner: str = ""
    _starts: list[tuple[bool, str, Start]] = field(default_factory=list)
    _solvers: list[Solver] = field(default_factory=list)
    _watchers: list[Watcher] = field(default_factory=list)
    _arounds: list[Around] = field(default_factory=list)
    _open: bool = False
    _asked_in_step: int = 0
    _cfg: bool | None = None
    _negative: bool = False
    _paired: dict[int, bool] = field(default_factory=dict)
    _told: int | None = None

    def around_denoiser(
        self, start: Start, *, outermost: bool = False, innermost: bool = False
    ) -> AbstractContextManager[None]:
        """Send every denoiser call through an ``Around`` that is made anew for each run; first come, outermost.

        What changes the size of everything asks to stand *outermost* whenever it comes; what keys its state by the
        call that really reaches the network *innermost*, behind all that still changes the call (guidance that drops
        half of a pair).
        """
        return _listed(self._starts, (innermost, self.owner, start), outermost)

    def around_solver(self, solver: Solver, *, outermost: bool = False) -> AbstractContextManager[None]:
        """Send every ``scheduler.step`` through *solver*; first come, outermost."""
        return _listed(self._solvers, solver, outermost)

    def watch(self, watcher: Watcher) -> AbstractContextManager[None]:
        """Show *watcher* the run and the new latents after every step; it may raise ``Cancelled``."""
        return _listed(self._watchers, watcher)

    @property
    def negative(self) -> bool:
        """Whether the call that is going on was given a negative prompt, as words or as embeddings."""
        names = ["negative_prompt", "negative_prompt_2", "negative_prompt_3"]
        if self.family.scale == "true_cfg_scale":  # their text encoders are not told which prompt is the negative one
            names.append("negative_prompt_embeds")
        return self._negative or any(_says(asked(self.pipe, name)) for name in names)

    @property
    def coming(self) -> int | None:
        """Number of the step that is going on or about to begin, None outside a run; for what runs before a call."""
        return len(self.runs[-1].steps) - bool(self._asked_in_step) if self._open else None

    # -- the clock ---------------------------------------------------------------------------------------------

    def _new_run(self, set_timesteps: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = set_timesteps(*args, **kwargs)
            self._close()
            # the length of the last run would pass for this one's where nobody says it anew
            self._told = vars(self.pipe).pop("_num_timesteps", None)
            if self.runs and not self.runs[-1].steps:  # the pipeline set its timesteps twice
                self.runs.pop()
            self.runs.append(Run(pipe=self.pipe, ignored=_ignored(self.pipe)))
            links: list[Link] = []
            starts = sorted(self._starts, key=operator.itemgetter(0))  # stable: those innermost come last
            for _, owner, _ in starts:
                links.append(Link(owner, self.runs[-1], tuple(links)))
            self._arounds = [start(link) for (_, _, start), link in zip(starts, links, strict=True)]
            self._open, self._asked_in_step = True, 0
            self._paired.clear()
            return result

        return wrapped

    def _close(self) -> None:
        """End the run that is open, if any: the accelerators' state dies here, the numbers stay."""
        if self._open:
            self.runs[-1].release()
        if self._told is not None:
            vars(self.pipe).setdefault("_num_timesteps", self._told)
        self._arounds, self._open, self._told = [], False, None

    def _next_step(self, step: Any) -> Any:
        def wrapped(model_output: Any, timestep: Any, sample: Any, *extra: Any, **kwargs: Any) -> Any:
            if not self._open or not self._asked_in_step:
                return step(model_output, timestep, sample, *extra, **kwargs)
            run = self.runs[-1]

            def innermost(now: SolverStep) -> Any:
                return step(now.prediction, now.timestep, now.latents, *extra, **kwargs)

            out = _chained(self._solvers, innermost)(SolverStep(model_output, timestep, sample, run))
            last = len(run.steps) >= run.total
            if last and sample.is_cuda:  # so that the seconds of the run are the device's, not the host's
                torch.cuda.synchronize(sample.device)
            run.end_step()
            self._asked_in_step = 0
            for watcher in self._watchers:
                watcher(run, out[0] if isinstance(out, tuple) else out.prev_sample)
            if last:
                self._close()
            return out

        return wrapped

    def _hear_guidance(self, encode_prompt: Any) -> Any:
        """Some pipelines (PixArt) keep whether guidance is on in a local variable; they do tell the text encoder."""
        signature = inspect.signature(encode_prompt)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            self._cfg = bound.arguments.get("do_classifier_free_guidance")
            self._negative = any(_says(v) for k, v in bound.arguments.items() if k.startswith("negative_prompt"))
            return encode_prompt(*args, **kwargs)

        return wrapped

    # -- the denoiser ------------------------------------------------------------------------------------------

    def _asked(self, module: nn.Module, forward: Any) -> Any:
        names = argument_names(module)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not self._open:  # outside a run: somebody calls the network by hand
                return forward(*args, **kwargs)
            raw: list[Any] = []

            def network(call: Call) -> Tensor:
                call.run.steps[-1].calls += call.batch
                self.call = call
                try:
                    raw[:] = [forward(**call.kwargs)]
                finally:
                    self.call = None
                return _prediction(raw[0])

            call = self._call(dict(zip(names, args, strict=False)) | kwargs, names[0])
            out = _chained(self._arounds, network)(call)
            return _answer(out, raw[0] if raw else None, call)

        return wrapped

    def _call(self, kwargs: dict[str, Any], first: str) -> Call:
        run = self.runs[-1]
        if not run.total:
            run.sigmas = _sigmas(self.pipe)
            run.total = len(run.sigmas)
        if self._asked_in_step == 0:
            at = min(len(run.steps), run.total - 1)
            run.steps.append(Step(len(run.steps), run.sigmas[at]))
        step, latents = run.steps[-1], kwargs[first]
        step.asked += len(latents)
        branches = self._branches(latents)
        self._asked_in_step += 1
        steps = max(run.total, len(run.steps))
        return Call(kwargs, first, step.index, steps, step.sigma, branches, len(latents), run)

    def _branches(self, latents: Any) -> tuple[str, ...]:
        nth = self._asked_in_step
        if self.family.guidance == "separate":
            return PAIR[::-1][nth : nth + 1] or (f"call {nth}",)
        if nth:
            return (f"call {nth}",)
        if self.family.guidance == "batched" and getattr(self.pipe, "do_classifier_free_guidance", self._cfg):
            perturbed = getattr(self.pipe, "do_perturbed_attention_guidance", False)
            return PAIR if self._pairs(latents) and not perturbed else MIXED
        return ("cond",)

    def _pairs(self, latents: Tensor) -> bool:
        """Tell whether the batch is a guidance pair: both halves are the same latents.

        They are compared once for each size of batch in a run: a GPU has to wait for the answer.
        """
        half, odd = divmod(len(latents), 2)
        if odd:
            return False
        if len(latents) not in self._paired:
            self._paired[len(latents)] = torch.equal(latents[:half], latents[half:])
        return self._paired[len(latents)]


def argument_names(module: nn.Module) -> list[str]:
    """Names of the arguments of *module*'s forward, also where torch.compile or a hook stands before it."""
    while hasattr(module, "_orig_mod"):
        module = module._orig_mod
    return list(inspect.signature(type(module).forward).parameters)[1:]


def call_point(module: nn.Module) -> str:
    """Name of the attribute through which *module* is called: a compiled module never reads its ``forward``."""
    return "forward" if module._compiled_call_impl is None else "_compiled_call_impl"


def _says(negative: Any) -> bool:
    """Tell whether this is a negative prompt, or the embeddings of one."""
    if isinstance(negative, list):
        return any(map(_says, negative))
    return bool(negative.strip()) if isinstance(negative, str) else negative is not None


def _ignored(pipe: Any) -> tuple[str, ...]:
    """Return the words of the call that is going on which a pocket model leaves out."""
    given = [asked(pipe, name) for name in ("prompt", "negative_prompt")]
    texts = [text for each in given for text in ([each] if isinstance(each, str) else each or ())]
    return tuple(ignored_words(model_name(pipe), texts))


def _chained(arounds: list[Any], innermost: Any) -> Any:
    ask = innermost
    for around in reversed(arounds):
        ask = functools.partial(_through, around, ask)
    return ask


def _through(around: Any, inner: Any, given: Any) -> Any:
    return around(given, inner)


def _prediction(out: Any) -> Tensor:
    """Return the prediction inside whatever a denoiser returned; a list of samples (Z-Image) is stacked."""
    sample = out[0] if isinstance(out, tuple) else out.sample
    return torch.stack(sample) if isinstance(sample, list) else sample


def _answer(out: Tensor, raw: Any, call: Call) -> Any:
    """Wrap the prediction *out* the way the pipeline expects it; an untouched answer passes as it came."""
    if raw is not None and out is (raw[0] if isinstance(raw, tuple) else raw.sample):
        return raw
    if isinstance(raw, tuple) and sum(isinstance(part, Tensor) for part in raw) > 1:
        raise UnsupportedError("the denoiser returns several predictions at once; accelerators know only one")
    sample = list(out) if isinstance(call.latents, list) else out
    return Transformer2DModelOutput(sample=sample) if call.kwargs.get("return_dict", True) else (sample,)


def _sigmas(pipe: Any) -> list[float]:
    """Noise level before each step of the run that begins.

    Image to image leaves out the first ones; the first of two pipelines that share a run the last ones.

    Schedulers without sigmas get sqrt((1 - a) / a) of their cumulative alphas, else their timesteps.
    """
    scheduler, planned = pipe.scheduler, len(pipe.scheduler.timesteps)
    told = getattr(pipe, "_num_timesteps", None)
    begin = getattr(scheduler, "begin_index", None) or 0
    total = told if isinstance(told, int) and 0 < told <= planned else planned - begin
    sigmas = getattr(scheduler, "sigmas", None)
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if sigmas is not None and len(sigmas) >= planned:
        levels = torch.as_tensor(sigmas)[:planned]
        if isinstance(scheduler, KDPM2DiscreteScheduler):  # it repeats the level after a middle call, not the middle's
            levels = levels.clone()
            levels[1::2] = scheduler.sigmas_interpol[1:planned:2]
    elif alphas is not None:
        kept = alphas[torch.as_tensor(scheduler.timesteps).long().cpu()].clamp(min=1e-6)  # a zero SNR has no end
        levels = ((1 - kept) / kept) ** 0.5
    else:
        levels = torch.as_tensor(scheduler.timesteps)
    known = hasattr(scheduler, "begin_index") or asked(pipe, "denoising_end") is not None
    begin = begin if known else planned - total
    return [float(level) for level in levels.cpu()[begin : begin + total]]


@contextmanager
def _listed(items: list[Any], item: Any, first: bool = False) -> Iterator[None]:
    items.insert(0 if first else len(items), item)
    try:
        yield
    finally:
        items.remove(item)


@contextmanager
def staged(pipe: Any) -> Iterator[Stage]:
    """Start the clock of *pipe*; put everything back when the block ends, however it ends.

    Raises:
        UnsupportedError: the pipeline has no denoiser or no scheduler.
    """
    networks, scheduler = denoisers(pipe), getattr(pipe, "scheduler", None)
    if not (hasattr(scheduler, "set_timesteps") and hasattr(scheduler, "step")):
        raise UnsupportedError(f"{type(pipe).__name__} has no scheduler with set_timesteps and step: no clock to read")
    stage = Stage(pipe, family(pipe), networks)
    with ExitStack() as stack:
        stack.callback(stage._close)
        stack.enter_context(patched(scheduler, "set_timesteps", stage._new_run))
        stack.enter_context(patched(scheduler, "step", stage._next_step))
        if hasattr(pipe, "encode_prompt"):
            stack.enter_context(patched(pipe, "encode_prompt", stage._hear_guidance))
        for network in networks.values():
            stack.enter_context(patched(network, call_point(network), functools.partial(stage._asked, network)))
        yield stage
