"""Which words stay, and that the region looks at nothing else."""

import pytest
import torch
from deadheat.accelerators import SparseCrossAttention, attached
from deadheat.accelerators.edited_region import chosen
from deadheat.accelerators.edited_words import changed, named

from ..families import FAMILIES

LEFT = "0 0 0.5 1"
ON = ["sd15", "sdxl", "pixart", "ltx", "wan"]


def crossing(tiny, pipe):
    return [m for name, m in tiny.denoiser(pipe).named_modules() if name.endswith("attn2")]


def texts(found, prompt):
    return [prompt[begin:end] for begin, end in found]


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("a red fox", "a blue fox", ["blue", "fox"]),
        ("a fox on a hill", "a cat on a hill", ["cat"]),
        ("a cat", "a cat in a tall hat", ["in", "a", "tall", "hat"]),
        ("A Cat!", "a cat", []),
        ("a red fox and a red moon", "a red fox and a green moon", ["green", "moon"]),
        ("", "a fox", ["a", "fox"]),
    ],
)
def test_changed_words(before: str, after: str, kept: list[str]):
    assert texts(changed(before, after), after) == kept


def test_named_words():
    prompt = "A fox's red hat, a Fox"
    assert texts(named(prompt, "fox HAT"), prompt) == ["hat", "Fox"]
    assert named(prompt, "wolf") == []


def seen_words(tiny, pipe):
    """Tokens of text that the first cross attention projects, call by call, by sample."""
    seen = []
    crossing(tiny, pipe)[0].to_k.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[:2])))
    return seen


@pytest.mark.parametrize("on", ON)
def test_the_conditional_branch_looks_at_the_words_alone(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    seen = seen_words(tiny, pipe)
    with attached(pipe, SparseCrossAttention(region="0 0 1 1", words="cube")) as session:
        out = tiny.call(pipe, 2)
    assert torch.isfinite(out).all()
    lengths = {length for _, length in seen}
    assert len(lengths) == 2
    few, every = min(lengths), max(lengths)
    assert seen.count((1, few)) == seen.count((1, every)) == 2  # two steps, each branch
    assert few < every
    assert session.report().count("partial") == 2


@pytest.mark.parametrize("on", ["sd15", "pixart"])
def test_against_attention_by_hand(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    layer = crossing(tiny, pipe)[0]
    met = {}
    with attached(pipe, SparseCrossAttention(region=LEFT, words="cube", warmup=1, every=100)):
        inner = layer.forward

        def watch(hidden, *args, **kwargs):
            out = inner(hidden, *args, **kwargs)
            met.setdefault("calls", []).append((hidden, kwargs["encoder_hidden_states"], out))
            return out

        layer.forward = watch
        few = []
        handle = layer.to_k.register_forward_hook(lambda _, args, __: few.append(args[0]))
        tiny.call(pipe, 2)
        handle.remove()
        layer.forward = inner
    (_, _, whole), (hidden, text, out) = met["calls"]
    side = int(hidden.shape[1] ** 0.5)
    inside = list(chosen(LEFT, (1, side, side)))
    outside = [n for n in range(hidden.shape[1]) if n not in inside]
    assert torch.equal(out[:, outside], whole[:, outside])
    words = min(few, key=lambda x: x.shape[1])[0]
    assert 1 <= len(words) < text.shape[1]
    assert all(any(torch.equal(word, token) for token in text[1]) for word in words)
    query, key, value = (
        to(x).unflatten(-1, (layer.heads, -1)).transpose(0, 1)
        for to, x in ((layer.to_q, hidden[1, inside]), (layer.to_k, words), (layer.to_v, words))
    )
    mixed = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
    assert torch.allclose(out[1, inside], layer.to_out[0](mixed.transpose(0, 1).flatten(1)), atol=1e-5)


@pytest.mark.parametrize("on", ON)
def test_no_such_word_means_all_words(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with attached(pipe, SparseCrossAttention(region="0 0 1 1", words="wolf")) as session:
        out = tiny.call(pipe, 2)
    assert torch.equal(out, tiny.call(pipe, 2))
    assert "nothing outside its region" in session.report().warnings[0]


def test_prompts_of_a_batch_each_keep_their_own_words():
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    prompts = ["a red cube", "a blue ball and a cube"]
    with attached(pipe, SparseCrossAttention(region="0 0 1 1", words="cube")):
        both = tiny.call(pipe, 2, prompt=prompts, generator=[torch.Generator().manual_seed(0) for _ in prompts])
        for nth, prompt in enumerate(prompts):
            assert torch.allclose(both[nth], tiny.call(pipe, 2, prompt=prompt)[0], atol=1e-4)


def test_embeddings_without_a_prompt_keep_everything():
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    embeds = pipe.encode_prompt("a red cube", "cpu", 1, True, "blurry")
    given = {"prompt": None, "negative_prompt": None, "prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    with attached(pipe, SparseCrossAttention(region="0 0 1 1", words="cube")):
        out = tiny.call(pipe, 2, **given)
    assert torch.equal(out, tiny.call(pipe, 2, **given))


def test_with_before_the_words_are_found():
    tiny = FAMILIES["pixart"]
    pipe = tiny.build()
    with attached(pipe, SparseCrossAttention(region="0 0 1 1", before="a red ball")):
        by_difference = tiny.call(pipe, 2)
    with attached(pipe, SparseCrossAttention(region="0 0 1 1", words="cube")):
        by_name = tiny.call(pipe, 2)
    assert torch.equal(by_difference, by_name)
