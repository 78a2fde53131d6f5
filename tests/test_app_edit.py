"""The Edit page and its endpoint: a real server, a real Chromium, a real client."""

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from .test_app import HOUR, _contrast, _type, _until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STAGE = "#edit-stage "
RUNNING, DONE = STAGE + ".dh[data-mode=running]", STAGE + ".dh[data-mode=result]"
PICTURE = STAGE + ".dh[data-mode=picture]"
SEEN = "document.querySelector('#edit-stage .de-pic').src"


def _open(browser: "Browser", address: str, **how: Any) -> "Page":
    page = browser.new_page(**how)
    page.set_default_timeout(HOUR)
    page.goto(address)
    page.wait_for_selector("#stage .dh-card")
    page.get_by_role("tab", name="Edit").click()
    page.wait_for_selector(STAGE + ".dh-card")
    _until(page, "document.querySelector('#edit-stage .de').dataset.painted !== undefined")
    return page


@pytest.fixture(scope="module")
def page(chromium: "Browser", url: str) -> Iterator["Page"]:
    """The page with few steps and one round set; complaints and strangers are kept."""
    page = _open(chromium, url, viewport={"width": 1440, "height": 1000})
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("request", lambda r: page.wrong.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None)
    page.get_by_role("button", name="More settings").last.click()
    page.wait_for_timeout(500)
    _type(page, "#edit-steps input[type=number]", "8")
    _type(page, "#edit-rounds input[type=number]", "1")
    yield page
    assert page.wrong == []
    page.close()


def _paint(page: "Page", *parts: tuple[float, float]) -> None:
    """Drag the brush through points, in parts of the canvas."""
    page.locator(STAGE + ".de-frame").scroll_into_view_if_needed()
    box = page.locator(STAGE + ".de-frame").bounding_box()
    spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in parts]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in [*spots[1:], spots[-1]]:
        page.mouse.move(*spot, steps=4)
    page.mouse.up()


def _painted(page: "Page") -> int:
    return int(page.get_attribute(STAGE + ".de", "data-painted"))


def _share(page: "Page") -> str:
    return page.text_content(STAGE + ".de-share")


def _warnings(page: "Page") -> str:
    return page.text_content(STAGE + ".dh-warnings")


def _clean(page: "Page") -> None:
    page.click(STAGE + ".de-clear")
    _until(page, "document.querySelector('#edit-stage .de').dataset.painted === '0'")


def _run(page: "Page") -> None:
    page.click("#edit-go")
    page.wait_for_selector(RUNNING)
    page.wait_for_selector(DONE)
    _until(page, "!document.querySelector('#edit-go').disabled && document.querySelector('#edit-stop').disabled")


def _pixels(page: "Page") -> Image.Image:
    found = page.evaluate(SEEN)
    return Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2]))).convert("RGB")


def test_a_recorded_edit_stands_there_before_the_first_one(page: "Page"):
    assert re.match(r"recorded on \d+ \w+ \d{4}", page.text_content(STAGE + ".dh-badge"))
    assert page.locator(STAGE + ".dh-card").count() >= 4
    assert page.locator(STAGE + ".de-lanes img").count() >= 1
    _until(page, "Number(document.querySelector('#edit-stage .de').dataset.painted) > 500")
    assert "of the pixels painted" in _share(page)
    assert page.is_disabled(STAGE + ".de-before")  # nothing was before it
    assert page.locator("#sample-0").is_visible()


def test_brush_eraser_and_undo_stroke(page: "Page"):
    _clean(page)
    assert "Nothing is painted" in _share(page)
    _paint(page, (0.3, 0.3), (0.6, 0.3))
    much = _painted(page)
    assert 300 < much < 4000
    page.click(STAGE + ".de-eraser")
    _paint(page, (0.3, 0.3))
    less = _painted(page)
    assert 0 < less < much
    page.click(STAGE + ".de-redo")
    assert _painted(page) == much
    page.keyboard.press("B")  # Caps Lock is on
    assert page.get_attribute(STAGE + ".de-brush", "aria-pressed") == "true"
    page.click(STAGE + ".de-redo")
    assert _painted(page) == 0


def test_a_second_finger_does_not_paint(page: "Page"):
    page.evaluate("""() => {
      const mask = document.querySelector('#edit-stage .de-mask'), box = mask.getBoundingClientRect();
      mask.setPointerCapture = () => {};
      const touch = (type, id, x, y) => mask.dispatchEvent(new PointerEvent(type, {
        pointerId: id, clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true }));
      touch('pointerdown', 1, 0.2, 0.2); touch('pointerdown', 2, 0.8, 0.8); touch('pointermove', 2, 0.8, 0.7);
      touch('pointermove', 1, 0.22, 0.2); touch('pointerup', 2, 0.8, 0.7); touch('pointerup', 1, 0.22, 0.2);
      delete mask.setPointerCapture;
    }""")
    assert 0 < _painted(page) < 1200
    page.click(STAGE + ".de-redo")
    assert _painted(page) == 0


def test_a_cleared_painting_is_not_spoken_of(page: "Page"):
    _paint(page, (0.3, 0.3), (0.6, 0.3))
    page.click(STAGE + ".de-clear")
    page.wait_for_timeout(1500)  # longer than an answer about the painting takes
    assert _share(page) == "Nothing is painted yet."


def test_picture_and_painting_can_be_saved(page: "Page"):
    _paint(page, (0.3, 0.3), (0.6, 0.3))
    with page.expect_download() as saved:
        page.click(STAGE + ".de-savepaint")
    assert saved.value.suggested_filename == "deadheat-painting.png"
    alpha = Image.open(saved.value.path()).getchannel("A")
    assert alpha.size == (128, 128)
    assert alpha.histogram()[255] == _painted(page)
    assert page.get_attribute(STAGE + ".de-save", "download") == "deadheat-picture.png"
    _clean(page)
    page.click(STAGE + ".de-savepaint")
    assert "Nothing is painted yet." in _warnings(page)


def test_painting_by_keyboard(page: "Page"):
    _clean(page)
    page.focus(STAGE + ".de-mask")
    page.keyboard.press("Space")
    _until(page, "Number(document.querySelector('#edit-stage .de').dataset.painted) > 0")  # counted at the next frame
    dot = _painted(page)
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert _painted(page) > dot


def test_a_sample_and_what_a_painting_would_cost(page: "Page"):
    page.click("#sample-1")
    page.wait_for_selector(PICTURE)
    _until(page, "document.querySelector('#edit-shows textarea, #edit-shows input').value.includes('panda')")
    _until(page, "document.querySelector('#edit-prompt textarea').value.includes('panda')")
    _until(page, "Number(document.querySelector('#edit-stage .de').dataset.painted) > 100")  # where one might begin
    _clean(page)
    _paint(page, (0.2, 0.2), (0.3, 0.2))
    _until(page, "document.querySelector('#edit-stage .de-share').textContent.includes('of the picture computed')")
    assert re.search(r"expected [\d.]+x as fast|the dense edit is faster", _share(page))


def test_paint_run_and_undo(page: "Page"):
    before, seen = _pixels(page), page.evaluate(SEEN)
    page.fill("#edit-prompt textarea", "a cat on a gradient green background")
    _run(page)
    after = _pixels(page)
    assert before.size == after.size == (128, 128)
    changed = [(x, y) for y in range(128) for x in range(128) if before.getpixel((x, y)) != after.getpixel((x, y))]
    assert len(changed) > 100
    assert all(x < 80 and y < 70 for x, y in changed)  # outside the mask nothing moved
    assert page.text_content(STAGE + ".dh-badge") == "measured just now"
    assert "a cat on a gradient" in page.text_content(STAGE + ".dh-about")
    assert "untouched" in page.text_content(STAGE + ".dh-cards")
    assert page.locator(STAGE + ".de-step").count() == 2
    assert "Fewer steps instead" in page.text_content(STAGE + ".dh-cards")
    lanes = page.locator(STAGE + ".de-lanes b").all_text_contents()
    assert [re.sub(r"[\d.]+", "N", name) for name in lanes] == ["dense", "sparse", "N steps", "difference xN"]
    assert _painted(page) == 0
    page.keyboard.press("f")
    assert page.evaluate(SEEN) == seen
    page.keyboard.press("f")
    assert page.evaluate(SEEN) != seen
    page.click(STAGE + ".de-undo")
    _until(page, "document.querySelectorAll('#edit-stage .de-step').length === 1")
    assert page.evaluate(SEEN) == seen
    _until(page, "Number(document.querySelector('#edit-stage .de').dataset.painted) > 0")  # the painting is back


def test_edits_accumulate_and_one_can_go_back(page: "Page"):
    seen = page.evaluate(SEEN)
    _run(page)
    _paint(page, (0.7, 0.8))
    _run(page)
    assert page.locator(STAGE + ".de-step").count() == 3
    page.locator(STAGE + ".de-step").first.click()
    _until(page, "document.querySelectorAll('#edit-stage .de-step').length === 1")
    assert page.evaluate(SEEN) == seen
    assert page.is_disabled(STAGE + ".de-undo")


def test_changed_settings_mark_the_numbers_as_stale(page: "Page"):
    assert page.text_content(STAGE + ".dh-badge") == "another edit"
    assert page.text_content(STAGE + ".dh-about").startswith("These numbers belong to")


def test_stop_leaves_the_picture_and_the_painting(page: "Page"):
    _type(page, "#edit-steps input[type=number]", "90")
    seen, painted = page.evaluate(SEEN), _painted(page)
    assert painted
    page.click("#edit-go")
    page.wait_for_selector(RUNNING)
    _until(page, "document.querySelector('#edit-stage .dh-about').textContent.match(/step|First look/)")
    pressed = time.monotonic()
    page.click("#edit-stop")
    _until(page, "document.querySelector('#edit-stage .dh').dataset.mode !== 'running'")
    assert time.monotonic() - pressed < 5
    assert "Stopped. The picture is as it was" in _warnings(page)
    assert page.evaluate(SEEN) == seen
    assert _painted(page) == painted
    _until(page, "!document.querySelector('#edit-go').disabled")
    _type(page, "#edit-steps input[type=number]", "8")


def test_strokes_become_things(page: "Page"):
    page.get_by_role("radio", name="Strokes").check()
    page.wait_for_selector(STAGE + ".de-colours button")
    _clean(page)
    page.locator(STAGE + ".de-colours button").nth(3).click()
    _paint(page, (0.4, 0.4), (0.6, 0.6))
    _run(page)
    assert "strokes" in page.text_content(STAGE + ".dh-about")
    page.get_by_role("radio", name="New prompt").check()
    page.click(STAGE + ".de-undo")
    _until(page, "document.querySelectorAll('#edit-stage .de-step').length === 1")


def test_nothing_painted_is_said(page: "Page"):
    _clean(page)
    page.click("#edit-go")
    _until(page, "document.querySelector('#edit-stage .dh-warnings').textContent.includes('is not there')")
    assert page.get_attribute(STAGE + ".dh", "data-mode") != "running"


def test_a_full_mask_runs_dense_and_says_so(page: "Page"):
    page.evaluate("document.querySelector('#edit-stage .de-size').value = 40")
    for row in (0.1, 0.3, 0.5, 0.7, 0.9):
        _paint(page, (0.02, row), (0.98, row))
    assert _painted(page) > 0.95 * 128 * 128
    _until(page, "document.querySelector('#edit-stage .de-share').textContent.includes('dense edit is faster')")
    _run(page)
    assert page.text_content(STAGE + ".de-lanes b").lower() == "dense"
    page.evaluate("document.querySelector('#edit-stage .de-size').value = 12")


def test_bad_settings_are_red_at_their_field(page: "Page"):
    _paint(page, (0.5, 0.5))
    _type(page, "#edit-seed input", "-5")
    page.click("#edit-go")
    page.wait_for_selector("text=seed is -5")
    assert page.get_attribute(STAGE + ".dh", "data-mode") == "result"
    _type(page, "#edit-seed input", "0")


def _files(folder: Path) -> dict[str, Path]:
    Image.new("RGB", (300, 200), "teal").save(folder / "wide.png")
    Image.new("1", (5000, 5000)).save(folder / "huge.png")
    (folder / "note.png").write_text("no picture")
    return {name: folder / f"{name}.png" for name in ("wide", "huge", "note")}


def test_uploads(page: "Page", tmp_path: Path):
    files = _files(tmp_path)
    field = page.locator("#edit-upload input[type=file], input[type=file]").first
    for name, says in [("note", "is not a picture"), ("huge", "5000 x 5000 pixels")]:
        field.set_input_files(files[name])
        _until(page, f"document.querySelector('#edit-stage .dh-warnings').textContent.includes({says!r})")
    field.set_input_files(files["wide"])
    _until(
        page, "document.querySelector('#edit-stage .dh-warnings').textContent.includes('cropped and scaled from 300')"
    )
    assert _pixels(page).size == (128, 128)


def test_the_picture_of_compare(page: "Page"):
    page.click("#from-compare")
    _until(page, "document.querySelector('#edit-shows textarea, #edit-shows input').value.includes('mushroom')")
    there = Image.open(
        io.BytesIO(base64.b64decode(page.evaluate("document.querySelector('#stage .dh-fast').src").partition(",")[2]))
    )
    assert _pixels(page).size == there.size == (128, 128)
    assert _pixels(page).tobytes() == there.convert("RGB").tobytes()


def test_a_prompt_is_never_read_as_html(page: "Page"):
    _paint(page, (0.5, 0.5))
    page.fill("#edit-prompt textarea", "a fox <img src=x onerror='window.hacked=1'> ${window.hacked=1} {{value}}")
    _run(page)
    assert "onerror" in page.text_content(STAGE + ".dh-about")
    assert "onerror" in page.text_content(STAGE + ".de-strip")
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone(chromium: "Browser", url: str, theme: str):
    page = _open(chromium, f"{url}?__theme={theme}", viewport={"width": 390, "height": 844}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for what in (".dh-card", ".de-tools button", ".de-frame", ".de-go"):
        for box in [found.bounding_box() for found in page.locator(STAGE + what).all() if found.is_visible()]:
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
    ink, ground = page.evaluate(
        "[getComputedStyle(document.querySelector('#edit-stage .dh-card .v')).color,"
        " getComputedStyle(document.querySelector('#edit-stage .dh-card')).backgroundColor]"
    )
    assert _contrast(ink, ground) >= 4.5
    page.close()


@pytest.fixture(scope="module")
def client(url: str) -> Any:
    from gradio_client import Client

    return Client(url, verbose=False)


def _given(folder: Path, size: int = 128) -> dict[str, Any]:
    from gradio_client import handle_file

    Image.new("RGB", (size, size), "teal").save(folder / "in.png")
    mask = Image.new("L", (size, size))
    mask.paste(255, (48, 48, 72, 72))
    mask.save(folder / "mask.png")
    return {"image": handle_file(folder / "in.png"), "mask": handle_file(folder / "mask.png"), "prompt": "a cat",
            "steps": 6, "api_name": "/edit"}  # fmt: skip


def test_edit_for_programs(client: Any, tmp_path: Path):
    dense, _ = client.predict(**_given(tmp_path))
    assert dense["lane"] == "dense"
    assert "one edit does not repay" in dense["reason"]
    numbers, picture = client.predict(**_given(tmp_path), sparse=True)
    assert numbers["lane"] == "sparse"
    assert numbers["calls"] > 0
    json.dumps(numbers, allow_nan=False)
    after = Image.open(picture).convert("RGB")
    assert after.size == (128, 128)
    assert {after.getpixel(at) for at in ((0, 0), (127, 127), (20, 60))} == {(0, 128, 128)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"strength": 0}, "strength is 0"),
        ({"steps": 500}, "between 1 and 100"),
        ({"mode": "stroke"}, "wants a painted canvas"),
        ({"mode": "strok"}, "did you mean stroke"),
        ({"model": "pocket-cat"}, "did you mean pocket-dit"),
        ({"prompt": "a" * 2001}, "2001 characters"),
        ({"mask": None}, "there is no mask"),
        ({"sparse": "false"}, "sparse is 'false', not true or false"),
    ],
)
def test_what_programs_are_refused(client: Any, tmp_path: Path, given: dict[str, Any], words: str):
    with pytest.raises(Exception, match=re.escape(words)):
        client.predict(**(_given(tmp_path) | given))


def test_pictures_that_programs_are_refused(client: Any, tmp_path: Path):
    from gradio_client import handle_file

    files = _files(tmp_path)
    for name, words in [("note", "is not a picture"), ("huge", "5000 x 5000"), ("wide", "draws 128 x 128")]:
        with pytest.raises(Exception, match=re.escape(words)):
            client.predict(**(_given(tmp_path) | {"image": handle_file(files[name])}))
