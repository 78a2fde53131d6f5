"""Who measures the heats of a sweep: this process, several local ones, or workers on a Ray cluster."""

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from typing import Any, Protocol

import torch

from ..pipelines import Cancelled, DeadheatError, UnsupportedError, load
from .bench import Bench, Shot
from .environment import environment, scheduler_settings
from .plan import Heat
from .points import SweepCell

ATTEMPTS = 3  # a cell whose worker died so often is taken to be the reason
PATIENCE = 0.2  # seconds between looks at the stop button


@dataclass(frozen=True)
class Job:
    """What a worker needs to begin.

    Attributes:
        model: what to give to ``load``; switches: with which arguments.
        settings: the sweep's settings.
        workers: how many work beside each other; 0 means that nobody does.
        threads: how many threads each may use; 0 leaves it as it is.
    """

    model: Any
    switches: Mapping[str, Any]
    settings: Mapping[str, Any]
    workers: int = 0
    threads: int = 0

    def bench(self, stop: Callable[[], bool] | None, **switches: Any) -> Bench:
        """Load the model and stand ready."""
        if self.threads:
            torch.set_num_threads(self.threads)
        bench = Bench(load(self.model, **{**self.switches, **switches}), self.settings, stop)
        bench.machine += f", one of {self.workers} workers" if self.workers > 1 else ""
        return bench


@dataclass(frozen=True)
class Hello:
    """What a worker says when its model is loaded: on what it runs, and which metrics it cannot have."""

    environment: dict[str, Any]
    unavailable: dict[str, str]

    @classmethod
    def of(cls, bench: Bench) -> "Hello":
        exact = {**environment(bench.pipe), "scheduler": scheduler_settings(bench.pipe)}
        return cls(exact, bench.unavailable)


Outcome = Hello | list[Shot] | DeadheatError | None  # None: the worker died


class Hands(Protocol):
    """Workers somewhere, one model each."""

    slots: int

    def start(self, slot: int) -> None:
        """Begin a worker, in place of a dead one; its first outcome is a ``Hello``."""

    def give(self, slot: int, heat: Heat) -> None:
        """Let a worker measure."""

    def poll(self, seconds: float) -> Sequence[tuple[int, Outcome]]:
        """Wait at most so long; return what has come of which worker."""

    def close(self) -> None:
        """Send all workers home, whatever they are doing."""


def alone(job: Job, heats: Sequence[Heat], stop: Callable[[], bool] | None) -> Generator[Hello | list[Shot]]:
    """Measure in this process."""
    bench = job.bench(stop)
    yield Hello.of(bench)
    for heat in heats:
        yield bench.heat(heat)


class Together:
    """Lets workers measure; the work of one that dies is done again, cell by cell.

    Args:
        hands: the workers.
        heats: the work.
        stop: asked again and again whether to stop.
    """

    def __init__(self, hands: Hands, heats: Sequence[Heat], stop: Callable[[], bool] | None) -> None:
        self.hands, self._stop = hands, stop
        self._todo = deque((heat, 1) for heat in heats)
        self._busy: dict[int, tuple[Heat, int]] = {}
        self._idle: set[int] = set()
        self._births: dict[int, int] = {}

    def run(self) -> Generator[Hello | list[Shot]]:
        """Yield what workers say when they begin, and the cells that they finish, as they come.

        Raises:
            Cancelled: *stop* said so.
            UnsupportedError: workers die before they have loaded the model.
            DeadheatError: what a worker could not do.
        """
        try:
            for slot in range(min(self.hands.slots, len(self._todo))):
                self._start(slot)
            while self._todo or self._busy:
                if self._stop is not None and self._stop():
                    raise Cancelled("the sweep was stopped; the same command goes on with it")
                for slot, outcome in self.hands.poll(PATIENCE):
                    yield from self._come(slot, outcome)
                while self._todo and self._idle:
                    slot = self._idle.pop()
                    self._busy[slot] = self._todo.popleft()
                    self.hands.give(slot, self._busy[slot][0])
        finally:
            self.hands.close()

    def _start(self, slot: int) -> None:
        self._births[slot] = self._births.get(slot, 0) + 1
        if self._births[slot] > ATTEMPTS:
            raise UnsupportedError(
                f"a worker died {ATTEMPTS} times before it had loaded the model: is the memory enough for so many "
                'workers? (In a script, call sweep below `if __name__ == "__main__":`.)'
            )
        self.hands.start(slot)

    def _come(self, slot: int, outcome: Outcome) -> Iterator[Hello | list[Shot]]:
        """Take note of what came of a worker."""
        held = self._busy.pop(slot, None)
        self._idle.discard(slot)
        if isinstance(outcome, DeadheatError):
            raise outcome
        if outcome is not None:
            self._births[slot] = 0
            self._idle.add(slot)
            yield outcome
            return
        if held is not None:
            yield from self._again(*held)
        if self._todo:
            self._start(slot)

    def _again(self, heat: Heat, attempt: int) -> Iterator[list[Shot]]:
        if attempt < ATTEMPTS:
            self._todo.extendleft((Heat((cell,)), attempt + 1) for cell in reversed(heat.cells))
        else:
            why = f"its worker died {ATTEMPTS} times: killed, or out of memory"
            yield [(SweepCell.failed(cell, why), None) for cell in heat.cells]


class Processes:
    """Workers as local processes, each with its own model and its share of the threads and GPUs."""

    def __init__(self, job: Job) -> None:
        self.slots = job.workers
        self._job = job
        self._context = get_context("spawn")  # a forked CUDA or thread pool does not work
        self._lines: dict[int, Any] = {}
        self._processes: dict[int, Any] = {}
        self._busy: set[int] = set()

    def start(self, slot: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs, self._job, slot), daemon=True)
        process.start()
        theirs.close()  # or a dead worker's line would never end
        self._lines[slot] = ours
        self._processes[slot] = process
        self._busy.add(slot)

    def give(self, slot: int, heat: Heat) -> None:
        self._busy.add(slot)
        try:
            self._lines[slot].send(heat)
        except OSError:  # it died while it was idle: its line has ended, as the next poll sees
            return

    def poll(self, seconds: float) -> Sequence[tuple[int, Outcome]]:
        slots = {line: slot for slot, line in self._lines.items()}
        return [(slots[line], self._received(slots[line])) for line in connection.wait(list(slots), seconds)]

    def _received(self, slot: int) -> Outcome:
        self._busy.discard(slot)
        try:
            outcome: Outcome = self._lines[slot].recv()
        except (EOFError, OSError):
            self._lines.pop(slot).close()
            return None
        return outcome

    def close(self) -> None:
        for line in self._lines.values():
            line.close()  # who is idle goes home by itself
        for slot, process in self._processes.items():
            process.join(0 if slot in self._busy else 5)
            process.kill()
            process.join()


def serve(line: Any, job: Job, slot: int) -> None:
    """Be a worker: load the model, measure what comes along the line, and die with the one at its other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the driver answers it
    driver = parent_process()
    try:
        bench = job.bench(lambda: driver is not None and not driver.is_alive(), **_gpu(job, slot))
        line.send(Hello.of(bench))
        while True:
            line.send(bench.heat(line.recv()))
    except Cancelled:
        return
    except DeadheatError as error:
        line.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _gpu(job: Job, slot: int) -> dict[str, str]:
    """Return on which GPU a worker loads its model, where there are several and the user named none."""
    count = torch.cuda.device_count()
    return {"device": f"cuda:{slot % count}"} if count > 1 and job.switches.get("device") in (None, "cuda") else {}
