"""The places in attention: what passes by, what does not, and that nobody else's attention is touched."""

import threading

import pytest
import torch
from deadheat.pipelines import around_attention, around_image_tokens, staged, token_grids
from deadheat.pipelines.grids import usual_tokens
from torch.nn.functional import scaled_dot_product_attention

from ..families import FAMILIES, leftovers


def listening(seen):
    """An ``AroundAttention`` that notes what it is asked and answers with zeros."""

    def start(link):
        def around(call, asked, plain):
            seen.append(asked)
            return torch.zeros_like(asked.query)

        return around

    return start


def test_nothing_is_patched_but_the_modules_of_this_pipeline():
    tiny = FAMILIES["flux"]
    pipe, other = tiny.build(), tiny.build()
    before, there = leftovers(pipe), leftovers(other)
    function = torch.nn.functional.scaled_dot_product_attention
    with staged(pipe) as stage, around_attention(stage, listening([])):
        assert torch.nn.functional.scaled_dot_product_attention is function
        assert leftovers(other) == there
    assert leftovers(pipe) == before


@pytest.mark.parametrize("on", ["flux", "pixart"])
def test_another_pipeline_runs_undisturbed_between_the_steps(on: str):
    tiny = FAMILIES[on]
    pipe, other = tiny.build(), tiny.build()
    plain, seen, between = tiny.call(other, 2), [], []

    def watch(run, latents):
        between.append((len(seen), tiny.call(other, 2), len(seen)))

    with staged(pipe) as stage, around_attention(stage, listening(seen)), stage.watch(watch):
        tiny.call(pipe, 2)
    assert len(between) == 2
    for before, out, after in between:
        assert before == after > 0
        assert torch.equal(out, plain)


def test_another_thread_computes_its_own_attention():
    """While one pipeline is inside an attention module, attention elsewhere in the process is PyTorch's."""
    tiny = FAMILIES["pixart"]
    pipe, other = tiny.build(), tiny.build()
    plain, found = tiny.call(other, 1), []

    def start(link):
        def around(call, asked, plainly):
            if not found:
                elsewhere = threading.Thread(target=lambda: found.append(tiny.call(other, 1)))
                elsewhere.start()
                elsewhere.join()
            return torch.zeros_like(asked.query)

        return around

    with staged(pipe) as stage, around_attention(stage, start):
        tiny.call(pipe, 1)
    assert torch.equal(found[0], plain)


def test_after_an_error_in_attention_nobody_listens():
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    before = leftovers(pipe)

    def start(link):
        def around(call, asked, plainly):
            raise MemoryError("no room")

        return around

    with pytest.raises(MemoryError), staged(pipe) as stage, around_attention(stage, start):
        tiny.call(pipe, 1)
    assert leftovers(pipe) == before
    x = torch.randn(1, 1, 64, 4)
    assert scaled_dot_product_attention(x, x, x).abs().sum() > 0


def test_text_as_long_as_the_picture_is_not_taken_for_it():
    """Cross-attention over 16 text tokens, and 16 image tokens: only self-attention comes by."""
    tiny, seen = FAMILIES["pixart"], []
    pipe = tiny.build()
    with staged(pipe) as stage, around_attention(stage, listening(seen)):
        tiny.call(pipe, 1, max_sequence_length=16)
    assert len(seen) == len(pipe.transformer.transformer_blocks)
    tiny, seen = FAMILIES["lumina2"], []
    pipe = tiny.build()
    with staged(pipe) as stage, around_attention(stage, listening(seen)):
        tiny.call(pipe, 1)
    assert len(seen) == 2 * len(pipe.transformer.layers)  # not the refiner of the text


def test_masked_attention_passes():
    """Two prompts of different length make Lumina mask its attention: such a batch is computed as it was."""
    tiny, seen = FAMILIES["lumina2"], []
    pipe = tiny.build()
    options = {"prompt": ["a", "a red cube on a blue ball above sand"], **tiny.unguided}
    plain = tiny.call(pipe, 1, **options)
    with staged(pipe) as stage, around_attention(stage, listening(seen)):
        assert torch.equal(tiny.call(pipe, 1, **options), plain)
    assert not seen


GRIDS = {
    "sd15": [(1, 8, 12), (1, 4, 6)],
    "sdxl": [(1, 4, 6)],
    "pixart": [(1, 4, 6)],
    "sd3": [(1, 4, 6)],
    "flux": [(1, 4, 6)],
    "lumina2": [(1, 4, 6)],
    "wan": [(3, 4, 6)],
}


@pytest.mark.parametrize("on", GRIDS)
def test_grids_of_a_picture_that_is_not_square(on: str):
    tiny, seen = FAMILIES[on], set()
    pipe = tiny.build()

    def start(link):
        def around(call, asked, plainly):
            seen.add(tuple(token_grids(stage, call)))
            assert asked.grid in token_grids(stage, call)
            return plainly()

        return around

    with staged(pipe) as stage, around_attention(stage, start):
        tiny.call(pipe, 1, width=96)
    assert seen == {tuple(GRIDS[on])}


@pytest.mark.parametrize("on", [name for name in FAMILIES if name != "auraflow"])
def test_tokens_run_as_they_are_change_nothing(on: str):
    tiny, seen = FAMILIES[on], []
    pipe = tiny.build()
    plain = tiny.call(pipe, 2)

    def start(link):
        def around(call, tokens, run):
            seen.append(tokens)
            return run(tokens.hidden.clone())

        return around

    with staged(pipe) as stage, around_image_tokens(stage, start):
        assert torch.equal(tiny.call(pipe, 2), plain)
    assert seen or on == "lumina2"  # which has its text in the same tensor
    assert {tokens.level for tokens in seen} <= {0, 1}
    for tokens in seen:
        assert tokens.hidden.shape[1] == tokens.grid[0] * tokens.grid[1] * tokens.grid[2]


@pytest.mark.parametrize(("on", "tokens"), [("sd15", 64), ("sdxl", 64), ("pixart", 16), ("flux", None), ("wan", None)])
def test_tokens_at_the_usual_size(on: str, tokens: int | None):
    assert usual_tokens(FAMILIES[on].build()) == tokens
