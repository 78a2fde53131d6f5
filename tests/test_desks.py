"""The desks and jobs of the Edit page, without a browser: who may stop, take back, and evict what."""

import gc
import json
import threading
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from deadheat.measure import EditSession
from deadheat.measure.edit_result import EditComparison
from deadheat.pipelines import Cancelled, InputError
from deadheat.ui import desks, edit_page, jobs
from deadheat.ui.edit_jobs import EditJob, FileJob, made
from deadheat.ui.edit_settings import START, EditSettings
from deadheat.ui.edit_view import _speed, snippet
from deadheat.ui.edit_view import edit_page as page_of
from PIL import Image


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desks, "_DESKS", type(desks._DESKS)())


def placed(owner: str = "me") -> tuple[desks.Desk, EditSettings]:
    """A desk with the first sample and its painting, few steps."""
    first = desks.sample(0)
    desk = desks.desk(owner, first.picture, first.shows, START)
    paper = json.dumps({"desk": desk.key, "painted": first.painted(desk.size)})
    return desk, EditSettings(paper, first.wish, strength=0.5, shows=first.shows, steps=4, rounds=0)


def ended(job: jobs.Job) -> jobs.Job:
    """The job, when its thread has ended too: there is no more news of one that is being stopped."""
    for _ in job.news():
        pass
    for _ in range(6000):
        if job.error is not None or job.result is not None:
            break
        time.sleep(0.01)
    return job


def test_an_edit_lands_on_the_desk_and_can_be_taken_back():
    desk, settings = placed()
    page = ended(EditJob(settings, desk=desk)).page()
    assert [step["said"][:6] for step in page["history"]] == ["the pi", "sparse"]
    assert page["painting"] == settings.paper_parts()[1]
    assert desk.session.memory > 0
    assert desk.back(0) == settings.paper_parts()[1]
    assert desk.session.history == []
    assert desk.session.image is desk.past[0].image


def test_stop_after_the_last_step_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    desk, settings = placed()
    edit, begun = EditSession.edit, threading.Event()

    def late(self, *args, **kwargs):
        done = edit(self, *args, **kwargs)
        begun.wait(10)
        jobs.stop("me/edit")
        return done

    monkeypatch.setattr(EditSession, "edit", late)
    job = jobs.begin("me/edit", lambda: EditJob(settings, desk=desk))
    begun.set()
    with pytest.raises(Cancelled):
        ended(job).page()
    assert len(desk.past) == 1
    assert desk.session.history == []
    assert desk.session.image is desk.past[0].image


def test_stop_comes_too_late_once_the_edit_is_on_the_desk(monkeypatch: pytest.MonkeyPatch):
    desk, settings = placed()
    add, said = desks.Desk.add, []

    def late(self, new, painted):
        pressed = threading.Thread(target=lambda: said.append(jobs.stop("me/edit")))
        pressed.start()  # between the last look at the flag and the new picture
        pressed.join(0.2)
        assert said == []
        add(self, new, painted)

    monkeypatch.setattr(desks.Desk, "add", late)
    job = ended(jobs.begin("me/edit", lambda: EditJob(settings, desk=desk)))
    assert len(job.page()["history"]) == len(desk.past) == 2
    for _ in range(100):
        if said:
            break
        time.sleep(0.01)
    assert said == [None]  # the page must not say that nothing changed
    assert edit_page._stop(SimpleNamespace(session_hash="me"))[0]["said"] == "There is nothing to stop any more."


def test_taking_back_waits_for_whoever_reads():
    desk, settings = placed()
    ended(EditJob(settings, desk=desk))
    back = threading.Thread(target=desk.back, args=(0,))
    with desk.busy:
        back.start()
        back.join(0.2)
        assert back.is_alive()
        assert len(desk.past) == 2
    back.join(10)
    assert len(desk.past) == 1


def test_the_edit_page_stops_its_own_runs_only():
    stopped: list[bool] = []
    other = SimpleNamespace(stop=lambda: not stopped.append(True), number=1)
    jobs.begin("visitor", lambda: other)
    request = SimpleNamespace(session_hash="visitor")
    edit_page._stop(request)
    edit_page._sample(0)(START, request)
    assert stopped == []
    assert jobs.stop("visitor") == 1


def asked(desk: desks.Desk, settings: EditSettings) -> list:
    """What the page asks while somebody paints."""
    return [{"desk": desk.key, "painted": settings.paper_parts()[1]}, list(vars(settings).values())[1:]]


def recorded(owner: str, memory: int) -> desks.Desk:
    desk, _ = placed(owner)
    desk.session = SimpleNamespace(memory=memory, history=[])
    return desk


def test_only_recordings_are_evicted_and_only_for_a_recording():
    kept = [recorded(str(nth), 1000) for nth in range(desks.MOST_SESSIONS)]
    told = [recorded(f"painter {nth}", 0) for nth in range(5)]
    desk, settings = placed("stranger")
    assert desks.cover(asked(desk, settings))["lane"] == "sparse"
    assert all(found.session is not None for found in kept + told)
    desks.make_room(desk)
    assert [found.session is None for found in kept] == [True, False]
    assert all(found.session is not None for found in told)


def test_a_run_without_news_repeats_the_last_so_that_leaving_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "BREATH", 0.0)
    files = Image.new("RGB", (128, 128)), Image.new("L", (128, 128), 255)
    with jobs.in_turn():
        job = FileJob(EditSettings("", "a cat", steps=4), files=files)
        news = job.news()
        assert [next(news)["said"] for _ in range(3)] == ["waiting for the model"] * 3
        news.close()
    assert isinstance(ended(job).error, Cancelled)


@pytest.mark.parametrize(("dense", "sparse"), [([1.0, 2.0], [0.5, 0.1]), ([3.0, 1.5, 1.0], [0.3, 0.1, 0.4])])
def test_speed_is_told_by_medians(dense: list[float], sparse: list[float]):
    compared = EditComparison(None, None, {"dense": dense, "sparse": sparse}, None)
    assert compared.speedup == pytest.approx(5.0)
    (card,) = _speed(SimpleNamespace(compared=compared))
    assert card["said"][0] == "0.30 s instead of 1.50 s"


def test_another_model_lets_go_of_the_sessions_of_the_one_before(monkeypatch: pytest.MonkeyPatch):
    desk, settings = placed()
    pipe = jobs.model(START)
    session = desk.session_for(pipe, settings)
    assert desk.session_for(pipe, settings) is session
    session.prepare(0.5)
    gone = weakref.ref(session)
    del session
    assert desks.cover(asked(desk, replace(settings, model="pocket-dit"))) == {}
    jobs.warm_up("pocket-dit")
    assert desk.session is not None  # neither a look nor a warm-up is worth somebody's recording
    jobs.model("pocket-dit")
    gc.collect()
    assert desk.session is None
    assert gone() is None
    jobs.model(START)


def test_a_look_at_a_painting_gives_up_no_recording_and_no_other_model(monkeypatch: pytest.MonkeyPatch):
    desk, settings = placed()
    ended(EditJob(settings, desk=desk))
    desk.back(0)
    session = desk.session
    session.prepare(0.5)
    there = desks.cover(asked(desk, settings))
    assert there["recorded"]
    other = desks.cover(asked(desk, replace(settings, steps=90)))
    assert not other["recorded"] and other["speedup"] != there["speedup"]
    assert desk.session is session
    session._forget()
    assert desks.cover(asked(desk, replace(settings, model="pocket-dit")))["cell"] == 8
    assert list(jobs._LOADED) == ["pocket-dit"]
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_LOADED", {"somebody/large": object()})
        for model in (START, "somebody/else"):
            assert desks.cover(asked(desk, replace(settings, model=model))) == {}
        jobs.warm_up()
        assert list(jobs._LOADED) == ["somebody/large"]
    jobs.model(START)


def test_the_first_sample_is_not_stretched_under_the_painting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desks, "_size", lambda *_: (512, 512))
    with pytest.raises(InputError, match="pick the picture again"):
        desks.find("me", "", "a-larger-model")


def test_desks_keep_no_large_pictures():
    desk = desks.desk("me", Image.new("RGB", (4000, 4000)), "", START)
    assert desk.given == (4000, 4000)
    assert not any(isinstance(value, Image.Image) for value in vars(desk).values())


def test_desks_have_so_many_bytes_together(monkeypatch: pytest.MonkeyPatch):
    first, _ = placed("first")
    monkeypatch.setattr(desks, "MOST_BYTES", int(2.5 * first.nbytes))
    placed("second")
    desks.find("first", first.key, START)  # used last
    placed("third")
    assert [owner for owner in ("first", "second", "third") if desks.of(owner)] == ["first", "third"]
    monkeypatch.setattr(desks, "MOST_BYTES", 1)
    large, _ = placed("large")
    assert desks.of("large") is large and desks.of("third") is None


def test_the_strip_is_sent_small_pictures():
    desk = desks.desk("me", Image.effect_noise((128, 128), 90), "", START)
    page = desk.page()
    assert page["picture"].startswith("data:image/png")
    (step,) = page["history"]
    assert step["picture"].startswith("data:image/jpeg") and len(step["picture"]) < len(page["picture"])


def test_desks_are_read_while_others_come():
    stop = threading.Event()

    def come():
        nth = 0
        while not stop.is_set():
            placed(f"visitor {nth}")
            nth += 1

    visitors = [threading.Thread(target=come) for _ in range(2)]
    for visitor in visitors:
        visitor.start()
    try:
        for _ in range(2000):
            assert desks.by_key("none", START) is None
            desks._recorded()
    finally:
        stop.set()
        for visitor in visitors:
            visitor.join()


def test_programs_edit_pictures_of_the_models_size():
    settings = EditSettings("", "a cat", shows="a fox", steps=4)
    large = Image.new("RGB", (2048, 2048)), Image.new("L", (2048, 2048), 255)
    with pytest.raises(InputError, match=r"2048 x 2048 pixels, but pocket-unet draws 128 x 128: scale"):
        made(jobs.model(START), settings, large, sparse=False)


def test_programs_runs_can_be_stopped(monkeypatch: pytest.MonkeyPatch):
    files = Image.new("RGB", (128, 128)), Image.new("L", (128, 128), 255)
    job = FileJob(EditSettings("", "a cat", shows="a fox", steps=90), files=files)
    job.cancelled.set()
    assert isinstance(ended(job).error, Cancelled)
    seen, look = [], FileJob._look

    def stop(self, event):
        seen.append(event.step)
        self.cancelled.set()
        look(self, event)

    monkeypatch.setattr(FileJob, "_look", stop)
    job = FileJob(EditSettings("", "a cat", shows="a fox", steps=90), files=files)
    assert isinstance(ended(job).error, Cancelled)
    assert seen == [1]


@pytest.mark.parametrize("mode", ["prompt", "stroke"])
def test_the_snippet_runs_with_what_the_page_saves(mode: str, tmp_path, monkeypatch: pytest.MonkeyPatch):
    desk, settings = placed()
    settings = EditSettings(settings.paper, settings.prompt, mode, 0.5, START, settings.shows, 4, rounds=0)
    base = desk.past[0].image
    job = ended(EditJob(settings, desk=desk))
    page = page_of(job.result, settings, desk)
    monkeypatch.chdir(tmp_path)
    from deadheat.measure import decode_picture, to_image

    to_image(base).save("deadheat-picture.png")
    decode_picture(page["painting"]).save("deadheat-painting.png")
    scope: dict = {}
    exec(snippet(settings, {}), scope)
    assert torch.equal(scope["edit"].mask, job.result.kept.mask)
    torch.testing.assert_close(scope["edit"].image, job.result.kept.image, atol=2 / 255, rtol=0)


def test_a_look_at_a_shipped_model_takes_nothing_from_anybody():
    used = jobs.model("pocket-unet")
    assert jobs.beside("pocket-dit") is not used
    assert jobs.model("pocket-unet") is used and jobs.beside("pocket-unet") is used
