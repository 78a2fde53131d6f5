"""Token subsets: what runs equals the full network, what rests is what it was, and what is held has power."""

import pytest
import torch
from deadheat.pipelines import Rows, UnsupportedError, around_tokens, family, patch_size, patched, staged, why_whole
from diffusers import SD3Transformer2DModel
from torch import nn

from ..families import FAMILIES, leftovers

STACKED = ["pixart", "sd3", "flux", "qwen", "lumina2", "wan", "ltx"]


class Some:
    """Runs every token at the first step, later the tokens that *choose* gives for their number."""

    def __init__(self, choose) -> None:
        self.choose, self.seen = choose, []

    def active(self, call, tokens, known):
        self.seen.append((call.step, call.branches, known, tokens))
        return self.choose(tokens)


def every_third(tokens: int) -> torch.Tensor:
    return torch.arange(1, tokens, 3)


def outputs(pipe, tiny, choose, freeze: bool = False, **options) -> tuple[list, Some]:
    """Return what the denoiser gave at each call; *freeze* hands it the arguments of the first step ever again."""
    made, first, selector = [], {}, Some(choose)

    def watch(link):
        def around(call, network):
            if freeze:
                kept = first.setdefault(call.branches, dict(call.kwargs))
                call.kwargs.update(kept)
            made.append(network(call).clone())
            return made[-1]

        return around

    with staged(pipe) as stage, stage.around_denoiser(watch), around_tokens(stage, lambda link: selector):
        tiny.call(pipe, 3, **options)
    return made, selector


def per_token(pipe, tiny, out: torch.Tensor) -> torch.Tensor:
    values = family(pipe).latents.per_token(out, patch_size(tiny.denoiser(pipe)))
    return values.flatten(2)


WIDE = {"height": 32, "width": 64}
HOW = {
    "one": {},
    "batch": {"prompt": ["a red cube", "a very small blue ball on a chair"]},
    "wide batch": {**WIDE, "copies": 2},
}


@pytest.mark.parametrize("on", STACKED)
@pytest.mark.parametrize("how", HOW)
def test_all_tokens_through_the_sparse_path_are_the_full_network(on: str, how: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    plain, _ = outputs(pipe, tiny, lambda tokens: None, **HOW[how])
    sparse, selector = outputs(pipe, tiny, torch.arange, **HOW[how])
    assert [known for step, _, known, _ in selector.seen] == [step > 0 for step, *_ in selector.seen]
    for one, other in zip(plain, sparse, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("on", STACKED)
@pytest.mark.parametrize("how", HOW)
def test_with_the_same_input_some_tokens_give_what_all_give(on: str, how: str):
    """A slip in positions, in the order of the keys, or in rows would show: nothing is stale here."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    sparse, _ = outputs(pipe, tiny, every_third, freeze=True, **HOW[how])
    calls = len(sparse) // 3
    for nth, out in enumerate(sparse):
        assert torch.allclose(out, sparse[nth % calls], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("on", STACKED)
def test_resting_tokens_keep_their_output_and_the_others_move(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    made, selector = outputs(pipe, tiny, every_third, **HOW["batch"])
    calls, tokens = len(made) // 3, selector.seen[0][3]
    resting = torch.ones(tokens, dtype=torch.bool)
    resting[every_third(tokens)] = False
    for nth, out in enumerate(made[calls:], calls):
        now, before = (per_token(pipe, tiny, x) for x in (out, made[nth - calls]))
        assert torch.equal(now[:, resting], before[:, resting])
        assert not torch.equal(now[:, ~resting], before[:, ~resting])


@pytest.mark.parametrize("on", STACKED)
def test_what_is_held_has_power(on: str):
    """Without the keys and values of the resting tokens the active ones come out differently."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    held: list = []

    def zeroed(link):
        holds = link.run.holds

        def note(container):
            held.append(container)
            holds(container)

        link.run.holds = note
        return Some(choose)

    def choose(tokens):
        for container in held:
            for kept in container.values():
                for pair in kept["keys"].values():
                    for tensor in pair:
                        tensor.zero_()
        return every_third(tokens)

    plain, _ = outputs(pipe, tiny, every_third)
    made = []

    def watch(link):
        def around(call, network):
            made.append(network(call).clone())
            return made[-1]

        return around

    with staged(pipe) as stage, stage.around_denoiser(watch), around_tokens(stage, zeroed):
        tiny.call(pipe, 3)
    calls = len(made) // 3
    assert torch.equal(made[0], plain[0])
    assert (made[calls] - plain[calls]).abs().max() > 1e-4


@pytest.mark.parametrize("on", STACKED)
def test_nothing_is_left(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    plain, before = tiny.call(pipe, 3), leftovers(pipe)
    outputs(pipe, tiny, every_third)
    assert leftovers(pipe) == before
    assert torch.equal(plain, tiny.call(pipe, 3))


def sd35():
    """Stable Diffusion 3.5 has a second self-attention in some blocks, and normalises queries and keys."""
    pipe = FAMILIES["sd3"].build()
    torch.manual_seed(0)
    config = {**pipe.transformer.config, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}
    pipe.register_modules(transformer=SD3Transformer2DModel.from_config(config).eval())
    return pipe


def test_two_self_attentions_in_a_block():
    tiny, pipe = FAMILIES["sd3"], sd35()
    plain, _ = outputs(pipe, tiny, lambda tokens: None, **HOW["batch"])
    sparse, _ = outputs(pipe, tiny, torch.arange, **HOW["batch"])
    frozen, _ = outputs(pipe, tiny, every_third, freeze=True)
    for one, other in zip([*plain, frozen[0]], [*sparse, frozen[2]], strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [[0], [3], [1, 2]], ids=str)
def test_skip_layer_guidance_is_a_branch_of_its_own(layers: list[int]):
    """It may begin in the middle of a run, and may skip the first block, where tokens are sliced, or the last."""
    tiny, pipe = FAMILIES["sd3"], sd35()
    options = {"skip_guidance_layers": layers, "skip_layer_guidance_start": 0.01, "skip_layer_guidance_stop": 0.99}
    plain, _ = outputs(pipe, tiny, lambda tokens: None, **options)
    sparse, selector = outputs(pipe, tiny, torch.arange, **options)
    for one, other in zip(plain, sparse, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-5)
    known = [(step, known) for step, branches, known, _ in selector.seen if branches == ("call 1",)]
    assert known == [(1, False), (2, True)]


def test_a_branch_that_missed_a_step_runs_whole():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    selector = Some(every_third)

    with staged(pipe) as stage, around_tokens(stage, lambda link: selector):

        def halved(link):
            def around(call, network):
                if call.step != 2:
                    return network(call)
                out = network(call.conditional())
                return torch.cat([out, out])

            return around

        with stage.around_denoiser(halved):
            tiny.call(pipe, 6)
    assert [known for _, _, known, _ in selector.seen] == [False, True, False, False, True, True]
    assert [bool(step.active) for step in stage.runs[-1].steps] == [False, True, False, False, True, True]


def test_another_attention_backend_is_refused():
    """An attention that does not end in torch's function would silently lose the resting tokens."""
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    before = leftovers(pipe)
    attention = pipe.transformer.transformer_blocks[1].attn

    class Own:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
            return hidden_states, encoder_hidden_states

    with patched(attention, "processor", lambda old: Own()), pytest.raises(UnsupportedError, match="native"):
        outputs(pipe, tiny, every_third)
    assert leftovers(pipe) == before


def test_pipelines_that_need_all_their_tokens():
    assert "UNet" in why_whole(FAMILIES["sd15"].build())
    assert "described" in why_whole(FAMILIES["auraflow"].build())
    pipe = FAMILIES["sd3"].build()
    assert why_whole(pipe) is None
    pipe.controlnet = nn.Linear(1, 1)
    assert "ControlNet" in why_whole(pipe)
    del pipe.controlnet
    block = pipe.transformer.transformer_blocks[0]
    block._compiled_call_impl = block._call_impl  # what compile() sets
    assert "compiled" in why_whole(pipe)
    with pytest.raises(UnsupportedError, match="compiled"), staged(pipe) as stage, around_tokens(stage, Some):
        pass


def test_rows():
    whole = torch.arange(24.0).view(2, 6, 2)
    for at in (torch.tensor([0, 3]), torch.tensor([[0, 3], [1, 5]])):
        rows = Rows(at, 6)
        part = rows.take(whole, 1)
        each = at.expand(2, 2)
        assert torch.equal(part, torch.stack([whole[b, each[b]] for b in range(2)]))
        assert torch.equal(rows.put(torch.zeros(2, 6, 2), part, 1).sum((0, 2)).nonzero()[:, 0], each.unique())
        assert (
            rows.beside(2, last=False).at.tolist()
            == torch.cat([torch.tensor([0, 1]).expand(*at.shape[:-1], 2), at + 2], -1).tolist()
        )
        assert (
            rows.beside(2, last=True).at.tolist()
            == torch.cat([at, torch.tensor([6, 7]).expand(*at.shape[:-1], 2)], -1).tolist()
        )
        assert torch.equal(rows.of_argument(torch.ones(2, 1, 3), 1), torch.ones(2, 1, 3))


@pytest.mark.parametrize("on", STACKED)
def test_values_of_a_token_stand_where_the_network_puts_them(on: str):
    """A picture in which each token has its own number: what the network is given token by token must agree."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    latents, network = family(pipe).latents, tiny.denoiser(pipe)
    seen = []

    def watch(link):
        def around(call, inner):
            seen.append((call.latents, latents.tokens(call.kwargs, call.latents, patch_size(network))))
            return inner(call)

        return around

    with staged(pipe) as stage, stage.around_denoiser(watch):
        tiny.call(pipe, 2, **({} if on == "ltx" else WIDE))
    shown, (frames, rows, columns) = seen[0]
    values = latents.per_token(shown, patch_size(network))
    assert values.shape[1] == frames * rows * columns
    assert values.numel() == shown.numel()
    if latents.layout in ("image", "video"):
        p = patch_size(network)[1]
        grid = latents.to_grid(shown, frames, rows * p, columns * p)
        at = columns + 2  # second row, third column
        assert torch.equal(values[0, at].T.flatten(), grid[0, :, 0, p : 2 * p, 2 * p : 3 * p].flatten())
