"""`deadheat sweep` and `deadheat report` of a sweep: what they print, refuse, and leave behind."""

import json

import pytest
from deadheat.measure import Sweep

from deadheat.__main__ import main

from .families import FAMILIES

GRID = ["--recipe", "ab-cache:every=1|2", "--prompt", "a red cube", "--size", "16x16", "--repeats", "1",
        "--metrics", "psnr"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    FAMILIES["sd15"].build().save_pretrained(folder)
    return str(folder)


def run(capsys, *argv):
    try:
        code = main(argv)
    except SystemExit as exit_:
        code = exit_.code
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_sweep_its_report_and_the_way_on(model, capsys, tmp_path):
    out = tmp_path / "out"
    argv = ["sweep", model, *GRID, "--steps", "2,4", "--seeds", "0..1", "--control", "1,3", "--out", str(out)]
    code, text, _ = run(capsys, *argv)
    assert code == 0 and "plain, 3 steps" in text and "18 of 18 cells" in text and (out / "report.html").is_file()
    before = (out / "sweep.jsonl").read_bytes()
    (out / "report.html").unlink()
    code, text, _ = run(capsys, *argv, "--json")
    data = json.loads(text)
    assert code == 0 and data["finished"] and data["planned"] == len(data["cells"]) == 18
    assert data["points"]["psnr"][0]["recipe"] == "plain" and (out / "sweep.jsonl").read_bytes() == before
    code, text, _ = run(capsys, "report", str(out), "--json")
    assert code == 0 and json.loads(text)["report"] == str(out / "report.html")
    code, _, err = run(capsys, *argv[:-2], "--repeats", "2", "--out", str(out))
    assert code == 2 and "repeats was 1 and is now 2" in err and "another --out" in err


def test_stopping_is_no_loss(model, capsys, tmp_path, monkeypatch):
    from deadheat.measure.bench import Bench

    measure, calls = Bench.heat, []

    def interrupted(self, heat):
        calls.append(heat)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, heat)

    monkeypatch.setattr(Bench, "heat", interrupted)
    argv = ["sweep", model, *GRID, "--steps", "2", "--seeds", "0..2", "--out", str(tmp_path / "out")]
    code, _, err = run(capsys, *argv)
    assert code == 1 and "the same command goes on" in err
    assert len(Sweep.load(tmp_path / "out").cells) == 4
    assert run(capsys, *argv)[0] == 0 and Sweep.load(tmp_path / "out").finished


def test_where_no_recipe_could_be_measured_it_failed(model, capsys, tmp_path):
    grid = ["--prompt", "a red cube", "--size", "16x16", "--repeats", "1", "--metrics", "psnr", "--steps", "2"]
    argv = ["sweep", model, *grid, "--control", "1", "--out", str(tmp_path / "out"), "--json"]
    code, text, err = run(capsys, *argv, "--recipe", "first-block-cache")
    assert code == 1 and json.loads(text)["finished"]
    assert "no recipe could be measured; the first failed with: first-block-cache cannot work" in err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["pocket-ditt"], "did you mean pocket-dit"),
        (["pocket-dit", "--recipe", "ab-cash:every=2..3"], "did you mean ab-cache"),
        (["pocket-dit", "--recipe", "ab-cash"], "did you mean ab-cache"),
        (["pocket-dit", "--recipe", "ab-cache:every=5..2"], "write 2..5"),
        (["pocket-dit", "--steps", "x"], "--steps is 'x'"),
        (["pocket-dit", "--steps", "0"], "steps is 0"),
        (["pocket-dit", "--seeds", "9" * 5000], "--seeds has a value of 5000 characters"),
        (["pocket-dit", "--prompt", "caf\udce9"], "no UTF-8"),
        (["pocket-dit", "--metrics", ""], "no metric is called ''"),
        (["pocket-dit", "--seeds", "0..b"], "--seeds is '0..b', which is no range"),
        (["pocket-dit", "--control", "1.5"], "--control is '1.5'"),
        (["pocket-dit", "--steps", "6", "--control", "9"], "control is 9"),
        (["pocket-dit", "--metrics", "psrn"], "did you mean psnr"),
        (["pocket-dit", "--workers", "-1"], "workers is -1"),
        (["pocket-dit", "--prompts", "/nowhere.txt"], "/nowhere.txt"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(argv, says, capsys, tmp_path):
    code, out, err = run(capsys, "sweep", *argv, "--out", str(tmp_path / "out"))
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err + out
    assert not (tmp_path / "out").exists()


def test_a_presets_name_needs_a_known_family(model, capsys, tmp_path):
    """Without the family it would be another recipe than in `compare`."""
    code, _, err = run(capsys, "sweep", model, "--recipe", "balanced", "--prompt", "x", "--out", str(tmp_path / "out"))
    assert code == 2 and "which recipe 'balanced' is depends on the family" in err and "doctor" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_help_lists_every_metric(command, capsys):
    from deadheat.measure import METRICS

    _, text, _ = run(capsys, command, "--help")
    assert ", ".join(METRICS) in " ".join(text.split()).replace("- ", "-")


@pytest.mark.parametrize(("out", "says"), [("x" * 300, "File name too long"), ("~nosuchuser/x", "begins with a home")])
def test_a_folder_that_cannot_be_is_named(out: str, says: str, capsys):
    code, _, err = run(capsys, "sweep", "pocket-dit", "--out", out)
    assert code == 2 and says in err


def test_a_sweep_needs_a_folder(capsys):
    code, _, err = run(capsys, "sweep", "pocket-dit")
    assert code == 2 and "--out" in err
