"""A network on a window gives what it would give for the whole map, were the rest held; and a tape what a forward."""

import functools
from contextlib import ExitStack

import pytest
import torch
from deadheat.pipelines import Box, Windows, boxes_around, patched, unwindowed
from deadheat.pipelines.tape import Tape, hooked
from deadheat.pipelines.window_frames import TooLarge
from torch import nn

from ..families import FAMILIES

SIZE = (16, 24)
BOXES = [
    Box(0, 0, *SIZE),  # all
    Box(3, 5, 6, 8),  # odd places
    Box(0, 0, 1, 1),
    Box(15, 23, 16, 24),
    Box(7, 0, 9, 24),  # three edges each
    Box(0, 4, 16, 7),
]


def unet_call(name: str, size: tuple[int, int] = SIZE):
    torch.manual_seed(1)
    pipe = FAMILIES[name].build()
    net, given = pipe.unet, {"encoder_hidden_states": torch.randn(2, 5, pipe.unet.config.cross_attention_dim)}
    if name == "sdxl":
        given["added_cond_kwargs"] = {"text_embeds": torch.randn(2, 32), "time_ids": torch.randn(2, 6)}

    def call(x, time=500):
        return net(x, time, **given, return_dict=False)[0]

    return net, call, torch.randn(2, 4, *size)


def frozen(net, notes, run):
    """Run with the noted statistics in all group norms: the dense reference."""
    with ExitStack() as stack:
        for name, module in net.named_modules():
            if isinstance(module, nn.GroupNorm):
                factor, offset = notes.norms[name]
                stack.enter_context(patched(module, "forward", lambda _, f=factor, o=offset: lambda x: x * f + o))
        return run()


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_every_window_of_the_same_map_gives_its_part(name: str):
    net, call, x = unet_call(name)
    assert unwindowed(net) is None
    windows = Windows(net)
    with torch.no_grad():
        out, notes = windows.noted(lambda: call(x))
        assert torch.equal(out, call(x))
        for box in BOXES:
            frame = windows.frame(SIZE, box)
            part = windows.run(lambda box=box: call(box.of(x)), frame, frame.reads(notes, x))
            torch.testing.assert_close(part, box.of(out), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(13, 13), (9, 25), (18, 14)])
def test_maps_that_are_no_multiple_of_all_levels(size: tuple[int, int]):
    """Of an odd map the coarser one has half of the rows and one more."""
    net, call, x = unet_call("sdxl", size)
    windows = Windows(net)
    with torch.no_grad():
        out, notes = windows.noted(lambda: call(x))
        for top in range(0, size[0], 3):
            for left in range(0, size[1], 3):
                box = Box(top, left, min(size[0], top + 4), min(size[1], left + 4))
                frame = windows.frame(size, box)
                part = windows.run(lambda box=box: call(box.of(x)), frame, frame.reads(notes, x))
                torch.testing.assert_close(part, box.of(out), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_window_of_everything_is_the_dense_network_with_frozen_norms(name: str):
    net, call, x = unet_call(name)
    windows, other = Windows(net), x + 0.3 * torch.randn_like(x)
    with torch.no_grad():
        _, notes = windows.noted(lambda: call(x))
        frame = windows.frame(SIZE, BOXES[0])
        part = windows.run(lambda: call(other), frame, frame.reads(notes, x))
        torch.testing.assert_close(part, frozen(net, notes, lambda: call(other)), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(part, call(other), atol=1e-4)  # true statistics are others


def convolutions():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("box", BOXES[1:], ids=str)
def test_a_window_with_the_reach_of_all_layers_is_exact_inside(box: Box):
    net, x = convolutions(), torch.randn(1, 3, *SIZE)
    other, windows = x.clone(), Windows(net)
    box.of(other).normal_()
    with torch.no_grad():
        base, notes = windows.noted(lambda: net(x))
        reference = frozen(net, notes, lambda: net(other))
        wide = box.grown(2, SIZE)
        frame = windows.frame(SIZE, wide)
        out = base.clone()
        wide.of(out).copy_(windows.run(lambda: net(wide.of(other)), frame, frame.reads(notes, x)))
    torch.testing.assert_close(out, reference, atol=1e-6, rtol=1e-5)


def test_what_was_learned_is_what_a_whole_run_would_note_and_can_be_taken_back():
    net, x, box = convolutions(), torch.randn(1, 3, *SIZE), Box(4, 6, 8, 9)
    other, windows = x.clone(), Windows(net)
    box.of(other).normal_()
    with torch.no_grad():
        _, notes = windows.noted(lambda: net(x))
        before = {name: whole.clone() for name, whole in notes.whole.items()}
        frame = windows.frame(SIZE, box.grown(2, SIZE))
        reads = frame.reads(notes, x)
        windows.run(lambda: net(frame.box.of(other)), frame, reads)
        held = frame.held(notes)
        frame.write(notes, frame.fresh(reads, notes))
        _, fresh = frozen(net, notes, lambda: Windows(net).noted(lambda: net(other)))
        for name, whole in notes.whole.items():
            torch.testing.assert_close(whole, fresh.whole[name], atol=1e-6, rtol=1e-5)
            assert not torch.equal(whole, before[name])
        frame.write(notes, held)
    assert all(torch.equal(whole, before[name]) for name, whole in notes.whole.items())


def test_decoder_and_encoder():
    vae = FAMILIES["sd15"].build().vae
    torch.manual_seed(0)
    for net, x, box in (
        (vae.decoder, torch.randn(1, 4, 8, 8), Box(3, 5, 6, 8)),
        (vae.encoder, torch.randn(1, 3, 64, 64), Box(16, 8, 32, 40)),
    ):
        windows, size = Windows(net), (x.shape[-2], x.shape[-1])
        with torch.no_grad():
            out, notes = windows.noted(lambda net=net, x=x: net(x))
            frame = windows.frame(size, box)
            part = windows.run(lambda net=net, x=x, box=box: net(box.of(x)), frame, frame.reads(notes, x))
        expected = box.at(size, (out.shape[-2], out.shape[-1])).of(out)
        torch.testing.assert_close(part, expected, atol=1e-4, rtol=1e-4)


def test_what_cannot_run_on_a_window_says_so():
    pipe = FAMILIES["sd15"].build()
    pipe.enable_freeu(0.9, 0.2, 1.1, 1.2)
    assert "disable_freeu" in unwindowed(pipe.unet)
    pipe.disable_freeu()
    assert unwindowed(pipe.unet) is None
    pipe.fuse_qkv_projections()
    assert "attention processor" in unwindowed(pipe.unet)
    assert "ConvTranspose2d" in unwindowed(nn.Sequential(nn.ConvTranspose2d(3, 3, 2)))


def test_boxes_around():
    active = torch.zeros(16, 16, dtype=torch.bool)
    assert boxes_around(active) == []
    active[2:4, 2:4] = active[3:5, 6:8] = True  # near: one box wastes little
    assert boxes_around(active, waste=2.5) == [Box(2, 2, 5, 8)]
    active[14, 1] = active[1, 14] = active[14, 14] = True
    assert len(boxes_around(active)) == 3
    assert boxes_around(active, most=1) == [Box(1, 1, 15, 15)]
    assert boxes_around(torch.ones(3, 3, dtype=torch.bool)) == [Box(0, 0, 3, 3)]


def test_a_dotted_mask_is_covered_without_looking_at_every_pair(monkeypatch):
    dots, joined, counted = torch.zeros(64, 64, dtype=torch.bool), Box.joined, []
    dots[::3, ::3] = True

    def count(box, other):
        counted.append(1)
        return joined(box, other)

    monkeypatch.setattr(Box, "joined", count)
    for most in (1, 3):
        boxes = boxes_around(dots, most=most)
        assert len(boxes) <= most
        left = dots.clone()
        for box in boxes:
            box.of(left).fill_(False)
        assert not left.any()
    assert len(counted) < 10_000  # all pairs of 484 dots, again and again: 19 million


def test_notes_beyond_what_they_may_be_stop_the_run():
    vae, z = FAMILIES["sd15"].build().vae, torch.randn(1, 4, 8, 8)
    windows, ran = Windows(vae.decoder), []
    handle = vae.decoder.conv_out.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        _, notes = windows.noted(lambda: vae.decoder(z), most=10**9)
        windows.noted(lambda: vae.decoder(z), most=notes.nbytes)
        assert len(ran) == 2
        with pytest.raises(TooLarge):
            windows.noted(lambda: vae.decoder(z), most=notes.nbytes // 2)
        assert len(ran) == 2
    handle.remove()
    assert "forward" not in vars(vae.decoder.conv_in)


# ------------------------------------------------------------------------------------------------------------ the tape


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_tape_plays_what_the_forward_does(name: str):
    net, call, x = unet_call(name)
    windows, box, tape = Windows(net), Box(3, 5, 6, 8), Tape(("time",))

    def inputs(window, time, reads):
        flat = {f"{name}.{nth}": part for name, parts in reads.items() for nth, part in enumerate(parts)}
        return {"latents": window, "time/0": time} | flat

    with torch.no_grad():
        _, notes = windows.noted(lambda: call(x, torch.tensor(500)))
        frame = windows.frame(SIZE, box)
        for nth, step in enumerate((500, 300, 300)):
            window, time, reads = torch.randn(2, 4, *box.sides), torch.tensor(step), frame.reads(notes, x)
            run = functools.partial(windows.run, functools.partial(call, window, time), frame, reads)
            if not nth:
                tape.record(run, inputs(window, time, reads))
            played = tape.play(inputs(window, time, frame.reads(notes, x)), {"time": step})
            torch.testing.assert_close(played, run(), atol=1e-5, rtol=1e-4)


def test_what_depends_on_a_lasting_input_alone_is_worked_out_once():
    tape, weight = Tape(("time",)), torch.tensor([2.0])
    time, x = torch.tensor([3.0]), torch.tensor([1.0])
    out = tape.record(lambda: x + (time * weight).exp() / 1.0 + torch.arange(1.0), {"x": x, "time/0": time})
    assert torch.equal(out, x + (time * weight).exp())
    other = {"x": torch.tensor([5.0]), "time/0": torch.tensor([1.0])}
    first = tape.play(other, {"time": 1})
    torch.testing.assert_close(first, torch.tensor([5.0]) + torch.tensor([2.0]).exp())
    other["time/0"] = torch.tensor([9.0])
    assert torch.equal(first, tape.play(other, {"time": 1}))  # the same key: kept
    tape.forget("time")
    assert not torch.equal(first, tape.play(other, {"time": 1}))


def test_a_tape_writes_where_the_forward_wrote_and_draws_anew():
    tape = Tape()
    buffer, x = torch.zeros(4), torch.ones(2)
    tape.record(lambda: (buffer[1:3].copy_(x), buffer.sum() + 0 * torch.rand(1))[1], {"buffer": buffer, "x": x})
    fresh = torch.zeros(4)
    assert tape.play({"buffer": fresh, "x": torch.tensor([3.0, 4.0])}, {}).item() == 7
    assert fresh.tolist() == [0, 3, 4, 0]
    noisy = Tape()
    noisy.record(lambda: x + torch.rand(2), {"x": x})
    assert not torch.equal(noisy.play({"x": x}, {}), noisy.play({"x": x}, {}))


def test_hooks_are_seen():
    net = convolutions()
    assert not hooked(net)
    handle = net[0].register_forward_hook(lambda *_: None)
    assert hooked(net)
    handle.remove()
