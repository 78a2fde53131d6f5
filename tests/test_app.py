"""The page and its endpoints: a real server, a real Chromium, a real client."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from deadheat.presets import presets
from deadheat.ui import api, controls, jobs
from deadheat.ui.page import refusal
from deadheat.ui.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[1]
PROMPT = "a large panda on a gradient green background"
RUNNING, DONE = ".dh[data-mode=running]", ".dh[data-mode=result]"
HOUR = 90_000  # milliseconds that a loaded machine may take


@pytest.fixture(scope="module")
def page(chromium: "Browser", url: str) -> Iterator["Page"]:
    """The page with few steps and one round set, so that a run takes seconds; complaints and strangers are kept."""
    page = chromium.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(HOUR)
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("request", lambda r: page.wrong.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None)
    page.goto(url)
    page.wait_for_selector("#first-of")  # the knobs of the preset that the page begins with
    _choose(page, "first", "AB-Cache")
    page.wait_for_selector("#first-every")
    page.get_by_role("button", name="More settings").click()
    page.wait_for_timeout(500)  # fields that have just been laid out take their first value once more
    _type(page, "#steps input[type=number]", "6")
    _type(page, "#repeats input[type=number]", "1")
    _type(page, "#first-every input[type=number]", "2")
    yield page
    assert page.wrong == []
    page.close()


def test_a_preset_runs_as_the_panel_shows_it():
    for model in ("somebody/anything", "pocket-dit"):
        asked = Settings("a fox", model=model, recipe="balanced").arguments()["recipes"]
        assert asked == [presets(model)["balanced"]]
    text = "ab-cache:every=3 + guidance-interval"
    assert Settings("a fox", recipe=text).arguments()["recipes"] == [text]
    # of a model whose family shows when it is loaded, the recipe is written out: a name may then mean another one
    assert json.loads(controls._named("somebody/anything")) == {}
    assert set(json.loads(controls._named("stabilityai/sd-turbo")).values()) == {"flashedit"}
    assert "balanced" in json.loads(controls._named("pocket-dit")).values()


def test_opening_the_page_takes_nobodys_model(monkeypatch: pytest.MonkeyPatch):
    controls._accelerators.cache_clear()
    monkeypatch.setattr(jobs, "_LOADED", {"somebody/large": object()})
    controls.filled()
    jobs.warm_up()
    assert list(jobs._LOADED) == ["somebody/large"]


def test_no_word_of_a_file_is_markup_in_an_error():
    said = refusal(ValueError("""its schema is "<img src='x'>" & more""")).message
    assert said == """its schema is "&lt;img src='x'&gt;" &amp; more"""


@pytest.mark.parametrize("run", [api.compare, api.sweep])
def test_the_run_of_a_program_that_left_is_stopped(run: Any):
    told = run("ab-cache" if run is api.sweep else PROMPT, steps=100, repeats=10)
    while (said := next(told)[0] if run is api.compare else next(told))["said"].startswith(("waiting", "loading")):
        pass
    told.close()
    free = time.monotonic()
    with jobs.in_turn():
        assert time.monotonic() - free < 30, said


def _type(page: "Page", where: str, what: str) -> None:
    page.fill(where, what)
    page.keyboard.press("Tab")


def _choose(page: "Page", field: str, option: str) -> None:
    page.click(f"#{field} input")
    page.get_by_role("option", name=option, exact=True).click()


def _recipe_becomes(page: "Page", text: str) -> None:
    _until(page, f"document.querySelector('#recipe textarea, #recipe input').value === '{text}'")


def _until(page: "Page", true: str) -> None:
    page.wait_for_function(true)


def test_a_recorded_result_stands_there_before_the_first_run(page: "Page"):
    assert re.match(r"recorded on \d+ \w+ \d{4}", page.text_content(".dh-badge"))
    assert page.locator(".dh-card").count() == 5
    assert page.locator("button.dh-cell").count() == 28
    assert page.evaluate("document.querySelector('.dh-base').naturalWidth") == 128


def _far(chromium: "Browser", url: str) -> "Page":
    """Open the page of a server that takes 0.7 seconds to answer."""
    page = chromium.new_page()
    page.set_default_timeout(HOUR)
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    far = {"offline": False, "latency": 700, "downloadThroughput": -1, "uploadThroughput": -1}
    network.send("Network.emulateNetworkConditions", far)
    page.goto(url)
    return page


def test_what_is_typed_as_the_page_comes_alive_stays(chromium: "Browser", url: str):
    page = _far(chromium, url)
    page.fill("#recipe textarea, #recipe input", "ab-cache:every=3")
    page.wait_for_selector("#first-of")
    page.wait_for_timeout(2500)
    assert page.input_value("#recipe textarea, #recipe input") == "ab-cache:every=3"
    for text in ("ab-cache:every=5", "first-block-cache", "ab-cache:every=4"):  # faster than the server answers
        page.fill("#recipe textarea, #recipe input", text)
        page.press("#recipe textarea, #recipe input", "Tab")
        page.wait_for_timeout(300)
    for _ in range(12):
        assert page.input_value("#recipe textarea, #recipe input") == text
        page.wait_for_timeout(300)
    assert page.input_value("#first-every input") == "4"
    _choose(page, "preset", "balanced")
    _recipe_becomes(page, "balanced")
    page.close()


def test_a_knob_that_is_moved_at_once_stays(chromium: "Browser", url: str):
    page = _far(chromium, url)
    page.wait_for_selector("#first-of")
    _type(page, "#recipe textarea, #recipe input", "ab-cache:every=5")
    page.wait_for_selector("#first-every input[type=number]")
    _type(page, "#first-every input[type=number]", "4")
    for _ in range(12):
        assert page.input_value("#first-every input[type=number]") == "4"
        assert page.input_value("#recipe textarea, #recipe input") == "ab-cache:every=4"
        page.wait_for_timeout(300)
    _choose(page, "first", "EasyCache")
    assert page.input_value("#recipe textarea, #recipe input") == "easy-cache"
    if page.locator("#first-every").count():  # a knob of what is gone in a moment
        _type(page, "#first-every input[type=number]", "2")
    for _ in range(12):
        assert page.input_value("#recipe textarea, #recipe input") == "easy-cache"
        page.wait_for_timeout(300)
    assert page.locator("#first-every").count() == 0
    page.close()


def test_knobs_write_the_recipe_and_presets_set_the_knobs(page: "Page"):
    _recipe_becomes(page, "ab-cache:every=2")
    _until(page, "document.querySelector('#first-every input').value === '2'")
    _until(page, "document.querySelector('#preset input').value === 'own mix'")
    for model, title in (("pocket-dit", "Pocket DiT"), ("pocket-unet", "Pocket UNet"), ("pocket-dit", "Pocket DiT")):
        _choose(page, "model", title)
        for name in ("fast", "balanced"):  # the second stays when the model changes, and is then that model's
            mask = presets(model)[name].accelerators[0].mask
            _choose(page, "preset", name)
            _recipe_becomes(page, name)
            knob = "document.querySelector('#first-mask textarea, #first-mask input')"  # it may be folded away
            _until(page, f"{knob} && {knob}.value === '{mask}'")
    assert page.locator("#first-every").count() == 0


def test_a_typed_recipe_sets_the_knobs_and_stays_as_typed(page: "Page"):
    for text, first, second in (
        ("guidance-adapter:after=0.2 + ab-cache:every=3", "Guidance adapter", "AB-Cache"),
        ("ab-cache:every=5", "AB-Cache", "none"),
        ("fast", "Fitted cache", "none"),
        ("balanced", "Fitted cache", "none"),
    ):
        page.fill("#recipe textarea, #recipe input", text)
        page.press("#recipe textarea, #recipe input", "Tab")
        _until(page, f"document.querySelector('#first input').value.startsWith('{first}')")
        _until(page, f"document.querySelector('#second input').value.startsWith('{second}')")
        if "=" in text:
            slot, value = "second" if "+" in text else "first", text.rpartition("=")[2]
            _until(page, f"document.querySelector('#{slot}-every input')?.value === '{value}'")
        _recipe_becomes(page, text)
    page.fill("#recipe textarea, #recipe input", "ab-cash")
    page.press("#recipe textarea, #recipe input", "Tab")
    page.wait_for_timeout(1000)
    _recipe_becomes(page, "ab-cash")  # for a run to say what is wrong with it
    for _ in range(2):  # the same once more, when its knob was moved
        _type(page, "#recipe textarea, #recipe input", "ab-cache:every=5")
        _until(page, "document.querySelector('#first-every input')?.value === '5'")
        _type(page, "#first-every input[type=number]", "3")
        _recipe_becomes(page, "ab-cache")
    page.fill("#recipe textarea, #recipe input", "balanced")
    page.press("#recipe textarea, #recipe input", "Tab")


def test_a_preset_follows_the_model(page: "Page"):
    knob = "document.querySelector('#first-mask textarea, #first-mask input')"
    for model, title in (("pocket-unet", "Pocket UNet"), ("pocket-dit", "Pocket DiT")):
        _choose(page, "model", title)
        mask = presets(model)["balanced"].accelerators[0].mask
        _until(page, f"{knob} && {knob}.value === '{mask}'")
        _recipe_becomes(page, "balanced")
        _until(page, "document.querySelector('#preset input').value === 'balanced'")
    _choose(page, "preset", "magcache-13")  # which pocket-unet has none of
    _recipe_becomes(page, "magcache-13")
    _choose(page, "model", "Pocket UNet")
    _recipe_becomes(page, "balanced")
    _choose(page, "model", "Pocket DiT")
    _until(page, f"{knob}.value === '{presets('pocket-dit')['balanced'].accelerators[0].mask}'")


def test_a_run_shows_previews_then_numbers(page: "Page"):
    page.fill("#prompt textarea", PROMPT)
    page.evaluate(
        "window.seen = new Set(); window.eye = setInterval(() => document.querySelectorAll('.dh-lane img')"
        ".forEach((i) => i.src.startsWith('data:image/jpeg') && window.seen.add(i.src)), 20)"
    )
    page.click("#go")
    page.wait_for_selector(RUNNING)
    assert page.is_disabled("#go")
    page.wait_for_selector(DONE)
    assert page.evaluate("clearInterval(window.eye), window.seen.size") >= 4
    assert page.text_content(".dh-badge") == "measured just now"
    assert PROMPT in page.text_content(".dh-about")
    assert page.locator("button.dh-cell").count() == 6
    assert page.locator(".dh-card").first.locator(".v").text_content().endswith("x")
    assert PROMPT in page.text_content("#snippet")
    _until(page, "!document.querySelector('#go').disabled && document.querySelector('#stop').disabled")


def test_the_divider_by_mouse_and_by_keyboard(page: "Page"):
    box = page.locator(".dh-frame").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, middle, steps=5)
    page.mouse.up()
    at = "Number.parseFloat(document.querySelector('.dh-frame').style.getPropertyValue('--at'))"
    dragged = page.evaluate(at)
    assert 15 <= dragged <= 25
    page.focus(".dh-range")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(at) == dragged + 1
    page.keyboard.press("f")
    assert page.text_content(".dh-showing") == "showing: baseline"
    page.keyboard.press("f")
    assert page.text_content(".dh-showing") == "showing: accelerated"
    page.get_by_role("tab", name="Start here").click()
    page.keyboard.press("f")  # not of a picture that nobody sees
    page.get_by_role("tab", name="Compare").click()
    assert page.text_content(".dh-showing") == "showing: accelerated"


def test_the_strip_shows_each_step(page: "Page"):
    page.locator("button.dh-cell").nth(1).hover()
    assert page.text_content(".dh-stepsaid b").startswith("Step 2 of 6")
    assert page.locator(".dh-steppics img").count() == 2
    page.locator("button.dh-cell").nth(1).focus()
    page.keyboard.press("End")
    assert page.text_content(".dh-stepsaid b") == "Step 6 of 6: computed"
    assert page.evaluate("document.activeElement.dataset.i") == "5"


def test_changed_settings_mark_the_result_as_stale(page: "Page"):
    _type(page, "#seed input", "7")
    _until(page, "document.querySelector('.dh-badge').textContent === 'other settings'")
    assert page.text_content(".dh-about").startswith("These numbers belong to")
    _type(page, "#seed input", "0")
    _until(page, "document.querySelector('.dh-badge').textContent === 'measured just now'")


def test_stop_and_run_again(page: "Page"):
    _type(page, "#steps input[type=number]", "60")
    for _ in range(2):
        page.click("#go")
        page.wait_for_selector(RUNNING)
        _until(page, "[...document.querySelectorAll('.dh-lane .n span')].some((s) => s.textContent.includes('step'))")
        pressed = time.monotonic()
        page.click("#stop")
        page.wait_for_selector(DONE)
        assert time.monotonic() - pressed < 5
        assert "Stopped" in page.text_content(".dh-warnings")
        _until(page, "!document.querySelector('#go').disabled")
    _type(page, "#steps input[type=number]", "6")


def test_a_second_visitor_sees_the_wait_and_can_stop(page: "Page", chromium: "Browser", url: str):
    _type(page, "#steps input[type=number]", "90")
    page.click("#go")
    page.wait_for_selector(RUNNING)
    _until(page, "document.querySelector('.dh-about').textContent.startsWith('First look')")
    other = chromium.new_page()
    other.set_default_timeout(HOUR)
    other.goto(url)
    other.click("#go")
    other.wait_for_selector(RUNNING)
    assert other.text_content(".dh-about") == "waiting for the model"
    other.click("#stop")
    other.wait_for_selector(DONE)
    assert "Stopped" in other.text_content(".dh-warnings")
    other.close()
    assert page.get_attribute("#stage .dh", "data-mode") == "running"
    page.click("#stop")
    page.wait_for_selector(DONE)
    _until(page, "!document.querySelector('#go').disabled")
    _type(page, "#steps input[type=number]", "6")


def test_nothing_can_be_chosen_that_the_library_would_take_back(chromium: "Browser", url: str):
    page = chromium.new_page()
    page.set_default_timeout(HOUR)
    held: list[Any] = []
    page.route("**/run/predict*", lambda route: held.append(route) if holding else route.continue_())
    holding = True
    page.goto(url)
    fields = ["#recipe textarea, #recipe input", "#preset input", "#first input", "#second input"]
    page.wait_for_selector(fields[0])
    assert all(page.is_disabled(field) for field in fields)
    while not held:
        page.wait_for_timeout(100)
    holding = False
    for route in held:
        route.continue_()
    page.wait_for_selector("#first-of")
    assert all(page.is_enabled(field) for field in fields)
    page.close()


def test_bad_input_is_red_at_its_field_and_loses_nothing(page: "Page"):
    page.fill("#prompt textarea", " ")
    page.fill("#recipe textarea, #recipe input", "ab-cash")
    _type(page, "#seed input", "-5")
    page.click("#go")
    page.wait_for_selector("text=did you mean ab-cache?")
    assert page.is_visible("text=a prompt is empty")
    assert page.is_visible("text=seed is -5")
    assert page.get_attribute(".dh", "data-mode") == "result"
    assert PROMPT in page.text_content(".dh-about")


def test_a_prompt_is_never_read_as_html(page: "Page"):
    for text in ("<img src=x onerror='window.hacked=1'>", "${window.hacked=1} {{value}} `"):
        page.evaluate(
            "(text) => window.dispatchEvent(new CustomEvent('deadheat-settings', {detail: [text]}))", text
        )  # the page's own channel takes it
    page.fill("#prompt textarea", "a fox <img src=x onerror='window.hacked=1'> ${window.hacked=1}")
    page.fill("#recipe textarea, #recipe input", "ab-cache")
    _type(page, "#steps input[type=number]", "3")
    _type(page, "#seed input", "0")
    page.click("#go")
    page.wait_for_selector(RUNNING)
    page.wait_for_selector(DONE)
    assert "onerror" in page.text_content(".dh-about")
    assert page.evaluate("window.hacked") is None
    assert page.text_content(".dh-warning.loud").startswith("Warning: nothing was skipped")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone(chromium: "Browser", url: str, theme: str):
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{url}?__theme={theme}")
    page.wait_for_selector(".dh-card")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    cards = [card.bounding_box() for card in page.locator(".dh-card").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in cards)
    ink, ground = page.evaluate(
        "[getComputedStyle(document.querySelector('.dh-card .v')).color,"
        " getComputedStyle(document.querySelector('.dh-card')).backgroundColor]"
    )
    assert _contrast(ink, ground) >= 4.5
    page.close()


def _contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG counts it."""

    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.fixture(scope="module")
def client(url: str) -> Any:
    from gradio_client import Client

    return Client(url, verbose=False)


def test_the_endpoints_are_these(client: Any):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {
        "/compare",
        "/sweep",
        "/recommend",
        "/edit",
        "/list_models",
        "/list_accelerators",
    }


def test_opening_a_page_waits_for_no_run(client: Any):
    opening = [
        each for each in client.config["dependencies"]
        if each["backend_fn"] and any(event in {"load", "select"} for _, event in each["targets"])
    ]  # fmt: skip
    assert len(opening) == 3
    assert not any(each["queue"] for each in opening)


def test_lists(client: Any):
    assert "pocket-dit" in [model["id"] for model in client.predict(api_name="/list_models")]
    (cache,) = [a for a in client.predict(api_name="/list_accelerators") if a["name"] == "ab-cache"]
    assert cache["knobs"]["every"]["high"] == 10


def test_compare_for_programs(client: Any):
    numbers, pictures = client.predict(
        PROMPT, "ab-cache:order=1,every=2,warmup=1", steps=4, repeats=1, api_name="/compare"
    )
    assert numbers["schema"].startswith("deadheat.comparison/")
    assert numbers["lanes"][0]["calls"] == 8
    assert numbers["lanes"][1]["calls"] < 8
    assert [p["caption"] for p in pictures] == [lane["name"] for lane in numbers["lanes"]]
    assert Path(pictures[0]["image"]).suffix == ".png"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "a" * 2001}, "2001 characters"),
        ({"prompt": ["a fox", "a cat"]}, "not a text"),
        ({"recipe": ["ab-cache"]}, "recipe is ['ab-cache'], not a text"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 10_000}, "between 1 and 100"),
        ({"seed": -1}, "seed is -1"),
        ({"repeats": 11}, "between 1 and 10"),
        ({"model": "pocket-cat"}, "did you mean pocket-dit"),
        ({"model": "assets/pocket-unet"}, "a folder has to be named when the app is started"),
        ({"model": "/root"}, "a folder has to be named when the app is started"),
        ({"recipe": "ab-cache:evry=2"}, "did you mean every"),
        ({"recipe": "/etc/passwd.toml"}, "looks like a file"),
        ({"recipe": "guidance-adapter:weights=/etc"}, "names a file"),
    ],
)
def test_what_programs_are_refused(client: Any, given: dict[str, Any], words: str):
    with pytest.raises(Exception, match=re.escape(words)):
        client.predict(**{"prompt": PROMPT, **given}, api_name="/compare")


def test_a_port_in_use_is_one_line(url: str):
    port = url.rstrip("/").rpartition(":")[2]
    done = subprocess.run([sys.executable, "app.py", "--port", port], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
