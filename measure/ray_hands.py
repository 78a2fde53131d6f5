"""Workers of a sweep on a Ray cluster: one model each, one GPU each where there are GPUs."""

import socket
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from socket import gethostname
from typing import Any

from ..pipelines import DeadheatError, UnsupportedError
from .bench import Bench, Shot
from .crew import Hello, Job, Outcome
from .plan import Heat


class RayHands:
    """Workers as Ray actors; Ray places them, and this process alone writes the results.

    Every machine of the cluster needs Deadheat installed, and the model where ``load`` finds it.

    Args:
        job: what they need; without a number of workers there is one for every GPU, or else for every machine.
        address: of the cluster, as ``ray.init`` takes it; "" for the one that RAY_ADDRESS names, or a local one.

    Raises:
        UnsupportedError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, job: Job, address: str) -> None:
        if find_spec("ray") is None:
            raise UnsupportedError(
                'Ray is not installed: pip install "deadheat[ray]", or leave --ray out and give --workers'
            )
        import ray

        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            _reachable(address)
            try:
                ray.init(address=address or None, log_to_driver=False, include_dashboard=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise UnsupportedError(f"the Ray cluster {address!r} cannot be reached: {error}") from error
        has = ray.cluster_resources()
        gpus, cores = int(has.get("GPU", 0)), int(has.get("CPU", 1))
        machines = [node for node in ray.nodes() if node["Alive"]]
        self.slots = job.workers or gpus or len(machines)
        smallest = min(int(node["Resources"].get("CPU", 1)) for node in machines)
        share = max(1, min(cores // self.slots, smallest))
        self._job = replace(job, workers=self.slots, threads=0 if gpus else share)
        self._actor: Any = ray.remote(num_cpus=share, num_gpus=1 if gpus else 0, max_restarts=0)(RayWorker)
        self._actors: dict[int, Any] = {}
        self._awaited: dict[Any, int] = {}

    def start(self, slot: int) -> None:
        self._actors[slot] = self._actor.remote(self._job)
        self._awaited[self._actors[slot].hello.remote()] = slot

    def give(self, slot: int, heat: Heat) -> None:
        self._awaited[self._actors[slot].heat.remote(heat)] = slot

    def poll(self, seconds: float) -> Sequence[tuple[int, Outcome]]:
        done, _ = self._ray.wait(list(self._awaited), timeout=seconds)
        return [(self._awaited.pop(ref), self._outcome(ref)) for ref in done]

    def _outcome(self, ref: Any) -> Outcome:
        from ray.exceptions import RayError, RayTaskError

        try:
            outcome: Outcome = self._ray.get(ref)
        except RayTaskError as error:
            cause = error.cause
            return cause if isinstance(cause, DeadheatError) else UnsupportedError(f"a Ray worker failed: {cause}")
        except RayError:  # the actor died, was killed for memory, or its machine is gone
            return None
        return outcome

    def close(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        if self._ours:
            self._ray.shutdown()


class RayWorker:
    """An actor: loads the model when it is first asked something."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._bench: Bench | None = None

    def hello(self) -> Hello:
        """Load the model."""
        return Hello.of(self._loaded())

    def heat(self, heat: Heat) -> list[Shot]:
        """Measure a heat."""
        return self._loaded().heat(heat)

    def _loaded(self) -> Bench:
        if self._bench is None:
            self._bench = self._job.bench(None)
            self._bench.machine = f"{gethostname()}: {self._bench.machine}"
        return self._bench


def _reachable(address: str) -> None:
    """Refuse an address at which nobody listens: Ray itself goes on trying for minutes.

    Raises:
        UnsupportedError: names the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # "auto", "local", or left to Ray
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UnsupportedError(f"the Ray cluster {address!r} cannot be reached: {error}") from error
