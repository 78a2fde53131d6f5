"""Token merging: the matching against brute force, what is lossless, and how many tokens attention really sees."""

import pytest
import torch
from deadheat.accelerators import TokenMerging, attached
from deadheat.accelerators.token_merging import match, split

from ..families import FAMILIES

CPU = torch.device("cpu")


@pytest.mark.parametrize("grid", [(1, 4, 6), (1, 5, 7), (3, 4, 4), (2, 2, 2)], ids=str)
def test_one_destination_in_every_cell(grid: tuple[int, int, int]):
    frames, rows, columns = grid
    into, others = split(grid, 3, CPU)
    assert sorted([*into.tolist(), *others.tolist()]) == list(range(frames * rows * columns))
    cells = {(n // (rows * columns), n // columns % rows // 2, n % columns // 2) for n in into.tolist()}
    assert len(cells) == len(into) == frames * (rows // 2) * (columns // 2)
    assert torch.equal(into, split(grid, 3, CPU).into)


def test_destinations_move_from_step_to_step():
    assert len({tuple(split((1, 8, 8), step, CPU).into.tolist()) for step in range(5)}) == 5


def test_matching_against_brute_force():
    torch.manual_seed(0)
    x, sides = torch.randn(2, 24, 5), split((1, 4, 6), 0, CPU)
    merging = match(x, sides, 7)
    merged = merging.merge(x)
    assert merged.shape == (2, 24 - 7, 5)
    back = merging.unmerge(merged)
    for n in range(2):
        near = {}
        for s in sides.others.tolist():
            cosines = [torch.cosine_similarity(x[n, s], x[n, d], dim=0).item() for d in sides.into.tolist()]
            near[s] = (max(cosines), sides.into[max(range(len(cosines)), key=cosines.__getitem__)].item())
        go = sorted(near, key=lambda s: -near[s][0])[:7]
        assert set(go) == set(merging.go[n].tolist())
        for d in sides.into.tolist():
            mean = x[n, [d, *(s for s in go if near[s][1] == d)]].mean(dim=0)
            assert torch.allclose(back[n, d], mean, atol=1e-6)
        for s in sides.others.tolist():
            expected = back[n, near[s][1]] if s in go else x[n, s]
            assert torch.equal(back[n, s], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tokens_that_are_equal_merge_without_loss(dtype: torch.dtype):
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 6).repeat_interleave(2, 1).repeat_interleave(2, 2).view(1, 48, 6).to(dtype)
    merging = match(x, split((1, 6, 8), 0, CPU), 36)
    assert merging.merge(x).shape[1] == 12
    assert torch.allclose(merging.unmerge(merging.merge(x)), x, atol=1e-6)


def test_nothing_merged_is_everything_kept():
    x = torch.randn(2, 16, 4)
    merging = match(x, split((1, 4, 4), 0, CPU), 0)
    assert torch.equal(merging.unmerge(merging.merge(x)), x)


def seen_by(module) -> list[int]:
    seen: list[int] = []
    module.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    return seen


@pytest.mark.parametrize("on", ["pixart", "sd3"])
def test_attention_sees_fewer_tokens(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    block = tiny.denoiser(pipe).transformer_blocks[1]
    attention = block.attn if on == "sd3" else block.attn1
    own, ff = seen_by(attention.to_q), seen_by(block.ff)
    cross = seen_by(attention.add_q_proj if on == "sd3" else block.attn2.to_q)
    with attached(pipe, TokenMerging(ratio=0.5)) as session:
        tiny.call(pipe, 3)
    assert own == [8] * 3
    assert ff == [16] * 3
    assert cross == [93 if on == "sd3" else 16] * 3  # all of the text; all image tokens ask the text
    assert session.report().count("partial") == 3


def test_a_unet_merges_at_its_finest_resolutions():
    tiny = FAMILIES["sd15"]
    for levels, fine, middle in ((1, 32, 16), (2, 32, 8)):
        pipe = tiny.build()
        first = seen_by(pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q)
        mid = seen_by(pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q)
        with attached(pipe, TokenMerging(ratio=0.5, levels=levels)):
            tiny.call(pipe, 2)
        assert first == [fine] * 2
        assert mid == [middle] * 2


def test_the_global_generator_is_left_alone():
    tiny = FAMILIES["pixart"]
    pipe = tiny.build()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with attached(pipe, TokenMerging()):
        tiny.call(pipe, 2)
    assert torch.equal(torch.rand(1), expected)


def test_rotary_positions_are_refused():
    assert "position" in TokenMerging.supports(FAMILIES["flux"].build())
    assert "position" in TokenMerging.supports(FAMILIES["wan"].build())


def test_small_pictures_are_cautioned_about():
    pipe = FAMILIES["pixart"].build()
    assert "16 tokens" in TokenMerging().cautions(pipe, 20)[0]
    assert not TokenMerging(ratio=0.0).cautions(pipe, 20)
