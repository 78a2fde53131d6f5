"""The tape's own convolutions: whatever it puts in the place of torch's gives what torch's gives."""

import pytest
import torch
from deadheat.pipelines.tape import Tape
from torch.nn import functional

FIRST, LAST = torch.contiguous_format, torch.channels_last


@pytest.mark.parametrize("layout", [FIRST, LAST], ids=["channels first", "channels last"])
@pytest.mark.parametrize(
    ("shape", "weight", "options"),
    [
        ((2, 8, 6, 6), (12, 8, 1, 1), {}),
        ((2, 8, 6, 6), (12, 8, 1, 1), {"stride": (2, 2)}),
        ((2, 8, 6, 7), (12, 8, 3, 3), {}),
        ((2, 8, 9, 7), (12, 8, 3, 3), {"stride": (2, 2)}),
        ((1, 8, 7, 5), (4, 8, 5, 3), {}),
        ((2, 8, 5, 5), (12, 8, 3, 3), {"padding": (1, 1)}),
        ((2, 8, 7, 7), (12, 8, 3, 3), {"dilation": (2, 2)}),
        ((2, 8, 5, 5), (12, 2, 3, 3), {"groups": 4}),
        ((2, 8, 40, 40), (12, 8, 3, 3), {}),
        ((2, 3, 1, 1), (5, 3, 1, 1), {}),
        ((2, 800, 5, 4), (700, 800, 1, 1), {}),
        ((1, 260, 6, 5), (250, 260, 3, 3), {}),
        ((2, 260, 9, 7), (250, 260, 3, 3), {"stride": (2, 2)}),
        ((1, 260, 40, 30), (250, 260, 3, 3), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_are_played_as_torch_does_them(shape, weight, options, bias, layout):
    torch.manual_seed(0)
    kernel = torch.randn(weight) / torch.Size(weight[1:]).numel() ** 0.5
    offset = torch.randn(weight[0]) if bias else None
    first, then = (torch.randn(shape).to(memory_format=layout) for _ in range(2))

    def convolved(x):
        return functional.conv2d(x, kernel, offset, **options) + 1

    tape = Tape()
    with torch.inference_mode():
        assert torch.allclose(tape.record(lambda: convolved(first), {"x": first}), convolved(first), atol=1e-5)
        assert torch.allclose(tape.play({"x": then}, {}), convolved(then), atol=1e-5)


def test_a_part_of_a_larger_map_is_read_from_where_it_begins():
    """A convolution of few pixels reads its input's memory by strides, and a window is a view."""
    torch.manual_seed(0)
    kernel = torch.randn(4, 8, 3, 3)
    whole = torch.randn(3, 8, 6, 6).to(memory_format=torch.channels_last)
    tape = Tape()
    with torch.inference_mode():
        first = whole[:1]
        tape.record(lambda: functional.conv2d(first, kernel), {"x": first})
        assert torch.allclose(tape.play({"x": whole[2:]}, {}), functional.conv2d(whole[2:], kernel), atol=1e-5)
