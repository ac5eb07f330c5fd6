"""The page of measurements holds what the result files hold, and nothing else."""

import json
from pathlib import Path

from experiments.results import FOLDER
from experiments.table import PAGE, table


def test_the_page_is_that_of_the_result_files() -> None:
    assert PAGE.read_text() == table(), "run `python -m experiments.table`"


def test_every_experiment_with_a_result_is_in_it() -> None:
    for path in FOLDER.glob("*.json"):
        assert f"### {path.stem}\n" in PAGE.read_text()


def test_a_number_without_a_file_is_not(tmp_path: Path) -> None:
    """A changed, a missing and a new number all change the page."""
    result = json.loads((FOLDER / "rbm_mnist.json").read_text())
    (tmp_path / "rbm_mnist.json").write_text(json.dumps(result))
    whole = table(tmp_path)
    assert "| `rbm_mnist`: test_log_likelihood | -86.34 |" in whole
    assert "-83.454 ± 0.045 | ± 0.03 | upper | -83.412 ± 0.041 (lower); -83.461 ± 0.038 (lower) | 3 |" in whole
    result["metrics"]["test_log_likelihood"]["value"] = -80.0
    (tmp_path / "rbm_mnist.json").write_text(json.dumps(result))
    assert table(tmp_path) != whole
    assert "-83.454" not in table(tmp_path)


def test_digits_follow_the_error(tmp_path: Path) -> None:
    metrics = {
        "a": {"value": 12.3456, "std_error": 0.0123, "bound": "lower"},
        "b": {"value": 123.456, "std_error": 12.0, "bound": "none"},
        "c": {"value": 0.123456789, "std_error": None, "bound": "none"},
        "a_seed_0": {"value": 12.0, "std_error": None, "bound": "lower"},
        "a_seed_1": {"value": 12.6, "std_error": None, "bound": "lower"},
        "e": {"value": 7.0, "std_error": 1.0, "bound": "none", "std_error_between_seeds": 2.0},
    }
    common = {"published": {}, "seeds": [0], "seconds": 90.0, "device": "x", "data": "y", "command": "z"}
    (tmp_path / "n.json").write_text(json.dumps({"name": "n", "metrics": metrics, **common}))
    page = table(tmp_path)
    for row in (
        "| a | 12.346 ± 0.012 (± 0.3 between seeds) | lower |",
        "| b | 123 ± 12 | none |",
        "| c | 0.12346 | none |",
        "| e | 7.0 ± 1.0 (± 2 between seeds) | none |",
    ):
        assert row in page
    assert "a_seed_0" not in page
    assert "`z` · y · 1.5 minutes · x" in page
