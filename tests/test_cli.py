"""The command line: what it prints, what it refuses, and with which exit code."""

import io
import json
import re
import sys
from pathlib import Path

import pytest

from deadheat import Recipe
from deadheat.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
QUICK = ["--steps", "6", "--repeats", "1", "--no-cache", "--prompt", "a large panda on a gradient green background"]


def run(capsys, *argv):
    try:
        code = main(argv)
    except SystemExit as exit_:
        code = exit_.code
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0 and "--json" in out


def test_lists(capsys):
    assert json.loads(run(capsys, "models", "--json")[1])[0]["id"] == "pocket-dit"
    listed = json.loads(run(capsys, "accelerators", "--json")[1])
    assert listed[0]["knobs"]["order"] == {
        "default": 2, "low": 1, "high": 5, "choices": [], "unit": "outputs",
        "what": "how many past outputs predict a skipped one",
    }  # fmt: skip
    assert "ab-cache" in run(capsys, "accelerators", "ABCache")[1]


def test_doctor(capsys):
    code, out, _ = run(capsys, "doctor", "pocket-dit", "--steps", "6", "--json")
    data = json.loads(out)
    refused = {name: row["why_not"] for name, row in data["accelerators"].items() if not row["works"]}
    sometimes = {"db-cache", "guidance-adapter"}  # where cache-dit is installed, and where an adapter is shipped
    assert code == 0 and set(refused) - sometimes == {
        "background-shield", "clockwork", "deepcache", "encoder-propagation", "sparse-cross-attention", "t-gate"
    }  # fmt: skip
    assert "not the one UNet" in refused["clockwork"]
    assert "little to skip" in data["accelerators"]["ab-cache"]["cautions"][0]
    assert "CUDA" in data["switches"]["attention=flash"] or "not installed" in data["switches"]["attention=flash"]


def test_compare_and_report(capsys, tmp_path, monkeypatch):
    out_folder = tmp_path / "run"
    code, out, _ = run(capsys, "compare", "pocket-dit", "--recipe", "ab-cache:every=2,warmup=2", "--no-memory", *QUICK,
                       "--out", str(out_folder))  # fmt: skip
    assert code == 0 and "ab-cache:every=2,warmup=2" in out and (out_folder / "report.html").is_file()
    code, out, _ = run(capsys, "report", str(out_folder), "--json")
    lanes = json.loads(out)["lanes"]
    assert code == 0 and lanes[0]["calls"] == 12 and lanes[1]["calls"] < 12
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    assert main(["report", str(out_folder)]) == 0
    narrow.flush()
    assert b"1.00?" in narrow.buffer.getvalue()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["compar"], "did you mean compare"),
        ([], "COMMAND"),
        (["accelerators", "ab-cash"], "did you mean ab-cache"),
        (["compare", "pocket-ditt"], "did you mean pocket-dit"),
        (["compare", "pocket-dit", "--recipe", "ab-cash"], "did you mean ab-cache"),
        (["compare", "pocket-dit", "--recipe", "ab-cache:every=99"], "not between 1 and 10"),
        (["compare", "pocket-dit", "--steps", "0"], "steps is 0"),
        (["compare", "pocket-dit", "--steps", "10000"], "steps is 10000"),
        (["compare", "pocket-dit", "--steps", "many"], "invalid int"),
        (["compare", "pocket-dit", "--seeds", "0,x"], "'x'"),
        (["compare", "pocket-dit", "--seeds", "-1"], "seed"),
        (["compare", "pocket-dit", "--prompt", ""], "prompt is empty"),
        (["compare", "pocket-dit", "--prompt", "x" * 3000], "3000 characters"),
        (["compare", "pocket-dit", "--size", "100x100"], "multiple of 8"),
        (["compare", "pocket-dit", "--metrics", "fid"], "no metric"),
        (["compare", "pocket-dit", "--out", "/proc/nowhere/run"], "/proc/nowhere"),
        (["compare", "pocket-dit", "--prompts-file", "/nowhere.txt"], "/nowhere.txt"),
        (["compare", "pocket-dit", "--attention", "xformer"], "did you mean xformers"),
        (["compare", "pocket-dit", "--out", "/proc/run"], "/proc/run cannot be written"),
        (["compare", ""], "no model is called ''"),
        (["compare", "x" * 300], "no model is called 'xxx"),
        (["compare", "pocket-dit", "--out", "x" * 300], "cannot be written: File name too long"),
        (["compare", "pocket-dit", "--out", "~nosuchuser/x"], "~nosuchuser/x begins with a home that is not known"),
        (["compare", "pocket-dit", "--recipe", "ab-cache:every=" + "9" * 400], "not between 1 and 10"),
        (["compare", "pocket-dit", "--prompt", "caf\udce9"], "no UTF-8"),
        (["report", "x" * 300], "cannot be read: File name too long"),
        (["report", "/nowhere", "--also", "/nowhere"], "give --static FOLDER too"),
        (["report", "/nowhere", "--static", "x" * 300], "cannot be written: File name too long"),
        (["report", "~nosuchuser/x", "--static", "/proc/x"], "begins with a home"),
        (["tune", "pocket-dit", "--floor", "psnr=30", "--out", "x" * 300 + ".toml"], "File name too long"),
        (["compare", "pocket-dit", "--revision", "main"], "revision is 'main'"),
        (["doctor", "pocket-dit", "--steps", "0"], "steps is 0"),
        (["calibrate", "auto", "pocket-dit", "--longest", "0"], "longest is 0"),
        (["calibrate", "lemica", "pocket-dit", "--longest", "-2"], "longest is -2"),
        (["calibrate", "lemica", "pocket-dit", "--order", "99"], "order is 99"),
        (["calibrate", "lemica", "pocket-dit", "--place", "deep"], "lemica"),
        (["calibrate", "lemica", "pocket-dit", "--out", "mine.json"], "has to end in .toml"),
        (["app", "--model", "/nowhere"], "--model is /nowhere"),
        (["app", "--dtype", "float23"], "dtype is 'float23'"),
        (["app", "--memory", "model-offload", "--device", "cpu"], "memory=model-offload does not work here"),
        (["report", "/nowhere"], "cannot be read"),
        (["tune", "pocket-dit"], "either a floor, such as psnr=30, or a budget"),
        (["tune", "pocket-dit", "--floor", "psnr=30", "--budget", "1s"], "either a floor"),
        (["tune", "pocket-dit", "--floor", "psnr"], "write it as psnr=30"),
        (["tune", "pocket-dit", "--floor", "psrn=30"], "did you mean psnr"),
        (["tune", "pocket-dit", "--floor", "ssim=-1"], "only adherence, clip, image-reward"),
        (["tune", "pocket-dit", "--budget", "soon"], "no time; write it as 2.5s"),
        (["tune", "pocket-dit", "--floor", "psnr=30", "--time", "x"], "no time"),
        (["tune", "pocket-dit", "--floor", "psnr=30", "--prompts", "/nowhere.txt"], "/nowhere.txt"),
        (["tune", "pocket-dit", "--floor", "psnr=30", "--size", "big"], "write it as 512x512"),
        (["tune", "pocket-dit", "--floor", "psnr=30", "--out", "/proc/x/y.toml"], "cannot be written"),
        (["tune", "pocket-dit", "--floor", "psnr=30", "--out", "mine.txt"], "has to end in .toml"),
        (["tune", "pocket-dit", "--floor", "lpips=0.1", "--steps", "2"], "lpips cannot be held here"),
        (["tune", "pocket-dit", "--floor", "psnr=30", "--steps", "0"], "steps is 0"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(argv, says, capsys):
    code, out, err = run(capsys, *argv)
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err + out


def test_a_download_that_fails_is_no_wrong_use(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = run(capsys, "doctor", "nobody/nothing-of-the-kind")
    assert code == 1 and "could not be downloaded" in err and len(err.strip().splitlines()) == 1


def test_calibrate(capsys, tmp_path):
    preset = tmp_path / "mine.toml"
    code, out, _ = run(capsys, "calibrate", "lemica", "pocket-dit", "--steps", "5", "--calls", "4", "--longest", "2",
                       "--prompt", "a fox", "--out", str(preset), "--json")  # fmt: skip
    assert code == 0
    made = json.loads(out)
    assert made["recipe"].startswith("lemica:mask=0")
    assert "5 steps, 4 computed" in made["about"]
    assert str(Recipe.from_toml(preset)) == made["recipe"]
    code, _, err = run(capsys, "calibrate", "lemica", "pocket-dit", "--steps", "28", "--calls", "2")
    assert code == 2
    assert "calls is 2; 28 steps with gaps of at most 6 need 6 to 28" in err
    code, _, err = run(capsys, "calibrate", "lemica", "pocket-dit", "--out", str(preset))
    assert code == 2
    assert "exists already; give another --out" in err


def test_calibrate_magcache(capsys, tmp_path):
    preset = tmp_path / "mine.toml"
    code, out, _ = run(capsys, "calibrate", "magcache", "pocket-dit", "--steps", "5", "--prompt", "a fox",
                       "--out", str(preset), "--json")  # fmt: skip
    made = json.loads(out)
    assert code == 0 and made["recipe"].startswith("magcache:ratios=1 ")
    assert str(Recipe.from_toml(preset)) == made["recipe"]


def test_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "out" / "run" / "report.html").is_file()


@pytest.mark.parametrize("switches", [{}, {"dtype": "bfloat16"}], ids=["usual", "bfloat16"])
def test_the_snippet_gives_the_same_picture(switches: dict[str, str]):
    import torch

    from deadheat import compare, load

    pipe = load("pocket-dit", **switches)
    result = compare(
        pipe, "ab-cache:every=2,warmup=2", prompts=["a fox"], steps=4, repeats=1, control=False, memory=False,
        guidance=1.0, size=(32, 32), metrics=("psnr",),
    )  # fmt: skip
    for lane in result.lanes:
        names = {}
        exec(compile(result.snippet(lane), "snippet", "exec"), names)
        assert torch.equal(names["image"], lane.cells[0].picture)
