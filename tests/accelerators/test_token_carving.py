"""Token carving: the same as attention under the same mask, written token by token, and dense where all is kept."""

import warnings

import pytest
import torch
from deadheat.accelerators import (
    ProgressiveResolution,
    PyramidAttentionBroadcast,
    TokenCarving,
    TokenMerging,
    attached,
    check,
)
from deadheat.accelerators.block_attention import best, carved, cut, flexed, gathered, importance
from deadheat.pipelines import IncompatibleError, SelfAttention, UnsupportedError, area, around_attention, staged
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from ..families import FAMILIES, leftovers

CPU = torch.device("cpu")
CASES = [  # grid, where the image begins, text tokens, tokens in a block
    ((1, 8, 8), 0, 0, 16),
    ((1, 7, 9), 5, 5, 16),
    ((1, 7, 9), 0, 5, 16),
    ((3, 4, 5), 7, 7, 8),
    ((1, 8, 8), 0, 16, 16),
    ((2, 3, 3), 2, 2, 1),
    ((1, 3, 3), 0, 4, 64),
]
cases = pytest.mark.parametrize("case", CASES, ids=str)


def asked_of(case) -> tuple[SelfAttention, torch.Tensor]:
    """Attention over random tokens, and a random choice of blocks that keeps at least each block itself."""
    grid, first, text, size = case
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, area(grid) + text, 8)
    blocks = -(-area(grid) // size)
    kept = (torch.rand(2, 3, blocks, blocks) < 0.4) | torch.eye(blocks, dtype=torch.bool)
    return SelfAttention(query, key, value, 0.3, grid, first), kept


def dense(asked: SelfAttention, mask: torch.Tensor | None = None) -> torch.Tensor:
    return scaled_dot_product_attention(asked.query, asked.key, asked.value, attn_mask=mask, scale=asked.scale)


def by_token(asked: SelfAttention, kept: torch.Tensor, size: int) -> torch.Tensor:
    """The mask of blocks, written token by token; text sees and is seen by everything."""
    block = cut(asked.grid, size, CPU).place // size
    mask = torch.ones(*kept.shape[:2], *[asked.query.shape[2]] * 2, dtype=torch.bool)
    image = slice(asked.first, asked.first + asked.tokens)
    mask[:, :, image, image] = kept[:, :, block][:, :, :, block]
    return mask


@cases
def test_carved_is_attention_under_the_same_mask(case):
    asked, kept = asked_of(case)
    expected = dense(asked, by_token(asked, kept, case[3]))
    out = carved(asked, cut(asked.grid, case[3], CPU), kept)
    assert torch.allclose(out, expected, atol=1e-6)
    text = [*range(asked.first), *range(asked.first + asked.tokens, asked.query.shape[2])]
    assert torch.allclose(out[:, :, text], dense(asked)[:, :, text], atol=1e-6)
    if not kept.all():
        assert not torch.allclose(out, dense(asked), atol=1e-3)


@cases
def test_every_block_kept_is_dense(case):
    asked, kept = asked_of(case)
    out = carved(asked, cut(asked.grid, case[3], CPU), torch.ones_like(kept))
    assert torch.allclose(out, dense(asked), atol=1e-5)


@cases
def test_gathered_in_small_portions_is_the_same(case, monkeypatch):
    asked, kept = asked_of(case)
    blocks = cut(asked.grid, case[3], CPU)
    whole = gathered(asked, blocks, kept)
    monkeypatch.setattr("deadheat.accelerators.block_attention.IN_CACHE", 1)
    assert torch.allclose(gathered(asked, blocks, kept), whole, atol=1e-6)


@cases
def test_the_block_mask_of_flex_attention_computes_the_same(case):
    """Without compiling, flex_attention follows the mask token by token; the lists of blocks are read back."""
    asked, kept = asked_of(case)
    blocks, seen = cut(asked.grid, case[3], CPU), []

    def flex(*args, block_mask, **kwargs):
        seen.append(block_mask)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not compiled
            return flex_attention(*args, block_mask=block_mask, **kwargs)

    assert torch.allclose(flexed(asked, blocks, kept, flex), gathered(asked, blocks, kept), atol=1e-6)
    (mask,) = seen
    listed = mask.to_dense().bool()
    assert torch.equal(listed[..., : kept.shape[-1]], kept)
    assert listed[..., kept.shape[-1] :].all()  # text
    whole = mask.full_kv_num_blocks.sum() + mask.kv_num_blocks.sum()
    assert whole == listed.sum()
    assert (mask.kv_num_blocks.sum() == 0) == (blocks.filling == 0 and case[2] % case[3] == 0)


@pytest.mark.parametrize(("grid", "size"), [((1, 7, 9), 8), ((3, 4, 5), 8), ((1, 16, 16), 32)], ids=str)
def test_blocks_touch_where_any_of_their_tokens_do(grid: tuple[int, int, int], size: int):
    blocks = cut(grid, size, CPU)
    n = torch.arange(area(grid))
    place = torch.stack([n // (grid[1] * grid[2]), n // grid[2] % grid[1], n % grid[2]], dim=1)
    near = (place[:, None] - place[None]).abs().amax(dim=-1) <= 1
    for i in range(len(blocks.tokens)):
        for j in range(len(blocks.tokens)):
            assert blocks.touching[i, j] == near[blocks.tokens[i]][:, blocks.tokens[j]].any()
    assert torch.equal(blocks.tokens.flatten()[blocks.place], n)
    assert blocks.filling == -len(n) % size


def test_importance_compares_means():
    asked, _ = asked_of(((1, 7, 9), 5, 5, 16))
    blocks = cut(asked.grid, 16, CPU)
    looks = importance(asked, blocks)
    own = [tokens.unique() + 5 for tokens in blocks.tokens]  # the last block without its filling
    query = asked.query[1, 2, own[3]].mean(dim=0)
    logits = torch.stack([query @ asked.key[1, 2, tokens].mean(dim=0) for tokens in own]) * 0.3
    assert torch.allclose(looks[1, 2, 3], logits.softmax(0), atol=1e-6)


def test_count_is_the_floor_and_mass_raises_it():
    looks = torch.tensor([[[[0.05, 0.5, 0.15, 0.3]]]])

    def kept(count, mass):
        return best(looks, count, mass).flatten().nonzero().flatten().tolist()

    assert kept(1, 0.0) == [1]
    assert kept(2, 0.0) == [1, 3]
    assert kept(1, 0.6) == [1, 3]  # 1 + number of leading shares that sum to at most 0.6
    assert kept(1, 0.9) == [1, 2, 3]
    assert kept(3, 0.1) == [1, 2, 3]
    assert kept(1, 1.0) == kept(4, 0.0) == [0, 1, 2, 3]


def test_a_block_keeps_itself_and_its_neighbours():
    asked, _ = asked_of(((1, 16, 16), 0, 0, 16))
    blocks = cut(asked.grid, 16, CPU)
    mask = TokenCarving(keep=0.0, mass=0.0, block=16)._mask(asked, blocks, 0.0)
    assert mask[..., blocks.touching].all()
    assert mask.diagonal(dim1=-2, dim2=-1).all()
    assert mask.sum(-1).max() == blocks.touching.sum(-1).max() + 1  # and the one that matters most


@pytest.mark.parametrize("on", [name for name in FAMILIES if name != "auraflow"])
def test_every_family_with_every_block_kept_is_dense(on: str):
    """Carving stands rightly in every family: the grid, where text begins, what is asked and what is given back."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    plain, seen = tiny.call(pipe, 3), []

    def start(link):
        def around(call, asked, plainly):
            seen.append(asked)
            blocks = cut(asked.grid, 4, CPU)
            everything = torch.ones(*asked.query.shape[:2], *[len(blocks.tokens)] * 2, dtype=torch.bool)
            return carved(asked, blocks, everything)

        return around

    with staged(pipe) as stage, around_attention(stage, start):
        out = tiny.call(pipe, 3)
    assert seen
    assert (out - plain).abs().max() <= 1e-5 * plain.abs().max()
    calls = 3 if tiny.guidance == "batched" else 6
    network = tiny.denoiser(pipe)
    kinds = {asked.grid for asked in seen}
    if on not in ("sd15", "sdxl"):
        layers = sum(len(getattr(network, row.blocks)) for row in stage.family.stacks)
        assert len(seen) == layers * calls
        assert len(kinds) == 1
    else:
        attention = [name for name, _ in network.named_modules() if name.endswith("attn1")]
        assert len(seen) == len(attention) * calls
    text = {"sd3": False, "flux": True, "qwen": True, "lumina2": True}
    for asked in seen:
        assert (asked.first > 0) == text.get(on, False)
        assert (asked.query.shape[2] > asked.tokens) == (on in text)


@pytest.mark.parametrize(
    ("on", "image"),
    [
        ("sd3", "transformer_blocks.0.attn.to_v"),
        ("flux", "transformer_blocks.0.attn.to_v"),
        ("wan", "blocks.0.attn1.to_v"),
    ],
)
def test_image_tokens_are_where_the_family_says(on: str, image: str):
    """The values of the first attention, between ``first`` and its end, are those of the image stream."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    made, seen = [], []
    tiny.denoiser(pipe).get_submodule(image).register_forward_hook(lambda _, __, out: made.append(out))

    def start(link):
        def around(call, asked, plainly):
            seen.append(asked)
            return plainly()

        return around

    with staged(pipe) as stage, around_attention(stage, start):
        tiny.call(pipe, 1)
    asked = seen[0]
    value = asked.value[:, :, asked.first : asked.first + asked.tokens]
    assert torch.equal(value.transpose(1, 2).flatten(2), made[0])


def test_no_carving_in_the_first_steps():
    with_warmup = TokenCarving(keep=0.0, warmup=0.5)
    assert [with_warmup.kept(step, 5) for step in range(5)] == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert TokenCarving(keep=0.25, warmup=0.0).kept(0, 5) == 0.25
    assert TokenCarving(keep=0.25, warmup=1.0).kept(4, 5) == 0.25
    tiny = FAMILIES["pixart"]
    with attached(pipe := tiny.build(), TokenCarving(keep=0.0, mass=0.0, block=1, warmup=0.5)) as session:
        tiny.call(pipe, 5)
    actions = [step.action for step in session.report().steps]
    assert actions[0] == "computed"
    assert actions[2:] == ["partial"] * 3
    assert "of the image" in session.report().steps[2].reason


def test_dense_where_carving_would_not_pay():
    tiny = FAMILIES["pixart"]
    pipe = tiny.build()
    plain = tiny.call(pipe, 3)
    with attached(pipe, TokenCarving(block=4, dense_above=0.2)) as session:
        assert torch.equal(plain, tiny.call(pipe, 3))
    said = " ".join(session.report().warnings)
    assert "more than 0.2 of the keys" in said
    assert "16 tokens" in said


def test_out_of_sight():
    pipe = FAMILIES["flux"].build()
    assert TokenCarving.supports(pipe) is None
    for module in pipe.transformer.modules():
        if hasattr(module, "processor"):
            module.processor._attention_backend = "flash"
    assert "flash" in TokenCarving.supports(pipe)
    pipe = FAMILIES["sd3"].build()
    pipe.transformer.transformer_blocks[1].compile(backend="eager")
    with pytest.raises(UnsupportedError, match="compiled"), attached(pipe, TokenCarving()):
        pass


@pytest.mark.parametrize("on", ["wan", "sd3"])
def test_modules_that_run_are_carved_and_others_rest(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    before = leftovers(pipe)
    carving = TokenCarving(keep=0.0, mass=0.0, block=1, neighbours=False, warmup=0.0)
    rest = PyramidAttentionBroadcast(self_every=2, cross_every=2, start=0.0, stop=1.0)
    outs = []
    for recipe in ([carving, rest], [rest, carving], [rest]):
        with attached(pipe, *recipe):
            outs.append(tiny.call(pipe, 4))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert leftovers(pipe) == before


def test_it_may_drop_more_later():
    carving = TokenCarving(keep=0.25, late=0.5, keep_late=0.15, warmup=0.0)
    assert [carving.kept(step, 10) for step in (0, 4, 5, 9)] == pytest.approx([0.25, 0.25, 0.15, 0.15])
    assert TokenCarving(keep=1.0, late=0.5).carves
    assert not TokenCarving(keep=1.0).carves


@pytest.mark.parametrize(("on", "amplify"), [("wan", 0.5), ("ltx", 0.5), ("pixart", 0.5), ("sd3", 0.0), ("flux", 0.0)])
def test_it_goes_with_rising_resolution_where_text_is_not_weighed(on: str, amplify: float):
    """Jenga is both; only where text and image share a softmax does the one weigh what the other leaves out."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    small = TokenCarving(keep=0.0, mass=0.0, block=1, neighbours=False, warmup=0.0)
    rising = ProgressiveResolution(until="0.5", amplify=amplify)
    before = leftovers(pipe)
    for recipe in ([rising, small], [small, rising]):
        with attached(pipe, *recipe) as session:
            assert torch.isfinite(tiny.call(pipe, 6)).all()
        assert not any("did nothing" in said or "skipped" in said for said in session.report().warnings)
    assert leftovers(pipe) == before


@pytest.mark.parametrize("on", ["sd3", "flux"])
def test_where_text_is_weighed_they_exclude_each_other(on: str):
    pipe = FAMILIES[on].build()
    with pytest.raises(IncompatibleError, match="does not go with token-carving"):
        check([ProgressiveResolution(), TokenCarving()], pipe)
    check([ProgressiveResolution(sizes="1", until="1"), TokenCarving()], pipe)


def test_carving_and_merging_exclude_each_other():
    with pytest.raises(IncompatibleError), attached(FAMILIES["sd3"].build(), TokenCarving(), TokenMerging()):
        pass
