"""The comparison of solvers on the embedded model: what it varies, and that it goes on where it was ended."""

import json
from pathlib import Path

import pytest

from lib_oms.__main__ import main
from lib_oms.judging import solvers

FIRST = {"sampler": "Euler", "cfg": 3.0, "steps": 20, "eta": 0.0}


def test_each_row_differs_from_the_first_in_one_thing() -> None:
    (name, first), *others = solvers.variations(FIRST)
    assert (name, first) == ("Euler, CFG 3, 20 steps", FIRST)
    assert all(sum(row[key] != FIRST[key] for key in FIRST) == 1 for _, row in others)
    names = [name for name, _ in others]
    assert len(set(names)) == len(names)
    assert {"eta 0.5", "eta 1", "DDIM", "DPM++ 2M Karras", "CFG 1", "CFG 10", "4 steps", "50 steps"} <= set(names)


def test_rows_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(solvers, "SAMPLERS", ("Euler",))
    monkeypatch.setattr(solvers, "SCALES", ())
    monkeypatch.setattr(solvers, "STEPS", ())
    monkeypatch.setattr(solvers, "ETAS", (1.0,))
    names = ["Euler, CFG 3, 2 steps", "eta 1", "eta 1, the authors' noise term"]
    command = ["evaluate", "--solvers", "--count", "2", "--each", "1", "--sampler", "Euler", "--steps", "2"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in said.splitlines()[2:]] == [f"| {name}" for name in names]
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")}
    assert len(files) == 3
    page = tmp_path / "page.html"
    assert main([*command, "--out", str(tmp_path), "--json", "--report", str(page)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(rows) == names
    ours, authors = (rows[name]["mean_black"] for name in names[1:])
    assert 0 < abs(ours - authors) < 0.01  # 0.2 % less noise
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert "Euler, CFG 3, 2 steps" in page.read_text(encoding="utf-8")
    assert main([*command, "--out", str(tmp_path), "--seed", "9"]) == 2
    assert "is of another comparison" in capsys.readouterr().err
