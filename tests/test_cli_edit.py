"""``deadheat edit``: what it writes, what it says, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deadheat.__main__ import main

ROOT = Path(__file__).parents[1]
QUICK = ["--steps", "6", "--strength", "0.5", "--before", "a fox on a plain teal background"]


def run(capsys, *argv):
    try:
        code = main(argv)
    except SystemExit as exit_:
        code = exit_.code
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def files(tmp_path):
    """A picture, a mask with a small square, and where the edit goes."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(tmp_path / "in.png")
    mask = Image.new("L", (128, 128))
    mask.paste(255, (48, 48, 72, 72))
    mask.save(tmp_path / "mask.png")
    return tmp_path


def given(files, **changed):
    options = {"image": "in.png", "mask": "mask.png", "out": "out.png"} | changed
    return [word for name, value in options.items() for word in (f"--{name}", str(files / value))]


@pytest.mark.parametrize("model", ["pocket-unet", "pocket-dit"])
def test_only_the_mask_changes(files, capsys, model: str):
    argv = ["edit", model, "--prompt", "a cat on a plain teal background", *QUICK, *given(files)]
    code, out, err = run(capsys, *argv, "--sparse", "--json")
    assert code == 0, err
    data = json.loads(out)
    before, after = (np.asarray(Image.open(files / name)).astype(int) for name in ("in.png", "out.png"))
    changed = (before != after).any(-1)
    assert changed[48:72, 48:72].mean() > 0.9
    assert not changed[:32].any()
    assert not changed[:, 96:].any()
    assert 0 < data["area"] < 0.2
    assert data["lane"] == "sparse"
    assert 0 < data["active"] < 0.5
    assert data["calls"] == 6


def test_dense_and_times(files, capsys):
    code, out, _ = run(capsys, "edit", "pocket-unet", *QUICK, *given(files), "--dense", "--repeats", "1")
    assert code == 0
    assert out.startswith("dense edit: ")
    assert "x the speed of the dense edit" in out


def test_one_edit_runs_dense_and_says_why(files, capsys):
    code, out, _ = run(capsys, "edit", "pocket-unet", *QUICK, *given(files))
    assert code == 0
    assert out.startswith("dense edit (a sparse edit needs a plain run over the picture first")


def strict(out: str):
    def refused(name: str):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(out, parse_constant=refused)


def test_times_are_json_for_every_reader(files, capsys):
    argv = ["edit", "pocket-unet", *QUICK, *given(files), "--repeats", "1", "--json"]
    data = strict(run(capsys, *argv, "--sparse")[1])
    assert data["lane"] == "sparse"
    assert data["comparison"]["outside"] is None
    assert data["comparison"]["identical"] is False
    assert data["comparison"]["inside"] > 0
    Image.new("L", (128, 128)).save(files / "mask.png")
    data = strict(run(capsys, *[word.replace("out.png", "empty.png") for word in argv])[1])
    assert data["lane"] == "none"
    assert "comparison" not in data


def test_a_dense_edit_is_not_compared_with_itself(files, capsys):
    Image.new("L", (128, 128), 255).save(files / "mask.png")
    code, out, _ = run(capsys, "edit", "pocket-unet", *QUICK, *given(files), "--sparse", "--repeats", "1")
    assert code == 0
    assert "nothing to compare: what ran is the dense edit; the mask covers the whole picture" in out
    assert "x the speed" not in out


def test_a_small_memory_budget(files, capsys):
    argv = ["edit", "pocket-unet", *QUICK, *given(files), "--sparse", "--repeats", "1", "--memory-budget", "0.001"]
    code, out, _ = run(capsys, *argv)
    assert code == 0
    assert out.startswith("dense edit")
    assert "--memory-budget on the command line" in out
    assert "x the speed" not in out


def test_strokes(files, capsys):
    Image.new("RGB", (128, 128), "red").save(files / "painted.png")
    argv = ["edit", "pocket-unet", *QUICK, "--mode", "stroke", *given(files, painted="painted.png")]
    assert run(capsys, *argv)[0] == 0


def test_strokes_are_their_own_mask(files, capsys):
    painted = Image.open(files / "in.png")
    painted.paste("red", (48, 48, 72, 72))
    painted.save(files / "painted.png")
    argv = ["edit", "pocket-unet", *QUICK, "--mode", "stroke", "--sparse", "--json"]
    argv += ["--image", str(files / "in.png"), "--painted", str(files / "painted.png"), "--out", str(files / "o.png")]
    code, out, err = run(capsys, *argv)
    assert code == 0, err
    assert json.loads(out)["lane"] == "sparse"
    given = ["--image", str(files / "in.png"), "--out", str(files / "p.png")]
    code, _, err = run(capsys, "edit", "pocket-unet", *QUICK, *given)
    assert code == 2
    assert "there is no mask" in err


def test_a_mask_may_be_transparent(files, capsys):
    mask = Image.new("RGBA", (128, 128))
    mask.paste((0, 0, 0, 255), (48, 48, 72, 72))
    mask.save(files / "mask.png")
    code, out, _ = run(capsys, "edit", "pocket-unet", *QUICK, *given(files), "--json")
    assert code == 0
    assert 0 < json.loads(out)["area"] < 0.2


def test_an_empty_mask_is_the_picture(files, capsys):
    Image.new("L", (128, 128)).save(files / "mask.png")
    code, out, _ = run(capsys, "edit", "pocket-unet", *QUICK, *given(files))
    assert code == 0
    assert "the mask is empty: the picture stays as it is" in out
    assert (np.asarray(Image.open(files / "in.png")) == np.asarray(Image.open(files / "out.png"))).all()


def test_another_size_is_fitted_if_asked(files, capsys):
    Image.new("RGB", (300, 200), "teal").save(files / "in.png")
    Image.new("L", (300, 200), 255).save(files / "mask.png")
    argv = ["edit", "pocket-unet", *QUICK, *given(files)]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert "multiples of" in err
    code, out, _ = run(capsys, *argv, "--fit")
    assert code == 0
    assert out.startswith("dense edit")  # a full mask: dense is faster, and it says so
    assert Image.open(files / "out.png").size == (128, 128)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--strength", "2"], "strength is 2.0"),
        (["--strength", "0.01"], "less than one step"),
        (["--mode", "strok"], "did you mean stroke"),
        (["--mode", "stroke"], "--mode stroke needs --painted"),
        (["--painted", str(ROOT / "assets" / "recorded" / "edit" / "fox.png")], "--painted is only for --mode stroke"),
        (["--memory-budget", "99999999999999GiB"], "--memory-budget is"),
        (["--steps", "0"], "steps is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--memory-budget", "much"], "write MiB as 512"),
        (["--out", "/nowhere/out.png"], "no folder /nowhere"),
        (["--out", "out.jpg"], "end it in .png"),
        (["--out", "/proc/out.png"], "cannot be written"),
        (["--image", "/nowhere.png"], "cannot be read"),
        (["--prompt", "x" * 2001], "2001 characters"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(files, capsys, argv, says):
    code, out, err = run(capsys, "edit", "pocket-unet", *QUICK, *given(files), *argv)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err + out


def test_a_model_that_is_none(files, capsys):
    code, _, err = run(capsys, "edit", "pocket-cat", *QUICK, *given(files))
    assert code == 2
    assert "did you mean pocket-dit" in err


@pytest.mark.parametrize("which", ["image", "mask"])
def test_what_is_no_picture(files, capsys, which: str):
    (files / "note.png").write_text("not a picture")
    code, _, err = run(capsys, "edit", "pocket-unet", *QUICK, *given(files, **{which: "note.png"}))
    assert code == 2
    assert f"the {which} {files / 'note.png'} is not a picture that can be read" in err


def test_damaged_huge_and_unlike(files, capsys):
    whole = (files / "in.png").read_bytes()
    (files / "half.png").write_bytes(whole[: len(whole) // 2])
    (files / "heavy.png").write_bytes(b"\0" * (9 << 20))
    Image.new("1", (5000, 5000)).save(files / "wide.png")
    Image.new("L", (64, 64)).save(files / "small.png")
    Image.new("1", (14_000, 14_000)).save(files / "bomb.png")
    for name, says in [
        ("half.png", "damaged"),
        ("heavy.png", "at most 8 MB"),
        ("wide.png", "5000 x 5000 pixels"),
        ("bomb.png", "million pixels"),
        ("small.png", "both need the same size"),
    ]:
        code, _, err = run(capsys, "edit", "pocket-unet", *QUICK, *given(files, mask=name))
        assert code == 2
        assert says in err, err
