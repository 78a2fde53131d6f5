"""A comparison as work for a visitor."""

from dataclasses import dataclass
from typing import Any

from .progress import Progress
from .settings import Settings
from .view import result_page
from .work import Work, model, start


@dataclass(eq=False)
class Job(Work):
    """One comparison under way.

    Attributes:
        settings: what is compared.
        previews: whether pictures are wanted while it runs.
    """

    settings: Settings
    previews: bool = True

    def __post_init__(self) -> None:
        self.progress = Progress(self.settings)
        self.begin()

    def page(self) -> dict[str, Any]:
        """Return the finished run for the page.

        Raises:
            DeadheatError: the run was stopped, or could not be done.
        """
        if self.error is not None:
            raise self.error
        return result_page(self.result, self.settings, self.progress.pictures)

    def waiting(self, said: str) -> dict[str, Any]:
        return self.progress.page(said)

    def do(self) -> Any:
        from deadheat import compare

        self.tell(self.progress.page("loading the model"))
        pipe = model(self.settings.model)
        self.check()
        return compare(pipe, [self.settings.recipe], watch=self._watch, **self.settings.arguments())

    def _watch(self, event: Any) -> None:
        self.check()
        if event.phase != "timed" or event.step == 1:  # while the stopwatch runs, only the flag is looked at
            self.tell(self.progress.after(event, self.previews))


def begin(settings: Settings, owner: str) -> Job:
    """Start a comparison for somebody; a run of theirs that is still going is stopped."""
    job = Job(settings)
    start(job, owner)
    return job
