"""``deadheat models``, ``accelerators`` and ``doctor``: what there is, and what fits."""

import argparse

from ._arguments import load_model, show, takes_model


def models_command(arguments: argparse.Namespace) -> None:
    """List the models that can be loaded by name."""
    from .pipelines import models

    known = models()
    data = [
        {"id": m.id, "title": m.title, "family": m.family, "about": m.about, "ships": m.pocket, "steps": m.steps,
         "guidance": m.guidance, "size": m.size, "prompts": m.prompts}
        for m in known
    ]  # fmt: skip
    width = max(len(m.id) for m in known)
    lines = [
        f"{m.id.ljust(width)}  {'ships with Deadheat' if m.pocket else 'hub'.ljust(19)}  {m.about}" for m in known
    ]
    show(
        arguments, data, "\n".join([*lines, "", "Any other hub id or local folder of a diffusers pipeline works too."])
    )


def accelerators_command(arguments: argparse.Namespace) -> None:
    """List accelerators and their knobs."""
    from .accelerators import ACCELERATORS, knobs

    chosen = [ACCELERATORS[arguments.name]] if arguments.name else list(ACCELERATORS.values())
    data = [
        {
            "name": cls.name,
            "class": cls.__name__,
            "title": cls.title,
            "paper": cls.paper,
            "about": (cls.__doc__ or "").partition("\n")[0],
            "seat": cls.seat,
            "knobs": {name: {"default": default, **vars(knob)} for name, (default, knob) in knobs(cls).items()},
        }
        for cls in chosen
    ]
    lines = []
    for cls, row in zip(chosen, data, strict=True):
        lines += [f"{cls.name}  {row['about']}", f"    {cls.paper}"]
        for name, (default, knob) in knobs(cls).items():
            span = f"{knob.low}..{knob.high} {knob.unit}" if knob.low is not None else "|".join(knob.choices)
            lines.append(
                f"    {name}={default}".ljust(25)
                + f" {span or ('text' if isinstance(default, str) else 'true|false')}".ljust(33)
                + f" {knob.what}"
            )
    show(arguments, data, "\n".join(lines))


def doctor_command(arguments: argparse.Namespace) -> None:
    """Say what fits a model on this machine, and why the rest does not."""
    from .measure import check_inputs, doctor

    check_inputs(["a fox"], steps=arguments.steps)
    found = doctor(load_model(arguments), arguments.steps)
    lines = [f"{k}: {v}" for k, v in found["pipeline"].items() if k != "system" and v != ""]
    lines += ["", "presets", *(f"{name}: {preset['about']}" for name, preset in found["presets"].items()), ""]
    for name, row in found["accelerators"].items():
        lines.append(
            f"{'fits  ' if row['works'] else 'not   '}{name}" + (f": {row['why_not']}" if row["why_not"] else "")
        )
        lines += [f"      caution: {text}" for text in row["cautions"]]
    lines += ["", "system switches", *(f"{'works ' if why is None else 'not   '}{name}" + (f": {why}" if why else "")
                                       for name, why in found["switches"].items())]  # fmt: skip
    show(arguments, found, "\n".join(lines))


def takes_name(parser: argparse.ArgumentParser) -> None:
    """Take the name of an accelerator, or none."""
    parser.add_argument("name", nargs="?", help="show this one only")


def takes_doctor(parser: argparse.ArgumentParser) -> None:
    """Take a model and a number of steps."""
    takes_model(parser)
    parser.add_argument("--steps", type=int, default=28, help="steps that you mean to run (default 28)")
