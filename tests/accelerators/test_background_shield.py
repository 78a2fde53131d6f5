"""The region runs, the background stays the source's: against attention written out by hand."""

import pytest
import torch
from deadheat.accelerators import BackgroundShield, SparseCrossAttention, TGate, attached, region_text
from deadheat.accelerators.edited_region import chosen

from deadheat import IncompatibleError, KnobError

from ..families import FAMILIES

LEFT = "0 0 0.5 1"
PROMPTS = ["a red cube", "a blue ball"]
ON = ["sd15", "sdxl", "pixart"]


def pair(tiny, pipe, prompts=PROMPTS, steps=3, **options):
    """Source and edit as one batch, from the same noise."""
    twice = [torch.Generator().manual_seed(0) for _ in prompts]
    return tiny.call(pipe, steps, prompt=prompts, generator=twice, **options)


def selves(tiny, pipe):
    return [m for name, m in tiny.denoiser(pipe).named_modules() if name.endswith("attn1")]


@pytest.mark.parametrize(
    ("region", "grid", "inside"),
    [
        ("0 0 1 1", (1, 2, 2), (0, 1, 2, 3)),
        (LEFT, (1, 2, 4), (0, 1, 4, 5)),
        (LEFT, (2, 1, 2), (0, 2)),
        ("0 0 0.5 0.5; 0.5 0.5 1 1", (1, 2, 2), (0, 3)),
        ("0.4 0.4 0.45 0.45", (1, 4, 4), (5,)),
        ("0.2 0 0.3 0.1", (1, 4, 4), (0, 1)),
        ("2x2 4", (1, 4, 4), (2, 3, 6, 7)),
        ("2x2 4", (1, 1, 1), (0,)),
        ("4x4 0001", (1, 3, 3), (8,)),
    ],
)
def test_what_a_region_touches_is_inside(region, grid, inside):
    BackgroundShield(region=region)
    assert chosen(region, grid) == inside


def test_a_painted_mask_becomes_text():
    mask = torch.zeros(128, 96)
    mask[0, 95] = 1
    text = region_text(mask)
    assert text.startswith("64x64 ")
    assert chosen(text, (1, 4, 3)) == (2,)
    assert BackgroundShield(region=text).region == text


@pytest.mark.parametrize(
    "region", ["", "middle", "0 0 1", "0 0 2 1", "0.5 0 0.5 1", "2x2 0", "2x2 44", "0x4 1", "nan 0 1 1", "4x4 g001"]
)
def test_what_is_no_region_is_refused(region: str):
    with pytest.raises(KnobError, match="region is"):
        BackgroundShield(region=region)


@pytest.mark.parametrize("feed_forward", [True, False])
@pytest.mark.parametrize("on", ON)
def test_the_background_attends_as_in_the_source(on: str, feed_forward: bool):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    layer = selves(tiny, pipe)[0]
    heads, met = layer.heads, []
    with attached(pipe, BackgroundShield(region=LEFT, source="batch", feed_forward=feed_forward)) as session:
        inner = layer.forward

        def watch(hidden, *args, **kwargs):
            met.append((hidden, inner(hidden, *args, **kwargs)))
            return met[-1][1]

        layer.forward = watch
        pair(tiny, pipe, steps=1)
        layer.forward = inner
    ((hidden, out),) = met
    side = int(hidden.shape[1] ** 0.5)
    inside = list(chosen(LEFT, (1, side, side)))
    outside = [n for n in range(hidden.shape[1]) if n not in inside]
    for source, edit in ((0, 1), (2, 3)):
        assert torch.equal(out[edit, outside], out[source, outside])
        mixed = hidden[source].clone()
        mixed[inside] = hidden[edit, inside]
        expected = by_hand(layer, hidden[edit, inside], mixed, heads)
        assert torch.allclose(out[edit, inside], expected, atol=1e-5)
        assert torch.allclose(out[source], by_hand(layer, hidden[source], hidden[source], heads), atol=1e-5)
    assert session.report().count("partial") == 1


def by_hand(layer, asking, asked, heads: int):
    query, key, value = (
        to(x).unflatten(-1, (heads, -1)).transpose(0, 1)
        for to, x in ((layer.to_q, asking), (layer.to_k, asked), (layer.to_v, asked))
    )
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    return layer.to_out[0]((weights @ value).transpose(0, 1).flatten(1))


@pytest.mark.parametrize("on", ON)
def test_an_edit_to_the_same_prompt_changes_nothing(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with attached(pipe, BackgroundShield(region=LEFT, source="batch")):
        source, edit = pair(tiny, pipe, [PROMPTS[0]] * 2)
    assert torch.allclose(source, edit, atol=1e-5)
    assert torch.allclose(source, pair(tiny, pipe)[0], atol=1e-5)


@pytest.mark.parametrize("on", ON)
def test_the_source_of_a_batch_is_what_it_would_be_alone(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    plain = pair(tiny, pipe)
    recipe = [BackgroundShield(region=LEFT, source="batch"), SparseCrossAttention(region=LEFT, source="batch")]
    with attached(pipe, *recipe) as session:
        source, edit = pair(tiny, pipe)
    assert torch.allclose(source, plain[0], atol=1e-5)
    assert not torch.allclose(edit, plain[1], atol=1e-3)
    assert not torch.allclose(edit, plain[0], atol=1e-3)
    assert session.report().count("partial") == 3
    assert not any("did nothing" in said for said in session.report().warnings)


def test_the_whole_picture_as_region_is_the_plain_pair():
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    with attached(pipe, BackgroundShield(region="0 0 1 1", source="batch")):
        out = pair(tiny, pipe)
    assert torch.equal(out, pair(tiny, pipe))


@pytest.mark.parametrize("on", ON)
def test_only_the_region_asks_between_whole_steps(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    layer, asked = selves(tiny, pipe)[0], []
    layer.to_q.register_forward_hook(lambda _, __, out: asked.append(out.shape[1]))
    with attached(pipe, BackgroundShield(region=LEFT, warmup=2, every=3)) as session:
        tiny.call(pipe, 8)
    whole = max(asked)
    assert asked == [whole if step in (0, 1, 4, 7) else whole // 2 for step in range(8)]
    assert [step.action for step in session.report().steps].count("partial") == 4


def test_every_step_whole_changes_nothing():
    tiny = FAMILIES["pixart"]
    pipe = tiny.build()
    with attached(pipe, BackgroundShield(region=LEFT, every=1)) as session:
        out = tiny.call(pipe, 4)
    assert torch.equal(out, tiny.call(pipe, 4))
    assert "no step of 4 that does not run whole" in session.report().warnings[0]


def test_one_picture_is_no_batch():
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    with attached(pipe, BackgroundShield(source="batch")) as session:
        out = tiny.call(pipe, 3)
    assert torch.equal(out, tiny.call(pipe, 3))
    assert "wants a batch whose first picture is the source" in session.report().warnings[0]


def test_what_would_only_see_the_region_is_refused():
    pipe = FAMILIES["sd15"].build()
    with (
        pytest.raises(IncompatibleError, match="text tokens in attention"),
        attached(pipe, SparseCrossAttention(words="cube"), TGate()),
    ):
        pass


def test_cautions():
    pipe = FAMILIES["sd15"].build()
    assert "75% of the picture" in BackgroundShield(region="0 0 0.75 1").cautions(pipe, 28)[0]
    assert "source=batch" in BackgroundShield().cautions(pipe, 4)[0]
    assert all("tokens" in said for said in BackgroundShield(source="batch").cautions(pipe, 4))
    assert BackgroundShield(region="0 0 1 1").cautions(pipe, 28) == []
