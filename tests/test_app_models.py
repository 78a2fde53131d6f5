"""The Models and the Start here page: a real server, a real Chromium."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deadheat.measure import doctor
from deadheat.pipelines import load

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[1]
HOUR = 90_000  # milliseconds that a loaded machine may take


@pytest.fixture(scope="module")
def page(chromium: "Browser", url: str) -> Iterator["Page"]:
    page = chromium.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(HOUR)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#first-of")  # the library is there
    yield page
    assert wrong == []
    page.close()


def choose(page: "Page", name: str) -> None:
    page.click("#models-model input")
    page.get_by_role("option", name=name, exact=True).click()


def ask(page: "Page", model: str) -> None:
    page.fill("#models-model input", model)
    page.keyboard.press("Tab")
    page.click("#models-look")


def test_start_here_opens_the_other_pages(page: "Page"):
    for name, shows in (("compare", "#stage"), ("explore", "#explorer"), ("models", "#models-sheet")):
        page.get_by_role("tab", name="Start here").click()
        page.click(f"#start-{name}")
        page.wait_for_selector(shows, state="visible")


def test_the_page_is_filled_when_it_is_opened(page: "Page"):
    page.wait_for_selector("#models-sheet .dh-card")
    assert page.text_content("#models-sheet .dh-badge") == "loaded here"
    assert "load('pocket-dit')" in page.text_content("#models-code")


def test_it_says_what_the_doctor_says(page: "Page"):
    found = doctor(load("pocket-dit"))["accelerators"]
    rows = {
        kind: page.locator(f"#models-sheet .dm-{kind} .dm-row code").all_text_contents() for kind in ("fits", "not")
    }
    assert rows["fits"] == [name for name, row in found.items() if row["works"]]
    assert rows["not"] == [name for name, row in found.items() if not row["works"]]
    said = page.text_content("#models-sheet")
    for row in found.values():
        for sentence in filter(None, (row["why_not"], *row["cautions"])):
            assert sentence in said


def test_another_model(page: "Page"):
    choose(page, "Pocket UNet")
    page.click("#models-look")
    page.wait_for_function("document.querySelector('#models-sheet .dh-about').textContent.startsWith('Pocket UNet')")
    assert "deepcache" in page.locator("#models-sheet .dm-fits .dm-row code").all_text_contents()
    assert "load('pocket-unet')" in page.text_content("#models-code")


@pytest.mark.parametrize("name", ["nobody", "/etc", str(ROOT / "assets" / "pocket-dit")])
def test_no_model_and_no_folder_of_a_client(page: "Page", name: str):
    ask(page, name)
    page.wait_for_function(
        "name => (document.querySelector('#models-sheet .dh-warning')?.textContent || '').includes(`'${name}'`)",
        arg=name,
    )
    assert page.text_content("#models-sheet .dh-about").startswith("Pocket UNet")
    assert "load('pocket-unet')" in page.text_content("#models-code")
    page.click("#models-use")
    page.wait_for_selector(".toast-body.error")
    page.locator(".toast-close").first.click()
    assert page.is_visible("#models-sheet")


def test_compare_on_it(page: "Page"):
    choose(page, "Pocket UNet")
    page.click("#models-use")
    page.wait_for_selector("#stage", state="visible")
    page.wait_for_function("document.querySelector('#model input').value === 'Pocket UNet'")
    assert page.is_visible("#model")


def test_on_a_phone_every_page_has_its_tab(chromium: "Browser", url: str):
    phone = chromium.new_page(viewport={"width": 390, "height": 844})
    phone.set_default_timeout(HOUR)
    phone.goto(url)
    for name in ("Start here", "Models"):
        phone.get_by_role("tab", name=name).click()
    phone.wait_for_selector("#models-sheet .dh-card")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    look, sheet = (phone.locator(where).bounding_box() for where in ("#models-look", "#models-sheet"))
    assert look["y"] < sheet["y"]
    phone.close()


def test_the_code_of_the_page_runs(page: "Page", tmp_path: Path):
    page.get_by_role("tab", name="Models").click()
    code = "\n".join(page.locator("#models-code .cm-line").all_text_contents())
    script = tmp_path / "snippet.py"
    script.write_text(code.replace("steps=28", "steps=3"), encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
