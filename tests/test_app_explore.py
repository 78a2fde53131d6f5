"""The Explore page, its endpoints and the static explorer: a real server, a real Chromium, a real client."""

import io
import json
import math
import re
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deadheat.accelerators import FewerSteps
from deadheat.measure import METRICS, Sweep, static_explorer
from deadheat.measure.explore import explore_sweep
from deadheat.measure.explore_page import ASKS, LABELS, family, head_row
from deadheat.ui.pictures import data_url
from deadheat.ui.recommend import recommended
from deadheat.ui.sweeping import DEFAULT, SweepSettings
from deadheat.ui.uploads import explored
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[1]
HOUR = 300_000  # milliseconds that a loaded machine may take
PROMPTS = ["a fox above a mushroom", "a <img src=x onerror='window.hacked=1'> panda"]
LANES = {  # recipe -> role, seconds, PSNR
    "plain": ("baseline", 2.0, None),
    "fewer-steps:steps=3": ("control", 0.8, 24.0),
    "ab-cache:every=2": ("variant", 1.0, 40.0),
    "ab-cache:every=3": ("variant", 0.7, 31.0),
    "guidance-interval": ("variant", 1.4, 38.0),
    "guidance-interval + ab-cache:every=3": ("variant", 0.6, 29.0),
    "token-merging": ("variant", 2.2, 27.0),
}


def cell(recipe: str, nth: int) -> dict[str, Any]:
    role, seconds, quality = LANES[recipe]
    return {
        "kind": "cell",
        "id": f"{list(LANES).index(recipe)}{nth}",
        "recipe": recipe,
        "role": role,
        "prompt": PROMPTS[nth],
        "seed": 0,
        "steps": 6,
        "seconds": [seconds, seconds * 1.1, seconds * 0.9],
        "baseline_seconds": [2.0, 2.2, 1.8],
        "calls": 12 if recipe == "plain" else 8,
        "asked": 12,
        "actions": ["computed", "reused", "extrapolated", "partial", "computed", "computed"],
        "scores": {
            "psnr": None if quality is None else quality - nth,
            "ssim": 1.0 if quality is None else quality / 50,
        },
        "identical": quality is None,
        "cache_bytes": 3 * 2**20,
        "picture": f"pictures/{list(LANES).index(recipe)}{nth}.png",
        "warnings": [],
        "error": None,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep as it lies on disk, with a cell that failed."""
    here = tmp_path_factory.mktemp("sweep")
    recorded = json.loads((ROOT / "assets/recorded/compare/result.json").read_text())
    settings = {
        "recipes": [r for r in LANES if LANES[r][0] == "variant"] + ["t-gate"],
        "prompts": PROMPTS,
        "seeds": [0],
    }
    settings |= {"titles": {}, "steps": [6], "guidance": 4.0, "negative": None, "size": None, "repeats": 3}
    settings |= {"metrics": ["psnr", "ssim"], "control": [3]}
    head = {"kind": "deadheat sweep", "schema": 1, "model": "pocket-dit", "settings": settings, "unavailable": {}}
    head |= {"environment": recorded["environment"], "created": "2026-11-25T10:00:00+00:00"}
    cells = [cell(recipe, nth) for nth in (0, 1) for recipe in LANES]
    failed = {"kind": "cell", "id": "f", "recipe": "t-gate", "role": "variant", "prompt": PROMPTS[0], "seed": 0}
    failed |= {"steps": 6, "error": "it has no cross attention"}
    (here / "sweep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [head, *cells, failed]))
    (here / "pictures").mkdir()
    for row in cells:
        shade = (int(row["id"]) * 9 % 255, 90, 140)
        Image.new("RGB", (64, 64), shade).save(here / row["picture"])
    return here


def zipped(folder: Path, inside: str = "my sweep/") -> bytes:
    """The folder as people zip it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, inside + path.relative_to(folder).as_posix())
    return buffer.getvalue()


# -- what the explorer is given ----------------------------------------------------------------------------------


def test_points_say_what_was_measured(folder: Path):
    page = explore_sweep(Sweep.load(folder), lambda file: file)
    points = {point["recipe"]: point for point in page["points"]}
    assert [point["prompt"] for point in page["prompts"]] == PROMPTS
    fast = points["ab-cache:every=3"]
    assert fast["scores"]["psnr"] == {"mean": 30.5, "worst": 30.0, "identical": False, "prompt": PROMPTS[1]}
    assert (fast["seconds"], fast["speedup"], fast["family"]) == (
        0.7,
        pytest.approx(2 / 0.7, abs=1e-3),
        "step caching",
    )
    assert fast["pictures"] == ["pictures/30.png", "pictures/31.png"]
    assert "ab-cache:every=3" in fast["snippet"]
    assert "every = 3" in fast["toml"]
    assert points["plain"]["scores"]["psnr"]["identical"]
    assert points["t-gate"]["seconds"] is None
    assert points["t-gate"]["errors"] == ["it has no cross attention"]
    json.dumps(page, allow_nan=False)


def test_a_busy_machine_is_told(folder: Path):
    found = Sweep.load(folder)
    assert explore_sweep(found, lambda file: file)["unsteady"] == ""
    found.cells[3].baseline_seconds[:] = [3.0, 3.1, 3.2]
    assert "from 2.00 to 3.10 s" in explore_sweep(found, lambda file: file)["unsteady"]


def test_every_accelerator_has_a_family():
    from deadheat import ACCELERATORS

    assert {name: family(name) for name in ACCELERATORS if family(name) == "other"} == {}
    assert family("from-the-future:x=1") == "other"
    assert family('sparse-cross-attention:before="a fox + a cat"') == "fewer tokens"


def test_a_control_is_called_by_its_steps():
    for steps in (13, FewerSteps().steps):  # recipe text leaves the default out
        for recipe in (str(FewerSteps(steps)), f"fewer-steps:steps={steps}"):
            assert head_row(recipe, "control", recipe, 28)["name"] == f"only {steps} steps"


def test_a_comparison_can_be_explored_too():
    page = explored((ROOT / "assets/recorded/compare/result.json").read_bytes())
    assert page["badge"].startswith("loaded, measured on")
    assert {"baseline", "control", "variant"} == {point["role"] for point in page["points"]}


def test_a_zip_brings_its_pictures(folder: Path):
    page = explored(zipped(folder))
    assert all(src.startswith("data:image/jpeg") for point in page["points"][:7] for src in point["pictures"])
    assert explored((folder / "sweep.jsonl").read_bytes())["points"][0]["pictures"] == [None, None]


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sweep.jsonl", b"0" * (65 * 2**20))
    return buffer.getvalue()


def damaged() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(ROOT / "assets/recorded/compare/result.json", "result.json")
    raw = bytearray(buffer.getvalue())
    raw[3000:3010] = bytes(byte ^ 0x55 for byte in raw[3000:3010])
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "cannot be read as a result"),
        (b"\xff\xfe\x00", "cannot be read as a result"),
        (b"[1, 2]", "no result of Deadheat"),
        (b'{"schema": "deadheat.comparison/9"}', "its schema is"),
        (b'{"schema": "deadheat.comparison/1", "lanes": 3}', "cannot be read as a result"),
        (b'{"kind": "deadheat sweep", "schema": 1, "settings": {}}\n', "cannot be read as a result"),
        (b'{"kind": "deadheat sweep", "schema": 9}\n{"kind": "cell"}\n', "cannot be read as a result"),
        (b"PK\x03\x04 and nothing more", "cannot be read as a result"),
        (bomb, "this zip holds more than"),
        (damaged, "cannot be read as a result"),
    ],
)
def test_what_is_no_result_is_refused_in_a_sentence(raw: Any, words: str):
    from deadheat import InputError

    with pytest.raises(InputError, match=words) as refused:
        explored(raw() if callable(raw) else raw)
    assert "/tmp" not in str(refused.value)


def test_a_damaged_picture_is_none(folder: Path):
    raw = bytearray((folder / "pictures/00.png").read_bytes())
    assert data_url(io.BytesIO(raw)).startswith("data:image/jpeg")
    raw[18] ^= 1  # the width, without its checksum
    assert data_url(io.BytesIO(raw)) is None


def headed(folder: Path, rows: int = 1, **settings: Any) -> bytes:
    """The sweep with other settings, and so many cells, each of another recipe, prompt and seed."""
    head, first = (json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()[:2])
    head["settings"] |= settings
    cells = [{**first, "id": str(n), "recipe": f"x{n}", "prompt": f"p{n}", "seed": n} for n in range(rows)]
    return "".join(json.dumps(row) + "\n" for row in [head, *cells]).encode()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rows": 200}, "more than 20000 cells"),  # 200 points, each with 200 places
        ({"control": [*range(20_001)]}, "more than 20000 cells"),
        ({"recipes": [*map(str, range(10_000))]}, "more than 20000 cells"),
        ({"metrics": [*map(str, range(21))]}, "21 metrics"),
        ({"negative": "no " * 4000}, "at most 10000"),
    ],
)
def test_a_small_file_may_not_become_a_huge_page(folder: Path, given: dict[str, Any], words: str):
    from deadheat import InputError

    assert explored(headed(folder, rows=100))["points"]
    with pytest.raises(InputError, match=words):
        explored(headed(folder, **given))


def test_a_comparison_may_not_repeat_long_words():
    from deadheat import InputError

    result = json.loads((ROOT / "assets/recorded/compare/result.json").read_text())
    result["settings"]["negative"] = "no " * 4000
    with pytest.raises(InputError, match="at most 10000"):
        explored(json.dumps(result).encode())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("adherence", 1.1, 0.0), "never above 1"),
        (("psnr", math.nan, 0.0), "not a number"),
        (("psnr", -3.0, 0.0), "floor is -3"),
        (("psnr", 30.0, math.nan), "budget is nan"),
        (("psnr", 30.0, math.inf), "budget is inf"),
        (("psnr", 30.0, -1.0), "budget is -1"),
        (("adherence", 0.9, 0.0), "the best has 80%"),
        (("psnr", 30.0, 0.1), "the fastest takes 0.60 s"),
    ],
)
def test_what_nothing_can_hold_is_said(folder: Path, given: Any, words: str):
    from deadheat import InputError

    page = explore_sweep(Sweep.load(folder), lambda file: file)
    page["metrics"].append({"name": "adherence"})
    for point in page["points"]:
        point["scores"]["adherence"] = {"mean": 0.8, "worst": 0.7}
    assert recommended(page, "pocket-dit", "adherence", 0.8, 0.0)["seconds"] == 0.6
    assert recommended(page, "pocket-dit", "psnr", 100.0, 0.0)["recipe"] == "plain"
    with pytest.raises(InputError, match=words):
        recommended(page, "pocket-dit", *given)


def test_a_model_without_a_record_gets_its_presets_and_a_command(folder: Path):
    from deadheat import InputError

    for page in (None, explore_sweep(Sweep.load(folder), lambda file: file)):
        with pytest.raises(InputError, match=r"nothing was measured of .*faithful: .*tune Qwen/Qwen-Image --floor"):
            recommended(page, "Qwen/Qwen-Image", "psnr", 30.0, 0.0)
        with pytest.raises(InputError, match=r"run: deadheat tune MODEL --floor") as refused:
            recommended(page, "../..", "psnr", 30.0, 0.0)
        assert "presets" not in str(refused.value)
    with pytest.raises(InputError, match="nothing was measured"):
        recommended(None, "x" * 5000, "psnr", 30.0, 0.0)


def test_every_metric_has_a_label_and_a_question():
    assert set(LABELS) == set(METRICS) and set(ASKS) == {"adherence", "clip", "image-reward", "frechet"}


def test_a_zip_is_read_and_never_unpacked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert explored(zipped(folder, "../../"))["points"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"recipes": " "}, 0, "no recipe is given"),
        ({"recipes": "/etc/passwd.toml"}, 0, "looks like a file"),
        ({"recipes": "guidance-adapter:weights=/etc"}, 0, "names a file"),
        ({"recipes": "ab-cache\nab-cache:every=2|3 + guidance-adapter:weights=/etc"}, 0, "names a file"),
        ({"recipes": "ab-cash"}, 0, "did you mean ab-cache"),
        ({"recipes": ["ab-cache"]}, 0, "recipes is ['ab-cache'], not a text"),
        ({"prompts": ["a fox"]}, 1, "prompts is ['a fox'], not a text"),
        ({"recipes": "ab-cache:every=2..9", "prompts": "fox\n" * 20}, 0, "at most 120"),
        ({"prompts": ""}, 1, "a prompt is empty"),
        ({"model": ""}, 2, "no model is chosen"),
        ({"steps": 0}, 3, "steps is 0"),
        ({"seed": -1}, 5, "seed is -1"),
        ({"repeats": 99}, 6, "between 1 and 10"),
    ],
)
def test_what_cannot_be_swept(given: dict[str, Any], field: int, words: str):
    said = SweepSettings(**{"recipes": "ab-cache", "prompts": "a fox", **given}).complaints()
    assert words in said[field]


# -- the page ----------------------------------------------------------------------------------------------------


def watched(page: "Page", home: str) -> "Page":
    """Keep complaints and strangers."""
    page.set_default_timeout(HOUR)
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("request", lambda r: page.wrong.append(r.url) if not r.url.startswith((home, "data:", "blob:")) else None)
    return page


@pytest.fixture(scope="module")
def page(chromium: "Browser", url: str) -> Iterator["Page"]:
    page = watched(chromium.new_page(viewport={"width": 1440, "height": 1000}), url)
    page.goto(url)
    page.get_by_role("tab", name="Explore").click()
    page.wait_for_selector(".dx-point")
    page.locator("#explore-more button").first.click()
    page.wait_for_selector("#explore-steps input[type=number]")
    page.wait_for_timeout(500)  # fields that have just been laid out take their first value once more
    _type(page, "#explore-steps input[type=number]", "8")
    _type(page, "#explore-repeats input[type=number]", "1")
    yield page
    assert page.wrong == []
    page.close()


@pytest.fixture(scope="module")
def static(chromium: "Browser", folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Page"]:
    """The static explorer of two results, opened from disk."""
    compared = ROOT / "assets/recorded/compare"
    index = static_explorer([folder, compared], tmp_path_factory.mktemp("static") / "explorer")
    page = watched(chromium.new_page(viewport={"width": 1280, "height": 900}), "file://")
    page.goto(index.as_uri())
    yield page
    assert page.wrong == []
    page.close()


def point(page: "Page", recipe: str) -> Any:
    return page.locator(f'.dx-point[data-recipe="{recipe}"]')


def picked(page: "Page") -> str:
    return page.text_content(".dx-name h3")


def load(page: "Page", name: str, raw: bytes) -> None:
    with page.expect_file_chooser() as chooser:
        page.click("#explore-load")
    chooser.value.set_files({"name": name, "mimeType": "application/octet-stream", "buffer": raw})


def test_a_recorded_sweep_stands_there_before_the_first(page: "Page"):
    assert re.match(r"recorded on \d+ \w+ \d{4}", page.text_content(".dx-badge"))
    assert page.locator(".dx-point").count() > 20
    assert page.evaluate("document.querySelector('.dx-pics img').naturalWidth") == 128
    assert "with accelerate(pipe" in page.text_content(".dx-code pre")


def test_loading_a_file_shows_it(page: "Page", folder: Path):
    load(page, "sweep.zip", zipped(folder))
    page.wait_for_function(
        "document.querySelector('.dx-badge').textContent === 'loaded, measured on 25 November 2026'"
    )
    assert page.locator(".dx-point").count() == len(LANES)
    assert picked(page) == "ab-cache:every=3"  # the fastest variant at 30 dB
    assert page.locator(".dx-pics img").count() == 2


def test_a_bad_file_is_a_sentence_and_loses_nothing(page: "Page"):
    load(page, "sweep.jsonl", b"nothing of the kind\n")
    page.wait_for_selector("text=cannot be read as a result")
    assert page.locator(".dx-point").count() == len(LANES)
    page.locator(".toast-close, button[aria-label='Close']").first.click()
    load(page, "result.json", b'{"schema": "<img src=x onerror=window.hacked=1>"}')
    page.wait_for_selector("text=its schema is '<img src=x onerror=window.hacked=1>'")
    assert page.evaluate("window.hacked") is None
    page.locator(".toast-close, button[aria-label='Close']").first.click()


def test_a_prompt_from_a_file_is_never_read_as_html(page: "Page"):
    page.select_option(".dx-prompt", "1")
    assert "onerror" in page.evaluate("document.querySelector('.dx-prompt').selectedOptions[0].textContent")
    assert page.evaluate("window.hacked") is None
    page.select_option(".dx-prompt", "0")


def test_a_click_picks_a_point(page: "Page"):
    point(page, "guidance-interval").click()
    assert picked(page) == "guidance-interval"
    assert point(page, "guidance-interval").get_attribute("aria-checked") == "true"
    cards = page.text_content(".dx-cards")
    assert all(
        text in cards for text in ("1.43x", "1.40 s", "37.5 dB", "worst 37.0 dB", "8", "of 12 asked for", "3.0 MB")
    )
    assert page.text_content(".dx-against").startswith("Beaten by ab-cache:every=2")
    assert page.locator(".dx-strip i.reused").count() == 1
    page.click(".dx-tabs [data-code=toml]")
    assert 'name = "guidance-interval"' in page.text_content(".dx-code pre")
    page.click(".dx-tabs [data-code=snippet]")


def test_points_by_keyboard(page: "Page"):
    page.focus(".dx-views button >> nth=1")
    point(page, "guidance-interval").focus()
    page.keyboard.press("Home")
    assert picked(page) == "guidance-interval + ab-cache:every=3"
    page.keyboard.press("ArrowRight")
    assert picked(page) == "ab-cache:every=3"
    assert page.evaluate("document.activeElement.dataset.recipe") == "ab-cache:every=3"
    page.keyboard.press("ArrowUp")
    assert picked(page) == "guidance-interval"
    ring = "getComputedStyle(document.activeElement.querySelector('.ring')).stroke"
    assert page.evaluate(ring) not in {"none", ""}
    assert page.locator('.dx-point[tabindex="0"]').count() == 1


def test_filters(page: "Page"):
    page.click(".dx-chip[data-family='step caching']")
    assert point(page, "ab-cache:every=3").count() == 0
    page.click(".dx-chip[data-family='step caching']")
    page.click(".dx-only")
    assert point(page, "token-merging").count() == 0
    assert point(page, "ab-cache:every=2").count() == 1
    page.click(".dx-only")
    assert page.locator(".dx-point").count() == len(LANES)


def test_wishes(page: "Page"):
    move = "([s, v]) => { const i = document.querySelector(s); i.value = v; i.dispatchEvent(new Event('input')); }"
    page.evaluate(move, [".dx-good", 35])
    assert picked(page) == "ab-cache:every=2"
    page.evaluate(move, [".dx-time", 0.65])
    assert picked(page) == "guidance-interval + ab-cache:every=3"
    page.select_option(".dx-by", "worst")
    page.select_option(".dx-across", "speedup")
    assert page.locator(".dx-point").count() == len(LANES)
    page.select_option(".dx-across", "seconds")
    page.select_option(".dx-by", "mean")


def test_pictures_of_every_setting(page: "Page"):
    page.click(".dx-views [data-view=grid]")
    assert page.locator(".dx-shot").count() == len(LANES) + 1
    assert "it has no cross attention" in page.text_content(".dx-shot[data-id='t-gate @6']")
    assert "t-gate could not be measured" in page.text_content(".dx-messages")
    page.click(".dx-shot[data-id='token-merging @6']")
    assert picked(page) == "token-merging"
    assert page.evaluate("document.activeElement.dataset.id") == "token-merging @6"
    page.click(".dx-flip")
    assert "the baseline" in page.text_content(".dx-pics figure:last-child figcaption")
    page.click(".dx-views [data-view=chart]")


def _type(page: "Page", where: str, what: str) -> None:
    page.fill(where, what)
    page.keyboard.press("Tab")


def test_a_sweep_of_twelve_cells(page: "Page"):
    assert page.input_value("#explore-recipes textarea").splitlines() == list(DEFAULT)
    page.click("#explore-go")
    page.wait_for_selector(".dx-badge.live")
    page.wait_for_function("/^[1-9]\\d* of 12 cells.* left/.test(document.querySelector('.dx-said').textContent)")
    assert 0 < page.locator(".dx-point").count() < 12
    page.wait_for_function("document.querySelector('.dx-badge').textContent === 'measured just now'")
    assert page.locator(".dx-point").count() == 12
    assert page.is_hidden(".dx-progress")
    page.wait_for_function("!document.querySelector('#explore-go').disabled")


def test_the_snippet_of_a_point_runs_and_gives_the_same_picture(page: "Page"):
    from deadheat.measure import to_image

    point(page, "ab-cache").dispatch_event("click")  # every=3 is its default; another point may lie above it
    room: dict[str, Any] = {}
    exec(page.text_content(".dx-code pre"), room)  # as a user would paste it
    file = io.BytesIO()
    to_image(room["image"]).save(file, "PNG")
    file.seek(0)

    def pixels(src: str) -> Any:
        with urllib.request.urlopen(src) as raw:
            return np.asarray(Image.open(io.BytesIO(raw.read())).convert("RGB")).astype(int)

    def apart(which: str) -> float:
        """How far the picture is from one that the page shows, both as the page's JPEG."""
        src = page.get_attribute(f".dx-pics figure:{which}-child img", "src")
        return float(abs(pixels(data_url(file)) - pixels(src)).mean())

    assert apart("last") < 1
    assert apart("first") > 3 * apart("last")  # the baseline's


def test_stopping_loses_nothing_and_frees_the_model(page: "Page"):
    before = page.locator(".dx-point").count()
    _type(page, "#explore-steps input[type=number]", "40")
    page.click("#explore-go")
    page.wait_for_function("/^0 of 12 cells/.test(document.querySelector('.dx-said').textContent)")
    pressed = time.monotonic()
    page.click("#explore-stop")
    page.wait_for_selector("text=Stopped before a cell was finished")
    assert time.monotonic() - pressed < 5
    assert page.locator(".dx-point").count() == before  # the sweep before stands again
    page.wait_for_function("!document.querySelector('#explore-go').disabled")
    _type(page, "#explore-steps input[type=number]", "2")  # proves that the model is free again
    page.fill("#explore-recipes textarea", "ab-cache:every=2,warmup=1")
    page.click("#explore-go")
    page.wait_for_function("document.querySelectorAll('.dx-point').length === 3")
    page.wait_for_function("document.querySelector('.dx-badge').textContent === 'measured just now'")


def test_bad_settings_are_red_at_their_field(page: "Page"):
    before = page.text_content(".dx-badge")
    page.fill("#explore-recipes textarea", "ab-cash:every=2")
    page.click("#explore-go")
    page.wait_for_selector("text=did you mean ab-cache?")
    assert page.text_content(".dx-badge") == before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone(chromium: "Browser", url: str, theme: str):
    page = watched(chromium.new_page(viewport={"width": 390, "height": 844}), url)
    page.goto(f"{url}?__theme={theme}")
    page.get_by_role("tab", name="Explore").click()
    page.wait_for_selector(".dx-point")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    boxes = [box.bounding_box() for box in page.locator(".dx-card, .dx-chip, .dx-plot svg, .dx-picked").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    page.close()


# -- the static explorer -----------------------------------------------------------------------------------------


def test_the_static_explorer_works_from_disk(static: "Page"):
    assert picked(static) == "ab-cache:every=3"
    assert static.evaluate("[...document.querySelectorAll('.dx-pics img')].every((i) => i.naturalWidth === 64)")
    point(static, "guidance-interval").click()
    assert picked(static) == "guidance-interval"
    static.keyboard.press("End")
    assert picked(static) == "token-merging"
    static.click(".dx-all summary")
    assert static.locator(".dx-scroll tbody tr").count() == len(LANES) + 1
    assert "t-gate" in static.text_content(".dx-scroll tbody")


def test_the_static_explorer_of_several_results(static: "Page"):
    static.select_option(".runs select", "1")
    assert "AMD" in static.text_content(".dx-about")
    assert static.evaluate("[...document.querySelectorAll('.dx-pics img')].length") == 2
    static.wait_for_function("[...document.querySelectorAll('.dx-pics img')].every((i) => i.naturalWidth === 128)")


def test_the_static_explorer_on_a_phone_and_in_the_dark(static: "Page"):
    static.emulate_media(color_scheme="dark")
    static.set_viewport_size({"width": 390, "height": 844})
    static.reload()
    static.wait_for_selector(".dx-point")
    assert static.evaluate("document.documentElement.scrollWidth") == 390
    assert static.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(11, 17, 32)"


def test_what_is_picked_among_the_pictures_is_shown(static: "Page"):
    static.set_viewport_size({"width": 390, "height": 844})
    static.click(".dx-views [data-view=grid]")
    for name in ("token-merging @6", "ab-cache:every=2 @6"):
        static.click(f".dx-shot[data-id='{name}']")
        box = static.locator(".dx-picked").bounding_box()
        assert 0 <= box["y"] < 844 or box["y"] < 0 < box["y"] + box["height"]
    static.click(".dx-views [data-view=chart]")
    static.set_viewport_size({"width": 1280, "height": 900})


def test_there_is_nothing_to_wish_for_where_all_are_identical(chromium: "Browser", folder: Path, tmp_path: Path):
    sweep = tmp_path / "same"
    sweep.mkdir()
    head, *rows = (folder / "sweep.jsonl").read_text(encoding="utf-8").splitlines()
    keep = [row for row in rows if json.loads(row).get("recipe") in ("", "plain")]
    (sweep / "sweep.jsonl").write_text("\n".join([head, *keep]) + "\n", encoding="utf-8")
    page = chromium.new_page()
    page.goto(static_explorer([sweep], tmp_path / "explorer").as_uri())
    page.wait_for_selector(".dx-point")
    assert not page.is_visible(".dx-good")
    page.close()


def test_the_static_explorer_replaces_only_itself(folder: Path, tmp_path: Path):
    from deadheat import InputError

    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        static_explorer([folder], tmp_path)
    made = tmp_path / "explorer"
    assert static_explorer([folder, folder], made) == made / "index.html"
    (made / "CNAME").write_text("explore.example.org")
    assert static_explorer([folder / "sweep.jsonl"], made) == made / "index.html"
    assert (made / "CNAME").is_file() and [path.name for path in (made / "runs").iterdir()] == ["0"]
    assert {path.name for path in made.iterdir()} == {
        "CNAME", "data.js", "explorer.css", "explorer.js", "index.html", "runs"
    }  # fmt: skip


def test_data_of_somebody_else_are_no_explorer(folder: Path, tmp_path: Path):
    from deadheat import InputError

    (tmp_path / "data.js").write_text("const mine = 1;\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        static_explorer([folder], tmp_path)
    assert (tmp_path / "runs" / "mine.txt").is_file()


def test_a_typo_leaves_an_explorer_as_it_was(folder: Path, tmp_path: Path):
    from deadheat import PresetError

    made = tmp_path / "explorer"
    with pytest.raises(PresetError, match="cannot be read"):
        static_explorer([folder, tmp_path / "sweeep"], made)
    assert not made.exists()
    static_explorer([folder], made)
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    with pytest.raises(PresetError, match="cannot be read"):
        static_explorer([folder, tmp_path / "sweeep"], made)
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_report_writes_the_static_explorer(folder: Path, tmp_path: Path):
    command = [sys.executable, "-m", "deadheat", "report", str(folder), "--static", str(tmp_path / "out"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(json.loads(done.stdout)["explorer"]).is_file()


# -- for programs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(url: str) -> Any:
    from gradio_client import Client

    return Client(url, verbose=False)


def test_sweep_for_programs(client: Any):
    found = client.predict("ab-cache:every=2|3,warmup=1", "a fox", steps=3, repeats=1, api_name="/sweep")
    assert found["finished"]
    assert found["folder"] is None
    assert [p["recipe"] for p in found["points"]["psnr"]][-2:] == [
        "ab-cache:every=2,warmup=1",
        "ab-cache:warmup=1",  # every=3 is the default
    ]
    for recipe, words in (("ab-cash", "did you mean ab-cache"), ("guidance-adapter:weights=/etc", "names a file")):
        with pytest.raises(Exception, match=words):
            client.predict(recipe, api_name="/sweep")
        with pytest.raises(Exception, match=words):
            client.predict("a fox", recipe, api_name="/compare")


def test_recommend_for_programs(client: Any):
    held = client.predict("pocket-dit", "psnr", 30.0, 0.0, api_name="/recommend")
    assert held["mean"] is None or held["mean"] >= 30
    within = client.predict("pocket-dit", "psnr", 30.0, held["seconds"], api_name="/recommend")
    assert within["seconds"] <= held["seconds"]
    assert held["measured"].startswith("recorded on")
    for given, words in (
        (("pocket-cat",), "nothing was measured"),
        ((None,), "model is None, not a text"),
        (("pocket-dit", "beauty"), "metric is 'beauty'"),
        (("pocket-dit", "adherence", 1.1), "never above 1"),
    ):
        with pytest.raises(Exception, match=words):
            client.predict(*given, api_name="/recommend")


def test_the_endpoints_are_tools_of_a_language_model(url: str):
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def ask() -> tuple[list[str], Any]:
        async with (
            streamable_http_client(url + "gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            return sorted(tool.name for tool in tools), await session.call_tool("list_models", {})

    with ThreadPoolExecutor(1) as apart:  # the browser has this thread's event loop
        names, models = apart.submit(lambda: asyncio.run(ask())).result()
    assert names == ["compare", "edit", "list_accelerators", "list_models", "recommend", "sweep"]
    assert not models.isError
    assert "pocket-unet" in models.content[0].text
