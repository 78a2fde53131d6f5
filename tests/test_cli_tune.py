"""`deadheat tune`: its answer, its preset, and its snippet, which gives the same picture when pasted."""

import json
import sys

import pytest
import torch
from deadheat.measure.space import Line, Space
from deadheat.pipelines import call_arguments, pictures

from deadheat import Recipe, accelerate, load
from deadheat.__main__ import main

LINES = {"ab-cache": ("ab-cache:every=2,warmup=2",), "fewer-steps": ("fewer-steps:steps=5",)}
QUICK = ["tune", "pocket-dit", "--steps", "6", "--size", "64x64", "--json"]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    lines = [Line(name, tuple(map(Recipe.parse, texts))) for name, texts in LINES.items()]
    race, prompts = sys.modules["deadheat.measure.race"], sys.modules["deadheat.measure.prompts"]
    monkeypatch.setattr(race, "search_space", lambda *_args, **_kwargs: Space(lines))
    monkeypatch.setattr(prompts, "MOST", (2, 4, 8))
    monkeypatch.chdir(tmp_path)


def test_the_answer_its_preset_and_its_snippet(capsys, tmp_path):
    assert main([*QUICK, "--floor", "psnr=5", "--floor", "adherence=-100", "--out", "mine.toml"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["answer"]["recipe"] in {text for texts in LINES.values() for text in texts}
    assert str(Recipe(Recipe.of("mine.toml").accelerators)) == data["answer"]["recipe"]
    assert data["preset"] == str(tmp_path / "mine.toml") and "adherence" in data["about"]

    names = {}
    exec(compile(data["snippet"], "snippet", "exec"), names)
    pipe, s = load("pocket-dit"), data["settings"]
    given = call_arguments(
        pipe, prompt=s["prompts"][0], seed=s["seed"], steps=6, guidance=s["guidance"], size=(64, 64)
    )
    with accelerate(pipe, "mine.toml"):
        assert torch.equal(names["image"], pictures(pipe(**given))[0])
    assert main([*QUICK, "--floor", "psnr=5", "--out", "mine.toml"]) == 2
    assert "exists already; give another --out" in capsys.readouterr().err


def test_no_preset_where_the_plain_pipeline_is_the_answer(capsys, tmp_path):
    assert main([*QUICK, "--budget", "10min"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["answer"] is None and data["preset"] is None and not list(tmp_path.iterdir())
    assert "nothing has to be given up" in data["claim"]
    names = {}
    exec(compile(data["snippet"], "snippet", "exec"), names)
    assert names["image"].shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--floor", "psnr=5", "--time", "inf"], "'inf' is no time"),
        (["--floor", "psnr=5", "--time", "nan"], "'nan' is no time"),
        (["--floor", "psnr=5", "--time", "0s"], "the time limit is 0 s"),
        (["--budget", "nan"], "'nan' is no time"),
        (["--floor", "psnr=120"], "never above 100"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_the_model_loads(argv, says, capsys, monkeypatch):
    monkeypatch.setattr("deadheat._tune.load_model", None)
    assert main([*QUICK[:-1], *argv]) == 2
    assert says in capsys.readouterr().err


def test_a_stop_prints_the_best_so_far_and_fails(capsys, monkeypatch):
    race = sys.modules["deadheat.measure.race"]

    def stopped(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(race.Race, "_finals", stopped)
    assert main([*QUICK[:-1], "--floor", "psnr=5"]) == 1
    text = capsys.readouterr().out
    assert "WARNING: ended early: it was stopped" in text and "judged by its probes alone" in text
    assert "pocket-dit-tuned.toml" in text and Recipe.of("pocket-dit-tuned.toml").accelerators
