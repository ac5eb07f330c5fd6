"""The page on runs: whole, honest, and told apart by kind of bound; in a browser too, where there is one."""

import ast
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

from genmodels.cli import main
from genmodels.families import boltzmann
from genmodels.fit import DIVERGED
from genmodels.report import chains
from genmodels.report.evaluation import Evaluation, Row
from genmodels.run_config import RunConfig
from genmodels.runs import LIKELIHOOD, start, stored_config

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
BARS = ["--data", "bars-and-stripes", "--epochs", "2", "--batch-size", "10", "--device", "cpu"]


class Page(HTMLParser):
    """All tags with their attributes, and all text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(path.read_text())
        self.words = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module", autouse=True)
def short_chains():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boltzmann, "NUM_STEPS", 5)
        patch.setattr(boltzmann, "FILM_STEPS", (0, 1, 3))
        patch.setattr(chains, "NUM_STEPS", 20)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """An RBM with its bracket, one with its exact value, a VAE with a lower bound, and a run that diverged."""
    folder = tmp_path_factory.mktemp("runs")
    # Others check the shapes in these steps.
    jaxtyping.config.update("jaxtyping_disable", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genmodels.commands.train.write_pictures", lambda out, progress: [])
        rbm = ["train", "rbm", *BARS, "--hidden", "4", "--ais-every", "0"]
        assert main([*rbm, "--out", str(folder / "bracket")]) == 0
        assert main([*rbm, "--seed", "1", "--out", str(folder / "exact")]) == 0
        vae = ["train", "vae", *BARS, "--latent", "2", "--hidden", "5"]
        assert main([*vae, "--out", str(folder / "vae")]) == 0
        np.save(folder / "real.npy", np.random.default_rng(0).normal(size=(50, 3)))
        wild = [
            "--hidden",
            "5",
            "--learning-rate",
            "50",
            "--schedule",
            "constant",
            "--batch-size",
            "10",
            "--ais-every",
            "0",
        ]
        assert main(["train", "rbm", "--data", str(folder / "real.npy"), "--out", str(folder / "wild"), *wild]) == 2
    ais = ["--method", "ais", "--num-temperatures", "30", "--num-chains", "8"]
    assert main(["evaluate", str(folder / "bracket"), *ais]) == 0
    assert main(["evaluate", str(folder / "exact")]) == 0
    assert main(["evaluate", str(folder / "vae"), "--num-samples", "5"]) == 0
    return folder


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    out = runs / "report.html"
    assert main(["report", *(str(runs / name) for name in ("bracket", "vae", "exact", "wild")), "--out", str(out)]) == 0
    return out


def test_nothing_is_loaded_from_elsewhere(page: Path) -> None:
    found = Page(page)
    assert all(re.fullmatch(r"#[\w-]+", link["href"]) for link in found.all("a"))
    assert not found.all("link")
    assert not found.all("iframe")
    assert [script for script in found.all("script") if script] == []
    assert not re.search(r"url\(|@import|https?://", page.read_text())
    (policy,) = [meta["content"] for meta in found.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none';")


def test_every_picture_is_inside_and_has_words(page: Path) -> None:
    pictures = Page(page).all("img")
    assert len(pictures) >= 4 + 4 + 4 + 2
    for picture in pictures:
        assert picture["src"].startswith("data:image/png;base64,iVBOR")
        assert len(picture["alt"]) > 20
    assert any("energy difference from" in picture["alt"] for picture in pictures)


def test_the_table_has_one_group_for_each_kind_of_bound(page: Path, runs: Path) -> None:
    kinds = [body["class"] for body in Page(page).all("tbody")]
    assert kinds == ["exact", "lower", "upper"]
    text = page.read_text()
    for name in ("bracket", "vae", "exact"):
        for estimate in json.loads((runs / name / LIKELIHOOD).read_text())["estimates"].values():
            (body,) = re.findall(rf'<tbody class="{estimate["bound"]}">.*?</tbody>', text, re.DOTALL)
            assert f'data-value="{estimate["value"]}"' in body
            assert f">{name}</a>" in body


def test_what_a_reader_asks_for_is_there(page: Path) -> None:
    words = Page(page).words
    for wanted in ("Film strip", "Filters", "Training curves", "Do its chains mix?", "R-hat", "reverse ESS", "torch 2"):
        assert wanted in words
    assert "nothing bounds it from above" in words
    assert "genmodels train vae --data bars-and-stripes" in words
    assert re.search(r"genmodels evaluate \S+bracket --method ais", words)


def test_a_diverged_run_says_so(page: Path, runs: Path) -> None:
    step = json.loads((runs / "wild" / DIVERGED).read_text())["step"]
    words = Page(page).words
    assert f"Diverged at step {step:,}, in epoch" in words
    assert "What is shown is the last good checkpoint" in words
    assert "Without a likelihood, and so in no table: wild." in words
    assert "Not evaluated: nothing is known of its likelihood." in words


def test_an_evaluation_of_an_earlier_checkpoint_is_marked(page: Path, runs: Path, tmp_path: Path) -> None:
    assert "older than the run" not in Page(page).words
    run = shutil.copytree(runs / "exact", tmp_path / "run")
    stored = json.loads((run / LIKELIHOOD).read_text())
    (run / LIKELIHOOD).write_text(json.dumps(stored | {"step": 1}))
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert "the run has trained on since" in Page(tmp_path / "report.html").words


def test_a_run_that_no_command_made_comes_with_its_program(runs: Path, tmp_path: Path, capsys) -> None:
    config = stored_config(runs / "exact")
    start(config, tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report.html")]) == 0
    text = Page(tmp_path / "report.html").text
    (literal,) = re.findall(r"config = (\{.*?\})\nstart\(", text, re.DOTALL)
    assert RunConfig.from_dict(ast.literal_eval(literal)) == config


def test_an_evaluation_after_the_pictures_is_drawn(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "exact", tmp_path / "run")
    (run / "likelihood.png").unlink(missing_ok=True)
    (run / LIKELIHOOD).touch()
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert any(picture["alt"].startswith("Likelihoods with") for picture in Page(tmp_path / "report.html").all("img"))


def test_markup_in_names_stays_text(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "exact", tmp_path / "<b>&run")
    assert main(["report", str(run), str(runs / "exact"), "--out", str(tmp_path / "report.html")]) == 0
    found = Page(tmp_path / "report.html")
    assert not found.all("b")
    assert "<b>&run" in found.words


def row(value: float, bound: str, error: float = 0.1) -> Row:
    return Row("it", value, error, bound, "made up")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((row(-5.0, "lower"), row(-4.5, "upper")), "between −5.00 and −4.50 nats per example, 0.50 apart"),
        ((row(-4.9, "lower"), row(-5.0, "upper")), "cross by 0.10 ± 0.14 nats, which their errors explain"),
        ((row(-4.0, "lower"), row(-5.0, "upper")), "more than their errors explain: trust neither"),
        ((row(-4.0, "none"),), "from no side"),
        ((row(-4.0, "upper"),), "nothing bounds it from below"),
        ((row(-4.0, "exact", 0.0), row(-5.0, "lower")), "exactly −4.00 nats"),
    ],
)
def test_bounds_in_words(rows: tuple[Row, ...], said: str) -> None:
    assert said in Evaluation("d", "test", 3, rows, None, {}, (), None, None, False).words


def test_what_is_no_run_or_no_page_is_refused(capsys, runs: Path, tmp_path: Path) -> None:
    assert main(["report", str(tmp_path / "nowhere"), "--out", str(tmp_path / "report.html")]) == 2
    assert "There is no run in" in capsys.readouterr().err
    assert main(["report", str(runs / "exact"), "--out", str(tmp_path / "report.pdf")]) == 2
    assert "must end in .html" in capsys.readouterr().err
    assert main(["report", "--out", str(tmp_path / "report.html")]) == 2
    assert not (tmp_path / "report.html").exists()


PROBE = """
<script>
const nats = document.querySelectorAll("table.runs th button")[1];
const order = () => [...document.querySelectorAll("table.runs tbody")].map(
  (body) => [...body.rows].slice(1).map((row) => Number(row.cells[1].dataset.value)));
const seen = [];
for (let i = 0; i < 2; i++) { nats.click(); seen.push(order()); }
const sideways = document.documentElement.scrollWidth > document.documentElement.clientWidth;
const fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
const broken = [...document.images].filter((image) => image.complete && image.naturalWidth === 0).length;
document.title = JSON.stringify(
  {seen, sideways, fetched, broken, sorted: nats.parentElement.getAttribute("aria-sort")});
</script>
"""


def browsed(page: Path, width: int, folder: Path) -> tuple[dict, str]:
    """What the probe found on the page in a window of this width, and what the console said."""
    probed = folder / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command = [
        str(BROWSER),
        *flags,
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},900",
        f"file://{probed}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (title,) = re.findall(r"<title>(\{.*?\})</title>", done.stdout)
    return json.loads(title), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [500, 1400])
def test_in_a_browser_it_sorts_within_groups_and_is_silent(page: Path, tmp_path: Path, width: int) -> None:
    found, console = browsed(page, width, tmp_path)
    descending, ascending = found["seen"]
    assert sum(map(len, descending)) == 4
    assert descending == [sorted(group, reverse=True) for group in descending]
    assert ascending == [sorted(group) for group in ascending]
    assert descending != ascending
    assert (found["sorted"], found["sideways"], found["fetched"], found["broken"]) == ("ascending", False, [], 0)
    assert console == ""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_console_is_listened_to(page: Path, tmp_path: Path) -> None:
    loud = tmp_path / "loud.html"
    loud.write_text(page.read_text().replace("</body>", '<img src="https://example.org/x.png" alt=""></body>'))
    assert "Content Security Policy" in browsed(loud, 1400, tmp_path)[1]
