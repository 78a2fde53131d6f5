"""The description of every family, checked against the networks themselves.

A forgotten rotary embedding or mask shows in the permutation test, a wrong stack in the replay.
"""

import inspect
from contextlib import ExitStack, contextmanager

import pytest
import torch
from deadheat.pipelines import (
    Latents,
    UnsupportedError,
    around_low_resolution,
    around_modules,
    around_stack,
    family,
    patched,
    staged,
)
from torch import nn

from ..families import FAMILIES, leftovers

STACKED = ["pixart", "sd3", "flux", "qwen", "lumina2", "wan", "ltx"]
UNETS = ["sd15", "sdxl"]


def network_call(pipe, tiny, steps: int = 1) -> tuple[nn.Module, dict]:
    """Return the denoiser and the arguments of one of its calls."""
    seen = []
    with staged(pipe) as stage:

        def start(link):
            def around(call, network):
                seen.append(call.kwargs)
                return network(call)

            return around

        with stage.around_denoiser(start):
            tiny.call(pipe, steps)
    return tiny.denoiser(pipe), seen[0]


def gather(value, order: torch.Tensor, dim: int, scope: str):
    """Put a value that is indexed by token into another order; text stands before the image, or beside it."""
    if scope == "image, text":
        return (gather(value[0], order, dim, "image"), *value[1:])
    if isinstance(value, tuple | list):
        return type(value)(gather(part, order, dim, scope) for part in value)
    if value is None or value.shape[dim] == 1:
        return value
    text = value.shape[dim] - len(order)
    assert text == 0 or scope == "text+image"
    return value.index_select(dim, torch.cat([torch.arange(text), order + text]))


@contextmanager
def shuffled(network: nn.Module, rows, order: torch.Tensor):
    """Let the blocks see the image tokens in another order."""
    blocks = [(row, block) for row in rows for block in getattr(network, row.blocks)]
    back = torch.argsort(order)

    def wrap_as(nth: int, row, block: nn.Module):
        signature = inspect.signature(type(block).forward)

        def wrap(forward):
            def wrapped(*args, **kwargs):
                bound = signature.bind(None, *args, **kwargs)
                given = bound.arguments
                if nth == 0:
                    given[row.hidden] = gather(given[row.hidden], order, 1, "text+image" if row.joint else "image")
                for name, (dim, scope) in row.per_token.items():
                    given[name] = gather(given[name], order, dim, scope)
                out = forward(*bound.args[1:], **bound.kwargs)
                if nth < len(blocks) - 1:
                    return out
                hidden = gather(out if row.returns is None else out[row.returns], back, 1, "text+image")
                return (
                    hidden
                    if row.returns is None
                    else tuple(hidden if place == row.returns else part for place, part in enumerate(out))
                )

            return wrapped

        return wrap

    with ExitStack() as stack:
        for nth, (row, block) in enumerate(blocks):
            stack.enter_context(patched(block, "forward", wrap_as(nth, row, block)))
        yield


def image_tokens(network: nn.Module, row, call) -> int:
    """Count the image tokens that enter the first block."""
    seen = []
    block = getattr(network, row.blocks)[0]
    signature = inspect.signature(type(block).forward)

    def note(_, args, kwargs):
        seen.append(signature.bind(None, *args, **kwargs).arguments[row.hidden].shape[1])

    handle = block.register_forward_pre_hook(note, with_kwargs=True)
    call()
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("on", STACKED)
def test_shuffled_tokens_give_the_shuffled_output(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    rows = family(pipe).stacks
    network, kwargs = network_call(pipe, tiny)

    def call() -> torch.Tensor:
        with torch.no_grad():
            out = network(**kwargs)
        return out[0] if isinstance(out, tuple) else out.sample

    plain = call()
    tokens = 16 if rows[0].joint else image_tokens(network, rows[0], call)  # 8 x 8 latents, 2 x 2 patches
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(1))
    with shuffled(network, rows, torch.arange(tokens)):
        assert torch.equal(plain, call())
    with shuffled(network, rows, order):
        assert torch.allclose(plain, call(), atol=1e-5)


def linears(network: nn.Module) -> list[int]:
    """Count the Linear layers that run, from now on."""
    count = [0]
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    return count


class Recorder:
    """Notes what a part gave for every branch, and gives it again when told to."""

    def __init__(self) -> None:
        self.notes: dict = {}
        self.replaying = False

    def instead(self, call, hidden):
        return self.notes[call.step, call.branches] if self.replaying else None

    def learn(self, call, value):
        self.notes[call.step, call.branches] = value


PLACES = [*((around_stack, on) for on in STACKED), *((around_low_resolution, on) for on in UNETS)]


@pytest.mark.parametrize(("place", "on"), PLACES, ids=lambda x: getattr(x, "__name__", x))
def test_recorded_and_replayed(place, on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    plain = tiny.call(pipe, 3)
    before = leftovers(pipe)
    recorder = Recorder()
    with staged(pipe) as stage, place(stage, lambda link: recorder):
        assert torch.equal(plain, tiny.call(pipe, 3))  # recording changes nothing
        recorder.replaying = True
        assert torch.allclose(plain, tiny.call(pipe, 3), atol=1e-4, rtol=1e-4)
    assert leftovers(pipe) == before
    assert torch.equal(plain, tiny.call(pipe, 3))
    assert len(recorder.notes) == (6 if tiny.guidance == "separate" else 3)


@pytest.mark.parametrize(("place", "on"), PLACES, ids=lambda x: getattr(x, "__name__", x))
def test_replaying_saves_work(place, on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    count, recorder = linears(tiny.denoiser(pipe)), Recorder()
    with staged(pipe) as stage, place(stage, lambda link: recorder):
        tiny.call(pipe, 2)
        full, count[0] = count[0], 0
        recorder.replaying = True
        tiny.call(pipe, 2)
    assert 0 < count[0] < 0.8 * full


@pytest.mark.parametrize(("place", "on"), [(around_stack, "sd15"), (around_low_resolution, "flux")])
def test_places_that_are_not_there(place, on: str):
    pipe = FAMILIES[on].build()
    before = leftovers(pipe)
    with pytest.raises(UnsupportedError), staged(pipe) as stage, place(stage, lambda link: Recorder()):
        pass
    assert leftovers(pipe) == before


@pytest.mark.parametrize("on", FAMILIES)
def test_around_modules(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    plain, before, seen = tiny.call(pipe, 2), leftovers(pipe), []

    def start(link):
        def around(name, call, inner):
            seen.append((call.step, name))
            return inner()

        return around

    def attention(name: str, module: nn.Module) -> bool:
        return name.split(".")[-1] in ("attn", "attn1")

    with staged(pipe) as stage, around_modules(stage, attention, start):
        assert torch.equal(plain, tiny.call(pipe, 2))
    assert leftovers(pipe) == before
    assert {step for step, _ in seen} == {0, 1}
    with pytest.raises(UnsupportedError), staged(pipe) as stage, around_modules(stage, lambda *_: False, start):
        pass


@pytest.mark.parametrize("on", FAMILIES)
def test_around_solver(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    plain, before, seen = tiny.call(pipe, 3), leftovers(pipe), []

    def solver(now, step):
        seen.append((len(now.run.steps), now.prediction.shape == now.latents.shape))
        return step(now)

    with staged(pipe) as stage, stage.around_solver(solver):
        assert torch.equal(plain, tiny.call(pipe, 3))
    assert leftovers(pipe) == before
    assert seen == [(1, True), (2, True), (3, True)]


@pytest.mark.parametrize(
    ("layout", "shape", "grid"),
    [
        ("image", (2, 4, 6, 10), (2, 4, 1, 6, 10)),
        ("video", (2, 4, 3, 6, 10), (2, 4, 3, 6, 10)),
        ("packed", (2, 15, 16), (2, 4, 1, 6, 10)),
        ("sequence", (2, 180, 4), (2, 4, 3, 6, 10)),
    ],
)
def test_latents_round_trip(layout: str, shape: tuple[int, ...], grid: tuple[int, ...]):
    latents = torch.arange(torch.Size(shape).numel()).reshape(shape)
    seen = Latents(layout).to_grid(latents, grid[2], 6, 10)
    assert seen.shape == grid
    assert torch.equal(Latents(layout).from_grid(seen), latents)


def test_packed_latents_are_what_flux_packs():
    pipe = FAMILIES["flux"].build()
    grid = torch.randn(1, 4, 1, 6, 10)
    packed = pipe._pack_latents(grid.squeeze(2), 1, 4, 6, 10)
    assert torch.equal(Latents("packed").to_grid(packed, 1, 6, 10), grid)


def test_sequences_are_what_ltx_packs():
    pipe = FAMILIES["ltx"].build()
    grid = torch.randn(1, 4, 3, 6, 10)
    assert torch.equal(Latents("sequence").to_grid(pipe._pack_latents(grid, 1, 1), 3, 6, 10), grid)


@pytest.mark.parametrize("on", [name for name in FAMILIES if name != "auraflow"])
def test_guidance_is_what_the_pipeline_does(on: str):
    assert family(FAMILIES[on].build()).guidance == FAMILIES[on].guidance


def test_unknown():
    described = family(FAMILIES["auraflow"].build())
    assert not described.known
    assert described.guidance == "unknown"
