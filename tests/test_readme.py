"""The README tells the truth: its code runs, its table is the class headers', its files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from genmodels.capability_table import capability_table

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    block, *others = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in block.splitlines() if line]) <= 20
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "samples.png").stat().st_size > 0
    printed = capsys.readouterr().out
    promised = re.search(r"# (-\d+\.\d)", block)
    assert promised is not None
    assert float(printed.split()[0]) == pytest.approx(float(promised[1]), abs=1.0)
    assert "exact" in printed
    for other in others:
        exec(compile(other, "README.md", "exec"), {})


def test_the_capability_table_is_that_of_the_class_headers() -> None:
    table = re.search(r"<!-- capability table -->\n(.*?)\n<!-- end of capability table -->", TEXT, re.DOTALL)
    assert table is not None
    assert table[1] == capability_table()


def test_every_picture_and_named_file_exists() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT):
        assert (ROOT / path).is_file(), path


def test_every_measured_number_is_in_a_result_file() -> None:
    """A row of the table of measurements names its result file as `file.json: metric`, and shows that file's number."""
    import json

    rows = re.findall(r"\| (-?\d+\.\d+)[^|]*\| `(\w+\.json): (\w+)`", TEXT)
    assert rows
    for shown, file, metric in rows:
        value = json.loads((ROOT / "experiments/results" / file).read_text())["metrics"][metric]["value"]
        decimals = len(shown.split(".")[1])
        assert float(shown) == pytest.approx(value, abs=0.51 * 10**-decimals), (file, metric)
