"""The place around the block stack: what is kept runs, the streams go on as they should, and the view is true."""

import inspect
from contextlib import ExitStack

import pytest
import torch
from deadheat.pipelines import UnsupportedError, around_stack, family, staged

from ..families import FAMILIES, leftovers

STACKED = ["pixart", "sd3", "flux", "qwen", "lumina2", "wan", "ltx"]
SOME = [(on, kept) for on in ("sd3", "flux") for kept in ((1, 0), (0, 1), (0, 3))]
KEPT = [*SOME, *((on, (2, 1)) for on in STACKED)]


def blocks(tiny, pipe) -> list:
    network = tiny.denoiser(pipe)
    return [block for row in family(pipe).stacks for block in getattr(network, row.blocks)]


def ran(block) -> list[int]:
    """Count how often a block's first linear layer of attention really runs."""
    seen: list[int] = []
    attention = block.attn if hasattr(block, "attn") else block.attn1
    attention.to_q.register_forward_hook(lambda *_: seen.append(1))
    return seen


class Recorder:
    """Notes what the middle gave for every call, and gives it again when told to; looks at what enters."""

    def __init__(self) -> None:
        self.notes: dict = {}
        self.entered: list = []
        self.seen: list = []
        self.replaying = False

    def enter(self, call, hidden, modulated):
        self.entered.append(hidden)
        self.seen.append(modulated())

    def instead(self, call, hidden):
        return self.notes[call.step, call.branches] if self.replaying else None

    def learn(self, call, value):
        self.notes[call.step, call.branches] = value


@pytest.mark.parametrize(("on", "kept"), KEPT, ids=str)
def test_the_first_and_last_blocks_run(on: str, kept: tuple[int, int]):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    plain, recorder = tiny.call(pipe, 3), Recorder()
    with staged(pipe) as stage, around_stack(stage, lambda link: recorder, *kept):
        assert torch.equal(plain, tiny.call(pipe, 3))
        recorder.replaying = True
        seen = [ran(block) for block in blocks(tiny, pipe)]
        assert torch.allclose(plain, tiny.call(pipe, 3), atol=1e-4, rtol=1e-4)
    calls = 6 if tiny.guidance == "separate" else 3
    first, last = kept
    skipped = [nth for nth, one in enumerate(seen) if not one]
    assert skipped == list(range(first, len(seen) - last))
    assert all(len(one) in (0, calls) for one in seen)
    assert len(recorder.notes) == calls
    assert torch.equal(plain, tiny.call(pipe, 3))


@pytest.mark.parametrize("on", ["sd3", "flux"])
def test_the_text_goes_on_to_the_last_blocks(on: str):
    """Without its residual the kept blocks would read the text as it stood before the skipped ones."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    recorder, alone = Recorder(), Recorder()
    plain = tiny.call(pipe, 2)
    with staged(pipe) as stage, around_stack(stage, lambda link: recorder, 0, 1):
        tiny.call(pipe, 2)
    with staged(pipe) as stage, around_stack(stage, lambda link: alone):
        tiny.call(pipe, 2)
    tokens = {key: value.shape[1] for key, value in alone.notes.items()}
    assert all(value.shape[1] > tokens[key] for key, value in recorder.notes.items())
    recorder.notes = {k: torch.cat([v[:, : tokens[k]], 0 * v[:, tokens[k] :]], 1) for k, v in recorder.notes.items()}
    recorder.replaying = True
    with staged(pipe) as stage, around_stack(stage, lambda link: recorder, 0, 1):
        assert not torch.allclose(plain, tiny.call(pipe, 2), atol=1e-4)


def test_one_block_at_least_is_left():
    pipe = FAMILIES["sd3"].build()
    before = leftovers(pipe)
    with (
        pytest.raises(UnsupportedError, match="of 4 blocks none is left between 1 first and 3 last"),
        staged(pipe) as stage,
        around_stack(stage, lambda link: Recorder(), 1, 3),
    ):
        pass
    assert leftovers(pipe) == before


@pytest.mark.parametrize("on", STACKED)
def test_what_is_seen_is_what_attention_gets(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    block, got, recorder = blocks(tiny, pipe)[0], [], Recorder()
    attention = block.attn if hasattr(block, "attn") else block.attn1
    names = list(inspect.signature(type(attention).forward).parameters)[1:]

    def note(_, args, kwargs):
        got.append((dict(zip(names, args, strict=False)) | kwargs)["hidden_states"])

    with ExitStack() as stack:
        handle = attention.register_forward_pre_hook(note, with_kwargs=True)
        stack.callback(handle.remove)
        stage = stack.enter_context(staged(pipe))
        stack.enter_context(around_stack(stage, lambda link: recorder, 2, 0))
        tiny.call(pipe, 2)
    assert len(got) == len(recorder.seen) > 0
    for nth, (seen, true) in enumerate(zip(recorder.seen, got, strict=True)):
        if family(pipe).stacks[0].modulation == "embedding":
            assert seen.shape[1:] == (6, true.shape[-1])
        else:
            assert torch.allclose(seen, true, atol=1e-6)
            assert not torch.allclose(recorder.entered[nth], true, atol=1e-2)


def test_where_the_weights_are_elsewhere_the_input_is_seen():
    """Offloading keeps a block's weights away until the block itself runs."""
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    recorder, block = Recorder(), blocks(tiny, pipe)[0]
    forward = block.forward

    def brought(*args, **kwargs):
        block.to_empty(device="cpu")
        block.load_state_dict(weights)
        out = forward(*args, **kwargs)
        block.to("meta")
        return out

    weights = {name: value.clone() for name, value in block.state_dict().items()}
    plain = tiny.call(pipe, 2)
    block.forward = brought
    block.to("meta")
    with staged(pipe) as stage, around_stack(stage, lambda link: recorder):
        assert torch.equal(plain, tiny.call(pipe, 2))
    assert all(torch.equal(seen, given) for seen, given in zip(recorder.seen, recorder.entered, strict=True))
