"""AB-Cache is the polynomial it says it is, at the steps it says, and forgets when it must."""

from functools import cache

import pytest
import torch
from deadheat.accelerators import ABCache, attached
from deadheat.accelerators.predictors import binomial_weights, combine, lagrange_weights
from deadheat.pipelines import Call, Link, Run, Step
from diffusers import EulerAncestralDiscreteScheduler

from ..families import FAMILIES, executed

SIGMAS = tuple(float(s) for s in torch.linspace(1, 1 / 28, 28, dtype=torch.float64) ** 1.3)


class Driven:
    """The cache around a function of the call, without a pipeline."""

    def __init__(self, cache: ABCache, steps: int = 28, branches: tuple[str, ...] = ("cond",)) -> None:
        self.cache, self.steps, self.branches = cache, steps, branches
        self.link = Link(cache.name, Run())
        self.around = cache._start(self.link)
        self.ran: list[int] = []

    def ask(self, step: int, network, latents: torch.Tensor | None = None) -> torch.Tensor:
        latents = torch.zeros(len(self.branches), 1) if latents is None else latents
        run = self.link.run
        if len(run.steps) <= step:
            run.steps.append(Step(step, SIGMAS[step]))
        call = Call({"x": latents}, "x", step, self.steps, SIGMAS[step], self.branches, len(latents), run)

        def seen(call: Call) -> torch.Tensor:
            self.ran.append(step)
            return network(call)

        return self.around(call, seen)

    def run(self, network) -> list[torch.Tensor]:
        return [self.ask(step, network) for step in range(self.steps)]


def polynomial(degree: int, axis: str, seed: int = 0):
    numbers = torch.randn(degree + 1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def network(call: Call) -> torch.Tensor:
        u = call.sigma if axis == "sigma" else call.step / call.steps
        return sum(row * u**k for k, row in enumerate(numbers))[None].repeat(call.batch, 1)

    return network


def error(cache: ABCache, network) -> float:
    driven, true = Driven(cache), Driven(ABCache(every=1))
    worst = max(float((a - b).abs().max()) for a, b in zip(driven.run(network), true.run(network), strict=True))
    assert driven.ran == list(cache.computed(28))
    return worst


@pytest.mark.parametrize("axis", ["sigma", "index"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("every", [2, 3, 4])
def test_polynomials_are_exact(axis: str, order: int, every: int):
    cache = ABCache(order=order, every=every, axis=axis)
    for seed in range(3):
        assert error(cache, polynomial(order - 1, axis, seed)) < 1e-12
        assert error(cache, polynomial(order, axis, seed)) > 1e-6


def test_the_other_axis_is_not_exact():
    assert error(ABCache(order=2, axis="sigma"), polynomial(1, "index")) > 1e-4
    assert error(ABCache(order=2, axis="index"), polynomial(1, "sigma")) > 1e-4


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_weights(order: int):
    even = lagrange_weights([float(n) for n in range(order)], float(order))
    assert even == pytest.approx(binomial_weights(order)[::-1], abs=1e-12)
    assert sum(binomial_weights(order)) == 1
    assert sum(map(abs, binomial_weights(order))) == 2**order - 1
    assert sum(lagrange_weights(SIGMAS[3 : 3 + order], SIGMAS[12])) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("weights", ["lagrange", "binomial"])
def test_order_1_is_reuse(weights: str):
    network = polynomial(3, "sigma")
    driven = Driven(ABCache(order=1, every=3, warmup=1, weights=weights))
    outs = driven.run(network)
    for step, out in enumerate(outs):
        computed = max(n for n in driven.ran if n <= step)
        assert torch.equal(out, outs[computed])
    assert driven.link.run.steps[2].action == "reused"


def test_schedule():
    cache = ABCache(every=3, warmup=4)
    assert len(cache.computed(28)) == 13
    assert cache.computed(28) == (0, 1, 2, 3, 4, 7, 10, 13, 16, 19, 22, 25, 27)
    assert ABCache(every=1).computed(9) == tuple(range(9))
    assert ABCache(order=5, warmup=1, every=10).computed(20) == (0, 1, 2, 3, 4, 5, 15, 19)  # an order needs its past
    assert cache.computed(1) == (0,)


def test_binomial_without_feedback_takes_computed_outputs_for_neighbours():
    line = polynomial(1, "index")
    assert error(ABCache(weights="binomial", every=2, axis="index"), line) > 1e-4
    assert error(ABCache(weights="binomial", every=2, axis="index", feed_back=True), line) < 1e-12


def test_feeding_back_grows():
    """Why `feed_back` is off: with order 2 every=3 an error is doubled in every period."""

    @cache
    def network(step: int) -> torch.Tensor:
        return torch.tensor([[float(step) ** 2]], dtype=torch.float64)

    def errors(**knobs) -> list[float]:
        driven = Driven(ABCache(order=2, warmup=4, **knobs))
        outs = driven.run(lambda call: network(call.step))
        return [abs(float(out - network(step))) for step, out in enumerate(outs)]

    fed = errors(every=3, feed_back=True, weights="binomial", axis="index")
    assert fed[5::3] == [2.0**period for period in range(1, 9)]  # the first skipped step of every period
    assert max(errors(every=3, axis="index")) < 11
    assert max(errors(every=2, feed_back=True, weights="binomial", axis="index")) < 3  # every=2 stays where it is


def test_guidance_commutes():
    """Extrapolating the halves and then guiding is guiding and then extrapolating."""
    uncond, cond, scale = polynomial(4, "sigma", 1), polynomial(4, "sigma", 2), 4.0
    pair = Driven(ABCache(order=3), branches=("uncond", "cond"))
    halves = pair.run(lambda call: torch.cat([uncond(call)[:1], cond(call)[:1]]))
    guided = Driven(ABCache(order=3)).run(lambda call: uncond(call) + scale * (cond(call) - uncond(call)))
    for half, whole in zip(halves, guided, strict=True):
        assert torch.allclose(half[:1] + scale * (half[1:] - half[:1]), whole, atol=1e-10)


def test_branches_have_pasts_of_their_own():
    driven = Driven(ABCache(order=1, every=3, warmup=1), branches=("uncond", "cond"))
    outs = driven.run(lambda call: torch.tensor([[1.0], [2.0]]) + call.step)
    assert outs[2].flatten().tolist() == [2.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype):
    weights = lagrange_weights([1.0, 0.9, 0.8, 0.7], 0.5)
    values = [torch.randn(2000, generator=torch.Generator().manual_seed(n)).to(dtype) for n in range(4)]
    exact = sum(w * v.double() for w, v in zip(weights, values, strict=True))
    out = combine(weights, values)
    assert out.dtype == dtype
    assert torch.equal(out, sum(w * v.float() for w, v in zip(weights, values, strict=True)).to(dtype)) or torch.equal(
        out.double(), exact.to(dtype).double()
    )
    naive = sum(w * v for w, v in zip(weights, values, strict=True))
    assert (out - exact).abs().mean() < (naive - exact).abs().mean()


def test_predictions_are_not_remembered():
    cache = ABCache(every=4, warmup=2)
    assert cache.feed_back is False
    driven = Driven(cache)
    past, _memory = driven.link.run._held
    for step in range(5):
        driven.ask(step, polynomial(2, "sigma"))
    assert driven.ran == [0, 1, 2]
    assert [node.where for node in past["cond"]] == [SIGMAS[1], SIGMAS[2]]


def test_another_shape_forgets():
    driven = Driven(ABCache(every=5, warmup=2))
    network = polynomial(1, "sigma")
    for step in range(4):
        driven.ask(step, network)
    assert driven.ran == [0, 1, 2]
    for step in range(4, 8):
        driven.ask(step, network, torch.zeros(1, 2))
    assert driven.ran == [0, 1, 2, 4, 5, 7]  # two outputs of the new shape, then predictions; 7 is on the schedule


def test_a_disturbance_forgets():
    driven = Driven(ABCache(every=5, warmup=2))
    inner = Link("inside", driven.link.run, (driven.link,))
    network = polynomial(1, "sigma")

    def disturbing(call: Call) -> torch.Tensor:
        if call.step == 7:
            inner.disturb()
        return network(call)

    for step in range(12):
        driven.ask(step, disturbing)
    assert driven.ran == [0, 1, 2, 7, 8]
    assert not driven.link.stale


def test_cautions():
    pipe = FAMILIES["sd15"].build(scheduler=EulerAncestralDiscreteScheduler())
    with attached(pipe, ABCache()) as session:
        FAMILIES["sd15"].call(pipe, 12)
    assert any("adds noise at every step" in said for said in session.report().warnings)
    assert any("seldom pays" in said for said in ABCache().cautions(pipe, 8))
    assert any("multiplies errors" in said for said in ABCache(feed_back=True).cautions(pipe, 28))
    assert not ABCache(order=1).cautions(pipe, 28)


@pytest.mark.parametrize("on", ["sd15", "flux"])
def test_in_a_pipeline(on: str):
    family = FAMILIES[on]
    pipe = family.build()
    with executed(family, pipe) as seen, attached(pipe, ABCache()) as session:
        family.call(pipe, 28)
    assert seen.samples == 26
    report = session.report()
    assert [step.index for step in report.steps if step.action == "computed"] == list(ABCache().computed(28))
    assert report.count("extrapolated") == 15
    assert {step.reason for step in report.steps if step.action == "extrapolated"} == {"order 2, every 3"}
    assert "13 computed, 15 extrapolated" in str(report)
