"""SADA: where its forecast is exact, what its criterion says by construction, and when it may skip."""

from collections import deque

import pytest
import torch
from deadheat.accelerators import SADA, ABCache, DeepCache, GuidanceCutoff, GuidanceInterval, TeaCache, attached, check
from deadheat.accelerators.pruning import Pruning, chosen
from deadheat.accelerators.trajectory import COEFFICIENTS, Node, Trajectory, _continued, forecast
from deadheat.pipelines import (
    Call,
    IncompatibleError,
    KnobError,
    Latents,
    Level,
    Link,
    Run,
    SolverStep,
    Step,
    UnsupportedError,
    around_token_modules,
    on_grid,
    staged,
)
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

from ..families import FAMILIES, executed, leftovers

GRID = [1.0 - 0.1 * step for step in range(10)]


def flow(sigma: float) -> Level:
    return Level(sigma, 1.0, 1.0, -sigma)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 4, 3, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------- mathematics


@pytest.mark.parametrize(("weights", "degree"), [("paper", 1), ("code", 0)])
def test_the_forecast_is_exact_up_to_a_degree(weights: str, degree: int):
    """Slopes c u^degree along an even grid: x is their integral."""
    for power in (0, 1, 2):
        c, at, after = noise(power), GRID[4], GRID[5]
        x, truth = c * at ** (power + 1) / (power + 1), c * after ** (power + 1) / (power + 1)
        slopes = tuple(c * GRID[i] ** power for i in (4, 3, 2))
        found = forecast(flow(at), flow(after), x, slopes, COEFFICIENTS[weights])
        assert torch.allclose(found, truth, atol=1e-12) is (power <= degree)


@pytest.mark.parametrize("weights", COEFFICIENTS)
def test_the_weights_of_a_forecast_add_up_to_one(weights: str):
    assert sum(COEFFICIENTS[weights]) == pytest.approx(1)


def test_the_forecast_is_in_the_units_of_the_latents():
    level, after = Level(3.0, 0.5, 2.0, -3.0), Level(2.0, 0.7, 1 / 0.7, -2.0)
    x, slope = noise(0), noise(1)
    found = forecast(level, after, x, (slope, slope, slope), COEFFICIENTS["paper"])
    assert torch.allclose(found, (x / 0.5 - slope) * 0.7)


def test_pictures_are_continued_exactly_below_the_number_of_terms():
    for terms in (2, 3, 4):
        factors = [noise(power) for power in range(terms + 1)]

        def polynomial(u: float, degree: int, factors: list = factors) -> torch.Tensor:
            return sum(factors[power] * u**power for power in range(degree + 1))

        for degree in range(terms + 1):
            nodes = deque(Node(u, polynomial(u, degree)) for u in (1.0, 3.0, 4.0, 7.0)[:terms])
            assert torch.allclose(_continued(nodes, 9.0), polynomial(9.0, degree)) is (degree < terms)


# ------------------------------------------------------------------------------------------------ one run, by hand


class Euler:
    """A run of the accelerator without a pipeline: flow matching, Euler steps, any network."""

    def __init__(self, sada: SADA, steps: int = 30) -> None:
        self.run, self.steps = Run(), steps
        self.run.sigmas = [1 - step / steps for step in range(steps)]
        self.run.total = steps
        self.walk = Trajectory(sada, Link("sada", self.run), FlowMatchEulerDiscreteScheduler(), Latents())
        self.skipped: list[int] = []
        self.predictions: list[torch.Tensor] = []
        self.stable: list[bool] = []

    def go(self, network, x: torch.Tensor) -> torch.Tensor:
        for step, sigma in enumerate(self.run.sigmas):
            self.run.steps.append(type("Step", (), {"action": "computed", "reason": ""})())
            call = Call({"x": x}, "x", step, self.steps, sigma, ("cond",), len(x), self.run)
            before = len(self.run.acted)
            asked: list[int] = []
            out = self.walk.call(call, lambda c, a=asked: a.append(1) or network(c.latents, c.sigma))
            if not asked:
                self.skipped.append(step)
            assert len(self.run.acted) == max(before, not asked)
            x = self.walk.step(SolverStep(out, sigma, x, self.run), self._solve)[0]
            self.stable.append(self.walk.stable)
        return x

    def _solve(self, now: SolverStep) -> tuple[torch.Tensor]:
        self.predictions.append(now.prediction)
        return (now.latents - now.prediction / self.steps,)


def wild(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(int(sigma * 1e6)))


def test_after_euler_the_coefficients_of_the_code_call_everything_stable():
    run = Euler(SADA(coefficients="code", most=0))
    run.go(wild, torch.randn(2, 4, 8, 8))
    assert run.stable[2:-1] == [True] * (run.steps - 3)


def test_the_coefficients_of_the_paper_tell_steps_apart():
    verdicts = []
    for seed in range(20):
        run = Euler(SADA(most=0))
        run.go(lambda x, sigma, s=seed: wild(x, sigma + s)[:, :1, :1, :1].expand_as(x), torch.randn(1, 1, 2, 2))
        verdicts += run.stable[2:-1]
    assert 0.75 < sum(verdicts) / len(verdicts) < 0.97  # 0.89 of random triples


@pytest.mark.parametrize("fill", ["line", "slope"])
def test_slopes_on_a_line_are_filled_exactly(fill: str):
    c, d = noise(0).float(), noise(1).float()
    run = Euler(SADA(coefficients="code", fill=fill, most=1))
    run.go(lambda x, sigma: c + d * sigma, torch.zeros_like(c))
    assert len(run.skipped) > 5
    for step, given in enumerate(run.predictions):
        assert torch.allclose(given, c + d * run.run.sigmas[step], atol=1e-4)


def test_the_second_skip_in_a_row_repeats_the_slope():
    run = Euler(SADA(coefficients="code", fill="slope", most=3))
    run.go(lambda x, sigma: sigma**2 + wild(x, sigma) * 1e-3, torch.zeros(1, 1, 2, 2))
    first = run.skipped[0]
    assert run.skipped[:3] == [first, first + 1, first + 2]
    assert torch.allclose(
        run.predictions[first], 2 * run.predictions[first - 1] - run.predictions[first - 2], atol=1e-4
    )
    for later in (first + 1, first + 2):
        assert torch.allclose(run.predictions[later], run.predictions[first], atol=1e-4)


def test_state_gives_the_picture_of_the_forecast():
    run = Euler(SADA(coefficients="code", fill="state", most=1))
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    solve = run._solve

    def watch(now: SolverStep):
        seen[len(run.predictions)] = (run.walk.ahead[0] if run.walk.ahead else None, now.latents)
        return solve(now)

    run._solve = watch
    run.go(lambda x, sigma: torch.cos(x + sigma), torch.randn(1, 2, 3, 3))
    for step in run.skipped:
        ahead, x = seen[step]
        sigma, last = run.run.sigmas[step], run.predictions[step - 1]
        assert torch.allclose(x - sigma * run.predictions[step], ahead - sigma * last, atol=1e-4)


# ----------------------------------------------------------------------------------------------------- when it skips


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.0), (0.3, 0.6), (0.5, 0.5)])
def test_window_and_longest_skip(most: int, start: float, stop: float):
    sada = SADA(coefficients="code", most=most, start=start, stop=stop)  # every step looks stable
    run = Euler(sada)
    run.go(wild, torch.randn(1, 1, 4, 4))
    assert set(run.skipped) <= set(sada.window(30))
    assert not {0, 1, 2, 29} & set(run.skipped)
    runs = "".join("." if step in run.skipped else "x" for step in range(30)).split("x")
    assert max(map(len, runs)) == (most if start < stop else 0)


@pytest.mark.parametrize("every", [2, 3, 4])
def test_late_steps_follow_the_cadence(every: int):
    sada = SADA(late=0.5, every=every, terms=2, most=4, start=0.2, stop=1.0)
    run = Euler(sada)
    run.go(wild, torch.randn(1, 1, 4, 4))
    late = range(15 + 2 * every, 29)
    assert [step in run.skipped for step in late] == [(step - 1) % every != 0 for step in late]


def test_with_slopes_the_cadence_is_all_that_multistep_sets():
    """As in the official code for flow matching: the slope is continued once, then repeated, and no picture is."""
    sada = SADA(criterion="curvature", fill="slope", late=0.0, every=4, terms=5, most=4, start=0.1, stop=1.0)
    run = Euler(sada)
    run.go(wild, torch.randn(1, 1, 4, 4))
    assert run.skipped == [step for step in range(3, 29) if (step - 1) % 4]
    assert not run.walk.pictures
    slopes = run.predictions
    for step in run.skipped:
        repeats = step - 1 in run.skipped
        expected = slopes[step - 1] if repeats else 2 * slopes[step - 1] - slopes[step - 2]
        assert torch.allclose(slopes[step], expected, atol=1e-4)


def test_a_picture_on_a_line_is_continued():
    """A network whose picture moves evenly from step to step: the multistep rule is then exact."""
    c, d = noise(0).float(), noise(1).float()
    run = Euler(SADA(late=0.3, every=3, terms=2, stop=1.0, most=4), steps=20)
    run.go(lambda x, sigma: (x - c - d * (1 - sigma)) / sigma, noise(2).float())
    x = noise(2).float()
    assert len(run.skipped) > 6
    for step, given in enumerate(run.predictions):
        sigma = run.run.sigmas[step]
        assert torch.allclose(x - sigma * given, c + d * (1 - sigma), atol=1e-3)
        x = x - given / 20


@pytest.mark.parametrize("empty", [{"start": 0.5, "stop": 0.5}, {"most": 0}, {"stop": 0.0, "start": 0.0}], ids=str)
def test_an_empty_window_is_bit_identical(empty: dict):
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    plain = tiny.call(pipe, 8)
    with attached(pipe, SADA(**empty)) as session:
        assert torch.equal(plain, tiny.call(pipe, 8))
    assert "may skip none of 8 steps" in str(session.report())


# ------------------------------------------------------------------------------------------------------------ tokens


def test_tokens_are_chosen_by_score_and_in_turn():
    scores = -torch.ones(2, 18)
    scores[0, [4, 7]] = torch.tensor([1.0, 5.0])
    kept = chosen(scores, most=1.0, step=2)
    assert kept[0].tolist() == [2, 4, 7, 11]  # the unstable ones, and two whose turn it is
    assert kept.shape == (2, 4)
    assert set(kept[1].tolist()) >= {2, 11}
    assert chosen(scores, most=3 / 18, step=2)[0].tolist() == [2, 7, 11]
    seen = [index for step in range(9) for index in chosen(-torch.ones(1, 18), 1.0, step)[0].tolist()]
    assert sorted(seen) == list(range(18))
    assert chosen(torch.ones(1, 18), most=1.0, step=0).tolist() == [list(range(18))]


def test_pruned_tokens_keep_their_last_output():
    pruning = Pruning(Link("sada", Run(steps=[Step(0, 1.0)])), most=0.5, longest=2)
    call = Call({"x": torch.zeros(2, 1, 4, 4)}, "x", 0, 9, 1.0, ("uncond", "cond"), 2, pruning.link.run)
    ran: list[int] = []

    def module(step: int, asks: bool) -> torch.Tensor:
        pruning.begin(step, allowed=asks)
        pruning.scores = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
        hidden = torch.zeros(2, 16, 3)
        out = pruning.around(
            "ff", call, hidden, lambda kept: torch.full((2, 16 if kept is None else kept.shape[1], 3), float(step))
        )
        ran.append(int((out[0, :, 0] == step).sum()))
        assert torch.equal(out[0], out[1])
        return out[0, :, 0]

    module(0, False)
    out = module(1, True)
    assert out[8:].tolist() == [0.0] + [1.0] * 7  # the eight most unstable, but the turn of tokens 1 and 10 is first
    assert out[1] == 1.0
    module(2, True)
    module(3, True)  # two in a row were enough
    module(4, True)
    assert ran == [16, 8, 8, 16, 8]


@pytest.mark.parametrize("on", [name for name in FAMILIES if name not in ("lumina2", "auraflow")])
def test_all_tokens_are_the_whole_module_and_some_are_a_part_of_it(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    plain, before, seen = tiny.call(pipe, 2), leftovers(pipe), set()

    def around(name, call, hidden, run):
        tokens = hidden.shape[1]
        everything = torch.arange(tokens).expand(len(hidden), -1)
        whole, part = run(everything), run(everything[:, ::2])
        assert torch.allclose(part, whole[:, ::2], atol=1e-5)
        seen.add(name.rpartition(".")[2])
        return whole

    with staged(pipe) as stage, around_token_modules(stage, around):
        assert torch.equal(plain, tiny.call(pipe, 2))
    assert leftovers(pipe) == before
    assert seen == {"sd15": {"ff", "attn1", "attn2"}, "wan": {"ffn"}}.get(on, seen)
    assert ("attn1" in seen) is (on in ("sd15", "sdxl", "pixart"))


@pytest.mark.parametrize("on", ["sd15", "pixart", "sd3", "flux"])
def test_unstable_steps_run_a_part_of_the_tokens(on: str, monkeypatch):
    tiny = FAMILIES[on]
    kind = {"sd15": DDIMScheduler, "pixart": DPMSolverMultistepScheduler}.get(on)
    pipe = tiny.build(scheduler=kind() if kind else None)
    judge = Trajectory._judge

    def unstable(self, level, x, x_next):
        judge(self, level, x, x_next)
        self.stable = False
        if len(self.slopes) == 3:
            self.pruning.scores = on_grid(self.layout, x_next)

    monkeypatch.setattr(Trajectory, "_judge", unstable)
    before, plain = leftovers(pipe), tiny.call(pipe, 8)
    with attached(pipe, SADA(tokens=0.5, start=0.0, stop=1.0, most=2)) as session:
        outs = [tiny.call(pipe, 8) for _ in range(2)]
    report = session.report()
    assert report.calls == report.asked
    assert [step.action == "partial" for step in report.steps] == [False] * 3 + [True, True, False, True, False]
    assert torch.equal(*outs)
    assert not torch.equal(plain, outs[0])
    assert torch.isfinite(outs[0]).all()
    assert leftovers(pipe) == before
    assert torch.equal(plain, tiny.call(pipe, 8))


def test_tokens_need_modules_that_work_token_by_token():
    pipe = FAMILIES["lumina2"].build()
    assert SADA().refusal(pipe) is None
    assert "use tokens=1" in (SADA(tokens=0.5).refusal(pipe) or "")
    with pytest.raises(UnsupportedError, match="token by token"), attached(pipe, SADA(tokens=0.5)):
        pass


def test_a_second_network_keeps_its_own_tokens():
    """Wan 2.2 goes on with a second network of one shape: what rests there has nothing of the first."""
    tiny = FAMILIES["wan"]
    pipe = tiny.build()
    pipe.register_modules(transformer_2=tiny.build().transformer)
    pipe.register_to_config(boundary_ratio=0.6)
    seen = []
    with (
        staged(pipe) as stage,
        around_token_modules(stage, lambda name, call, hidden, run: seen.append(name) or run(None)),
    ):
        tiny.call(pipe, 4)
    first, second = ({name for name in seen if name.startswith(f"{of}.")} for of in ("transformer", "transformer_2"))
    assert len(first) == len(second) > 0
    assert first | second == set(seen)


# -------------------------------------------------------------------------------------------------------- pipelines

SCHEDULERS = [
    ("sd15", DDIMScheduler, {"prediction_type": "v_prediction", "clip_sample": False}),
    ("sd15", DPMSolverMultistepScheduler, {}),
    ("sdxl", EulerDiscreteScheduler, {"prediction_type": "v_prediction"}),
    ("sdxl", DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    ("wan", DPMSolverMultistepScheduler, {"prediction_type": "flow_prediction", "use_flow_sigmas": True}),
    ("flux", None, {}),
]


@pytest.mark.parametrize(("on", "kind", "settings"), SCHEDULERS, ids=str)
@pytest.mark.parametrize("fill", ["line", "state", "slope"])
def test_runs_repeat_and_are_counted(on: str, kind: type | None, settings: dict, fill: str):
    tiny = FAMILIES[on]
    pipe = tiny.build(scheduler=kind(**settings) if kind else None)
    recipe = SADA(coefficients="code", criterion="residual", fill=fill, start=0.0, stop=1.0)
    outs, did = [], []
    with attached(pipe, recipe) as session:
        for _ in range(2):
            with executed(tiny, pipe) as seen:
                outs.append(tiny.call(pipe, 10))
            report = session.report()
            assert report.calls == seen.samples
            did.append([step.action for step in report.steps])
    assert torch.equal(*outs)
    assert torch.isfinite(outs[0]).all()
    assert did[0] == did[1]
    assert did[0][:3] == ["computed"] * 3
    assert did[0][-1] == "computed"
    if type(pipe.scheduler) in (EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, DDIMScheduler):
        assert did[0].count("extrapolated") == 4  # steps 3-4 and 6-7: every step is stable


@pytest.mark.parametrize(
    ("on", "other"), [("sd15", DeepCache()), ("sd3", TeaCache()), ("sd3", ABCache(place="stack"))], ids=str
)
@pytest.mark.parametrize("order", [1, -1], ids=["sada-outside", "cache-outside"])
def test_predicted_slopes_are_not_judged(on: str, other, order: int):
    with pytest.raises(IncompatibleError) as error:
        check([SADA(), other][::order], FAMILIES[on].build())
    assert "sada" in str(error.value) and str(other) in str(error.value)


@pytest.mark.parametrize("on", ["sd3", "flux"])
@pytest.mark.parametrize("order", [1, -1], ids=["sada-outside", "interval-outside"])
def test_switching_guidance_is_a_new_beginning(on: str, order: int):
    """The slopes before the switch are not continued behind it: three steps in a row are computed."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    sada = SADA(coefficients="code", start=0.0, stop=1.0, most=1)
    with (
        executed(tiny, pipe) as seen,
        attached(pipe, *[sada, GuidanceInterval(start=0.0, stop=0.5)][::order]) as session,
    ):
        assert torch.isfinite(tiny.call(pipe, 16)).all()
    report = session.report()
    assert report.calls == seen.samples
    ran = [bool(step.calls) for step in report.steps]
    first = 8 if ran[8] else 9
    assert ran[first : first + 3] == [True] * 3
    assert not all(ran[first + 3 :])


def test_what_it_refuses_and_warns_of():
    pipe = FAMILIES["sd15"].build(scheduler=HeunDiscreteScheduler())
    assert "switch to one of DDIMScheduler" in SADA.supports(pipe)
    pipe = FAMILIES["sd3"].build()
    assert SADA(coefficients="code").cautions(pipe, 28)
    assert not SADA().cautions(pipe, 28)
    assert "leave little" in SADA().cautions(pipe, 8)[0]
    assert not SADA(most=0).cautions(pipe, 8)
    with pytest.raises(KnobError, match="swap them"):
        SADA(start=0.9, stop=0.1)


def test_guidance_that_ends_at_a_skipped_step():
    """Nobody knows beforehand that the second call of this step will not come."""
    flux = FAMILIES["flux"]
    pipe = flux.build()
    with executed(flux, pipe) as seen, attached(pipe, GuidanceCutoff(), SADA()) as session:
        assert torch.isfinite(flux.call(pipe, 20)).all()
    assert session.report().calls == seen.samples
