"""A comparison in a thread of its own: one at a time, watched step by step, stopped within a step."""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from .progress import Progress
from .settings import SWITCHES, Settings
from .view import result_page

LONELY = 60.0  # seconds without anybody asking for news, after which a run is given up
BREATH = 5.0  # seconds after which news are repeated: only between two of them can Gradio tell that somebody has left
_ONE_AT_A_TIME = threading.Lock()
_ONE_LOADS = threading.Lock()  # while transformers builds a model, it builds those of all threads without weights
_LOADED: dict[str, Any] = {}
_JOBS: dict[str, "Job"] = {}
_NUMBERS = itertools.count(1)
_HOLDERS: list["Holder"] = []
AnyJob = TypeVar("AnyJob", bound="Job")


class Holder(Protocol):
    """Whoever keeps what belongs to the loaded model."""

    def holds(self) -> bool:
        """Tell whether there is anything that somebody would miss."""

    def let_go(self) -> None:
        """Let go of all of it, for another model is about to be loaded."""


log = logging.getLogger("deadheat.app")


def model(name: str) -> Any:
    """Return the pipeline of this name; only the one used last stays in memory.

    Raises:
        LoadError: there is no such model.
    """
    from deadheat import load

    with _ONE_LOADS:
        if name not in _LOADED:
            for holder in _HOLDERS:
                holder.let_go()
            _LOADED.clear()
            _LOADED[name] = load(name, **SWITCHES)
        return _LOADED[name]


def beside(name: str) -> Any:
    """Return a small pipeline to look at: the one in use if it is that, else one more, and nobody loses anything."""
    from deadheat import load

    with _ONE_LOADS:
        if not _LOADED:
            _LOADED[name] = load(name, **SWITCHES)
        return _LOADED.get(name) or load(name, **SWITCHES)


def tell(holder: "Holder") -> None:
    """Tell somebody from now on before another model loads."""
    _HOLDERS.append(holder)


def free(name: str) -> bool:
    """Tell whether a model is there, or loads at once without anybody's losing anything."""
    small = all(_pocket(one) for one in (name, *_LOADED))
    return name in _LOADED or (small and not any(holder.holds() for holder in _HOLDERS))


def _pocket(name: str) -> bool:
    from deadheat.pipelines import known_model

    known = known_model(name)
    return known is not None and known.pocket


def warm_up(name: str = "pocket-dit") -> None:
    """Load a pocket model, so that the first run need not; who has loaded another keeps it."""
    from deadheat import DeadheatError

    with _ONE_AT_A_TIME:
        try:
            if not _LOADED:
                model(name)
        except DeadheatError as error:
            log.warning("the pocket model could not be loaded: %s", error)


@dataclass(eq=False)
class Job:
    """One comparison under way.

    Attributes:
        settings: what is compared.
        previews: whether pictures are wanted while it runs.
        number: tells this run from all others of this server.
        cancelled: set it, and the run stops within one step.
        result, error: one of them is there when the news have ended.
    """

    settings: Settings
    previews: bool = True
    number: int = field(default_factory=lambda: next(_NUMBERS))
    cancelled: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: Exception | None = None
    _news: "queue.SimpleQueue[dict[str, Any] | None]" = field(default_factory=queue.SimpleQueue)
    _asked: float = field(default_factory=time.monotonic)
    _ending: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.progress = self._plan()
        threading.Thread(target=self._run, name="deadheat-run", daemon=True).start()

    def news(self) -> Iterator[dict[str, Any]]:
        """Yield what the page should show while the run lasts; stops the run if nobody listens any more."""
        try:
            known, told = self.progress.page("waiting for the model"), time.monotonic()
            yield known
            while (latest := self._latest()) is not None and not self.cancelled.is_set():
                if latest or time.monotonic() - told > BREATH:
                    known, told = latest or known, time.monotonic()
                    yield known
        finally:
            self.cancelled.set()  # without effect on a run that has ended

    def stop(self) -> bool:
        """Stop the run; return whether that was in time."""
        with self._ending:
            if self.result is None:
                self.cancelled.set()
            return self.result is None

    def page(self) -> dict[str, Any]:
        """Return the finished run for the page.

        Raises:
            DeadheatError: the run was stopped, or could not be done.
        """
        return result_page(self.outcome(), self.settings, self.progress.pictures)

    def outcome(self) -> Any:
        """Return the result, or raise what there is instead: a run that is being stopped has neither yet."""
        from deadheat.pipelines import Cancelled

        if self.error is not None or self.result is None:
            raise self.error or Cancelled("stopped")
        return self.result

    def _latest(self) -> dict[str, Any] | None:
        """Wait a little for news and return the newest: {} if there is none yet, None when the run has ended."""
        self._asked = time.monotonic()
        try:
            latest = self._news.get(timeout=0.25)
            while latest is not None and not self._news.empty():
                latest = self._news.get()
        except queue.Empty:
            return {}
        return latest

    def _run(self) -> None:
        try:
            with _ONE_AT_A_TIME:
                self._check()
                self.result = self._work()
        except Exception as error:  # noqa: BLE001 - whatever it was, the page must hear of it
            self.error = error
        finally:
            self._news.put(None)

    def _plan(self) -> Any:
        return Progress(self.settings)

    def _work(self) -> Any:
        from deadheat import compare

        self._news.put(self.progress.page("loading the model"))
        pipe = model(self.settings.model)
        self._check()
        return compare(pipe, watch=self._watch, **self.settings.arguments())

    def _watch(self, event: Any) -> None:
        self._check()
        if event.phase != "timed" or event.step == 1:  # while the stopwatch runs, only the flag is looked at
            self._news.put(self.progress.after(event, self.previews))

    def _check(self) -> None:
        from deadheat.pipelines import Cancelled

        if self._stops():
            raise Cancelled("stopped")

    def _stops(self) -> bool:
        return self.cancelled.is_set() or time.monotonic() - self._asked > LONELY


def start(settings: Settings, owner: str) -> Job:
    """Start a comparison for somebody; a run of theirs that is still going is stopped."""
    return begin(owner, lambda: Job(settings))


def begin(owner: str, make: Callable[[], AnyJob]) -> AnyJob:
    """Start a run of any kind for somebody; one of theirs that is still going is stopped."""
    stop(owner)
    job = _JOBS[owner] = make()
    return job


@contextmanager
def if_idle() -> Iterator[bool]:
    """Have the model to oneself if nobody else has it; the block learns whether it is so, and does not wait."""
    idle = _ONE_AT_A_TIME.acquire(blocking=False)
    try:
        yield idle
    finally:
        if idle:
            _ONE_AT_A_TIME.release()


@contextmanager
def in_turn() -> Iterator[None]:
    """Have the model to oneself as soon as nobody else has it."""
    with _ONE_AT_A_TIME:
        yield


def stop(owner: str) -> int | None:
    """Stop the run of somebody and return its number; None if there is none, or it has its result already."""
    job = _JOBS.pop(owner, None)
    return job.number if job is not None and job.stop() else None


def forget(owner: str, job: Job) -> None:
    """Forget a run that has ended."""
    if _JOBS.get(owner) is job:
        del _JOBS[owner]
