"""cache-dit's DBCache: what runs when, apart by branch, gone when the run is; and what is said without the package."""

import pytest
import torch
from deadheat.accelerators import DBCache, attached
from deadheat.pipelines import UnsupportedError, exchanged

from ..families import FAMILIES, executed, leftovers

ON = ["sd3", "pixart", "flux", "lumina2", "wan", "ltx"]


@pytest.fixture
def dit():
    return pytest.importorskip("cache_dit", reason="cache-dit is an optional extra: pip install deadheat[peers]")


def ran(block) -> list[int]:
    seen: list[int] = []
    layer = next(layer for layer in block.modules() if isinstance(layer, torch.nn.Linear))
    layer.register_forward_hook(lambda *_: seen.append(1))
    return seen


def stack(network):
    return next(b for name in ("transformer_blocks", "blocks", "layers") if (b := getattr(network, name, None)))


def test_without_the_package(monkeypatch):
    pipe = FAMILIES["sd3"].build()
    monkeypatch.setattr("deadheat.accelerators.db_cache.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"pip install deadheat\[peers\]"), attached(pipe, DBCache()):
        pass


def test_an_exchanged_child_comes_back_to_its_place():
    owner = torch.nn.ModuleDict({"a": torch.nn.Identity(), "b": torch.nn.Identity()})
    before = list(owner.items())
    with pytest.raises(ValueError, match="no"), exchanged(owner, "a", torch.nn.Linear(1, 1)):
        assert isinstance(owner["a"], torch.nn.Linear)
        raise ValueError("no")
    assert list(owner.items()) == before


@pytest.mark.parametrize("on", ON)
def test_first_and_last_always_run(dit, on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    blocks = stack(tiny.denoiser(pipe))
    cache = DBCache(threshold=0.99, warmup=1, most=2, first=1, last=0 if on == "flux" else 1)
    seen = [ran(block) for block in blocks]
    before = leftovers(pipe)
    with executed(tiny, pipe) as calls, attached(pipe, cache) as session:
        assert torch.isfinite(tiny.call(pipe, 9)).all()
        assert leftovers(pipe) != before  # the clock; blocks are those of the pipeline again
        assert stack(tiny.denoiser(pipe)) is blocks
    assert leftovers(pipe) == before
    report = session.report()
    assert report.calls == calls.samples == report.asked
    assert len(seen[0]) == calls.calls
    assert len(seen[1]) == calls.calls * 4 // 9  # 0 3 6 and the last
    assert on == "flux" or len(seen[-1]) == calls.calls
    assert [step.action for step in report.steps] == (["computed"] + ["partial"] * 2) * 2 + [
        "computed",
        "partial",
        "computed",
    ]
    assert report.cache_bytes > 0


@pytest.mark.parametrize("on", ON)
def test_a_tiny_threshold_computes_everything(dit, on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    plain = tiny.call(pipe, 5)
    with attached(pipe, DBCache(threshold=1e-9, warmup=1)) as session:
        assert torch.allclose(plain, tiny.call(pipe, 5), atol=1e-5)
    assert session.report().count("partial") == 0


def test_blocks_that_leave_no_middle(dit):
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    plain = tiny.call(pipe, 5)
    with attached(pipe, DBCache(threshold=0.9, first=3, last=1)) as session:
        assert torch.equal(plain, tiny.call(pipe, 5))
    assert any("leave none" in warning for warning in session.report().warnings)


def test_nothing_is_printed(dit, capfd):
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    with attached(pipe, DBCache(threshold=0.9)):
        tiny.call(pipe, 5)
    assert "ache-DiT" not in capfd.readouterr().out
