"""Sweeps that are killed, and sweeps on several workers: real processes, real SIGKILL, a real Ray."""

import json
import os
import random
import signal
import time
from collections import Counter
from multiprocessing import get_context

import psutil
import pytest
from deadheat.measure import Sweep
from deadheat.measure.crew import Hello, Together
from deadheat.measure.plan import Heat, Planned
from deadheat.pipelines import InputError, LoadError, UnsupportedError

from deadheat import sweep

from ..families import FAMILIES

GRID = {"recipes": ["ab-cache:every=1..4"], "prompts": ["a red cube"], "seeds": range(8), "steps": 2,
        "size": (16, 16), "repeats": 1, "metrics": ["psnr"]}  # fmt: skip
CELLS = 8 * 6  # with the baseline and one control


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    FAMILIES["sd15"].build().save_pretrained(folder)
    return str(folder)


def go(model, out, **more):
    return sweep(model, out=out, **{**GRID, **more})


def lines(out):
    file = out / "sweep.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def until(what, seconds=180.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def each_once(out):
    """Every line a whole one, every cell there once, every picture there."""
    rows = [json.loads(line) for line in (out / "sweep.jsonl").read_text().splitlines()][1:]
    assert set(Counter(row["id"] for row in rows).values()) == {1} and len(rows) == CELLS
    assert all(row["error"] is None and (out / row["picture"]).is_file() for row in rows)
    assert Sweep.load(out).finished


def test_three_killed_drivers_and_a_killed_worker_lose_nothing(model, tmp_path):
    out, fork = tmp_path / "out", get_context("fork")  # forked: everything is imported already
    rows = []
    for at in (7, 13, 25):
        driver = fork.Process(target=go, args=(model, out))
        driver.start()
        until(lambda at=at: lines(out) >= at)
        time.sleep(random.uniform(0, 0.1))
        os.kill(driver.pid, signal.SIGKILL)
        driver.join()
        text = (out / "sweep.jsonl").read_text().splitlines()
        assert text[: len(rows)] == rows  # what was finished stays as it was
        rows = text
    killed = []

    def watch(progress):
        workers = psutil.Process().children()
        if progress.cell and not killed and progress.done < CELLS:
            victim = next(child for child in workers if "spawn_main" in " ".join(child.cmdline()))
            victim.kill()
            killed.append(victim.pid)

    found = go(model, out, workers=2, watch=watch)
    assert killed and found.finished
    each_once(out)
    machines = {cell.machine for cell in found.cells}
    assert any("one of 2 workers" in machine for machine in machines) and len(machines) == 2


def test_workers_do_not_outlive_their_driver(model, tmp_path):
    out = tmp_path / "out"
    driver = get_context("fork").Process(target=go, args=(model, out), kwargs={"workers": 2})
    driver.start()
    until(lambda: lines(out) > 1)
    workers = [c for c in psutil.Process(driver.pid).children() if "spawn_main" in " ".join(c.cmdline())]
    with pytest.raises(InputError, match=f"process {driver.pid} writes a sweep"):
        go(model, out)
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    assert len(workers) == 2
    until(lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers), 20)
    assert go(model, out).finished
    each_once(out)


def test_what_a_worker_cannot_load_is_said(tmp_path):
    with pytest.raises(LoadError, match=r"model_index\.json"):
        go(tmp_path, tmp_path / "out", workers=2)


# -- the foreman, without processes ----------------------------------------------------------------------------------


class Scripted:
    """Workers that do what is written: die at a recipe so many times, or never get born."""

    slots = 2

    def __init__(self, deadly=(), born=True):
        self.deadly, self.born, self.coming, self.given, self.closed = Counter(deadly), born, [], [], False

    def start(self, slot):
        self.coming.append((slot, Hello({}, {}) if self.born else None))

    def give(self, slot, heat):
        self.given.append(heat)
        fatal = next((c.recipe for c in heat.cells if self.deadly[c.recipe] > 0), None)
        if fatal is not None:
            self.deadly[fatal] -= 1
        self.coming.append((slot, None if fatal else [(cell, None) for cell in heat.cells]))

    def poll(self, _seconds):
        now, self.coming = self.coming, []
        return now

    def close(self):
        self.closed = True


def heat(*recipes):
    return Heat(tuple(Planned(recipe, recipe, "variant", "a", 0, 4) for recipe in recipes))


def work(hands):
    found = [one for one in Together(hands, [heat("a", "b", "c"), heat("d")], None).run() if isinstance(one, list)]
    assert hands.closed
    return {cell.id: getattr(cell, "error", None) for shots in found for cell, _ in shots}


def test_the_work_of_a_dead_worker_is_done_again():
    assert work(Scripted(deadly=["b"])) == dict.fromkeys("abcd")
    assert work(Scripted(deadly=["b", "b", "d"])) == dict.fromkeys("abcd")


def test_a_cell_that_kills_workers_fails_alone():
    hands = Scripted(deadly=["b"] * 9)
    assert work(hands) == {**dict.fromkeys("acd"), "b": "its worker died 3 times: killed, or out of memory"}


def test_workers_that_are_never_born():
    with pytest.raises(UnsupportedError, match="died 3 times before it had loaded"):
        work(Scripted(born=False))


# -- Ray -------------------------------------------------------------------------------------------------------------


def test_ray_with_a_worker_killed(model, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    killed, out = [], tmp_path / "out"

    def watch(progress):
        if progress.cell and not killed and progress.done < CELLS:
            every = psutil.Process().children(recursive=True)
            victim = next(child for child in every if child.name().startswith("ray::RayWorker"))
            victim.kill()
            killed.append(victim.pid)

    found = go(model, out, workers=2, ray=True, watch=watch)
    assert killed and found.finished and all("one of 2 workers" in cell.machine for cell in found.cells)
    each_once(out)


def test_without_ray_there_is_a_way_out(model, tmp_path, monkeypatch):
    monkeypatch.setattr("deadheat.measure.ray_hands.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r'pip install "deadheat\[ray\]"'):
        go(model, tmp_path / "out", ray=True)
