"""The endpoints for programs: typed, documented, and as careful as the page."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from . import explore, jobs
from .page import friendly
from .recommend import recommended, recorded
from .settings import Settings, number, offered, words
from .sweeping import DEFAULT, SweepJob, SweepSettings

# Runs of programs wait in line, apart from those of the pages.
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
SWEEPS: dict[str, Any] = {"concurrency_id": "sweep", "concurrency_limit": 4}


def endpoints() -> None:
    """Add the endpoints; the components of compare are never seen."""
    with gr.Column(visible=False):
        inputs = [
            gr.Textbox("a fox above a mushroom on a striped teal background", label="prompt"),
            gr.Textbox("balanced", label="recipe"),
            gr.Textbox("pocket-dit", label="model"),
            gr.Number(28, label="steps"),
            gr.Number(4.0, label="guidance"),
            gr.Number(0, label="seed"),
            gr.Number(3, label="repeats"),
        ]
        outputs = [gr.JSON(label="numbers"), gr.Gallery(label="pictures", format="png")]
        gr.Button("compare").click(compare, inputs, outputs, api_name="compare", preprocess=False, **MODEL)
    sweep.__annotations__["return"] = dict[str, Any]  # what a program gets in the end, for the documentation
    gr.api(sweep, api_name="sweep", **SWEEPS)
    gr.api(recommend, api_name="recommend")
    gr.api(list_models, api_name="list_models")
    gr.api(list_accelerators, api_name="list_accelerators")


def compare(  # noqa: PLR0917 - each is an argument of the endpoint
    prompt: str,
    recipe: str = "balanced",
    model: str = "pocket-dit",
    steps: int = 28,
    guidance: float = 4.0,
    seed: int = 0,
    repeats: int = 3,
) -> Iterator[tuple[dict[str, Any], list[tuple[Any, str]]]]:
    """Run a pipeline as it is, accelerated, and with plainly fewer steps, and measure what was gained and lost.

    Args:
        prompt: What to draw, up to 2000 characters.
        recipe: Accelerators with their knobs, such as "ab-cache:every=3,order=2 + guidance-interval".
        model: A model's id; see list_models.
        steps: Denoising steps, 1 to 100.
        guidance: Guidance scale.
        seed: Seed of the noise, 0 to 2**63 - 1.
        repeats: Timed rounds, 1 to 10.

    Returns:
        All numbers (the result.json of a comparison), and one picture for each lane, captioned with its name. Before
        that, for whoever listens, how far it is ("said").
    """
    from deadheat.measure import to_image

    with plainly():
        settings = Settings(prompt, "", model, recipe, steps, guidance, seed, repeats).checked()
        job = jobs.Job(settings, previews=False)
        for news in job.news():
            yield {"said": news["said"]}, []
        found = job.outcome()
    yield found.to_dict(), [(to_image(lane.cells[0].picture), lane.name) for lane in found.lanes]


def sweep(  # noqa: PLR0917 - each is an argument of the endpoint
    recipes: str = "\n".join(DEFAULT),
    prompts: str = explore.FIRST_PROMPT,
    model: str = "pocket-dit",
    steps: int = 28,
    guidance: float = 4.0,
    seed: int = 0,
    repeats: int = 3,
) -> Iterator[dict[str, Any]]:
    """Measure many settings, with the untouched pipeline and plainly fewer steps beside them.

    Args:
        recipes: One a line; a knob may have several values, such as "ab-cache:every=2|4" or "ab-cache:every=2..5".
        prompts: What to draw, one a line.
        model: A model's id; see list_models.
        steps: Denoising steps, 1 to 100.
        guidance: Guidance scale.
        seed: Seed of the noise, 0 to 2**63 - 1.
        repeats: Timed rounds, 1 to 10.

    Returns:
        The sweep: its settings, environment, the points by metric (seconds, speed-up, mean and worst), and all cells.
        Before that, for whoever listens, how far it is ("said" and "part").
    """
    with plainly():
        job = SweepJob(SweepSettings(recipes, prompts, model, steps, guidance, seed, repeats).checked())
        for news in job.news():
            yield dict(news["progress"])
        found = job.outcome()
    yield dict(found)


def recommend(
    model: str = "pocket-dit", metric: str = "psnr", floor: float = 30.0, budget: float = 0.0
) -> dict[str, Any]:
    """Say which setting to take: the fastest that holds a quality, or the best within a time. From recorded sweeps.

    Of a model without one it says what is known of its presets, and what to run to measure it.

    Args:
        model: A model's id; see list_models.
        metric: What quality means: psnr, ssim or adherence.
        floor: The mean that must be held, such as 30 (dB) for psnr, 0.95 for ssim or adherence.
        budget: Most seconds for a picture, on the hardware of the record. Above 0 it takes the place of the floor.

    Returns:
        The recipe, its measured seconds, speed-up, mean and worst score, the code for it, and where it was measured.
    """
    with plainly():
        model = words("model", model)
        return recommended(recorded(), model, metric, number("floor", floor), number("budget", budget))


def list_models() -> list[dict[str, Any]]:
    """List the models that can be compared here, each with its id and title."""
    return [{"id": id_, "title": title} for title, id_ in offered()]


def list_accelerators() -> list[dict[str, Any]]:
    """List the accelerators with their papers and knobs: default, range or choices, unit, meaning."""
    from deadheat.accelerators import ACCELERATORS, knobs

    return [
        {
            "name": name,
            "title": cls.title,
            "paper": cls.paper,
            "knobs": {knob: {"default": default, **vars(spec)} for knob, (default, spec) in knobs(cls).items()},
        }
        for name, cls in ACCELERATORS.items()
    ]


@contextmanager
def plainly() -> Iterator[None]:
    """Turn whatever goes wrong into the error that programs see: a sentence, as plain text."""
    try:
        yield
    except Exception as error:
        raise gr.Error(friendly(error), print_exception=False) from error
