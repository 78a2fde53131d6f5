"""Sweeps on a tiny pipeline: every cell once, failures as cells, crashes, locks, files, reports."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from deadheat.accelerators import ABCache, output_cache
from deadheat.accelerators.predictors import combine
from deadheat.measure import Point, Sweep, SweepCell
from deadheat.measure.plan import LANES, control_steps, heats, plan
from deadheat.measure.sweep_file import SweepFile
from deadheat.measure.sweep_settings import sweep_settings
from deadheat.pipelines import Cancelled, InputError, KnobError, PresetError, call_arguments, pictures
from diffusers import DPMSolverMultistepScheduler

from deadheat import Recipe, sweep

from ..families import FAMILIES, leftovers

RECIPES = ["ab-cache:every=2..3,warmup=1", "first-block-cache"]
OPTIONS = {"prompts": ["a red cube", "a <b>blue</b> ball"], "seeds": [3], "steps": [6, 4], "size": (32, 32),
           "repeats": 2, "metrics": ["psnr", "ssim"], "guidance": 5.0}  # fmt: skip


@pytest.fixture(scope="module")
def pipe():
    return FAMILIES["sd15"].build()


@pytest.fixture(scope="module")
def result(pipe, tmp_path_factory):
    return sweep(pipe, RECIPES, out=tmp_path_factory.mktemp("sweep") / "out", **OPTIONS)


def quick(pipe, out, **changes):
    options = {"prompts": ["a red cube"], "steps": 2, "size": (32, 32), "repeats": 1, "metrics": ["psnr"], **changes}
    recipes = options.pop("recipes", ["ab-cache:every=1|2"])
    return sweep(pipe, recipes, out=out, **options)


# -- what is measured ----------------------------------------------------------------------------------------------


def test_every_cell_once_and_dear_axes_outermost(result):
    keys = [(cell.steps, cell.prompt, cell.seed) for cell in result.cells]
    assert list(dict.fromkeys(keys)) == [(n, p, 3) for n in (6, 4) for p in OPTIONS["prompts"]]
    assert len(result.cells) == len({cell.id for cell in result.cells}) == result.planned and result.finished
    for key in set(keys):
        cells = [cell for cell in result.cells if (cell.steps, cell.prompt, cell.seed) == key]
        assert [cell.role for cell in cells].count("baseline") == 1
        assert [c.recipe for c in cells if c.role == "control"] == [
            f"fewer-steps:steps={n}" for n in control_steps(key[0])
        ]


def test_cells_hold_what_was_counted(result):
    for cell in result.cells:
        if cell.error is not None:
            continue
        assert (len(cell.seconds) == len(cell.baseline_seconds) == 2 and cell.warnings == []) or cell.role == "variant"
        assert (result.folder / cell.picture).is_file() and cell.picture == f"pictures/{cell.id}.png"
        if cell.role == "baseline":
            assert cell.calls == cell.asked == 2 * cell.steps and cell.actions == ["computed"] * cell.steps
            assert cell.identical and cell.scores["psnr"] == math.inf and cell.seconds == cell.baseline_seconds
        if cell.role == "control":
            assert cell.calls == 2 * len(cell.actions) < 2 * cell.steps
    busy = next(cell for cell in result.cells if cell.recipe == "ab-cache:every=2,warmup=1" and cell.steps == 6)
    assert busy.calls == 2 * len(ABCache(every=2, warmup=1).computed(6)) < busy.asked == 12
    assert "extrapolated" in busy.actions and busy.cache_bytes > 0 and math.isfinite(busy.scores["psnr"])


def test_the_baseline_is_the_untouched_pipeline(result, pipe):
    from deadheat.measure import to_image

    cell = result.cells[0]
    arguments = call_arguments(pipe, prompt=cell.prompt, steps=6, guidance=5.0, size=(32, 32), seed=3)
    to_image(pictures(pipe(**arguments))[0]).save(result.folder.parent / "plain.png")
    assert (result.folder / cell.picture).read_bytes() == (result.folder.parent / "plain.png").read_bytes()


def test_what_cannot_work_is_a_cell_that_says_why(result):
    failed = [cell for cell in result.cells if cell.error is not None]
    assert {cell.recipe for cell in failed} == {"first-block-cache"} and len(failed) == 4
    assert all("cannot work with StableDiffusionPipeline" in cell.error and cell.picture is None for cell in failed)


def test_a_failing_run_does_not_stop_the_others(pipe, tmp_path, monkeypatch):
    def broken(self, stage):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(ABCache, "attach", broken)
    found = quick(pipe, tmp_path / "out", recipes=["ab-cache:every=2", "guidance-cutoff"])
    errors = {cell.recipe: cell.error for cell in found.cells}
    assert errors["ab-cache:every=2"] == "RuntimeError: no such luck" and errors["guidance-cutoff"] is None


def test_a_picture_of_no_numbers_is_a_cell_that_failed(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(output_cache, "combine", lambda weights, past: math.nan * combine(weights, past))
    found = quick(pipe, tmp_path / "out", recipes=["ab-cache:every=2,warmup=2"], steps=6)
    (cell,) = [cell for cell in found.cells if cell.role == "variant"]
    assert "no numbers" in cell.error and cell.picture is None
    assert "ab-cache:every=2,warmup=2" not in {point.recipe for point in found.pareto()}


def test_a_front_is_of_one_number_of_steps_and_of_all_its_cells(result):
    front = result.pareto()
    assert {point.steps for point in front} == {4, 6} and all(point.cells == 2 for point in front)
    hard = next(cell for cell in result.cells if cell.recipe == "ab-cache:every=2,warmup=1" and cell.steps == 6)
    cells = [replace(c, error="out of memory", seconds=[]) if c is hard else c for c in result.cells]
    again = replace(result, cells=cells).pareto()
    assert ("ab-cache:every=2,warmup=1", 6) not in {(point.recipe, point.steps) for point in again}


def test_a_failing_metric_keeps_the_cell(pipe, tmp_path, monkeypatch):
    from deadheat.measure.score import PLAIN

    def broken(picture, reference):
        if not picture.equal(reference):
            raise RuntimeError("out of\nmemory")
        return 1.0

    monkeypatch.setitem(PLAIN, "ssim", broken)
    monkeypatch.setitem(PLAIN, "detail", lambda *_: math.nan)
    recipe = "ab-cache:every=2,warmup=1"
    found = quick(pipe, tmp_path / "out", recipes=[recipe], metrics=["psnr", "ssim", "detail"], steps=6)
    plain, busy = (next(c for c in found.cells if c.recipe == name) for name in ("plain", recipe))
    assert found.finished and not any(cell.error for cell in found.cells)
    assert plain.scores["ssim"] == 1.0 and busy.scores["ssim"] is busy.scores["detail"] is None
    assert math.isfinite(busy.scores["psnr"]) and busy.seconds and busy.picture
    assert "ssim failed: RuntimeError: out of memory" in busy.warnings
    assert any(text.startswith("detail failed: ") and "no number" in text for text in busy.warnings)
    assert "ssim failed" in found.table()


def test_a_metric_of_all_pictures_says_why_it_is_not_there(pipe, tmp_path):
    found = quick(pipe, tmp_path / "out", metrics=["psnr", "frechet"])
    assert "compare measures it" in found.unavailable["frechet"] and "frechet: not available" in found.table()
    assert found.cells[0].scores["frechet"] is None and found.write_report().is_file()


def test_without_a_baseline_there_is_no_cell(pipe, tmp_path, monkeypatch):
    real = pipe.encode_prompt

    def picky(prompt, *args, **kwargs):
        if prompt == "bad":
            raise ValueError("bad prompt")
        return real(prompt, *args, **kwargs)

    monkeypatch.setattr(pipe, "encode_prompt", picky)
    found = quick(pipe, tmp_path / "out", prompts=["bad", "good"])
    assert all((cell.error is not None) == (cell.prompt == "bad") for cell in found.cells)
    assert found.cells[0].error == "ValueError: bad prompt"


def test_combinations_without_sense_fail_and_values_out_of_range_are_refused(pipe, tmp_path):
    recipes = ["guidance-interval:start=0.2|0.9,stop=0.5"]
    found = quick(pipe, tmp_path / "out", recipes=recipes, steps=4)
    errors = {cell.recipe: cell.error for cell in found.cells if cell.role == "variant"}
    assert [error is None for error in errors.values()] == [True, False]
    with pytest.raises(KnobError, match="not between 1 and 10"):
        quick(pipe, tmp_path / "none", recipes=["ab-cache:every=2..20"])
    assert not (tmp_path / "none").exists()


def test_recipes_of_every_kind_each_once(pipe, tmp_path):
    recipes = ["balanced", ABCache(every=2), Recipe((ABCache(every=2),)), "ab-cache:every=2..2", (ABCache(order=1),)]
    found = quick(pipe, tmp_path / "out", recipes=recipes)
    balanced = str(Recipe.of("balanced", pipe))  # that of its family, as in compare
    assert balanced != str(Recipe.of("balanced"))
    assert found.settings["recipes"] == [balanced, "ab-cache:every=2", "ab-cache:order=1"]
    assert found.title(balanced) == "balanced"


def test_recipes_of_the_same_title_are_numbered(pipe):
    named = [Recipe((ABCache(every=n),), title="mine") for n in (2, 3)]
    settings = {"prompts": ["a"], "seeds": [0], "steps": 4, "guidance": None, "negative": None, "size": None,
                "repeats": 1, "control": None}  # fmt: skip
    found = sweep_settings(pipe, [*named, "ab-cache:every=4"], metrics=["psnr"], **settings)
    assert found["titles"] == {"ab-cache:every=2": "mine", "ab-cache": "mine (2)"}  # every=3 is the default
    with pytest.raises(KnobError, match="there is no metric"):
        sweep_settings(pipe, named, metrics=[], **settings)


def test_heats_share_a_baseline_and_stay_small():
    settings = {"recipes": [f"ab-cache:every={n}" for n in range(1, 9)], "prompts": ["a", "b"], "seeds": [0],
                "steps": [10], "control": None, "guidance": None, "negative": None, "size": None}  # fmt: skip
    cells = plan(settings)
    groups = list(heats(cells, set()))
    assert [cell for heat in groups for cell in heat.cells] == cells
    assert all(len({(c.prompt, c.seed, c.steps) for c in heat.cells}) == 1 for heat in groups)
    assert {len(heat.cells) for heat in groups} == {7} and LANES == 6
    left = list(heats(cells, {cell.id for cell in cells[:10]}))
    assert [cell for heat in left for cell in heat.cells] == cells[10:]


# -- the numbers -----------------------------------------------------------------------------------------------------


def cell(recipe, prompt, seconds, base, psnr, **more):
    id_ = f"{recipe}{prompt}"
    return SweepCell(id_, recipe, "variant", prompt, 0, 8, seconds, base, 8, 16, scores={"psnr": psnr}, **more)


def test_points():
    cells = [
        cell("x", "a", [1.0, 2.0, 9.0], [4.0, 4.0, 5.0], 30.0),
        cell("x", "b", [4.0, 4.0, 4.0], [4.0, 6.0, 5.0], 20.0, warnings=["w"]),
        cell("x", "c", [3.0, 3.0, 3.0], [9.0, 9.0, 9.0], math.inf, identical=True, warnings=["w"]),
        SweepCell("f", "x", "variant", "d", 0, 8, error="no"),
    ]
    from deadheat.measure.points import point

    found = point(cells, "psnr")
    assert found == Point(
        "x", "variant", 8, seconds=3.0, seconds_low=2.0, seconds_high=4.0, speedup=2.0, speedup_low=1.25,
        speedup_high=3.0, mean=50.0, worst=20.0, worst_cell="xb", identical=1, calls=8.0, asked=16.0, cache_bytes=0,
        cells=3, prompts=3, failed=1, errors=("no",), warnings=("w",),
    )  # fmt: skip
    assert point(cells[2:3], "psnr").mean == math.inf
    assert point(cells[3:], "psnr").seconds is None and point(cells, "ssim").mean is None


def test_a_mean_means_the_same_everywhere():
    """Of a point of a sweep, a lane of a comparison, a setting of a search, and on the explorer."""
    from deadheat.measure import Cell, Lane
    from deadheat.measure.explore import _lane_score
    from deadheat.measure.points import point
    from deadheat.measure.track import Entry
    from deadheat.measure.tuned import Tuned

    scores = {"a": 30.0, "b": 120.0, "c": math.inf}
    lane = Lane("x", "x", "variant", cells=[Cell(p, 0, {"psnr": s}, torch.zeros(3, 1, 1)) for p, s in scores.items()])
    entry = Entry(Recipe(), scores={(p, 0): {"psnr": s} for p, s in scores.items()})
    cells = [cell("x", p, [1.0], [1.0], s, identical=s == math.inf) for p, s in scores.items()]
    shown = [{"prompt": p, "scores": {"psnr": None if s == math.inf else s}, "identical": s == math.inf}
             for p, s in scores.items()]  # fmt: skip
    tuned = object.__new__(Tuned)
    whole = (30.0 + 100.0 + 100.0) / 3
    assert lane.mean("psnr") == point(cells, "psnr").mean == tuned.mean(entry, "psnr") == pytest.approx(whole)
    assert _lane_score(shown, "psnr")["mean"] == pytest.approx(whole, abs=1e-4)
    assert tuned.error(entry, "psnr") == pytest.approx(70 / 3)
    assert Lane("x", "x", "variant", cells=lane.cells[2:]).mean("psnr") == math.inf


def test_points_of_a_sweep(result):
    points = result.points("psnr")
    assert [(p.recipe, p.steps) for p in points][:2] == [("plain", 6), ("fewer-steps:steps=2", 6)]
    assert all(p.cells + p.failed == 2 for p in points)
    assert points[0].speedup == 1 and points[0].identical == 2
    assert all(p.speedup_low <= p.speedup <= p.speedup_high for p in points if p.cells)
    assert result.pareto("psnr")[-1].mean == math.inf
    assert result.baseline(result.cells[1]) is result.cells[0]
    json.dumps(result.to_dict(), allow_nan=False)


# -- the file ------------------------------------------------------------------------------------------------------


def test_the_format_of_the_file(result):
    lines = [json.loads(line) for line in (result.folder / "sweep.jsonl").read_text().splitlines()]
    head, first = lines[0], lines[1]
    assert (head["kind"], head["schema"]) == ("deadheat sweep", 1)
    assert {"model", "settings", "environment", "created"} <= set(head)
    assert set(head["environment"]) == {"pipeline", "versions", "hardware", "weights", "scheduler"}
    assert first["kind"] == "cell" and first["recipe"] == "plain" and first["role"] == "baseline"
    assert first["scores"] == {"psnr": None, "ssim": 1.0} and first["identical"] is True and first["error"] is None
    again = Sweep.load(result.folder / "sweep.jsonl")
    assert again.cells == result.cells and again.settings == result.settings


@pytest.mark.parametrize("torn", [b'{"kind": "cell", "id": "ab', b"\0\0\0\0\n", b'{"kind"\n'])
def test_a_torn_last_line_is_healed(pipe, tmp_path, torn):
    whole = quick(pipe, tmp_path / "out")
    file = tmp_path / "out" / "sweep.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]) + torn)
    assert len(Sweep.load(file).cells) == len(whole.cells) - 1
    again = quick(pipe, tmp_path / "out")
    assert again.finished and [c.id for c in again.cells] == [c.id for c in whole.cells]
    assert len(file.read_bytes().splitlines()) == len(lines)


def test_a_torn_header_begins_anew(pipe, tmp_path):
    (tmp_path / "sweep.jsonl").write_bytes(b'{"kind": "dead')
    with pytest.raises(PresetError, match="no header yet"):
        Sweep.load(tmp_path)
    assert quick(pipe, tmp_path).finished


@pytest.mark.parametrize("line", ["{", "[]", '{"kind": "cell"}', '{"kind": "deadheat sweep", "schema": 9}'])
def test_a_damaged_file_is_refused(line, tmp_path):
    (tmp_path / "sweep.jsonl").write_text(f'{line}\n{{"kind": "cell"}}\n')
    with pytest.raises(PresetError, match=r"sweep\.jsonl"):
        Sweep.load(tmp_path)


def test_stopping_and_going_on(pipe, tmp_path):
    before, looks = leftovers(pipe), []

    def stop():
        looks.append(1)
        return len(looks) > 17

    with pytest.raises(Cancelled, match="same command"):
        quick(pipe, tmp_path / "out", seeds=[0, 1, 2], stop=stop)
    assert leftovers(pipe) == before
    early = Sweep.load(tmp_path / "out")
    assert 0 < len(early.cells) < early.planned and not early.finished
    seen = []
    whole = quick(pipe, tmp_path / "out", seeds=[0, 1, 2], watch=seen.append)
    assert whole.finished and whole.cells[: len(early.cells)] == early.cells
    assert seen[0].done == len(early.cells) and seen[-1].done == seen[-1].total == whole.planned
    assert seen[-1].seconds_left == 0 and [p.done for p in seen] == list(range(seen[0].done, whole.planned + 1))
    assert quick(pipe, tmp_path / "out", seeds=[0, 1, 2], stop=lambda: True).cells == whole.cells  # nothing runs


def test_another_grid_is_refused(pipe, tmp_path):
    quick(pipe, tmp_path / "out")
    with pytest.raises(InputError, match=r'prompts was \["a red cube"\] and is now \["other"\].*another --out'):
        quick(pipe, tmp_path / "out", prompts=["other"])
    with pytest.raises(InputError, match=r"repeats was 1 and is now 2"):
        quick(pipe, tmp_path / "out", repeats=2)


def test_other_ground_is_refused(pipe, tmp_path):
    quick(pipe, tmp_path / "out")
    file = tmp_path / "out" / "sweep.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    head = json.loads(lines[0])
    head["environment"]["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(head) + "\n" + lines[1])
    with pytest.raises(InputError, match=r'torch was "1\.0" and is now'):
        quick(pipe, tmp_path / "out")


def test_other_weights_are_refused(pipe, tmp_path):
    found = quick(pipe, tmp_path / "out")
    (tmp_path / "out" / "sweep.jsonl").write_text(
        "".join((found.folder / "sweep.jsonl").read_text().splitlines(keepends=True)[:-1])
    )
    other = FAMILIES["sd15"].build()
    other.unet.conv_in.weight.data.add_(0.5)
    with pytest.raises(InputError, match="weights was"):
        quick(other, tmp_path / "out")
    assert quick(pipe, tmp_path / "out").finished


def begun(pipe, out):
    """A sweep that lacks its last cell."""
    file = quick(pipe, out).folder / "sweep.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    return file


def test_weights_beside_the_denoiser_count(pipe, tmp_path):
    begun(pipe, tmp_path / "out")
    other = FAMILIES["sd15"].build()
    next(other.vae.parameters()).data.mul_(0.5)
    with pytest.raises(InputError, match="weights was"):
        quick(other, tmp_path / "out")


def test_another_setting_of_the_scheduler_is_refused(pipe, tmp_path):
    begun(pipe, tmp_path / "out")
    other = FAMILIES["sd15"].build()
    other.scheduler = type(other.scheduler).from_config(other.scheduler.config, beta_end=0.5)
    with pytest.raises(InputError, match=r'the scheduler\'s beta_end was .* and is now "0\.5"'):
        quick(other, tmp_path / "out")
    assert quick(pipe, tmp_path / "out").finished


def test_a_scheduler_may_be_set_to_infinity(tmp_path):
    other = FAMILIES["sd15"].build()
    other.scheduler = DPMSolverMultistepScheduler.from_config(other.scheduler.config)
    assert quick(other, tmp_path / "out").environment["scheduler"]["lambda_min_clipped"] == "-inf"


def test_a_sweep_of_an_earlier_version_is_refused_in_words(pipe, tmp_path):
    file = begun(pipe, tmp_path / "out")
    head, *lines = file.read_text().splitlines(keepends=True)
    old = json.loads(head)
    del old["environment"]["scheduler"]
    file.write_text(json.dumps(old) + "\n" + "".join(lines))
    with pytest.raises(InputError, match=r"begun by an earlier version.* give another --out"):
        quick(pipe, tmp_path / "out")


def test_two_drivers_are_refused(pipe, tmp_path):
    with SweepFile(tmp_path / "out"), pytest.raises(InputError, match=r"process \d+ writes a sweep to .* already"):
        quick(pipe, tmp_path / "out")
    assert quick(pipe, tmp_path / "out").finished


def test_other_folders_are_left_alone(pipe, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="other files"):
        quick(pipe, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="give another --out"):
        quick(pipe, "/proc/nowhere/out")


def test_workers_need_a_name(pipe, tmp_path):
    with pytest.raises(InputError, match="give its name or folder"):
        quick(pipe, tmp_path / "out", workers=2)


# -- the report ----------------------------------------------------------------------------------------------------


def test_the_report_opens_offline(result):
    page = result.write_report().read_text()
    assert "<b>blue</b>" not in page and "&lt;b&gt;blue" in page
    outside = re.findall(r"""(?:src|href|action)=["'](?!data:|\#)|url\(|@import|<link|<script""", page)
    assert not outside
    assert page.count("<svg") == 4 and "plain, fewer steps" in page and page.count("data:image/png") >= 16
    for said in ("PSNR: -10 log10", "Speed-up:", torch.__version__, "cannot work with StableDiffusionPipeline"):
        assert said in page


def test_a_report_without_its_pictures_says_so(result, tmp_path):
    (tmp_path / "sweep.jsonl").write_bytes((result.folder / "sweep.jsonl").read_bytes())
    (tmp_path / "pictures").mkdir()
    good = [cell.picture for cell in result.cells if cell.picture]
    (tmp_path / good[0]).write_bytes(b"no picture")
    page = Sweep.load(tmp_path).write_report().read_text()
    assert page.count("picture missing") == len(good) and "data:image" not in page


def test_the_table(result):
    table = result.table()
    assert "baseline" in table and "plain, 2 steps" in table and "identical" in table
    assert f"{result.planned} of {result.planned} cells, 4 failed; 2 interleaved rounds each" in table
    assert table.count("FAILED: first-block-cache") == 1
