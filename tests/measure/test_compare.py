"""A comparison on small pipelines: lanes, counts, controls, cancelling, files."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from deadheat.accelerators import ABCache, FewerSteps, output_cache
from deadheat.accelerators.predictors import combine
from deadheat.measure.explore import explore_comparison
from deadheat.measure.report import html_report
from deadheat.measure.runner import Runner
from deadheat.measure.trial import Trial
from deadheat.pipelines import Cancelled, PresetError, call_arguments, for_task, pictures, twin
from diffusers import HeunDiscreteScheduler

from deadheat import Comparison, InputError, KnobError, Recipe, UnsupportedError, accelerate, compare

from ..families import FAMILIES, leftovers

SIZE = (64, 64)


@pytest.fixture(scope="module")
def pipe():
    return FAMILIES["sd15"].build()


@pytest.fixture(scope="module")
def result(pipe):
    return compare(
        pipe, [ABCache(every=3), "ab-cache:every=1"], prompts=["a red cube", "a <b>blue</b> ball"], steps=12,
        guidance=5.0, size=SIZE, repeats=2,
    )  # fmt: skip


def test_lanes_hold_what_was_counted(result):
    baseline, variant = result.baseline, result.lane("ab-cache")
    assert baseline.calls == baseline.asked == 24
    assert variant.calls == 2 * len(ABCache().computed(12)) and variant.asked == 24
    assert len(variant.seconds) == 2 and len(variant.cells) == 2 and variant.cache_bytes > 0 < variant.peak_bytes
    assert [step["action"] for step in variant.steps].count("extrapolated") == 12 - len(ABCache().computed(12))
    assert set(variant.stages) == {"text", "denoise", "decode"}


def test_neutral_is_identical_and_warned_about(result):
    idle = result.lane("ab-cache:every=1")
    assert idle.mean("psnr") == math.inf and any("nothing was skipped" in text for text in idle.warnings)
    assert "WARNING" in result.table() and "identical" in result.table()


def test_a_control_is_the_plain_pipeline_and_not_slower(result, pipe):
    for variant in result.variants:
        control = result.control_for(variant)
        if control is None:
            assert variant.note
            continue
        assert control.speedup >= variant.speedup or "longer" in variant.note
        steps = len(control.steps)
        arguments = call_arguments(pipe, prompt="a red cube", steps=steps, guidance=5.0, size=SIZE)
        assert torch.equal(pictures(pipe(**arguments))[0], control.cells[0].picture)


def test_the_baseline_is_the_untouched_pipeline(result, pipe):
    arguments = call_arguments(pipe, prompt="a red cube", steps=12, guidance=5.0, size=SIZE)
    assert torch.equal(pictures(pipe(**arguments))[0], result.baseline.cells[0].picture)


def test_saved_and_read_again(result, tmp_path):
    folder = result.save(tmp_path / "run")
    again = Comparison.load(folder)
    assert again.table() == result.table()
    data = json.loads((folder / "result.json").read_text())
    assert data["schema"] == "deadheat.comparison/1" and data["environment"]["versions"]["torch"]
    page = (folder / "report.html").read_text()
    assert "<b>blue</b>" not in page and "data:image/png" in page and 'src="http' not in page
    result.save(folder)  # a result may replace a result


def test_nothing_else_is_replaced(result, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="other files"):
        result.save(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    (tmp_path / "result.json").write_text('{"my": "own"}')  # others call a file so too
    with pytest.raises(InputError, match="other files than a comparison's; give another --out"):
        result.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "result.json"}


def test_what_lies_beside_a_result_stays(result, tmp_path):
    folder = result.save(tmp_path / "run")
    (folder / "mine.txt").write_text("precious")
    (folder / "pictures" / "old.png").write_bytes(b"")
    result.save(folder)
    assert {path.name for path in folder.iterdir()} == {"mine.txt", "pictures", "report.html", "result.json"}
    assert not (folder / "pictures" / "old.png").exists() and Comparison.load(folder).table() == result.table()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": "deadheat.comparison/9"}', '{"schema": "deadheat.comparison/1"}']
)
def test_a_damaged_result_is_refused(text, tmp_path):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(PresetError, match=r"result\.json"):
        Comparison.load(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data["lanes"].clear(), "first lane is no baseline"),
        (lambda data: data["lanes"][1]["seconds"].clear(), "lacks seconds"),
        (lambda data: data["lanes"][1]["cells"].pop(), "lacks seconds or pictures"),
        (lambda data: data["lanes"][1].update(ratios=["x"]), "damaged: ValueError"),
        (lambda data: data["settings"].pop("repeats"), "settings lack repeats"),
        (lambda data: data["settings"].clear(), "settings lack model, prompts"),
    ],
)
def test_a_result_that_lacks_something_is_refused(result, spoil, says, tmp_path):
    file = result.save(tmp_path / "run") / "result.json"
    data = json.loads(file.read_text())
    spoil(data)
    file.write_text(json.dumps(data))
    with pytest.raises(PresetError, match=rf"run/result\.json is damaged: .*{says.removeprefix('damaged: ')}"):
        Comparison.load(file)


def test_choosing(result):
    assert result.best(floor={"psnr": 1e9}).mean("psnr") == math.inf
    assert result.best(budget=0.0) is None
    assert result.pareto()[-1].mean("psnr") == math.inf


@pytest.mark.parametrize(
    ("plain_seconds", "plain_psnr", "said"), [(0.5, 40.0, True), (0.7, 40.0, False), (0.5, 20.0, False)]
)
def test_what_plainly_fewer_steps_do_better_is_told(result, plain_seconds: float, plain_psnr: float, said: bool):
    found = copy.deepcopy(result)
    lane = next(lane for lane in found.variants if lane.control)
    plain = found.control_for(lane)
    for one, seconds, score in ((lane, 0.6, 30.0), (plain, plain_seconds, plain_psnr)):
        one.seconds = [seconds] * len(one.seconds)
        for cell in one.cells:
            cell.scores["psnr"] = score
    others = [other for other in found.lanes if other.role == "control" and other is not plain]
    for other in others:
        other.seconds = [99.0] * len(other.seconds)
    assert found.better_control(lane) is (plain if said else None)
    text = f"{lane.name}: plainly fewer steps do better here: {plain.name} took no longer"
    assert (text in found.table()) == (text in html_report(found)) == said


def test_cancelling_leaves_nothing_behind(pipe):
    before = leftovers(pipe)
    seen = []

    def watch(event):
        seen.append(event)
        if event.phase == "timed" and event.role == "variant" and event.step == 2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        compare(pipe, ABCache(), prompts=["a red cube"], steps=6, size=SIZE, repeats=1, watch=watch)
    assert leftovers(pipe) == before and seen[-1].step == 2
    assert {event.role for event in seen} >= {"baseline", "variant"}


def test_kept_baselines_are_used_and_keyed(pipe, tmp_path):
    drawn = []

    def go(**changes):
        drawn.clear()
        options = {"prompts": ["one", "two", "three"], "steps": 3, "size": SIZE, "repeats": 1, "control": False,
                   "memory": False, "baselines": tmp_path, **changes}  # fmt: skip

        def watch(event):
            if (event.phase, event.role, event.step) == ("more prompts", "baseline", 1):
                drawn.append(event)

        return compare(pipe, "ab-cache:every=1", watch=watch, **options)

    first = go()
    assert len(drawn) == 2
    second = go()
    assert not drawn and torch.equal(first.baseline.cells[2].picture, second.baseline.cells[2].picture)
    assert go(guidance=2.0) and len(drawn) == 2
    for part in ("vae", "text_encoder"):  # they make the picture too
        weight = next(getattr(pipe, part).parameters())
        weight.data.mul_(2)
        assert go() and len(drawn) == 2
        weight.data.div_(2)
    assert go() and not drawn


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"prompts": [" "]}, InputError, "prompt is empty"),
        ({"prompts": "a fox"}, InputError, "list of prompts"),
        ({"prompts": []}, InputError, "no prompt"),
        ({"prompts": [3]}, InputError, "a prompt is 3"),
        ({"prompts": ["caf\udce9"]}, InputError, r"a prompt is 'caf\\udce9', which holds .* no UTF-8"),
        ({"negative": "caf\udce9"}, InputError, "no UTF-8"),
        ({"negative": 3}, InputError, "negative is 3"),
        ({"seeds": 3}, InputError, "seeds is 3"),
        ({"size": 128}, InputError, "size is 128"),
        ({"guidance": "4"}, InputError, "guidance is '4'"),
        ({"metrics": "psnr"}, KnobError, "list of metrics"),
        ({"prompts": ["x" * 2001]}, InputError, "2001 characters"),
        ({"steps": 0}, InputError, "steps is 0"),
        ({"steps": 10_000}, InputError, "steps is 10000"),
        ({"seeds": [-1]}, InputError, "seed is -1"),
        ({"seeds": [2**63]}, InputError, "seed is 9223372036854775808"),
        ({"repeats": 0}, InputError, "repeats is 0"),
        ({"size": (100, 64)}, InputError, "width is 100"),
        ({"size": (64, 8)}, InputError, "height is 8, not a whole number between 16 and"),
        ({"metrics": ["psrn"]}, KnobError, "did you mean psnr"),
        ({"recipes": "ab-cash"}, KnobError, "did you mean ab-cache"),
        ({"recipes": "first-block-cache"}, UnsupportedError, "UNet"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(pipe, changes, kind, says):
    def never(_event):
        raise AssertionError("it ran")

    options = {"recipes": ABCache(), "prompts": ["a red cube"], "watch": never, **changes}
    with pytest.raises(kind, match=says):
        compare(pipe, **options)


def test_a_name_is_not_a_pipeline():
    with pytest.raises(UnsupportedError, match=r"load\('pocket-dit'\)"):
        compare("pocket-dit", ABCache(), prompts=["a fox"])
    with pytest.raises(UnsupportedError, match=r"load\('pocket-dit'\)"), accelerate("pocket-dit", "ab-cache"):
        pass


def test_a_budget_is_judged_by_what_was_measured(pipe):
    options = {"prompts": ["a red cube"], "steps": 6, "size": SIZE, "repeats": 1, "memory": False, "control": False}
    recipes = ["ab-cache:every=6,warmup=1", "ab-cache:every=2,warmup=3"]
    for metrics in (("ssim",), ("adherence", "latent")):
        made = compare(pipe, recipes, metrics=metrics, **options)
        made.baseline.seconds = [math.inf]
        better = made.lane(recipes[1])
        assert made.best(budget=1e9) is better
        better.seconds = [math.inf]
        assert made.best(budget=1e9) is made.lane(recipes[0])
    made = compare(pipe, recipes[0], metrics=(), **options)
    with pytest.raises(KnobError, match="measure psnr"):
        made.best(budget=1e9)


def test_code_names_the_revision(result):
    told = result.environment["pipeline"]
    made = replace(result, settings=result.settings | {"model": "org/model"})
    made.environment = result.environment | {"pipeline": told | {"revision": "my-branch"}}
    assert "load('org/model', revision='my-branch')" in made.snippet(made.lanes[1])
    shown = explore_comparison(made.to_dict(), lambda _: None)["points"]
    assert all("load('org/model', revision='my-branch')" in point["snippet"] for point in shown)
    made.settings["model"] = "/hub/snapshots/my-branch"  # a folder has none
    assert "revision" not in made.snippet(made.lanes[1])


def test_questions_to_what_was_not_measured(pipe):
    result = compare(pipe, ABCache(every=2), prompts=["a red cube", "a red cube"], seeds=[0, 0], steps=4, size=SIZE,
                     repeats=1, memory=False, control=False)  # fmt: skip
    assert len(result.baseline.cells) == 1  # the same picture twice would count twice
    with pytest.raises(KnobError, match="'psrn' was not measured here; did you mean psnr"):
        result.pareto("psrn")
    with pytest.raises(KnobError, match="'lpips' was not measured"):
        result.best(floor={"lpips": 0.1})
    with pytest.raises(InputError, match="floor of psnr is nan"):
        result.best(floor={"psnr": float("nan")})


def test_fewer_steps_gets_no_control(pipe):
    options = {"prompts": ["a red cube"], "steps": 4, "size": SIZE, "repeats": 1, "memory": False}
    result = compare(pipe, Recipe((FewerSteps(steps=2),)), **options)
    assert [lane.role for lane in result.lanes] == ["baseline", "variant"] and result.lanes[1].note


def test_twins_share_weights_and_nothing_else(family):
    pipe = family.build()
    before, plain = leftovers(pipe), family.call(pipe)
    other = twin(pipe)
    pairs = zip(family.denoiser(pipe).parameters(), family.denoiser(other).parameters(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert family.denoiser(pipe) is not family.denoiser(other) and pipe.scheduler is not other.scheduler
    assert torch.equal(family.call(other), plain) and leftovers(pipe) == before


def test_a_hooked_pipeline_has_no_twin(pipe):
    hooked = FAMILIES["sd15"].build()
    hooked.unet.forward = hooked.unet.forward
    with pytest.raises(UnsupportedError, match="hooks"):
        twin(hooked)


def test_every_lane_has_files_of_its_own(pipe, tmp_path):
    weights = "; ".join(f"{step}: {' '.join(['-0.12345'] * 4)}" for step in range(6, 11))
    recipes = [
        "lemica:mask=0-2 4 6 9,of=10",
        "lemica:mask=0-2 4 6-9,of=10",
        f"fitted-cache:mask=0-5 11,of=12,weights={weights}",
        Recipe((ABCache(every=2),), title="\u901f\u3044"),
        Recipe((ABCache(every=3),), title="\u65e9\u3044"),
    ]
    options = {"prompts": ["a red cube"], "steps": 12, "size": SIZE, "repeats": 1, "control": False, "memory": False}
    made = compare(pipe, recipes, metrics=("psnr",), **options)
    read = Comparison.load(made.save(tmp_path / "run"))
    assert [lane.name for lane in read.lanes] == [lane.name for lane in made.lanes]
    for one, other in zip(made.lanes, read.lanes, strict=True):
        assert (one.cells[0].picture - other.cells[0].picture).abs().max() < 3e-3


def test_all_frames_of_a_video_are_judged():
    pipe = FAMILIES["ltx"].build()
    options = {"steps": 2, "size": (32, 32), "repeats": 1, "control": False, "memory": False, "metrics": ["psnr"]}
    shown = compare(pipe, ABCache(), prompts=["a red cube"], **options).baseline.cells[0].picture
    arguments = call_arguments(pipe, prompt="a red cube", steps=2, size=(32, 32))
    frames = pictures(pipe(**arguments))
    assert len(frames) > 1
    assert torch.equal(shown, torch.cat(list(frames), 1))


def test_a_picture_of_no_numbers_holds_no_floor(pipe, monkeypatch, tmp_path):
    """Half precision overflows where a prediction is continued too far."""
    monkeypatch.setattr(output_cache, "combine", lambda weights, past: math.nan * combine(weights, past))
    options = {"prompts": ["a red cube"], "steps": 6, "size": SIZE, "repeats": 1, "control": False, "memory": False}
    result = compare(pipe, ABCache(every=2, warmup=2), metrics=("psnr", "ssim"), **options)
    broken = result.lanes[1]
    assert broken.cells[0].scores == {"psnr": None, "ssim": None}
    assert sum("no numbers" in text for text in broken.warnings) == 1
    assert not any("different pictures" in text for text in broken.warnings)
    assert result.best(floor={"psnr": 1}) is result.baseline
    assert "NaN" not in json.dumps(result.to_dict(), allow_nan=False)
    Comparison.load(result.save(tmp_path / "run"))


def test_one_picture_of_no_numbers_is_enough(pipe, monkeypatch):
    """Also where it is of a prompt that no timed round reached."""
    counted = Runner.counted

    def broken(self, lane, cell):
        picture, report = counted(self, lane, cell)
        return (picture * math.nan if lane.role == "variant" and cell[0] == "two" else picture), report

    monkeypatch.setattr(Runner, "counted", broken)
    options = {"prompts": ["one", "two"], "steps": 4, "size": SIZE, "repeats": 1, "control": False, "memory": False}
    result = compare(pipe, ABCache(every=2, warmup=2), metrics=("psnr",), **options)
    (lane,) = result.variants
    assert lane.mean("psnr") is None and lane.worst("psnr") is None
    assert any("no numbers" in text for text in lane.warnings)
    assert result.best(floor={"psnr": 1}) is result.baseline and lane not in result.pareto()


@pytest.fixture
def clock(monkeypatch):
    """Seconds by what ran: a tenth for a step that was computed, times the pace of the machine."""
    pace, timed, laps = {"now": 1.0}, Runner.timed, {}

    def clocked(self, lane, cell):
        picture, _, _ = timed(self, lane, cell)
        laps[lane.name] = laps.get(lane.name, 0) + 1
        seconds = 0.1 * sum(step["action"] == "computed" for step in lane.steps) * pace["now"]
        if lane.role == "variant" and laps[lane.name] == 1:
            seconds *= pace.get("first look", 1.0)
        return picture, seconds, {"text": 0.0, "decode": 0.0, "denoise": seconds}

    monkeypatch.setattr(Runner, "timed", clocked)
    return pace


HALF = {"prompts": ["a red cube"], "steps": 8, "size": SIZE, "repeats": 3, "memory": False, "metrics": ("psnr",)}


def test_a_control_that_is_timed_later_stands_beside_the_baseline_of_then(pipe, clock, monkeypatch):
    clock["first look"], race = 1.3, Trial.race  # so that its control is one step too slow at first

    def faster(self, lanes, rounds, timed=None):
        clock["now"] = 0.5 if timed else 1.0
        race(self, lanes, rounds, timed)

    monkeypatch.setattr(Trial, "race", faster)
    result = compare(pipe, "lemica:mask=0 2 4 7,of=8", **HALF)
    control = result.control_for(result.variants[0])
    assert (control.name, control.seconds) == ("4 steps", pytest.approx([0.2] * 3))
    assert control.speedup == pytest.approx(2) and control.speedup_range == pytest.approx((2, 2))


@pytest.mark.usefixtures("clock")
def test_a_control_asks_for_steps_also_where_a_scheduler_makes_more_of_them():
    heun = FAMILIES["sd15"].build(HeunDiscreteScheduler())
    result = compare(heun, "lemica:mask=0-12 14,of=15", **HALF)
    assert len(result.baseline.steps) == 15
    control = result.control_for(result.variants[0])
    assert (control.name, len(control.steps), control.recipe) == ("7 steps", 13, "fewer-steps:steps=7")


@pytest.mark.usefixtures("clock")
def test_a_title_is_no_control(pipe):
    mine = Recipe(Recipe.parse("lemica:mask=0 2 4 7,of=8").accelerators, "4 steps")
    result = compare(pipe, mine, **HALF)
    assert [lane.name for lane in result.lanes] == ["baseline", "4 steps (1)", "4 steps"]
    assert result.control_for(result.variants[0]).role == "control"


def test_pipelines_that_begin_with_a_picture_are_refused(pipe):
    with pytest.raises(UnsupportedError, match="begins with a picture"):
        compare(for_task(pipe, "image-to-image"), ABCache(), prompts=["a red cube"], steps=4, size=SIZE)
