"""The race for the fastest that holds a floor: what it finds, claims, gives up, writes, and leaves behind."""

import json
import math
import sys
from dataclasses import replace

import pytest
from deadheat.accelerators import ABCache
from deadheat.measure import Tuned, compare, tune
from deadheat.measure.goal import Estimate, Goal, estimate, read_floor, read_seconds
from deadheat.measure.prompts import course, mixed, scenes
from deadheat.measure.space import TABLE, Line, Space, search_space
from deadheat.measure.track import Entry, Track, cost
from deadheat.pipelines import Cancelled, Report, Step
from deadheat.pipelines.scenes import parse

from deadheat import ACCELERATORS, InputError, KnobError, Recipe, UnsupportedError, load

from ..families import FAMILIES, leftovers

SIZE, STEPS = (64, 64), 8
PROMPTS = ["a red cube", "a blue ball"]
LINES = {
    "ab-cache": ("ab-cache:every=2,warmup=2", "ab-cache:every=5,order=1,warmup=1"),
    "fewer-steps": ("fewer-steps:steps=6", "fewer-steps:steps=1"),
}


@pytest.fixture(scope="module")
def pipe():
    made = FAMILIES["sd15"].build()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module", autouse=True)
def small():
    """A space of four settings, and eight held-out pictures at most."""
    race, prompts = sys.modules["deadheat.measure.race"], sys.modules["deadheat.measure.prompts"]
    lines = [Line(name, tuple(map(Recipe.parse, texts))) for name, texts in LINES.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "search_space", lambda *_args, **_kwargs: Space(lines, {"clockwork": "not here"}))
        patch.setattr(prompts, "MOST", (2, 4, 8))
        yield


def go(pipe, **changes) -> Tuned:
    options = {"prompts": PROMPTS, "steps": STEPS, "guidance": 5.0, "size": SIZE, "limit": 600.0, **changes}
    return tune(pipe, **options)


@pytest.fixture(scope="module")
def floor(pipe):
    """A floor that the faithful settings hold, and the fast ones miss."""
    found = compare(
        pipe, list(LINES["ab-cache"]), prompts=PROMPTS, steps=STEPS, guidance=5.0, size=SIZE, repeats=1, control=False,
        memory=False, metrics=("psnr",),
    )  # fmt: skip
    slow, fast = (lane.mean("psnr") for lane in found.variants)
    assert slow > fast + 3
    return (slow + fast) / 2


@pytest.fixture(scope="module")
def found(pipe, floor):
    before = leftovers(pipe)
    made = go(pipe, floor={"psnr": floor})
    assert leftovers(pipe) == before
    return made


def test_the_fastest_that_holds_is_found_and_measured(found, floor):
    best = found.best
    assert best.name == LINES["ab-cache"][0] and found.measured and not found.stopped
    assert len(best.scores) == 8 == len(best.seconds) and best.calls < best.asked == 2 * STEPS
    assert found.mean(best, "psnr") - found.error(best, "psnr") >= floor
    assert found.worst(best, "psnr")[0] <= found.mean(best, "psnr")
    assert not best.scores.keys() & best.probes.keys()


def test_what_was_given_up_is_said(found):
    text = found.text()
    assert "held-out prompts" in text and "frontier" in text and "not for this pipeline: clockwork" in text
    (fast,) = (entry for entry in found.entries if "every=5" in entry.name)
    assert fast.dropped and fast.dropped in text and fast not in found.finalists
    assert found.best in found.frontier()


def test_the_preset_says_what_was_measured(found, tmp_path):
    again = Recipe.of(str(found.save(tmp_path / "mine.toml")))
    assert again.accelerators == found.recipe.accelerators
    assert f"{STEPS} steps" in again.about and "over 8 pictures" in again.about and "psnr" in again.about
    data = json.loads(json.dumps(found.to_dict()))
    assert data["answer"]["recipe"] == LINES["ab-cache"][0] and data["entries"] and data["frontier"]
    assert data["answer"]["scores"]["psnr"]["worst_prompt"] in PROMPTS


def test_numbers_are_those_of_compare(pipe, found):
    (prompt, seed), row = next(iter(found.best.scores.items()))
    same = compare(pipe, found.recipe, prompts=[prompt], seeds=[seed], steps=STEPS, guidance=5.0, size=SIZE,
                   repeats=1, control=False, memory=False)  # fmt: skip
    assert same.variants[0].mean("psnr") == pytest.approx(row["psnr"], abs=1e-3)


def test_fewer_steps_may_win_and_it_is_said(pipe):
    found = go(pipe, floor={"psnr": 1.0})
    assert found.best.name == "fewer-steps:steps=1"
    assert "plainly fewer steps win here" in found.text()


def test_where_nothing_holds_the_plain_pipeline_is_the_answer(pipe, tmp_path):
    found = go(pipe, floor={"psnr": 99.9})
    assert found.best is None and not found.recipe.accelerators and "plain pipeline is the answer" in found.text()
    assert "accelerate" not in found.snippet()
    with pytest.raises(UnsupportedError, match="no preset to write"):
        found.save(tmp_path / "x.toml")


@pytest.fixture
def steady(monkeypatch):
    """A machine on which a call of the network takes 10 ms, a step 1 ms more, and nothing else any time."""
    real = Track.draw

    def draw(self, recipe, cells, counted=True):
        made, report, _ = real(self, recipe, cells)
        steps = tuple(replace(step, seconds=0.01 * step.calls + 0.001) for step in report.steps)
        return made, replace(report, steps=steps) if counted else None, sum(step.seconds for step in steps)

    monkeypatch.setattr(Track, "draw", draw)


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("budget", [0.13, 0.07, 0.03])
def test_the_best_within_a_budget(pipe, budget):
    recipes = [text for texts in LINES.values() for text in texts]
    held_out = course(pipe, PROMPTS).held_out
    every = compare(
        pipe, recipes, prompts=PROMPTS, seeds=sorted({seed for _, seed in held_out}), steps=STEPS, guidance=5.0,
        size=SIZE, repeats=1, control=False, memory=False, metrics=("psnr",),
    )  # fmt: skip
    fits = [lane for lane in every.variants if 0.01 * lane.calls + 0.001 * len(lane.steps) <= budget]
    best = max(fits, key=lambda lane: lane.mean("psnr"))
    made = go(pipe, budget=budget)
    assert len(fits) > 0 and made.best.name == best.recipe and "within the budget" in made.claim
    assert made.best.median <= budget and made.mean(made.best, "psnr") == pytest.approx(best.mean("psnr"), abs=0.5)
    assert made.measured and not made.stopped


def test_a_budget_that_the_baseline_keeps(pipe):
    slow = go(pipe, budget=1000.0)
    assert slow.best is None and "nothing has to be given up" in slow.claim and not slow.entries


def test_the_time_limit_leaves_the_best_so_far(pipe):
    found = go(pipe, floor={"psnr": 1.0}, limit=0.001)
    assert found.stopped == "the time of 0 s was over" and found.best is None
    assert "nothing was measured well enough" in found.text()


def test_a_pipeline_too_slow_for_the_time_says_so(pipe, monkeypatch):
    """The clock leaps while the pipeline warms up: the parts of the search are over before they begin."""
    race = sys.modules["deadheat.measure.race"]
    monkeypatch.setattr(race.Race, "_within", lambda *_: False)
    found = go(pipe, floor={"psnr": 1.0})
    assert found.best is None and "did not suffice to try anything" in found.text()
    assert "nothing was measured well enough" in found.claim
    slow = go(pipe, floor={"psnr": 1.0}, limit=0.3)
    assert slow.stopped and slow.settings["limit"] == 0.3


@pytest.mark.parametrize(("stop", "at"), [(KeyboardInterrupt, "8 prompts"), (Cancelled, "held-out prompt 1/")])
def test_a_stop_leaves_the_best_so_far(pipe, stop, at):
    before = leftovers(pipe)

    def watch(text, _over):
        if text.startswith(at):
            raise stop

    found = go(pipe, floor={"psnr": 1.0}, watch=watch)
    assert found.stopped == "it was stopped" and leftovers(pipe) == before
    assert found.best is not None
    assert "before held-out prompts were drawn" in found.claim and "WARNING: ended early" in found.text()


def test_a_setting_that_breaks_is_given_up_with_its_reason(pipe, monkeypatch):
    def broken(self, stage):
        raise RuntimeError("out of memory\nand so on")

    monkeypatch.setattr(ABCache, "attach", broken)
    found = go(pipe, floor={"psnr": 1.0})
    assert found.best.name == "fewer-steps:steps=1"
    assert "failed: out of memory" in [entry.dropped for entry in found.entries]


@pytest.fixture
def changed(monkeypatch):
    """Change what ab-cache draws: a function of its pictures and seconds."""
    draw, change = Track.draw, []

    def wrapped(self, recipe, cells, counted=True):
        found, report, seconds = draw(self, recipe, cells, counted)
        for one in change if "ab-cache" in str(recipe) else ():
            found, seconds = one(found, seconds)
        return found, report, seconds

    monkeypatch.setattr(Track, "draw", wrapped)
    return change.append


def test_pictures_of_no_numbers_are_given_up(pipe, changed):
    changed(lambda found, seconds: ([found[0] * math.nan, *found[1:]], seconds))
    made = go(pipe, floor={"psnr": 1.0})
    assert made.best.line == "fewer-steps"
    assert all("no numbers" in entry.dropped for entry in made.entries if entry.line == "ab-cache")


def test_what_breaks_in_the_finals_ends_nothing(pipe, changed):
    said = []

    def broken(found, seconds):
        if said[-1].startswith("held-out prompt 3"):
            raise RuntimeError("out of memory")
        return found, seconds

    changed(broken)
    made = go(pipe, floor={"psnr": 1.0}, watch=lambda text, _over: said.append(text))
    assert made.stopped == "" and made.best.line == "fewer-steps"
    assert not any(entry.line == "ab-cache" for entry in made.finalists if not entry.failed)


def test_what_is_slower_than_the_plain_pipeline_is_no_answer(pipe, floor, changed):
    changed(lambda found, seconds: (found, 30 * seconds))
    made = go(pipe, floor={"psnr": floor})
    assert made.best is None and "the plain pipeline is the answer" in made.claim


def test_a_speedup_is_of_the_same_rounds():
    entry = Entry(Recipe.parse("ab-cache"), seconds=[1.0, 1.0, 0.5], beside=[(2.0, 1.0), (1.0, 0.5)])
    assert entry.speedup == 2.0 and Entry(Recipe()).speedup is None


def test_what_skipped_nothing_is_idle():
    assert "skipped nothing" in Entry(Recipe.parse("ab-cache"), warnings=("nothing was skipped: one step",)).idle
    assert Entry(Recipe.parse("ab-cache")).idle == ""


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({}, InputError, "either a floor"),
        ({"floor": {"psnr": 30}, "budget": 1.0}, InputError, "either a floor"),
        ({"floor": {"psrn": 30}}, KnobError, "did you mean psnr"),
        ({"floor": {"psnr": -3}}, InputError, "only adherence, clip, image-reward"),
        ({"floor": {"psnr": math.nan}}, InputError, "not a number"),
        ({"floor": {"frechet": 3}}, InputError, "all pictures together"),
        ({"floor": {"adherence": -1}}, UnsupportedError, "adherence cannot be held here: the detector knows"),
        ({"budget": 0.0}, InputError, "budget is 0"),
        ({"floor": {"psnr": 30}, "limit": 0.0}, InputError, "time limit is 0"),
        ({"floor": {"psnr": 30}, "limit": math.inf}, InputError, "time limit is inf"),
        ({"floor": {"psnr": 30}, "limit": math.nan}, InputError, "time limit is nan"),
        ({"floor": {"psnr": 100.1}}, InputError, "never above 100"),
        ({"floor": {"adherence": 1.1}}, InputError, "never above 1"),
        ({"floor": {"psnr": 30}, "steps": 0}, InputError, "steps is 0"),
        ({"floor": {"psnr": 30}, "prompts": [" "]}, InputError, "prompt is empty"),
    ],
)
def test_bad_wishes_are_refused_before_anything_runs(pipe, changes, kind, says):
    def never(*_):
        raise AssertionError("it ran")

    with pytest.raises(kind, match=says):
        go(pipe, watch=never, **changes)


def test_adherence_is_held_against_the_baselines_own():
    found = go(load("pocket-dit"), floor={"adherence": -100.0}, prompts=None, steps=4, size=(64, 64))
    assert found.best is not None
    row = found.to_dict()["answer"]["scores"]["adherence"]
    assert 0 <= row["mean"] <= 1 and 0 <= row["baseline"] <= 1


def test_slack_has_a_sign_and_points():
    goal = Goal({"psnr": 30, "lpips": 0.1, "adherence": -1})
    assert goal.slack("psnr", {"psnr": 32.5}, {}) == 2.5 and goal.slack("psnr", {"psnr": math.inf}, {}) == 70
    assert goal.slack("lpips", {"lpips": 0.3}, {}) == pytest.approx(-0.2)
    assert goal.slack("adherence", {"adherence": 0.75}, {"adherence": 0.755}) == pytest.approx(0.5)
    assert goal.slack("psnr", {"psnr": None}, {}) is None


def test_a_floor_is_held_by_more_than_its_error():
    assert estimate([1.0, 3.0]) == Estimate(2.0, 1.0) and Estimate(2.0, 1.0).holds
    assert (
        not Estimate(0.4, 1.0).holds
        and Estimate(0.5, 1.0).holds
        and not Estimate(-1.0, 1.0).lost
        and Estimate(-2.0, 1.0).lost
    )
    assert not estimate([5.0]).holds


def test_wishes_are_read():
    assert read_floor(["psnr=30", " ssim = 0.9"]) == {"psnr": 30.0, "ssim": 0.9}
    for wrong in ("psnr", "psnr=high"):
        with pytest.raises(InputError, match="write it as psnr=30"):
            read_floor([wrong])
    for wrong in ("soon", "inf", "nan", "1e400s"):
        with pytest.raises(InputError, match="no time"):
            read_seconds(wrong)


def test_cost_counts_whole_steps_of_the_same_run():
    steps = [
        Step(0, 1.0, "computed", calls=2, asked=2, seconds=0.4),
        Step(1, 0.9, "computed", calls=2, asked=2, seconds=0.4),
        Step(2, 0.8, "extrapolated", calls=0, asked=2, seconds=0.04),
        Step(3, 0.7, "partial", calls=1, asked=2, seconds=0.2),
    ]
    assert cost(Report(tuple(steps), 5, 8, 1.04, 0), step=9.0) == pytest.approx(2 + 0.1 + 0.5)
    assert cost(Report(tuple(steps[2:]), 1, 4, 0.24, 0), step=0.4) == pytest.approx(0.6)


def test_prompts_are_dealt_out_once(pipe):
    dealt = course(pipe)
    assert len({*dealt.calibrate, *dealt.probe, *dealt.held_out}) == 2 + 4 + 8
    few = course(pipe, ["one", "two"])
    assert "are few" in few.note and not {*few.probe, *few.calibrate} & {*few.held_out}
    thrice = course(pipe, ["one", "two", "three"] * 6)
    assert "are few" in thrice.note and not {*thrice.probe} & {*thrice.held_out}
    many = course(pipe, [f"prompt {n}" for n in range(20)])
    prompts = [{prompt for prompt, _ in part} for part in (many.calibrate, many.probe, many.held_out)]
    assert not many.note and not prompts[0] & prompts[1] and not prompts[2] & (prompts[0] | prompts[1])
    assert len(prompts[2]) == 8
    assert all(parse(caption) for caption in scenes(200)) and len(set(mixed(104))) == 104


@pytest.mark.parametrize("on", ["sd3", "sd15", "flux", "wan", "auraflow"])
def test_the_space_is_what_fits(on):
    tiny = FAMILIES[on].build()
    asked = []

    def record(recipe):
        from .test_fit import recording

        asked.append(str(recipe))
        return recording(12)[0]

    space = search_space(tiny, 12, record)
    assert asked == ["plain"] and space.lines[0].name == "fitted-cache" and space.lines[1].name == "fewer-steps"
    used = {a.name for line in space.lines for recipe in line.recipes for a in recipe.accelerators}
    fits = {name for name, cls in ACCELERATORS.items() if cls.supports(tiny) is None}
    editing = {"background-shield", "sparse-cross-attention", "sparse-edit"}
    assert used <= fits and fits - used <= {"magcache", *editing}  # its ratios are of one model
    assert all(len(sentence.split()) > 4 for sentence in space.left_out.values())
    unguided = search_space(tiny, 12, record, guided=False)
    assert not any("guidance" in line.name for line in unguided.lines)


def test_every_row_of_the_table_can_be_read():
    for text, values in TABLE:
        for value in values:
            Recipe.parse(text.format(value))


def test_a_combination_of_which_a_part_does_nothing_is_given_up(pipe, floor, monkeypatch):
    plain, idle = LINES["ab-cache"][0], f"guidance-cutoff:after=1 + {LINES['ab-cache'][0]}"
    lines = [Line("both", (Recipe.parse(idle),)), Line("alone", (Recipe.parse(plain),))]
    monkeypatch.setattr(sys.modules["deadheat.measure.race"], "search_space", lambda *_, **__: Space(lines))
    made = go(pipe, floor={"psnr": floor})
    assert str(made.best.recipe) == plain
    given_up = next(entry for entry in made.entries if entry.line == "both")
    assert given_up.dropped == "guidance-cutoff did nothing: the same as without"
