"""Work for a visitor in a thread of its own: one at a time, watched while it runs, stopped within a step."""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LONELY = 60.0  # seconds without anybody asking for news, after which work is given up
_ONE_AT_A_TIME = threading.Lock()
_ONE_LOADS = threading.Lock()  # transformers builds models on no device at all meanwhile, in every thread
_LOADED: dict[str, Any] = {}
_WORK: dict[str, "Work"] = {}
_NUMBERS = itertools.count(1)

log = logging.getLogger("deadheat.app")


def model(name: str) -> Any:
    """Return the pipeline of this name; only the one used last stays in memory.

    Raises:
        LoadError: there is no such model.
    """
    from deadheat import load

    with _ONE_LOADS:
        if name not in _LOADED:
            _LOADED.clear()
            _LOADED[name] = load(name)
        return _LOADED[name]


def warm_up() -> None:
    """Load the pocket model, so that the first run need not."""
    from deadheat import DeadheatError

    with _ONE_AT_A_TIME:
        try:
            model("pocket-dit")
        except DeadheatError as error:
            log.warning("the pocket model could not be loaded: %s", error)


@dataclass(eq=False)
class Work:
    """One piece of work under way. Each kind of it says what it does, and what the page shows meanwhile.

    Attributes:
        number: tells this work from all other of this server.
        cancelled: set it, and the work stops within one step.
        result, error: one of them is there when the news have ended.
    """

    number: int = field(default_factory=lambda: next(_NUMBERS), kw_only=True)
    cancelled: threading.Event = field(default_factory=threading.Event, kw_only=True)
    result: Any = field(default=None, kw_only=True)
    error: Exception | None = field(default=None, kw_only=True)
    _news: "queue.SimpleQueue[dict[str, Any] | None]" = field(default_factory=queue.SimpleQueue, kw_only=True)
    _asked: float = field(default_factory=time.monotonic, kw_only=True)

    def do(self) -> Any:
        """Do the work and return its result; calls ``check`` after every step."""
        raise NotImplementedError

    def waiting(self, said: str) -> dict[str, Any]:
        """Return what the page should show before there is anything to show."""
        raise NotImplementedError

    def begin(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="deadheat-run", daemon=True).start()

    def news(self) -> Iterator[dict[str, Any]]:
        """Yield what the page should show while the work lasts; stops it if nobody listens any more."""
        try:
            yield self.waiting("waiting for the model")
            while (latest := self._latest()) is not None:
                if latest:
                    yield latest
        finally:
            self.cancelled.set()  # without effect on work that has ended

    def tell(self, page: dict[str, Any]) -> None:
        """Give news to the page."""
        self._news.put(page)

    def check(self) -> None:
        """Stop here if the visitor wants it, or has gone.

        Raises:
            Cancelled: so it is.
        """
        from deadheat.pipelines import Cancelled

        if self.stops():
            raise Cancelled("stopped")

    def stops(self) -> bool:
        """Say whether the visitor wants to stop, or has gone."""
        return self.cancelled.is_set() or time.monotonic() - self._asked > LONELY

    def _latest(self) -> dict[str, Any] | None:
        """Wait a little for news and return the newest: {} if there is none yet, None when the work has ended."""
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
                self.check()
                self.result = self.do()
        except Exception as error:  # noqa: BLE001 - whatever it was, the page must hear of it
            self.error = error
        finally:
            self._news.put(None)


def start(work: Work, owner: str) -> None:
    """Remember what somebody has begun; work of theirs that is still going is stopped."""
    stop(owner)
    _WORK[owner] = work


def stop(owner: str) -> int | None:
    """Stop the work of somebody and return its number; None if there is none."""
    if (work := _WORK.pop(owner, None)) is None:
        return None
    work.cancelled.set()
    return work.number


def forget(owner: str, work: Work) -> None:
    """Forget work that has ended."""
    if _WORK.get(owner) is work:
        del _WORK[owner]
