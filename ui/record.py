"""Records the comparison that a visitor finds before the first run: ``python -m deadheat.ui.record``."""

import json
from pathlib import Path

from . import jobs
from .settings import Settings
from .view import recorded

FOLDER = Path(__file__).parent.parent / "assets" / "recorded" / "compare"
SETTINGS = Settings("a fox above a mushroom on a striped teal background", repeats=5)


def main() -> None:
    """Run the comparison as the page would, and write it with what the page shows of it.

    The page reads ``page.json`` alone: it stands there before torch is imported.
    """
    job = jobs.Job(SETTINGS)
    for _ in job.news():
        pass
    shown = recorded(job.page(), job.result)
    job.result.save(FOLDER)
    (FOLDER / "report.html").unlink(missing_ok=True)  # anybody can make it again: deadheat report
    (FOLDER / "page.json").write_text(json.dumps(shown, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
