"""The page in a browser: players play, tables sort, nothing is fetched, nothing complains; and the files beside it."""

import csv
import json
import re
import shutil

import numpy as np
import pytest

from champ_jax.cli.main import main
from champ_jax.errors import UserError
from champ_jax.evaluate.cells import change_cells, verdict
from champ_jax.evaluate.files import read_results
from tests.evaluate.films import save_folders

pytest_plugins = ("tests.browser",)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """(folder, out of a run, out of a better one with the first as its baseline), made by the command."""
    root = tmp_path_factory.mktemp("evaluated")
    folders = save_folders(root / "noisy", count=3, strength=14)
    better = save_folders(root / "better", count=3, strength=4)

    def run(of, name, *more):
        arguments = [f"--{option}={of[key]}" for option, key in OPTIONS.items()]
        assert main(["evaluate", *arguments, "--out", str(root / name), *more]) == 0
        return root / name

    first = run(folders, "first")
    return root, first, run(better, "second", "--baseline", str(first))


OPTIONS = {"generated": "generated", "reference": "reference", "references": "photos", "motion": "motion", "music": "music"}
OPTIONS |= {"reference-motion": "true_motion"}


def open_page(browser, path, **settings):
    """(page, what it complained about and what it asked the network for)."""
    page, said = browser.new_context(**settings).new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    page.wait_for_function("players.every((player) => player.video.readyState >= 2)", timeout=30_000)
    return page, said


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_players_play_and_nothing_complains(evaluated, browser, scheme):
    page, said = open_page(browser, evaluated[2] / "report.html", color_scheme=scheme)
    assert page.evaluate("players.length") == 3
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 600) == (scheme == "light")
    page.locator(".player button.play").first.click()
    page.wait_for_function("players[0].frame >= 3", timeout=20_000)
    page.locator(".player button.play").first.click()
    assert page.evaluate("players[0].video.paused")
    page.locator(".player input[type=range]").first.fill("10")
    page.wait_for_function("players[0].frame === 10 && players[0].label.textContent === '11/20'")
    assert said == []


def pixels(page, view):
    script = "(view) => [...players[0].views[view].getContext('2d').getImageData(0, 0, 64, 64).data]"
    return np.array(page.evaluate(script, view)).reshape(64, 64, 4)[..., :3]


def test_views_show_the_frames_their_difference_and_the_skeleton(evaluated, browser):
    page, _ = open_page(browser, evaluated[1] / "report.html")
    page.evaluate("players[0].seek(5)")
    page.wait_for_function("players[0].frame === 5 && !players[0].video.seeking")
    page.evaluate("players[0].draw()")
    generated, reference, difference = (pixels(page, view) for view in ("generated", "reference", "difference"))
    expected = np.clip(4 * np.abs(generated - reference), 0, 255)
    assert np.abs(difference - expected).mean() < 6 and expected.mean() > 10
    page.locator("[data-option=skeleton]").first.check()
    drawn = pixels(page, "generated")
    assert (np.abs(drawn - generated).max(-1) > 60).sum() > 50
    np.testing.assert_array_equal(pixels(page, "difference"), difference)


def test_tables_sort(evaluated, browser):
    page, _ = open_page(browser, evaluated[1] / "report.html")
    table = page.locator("table").filter(has=page.locator("th", has_text="clip")).last
    column = [header.strip() for header in table.locator("th").all_inner_texts()].index("PSNR")

    def values():
        return [float(row.locator("td").nth(column).inner_text()) for row in table.locator("tbody tr").all()]

    assert values() == sorted(values()), "the worst come first"
    button = table.locator("th button").nth(column)
    button.click()
    assert values() == sorted(values()) and table.locator("th").nth(column).get_attribute("aria-sort") == "ascending"
    button.click()
    assert values() == sorted(values(), reverse=True)


def test_the_page_holds_all_it_needs(evaluated):
    text = (evaluated[2] / "report.html").read_text()
    sources = re.findall(r"(?:src|href)='?\"?([^'\" >]+)", text)
    assert sources and all(source.startswith("data:") for source in sources) and "http" not in re.sub("http://www.w3.org", "", text)
    assert "@media print" in text and "prefers-color-scheme: dark" in text
    assert "beats of the music" in text and "were not measured" in text


def test_only_what_is_more_than_chance_is_coloured():
    assert verdict("psnr", 1.0, 0.01) == "good" and verdict("psnr", -1.0, 0.01) == "bad" and verdict("l1", 1.0, 0.01) == "bad"
    assert verdict("psnr", 1.0, 0.2) == verdict("flicker", 1.0, 0.01) == verdict("psnr", 1.0, float("nan")) == ""
    assert [cell[0] for cell in change_cells("psnr", 1.0, float("nan"))] == ["+1.00", ""], "of one clip there is no p"


def test_files_beside_the_page(evaluated):
    _, first, _ = evaluated
    results = read_results(first)
    rows = {row["name"]: row for row in csv.DictReader((first / "metrics.csv").open())}
    assert float(rows["psnr"]["value"]) == next(row["value"] for row in results["metrics"] if row["name"] == "psnr")
    assert rows["fvd"]["value"] == "" and rows["psnr"]["protocol"] == "strict" and rows["psnr"]["resolution"] == "64x64"
    clips = list(csv.DictReader((first / "clips.csv").open()))
    assert [clip["clip"] for clip in clips] == ["clip_0", "clip_1", "clip_2"] and float(clips[0]["psnr"]) > 10
    table = (first / "metrics.tex").read_text()
    assert r"PSNR $\uparrow$" in table and r"\bottomrule" in table and "FID\\_k" in table
    json.loads((first / "results.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert not list(first.glob(".*")) and not (first / "parts").exists()


def test_runs_side_by_side(evaluated, tmp_path, capsys):
    _, first, second = evaluated
    assert main(["compare", str(first), str(second), "--out", str(tmp_path)]) == 0
    assert "PSNR" in capsys.readouterr().out
    comparison = json.loads((tmp_path / "compare.json").read_text())
    psnr = next(metric for metric in comparison["metrics"] if metric["name"] == "psnr")
    assert psnr["values"][1] > psnr["values"][0] and psnr["changes"][1]["n"] == 3 and psnr["changes"][1]["mean"] > 0
    assert not comparison["warnings"] and "first" in (tmp_path / "compare.csv").read_text()


def test_runs_that_do_not_compare(evaluated, tmp_path, capsys):
    _, first, _ = evaluated
    assert main(["compare", str(first)]) == 2
    other = tmp_path / "other"
    shutil.copytree(first, other)
    results = json.loads((other / "results.json").read_text())
    results["protocol"], results["records"] = "disco-compat", results["records"][:2]
    (other / "results.json").write_text(json.dumps(results))
    assert main(["compare", str(first), str(other), "--out", str(tmp_path / "out"), "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert any("protocol" in warning for warning in warnings) and any("share 2 clips of 2 and 3" in warning for warning in warnings)
    results["records"] = [{**record, "name": "x" + record["name"]} for record in results["records"]]
    (other / "results.json").write_text(json.dumps(results))
    assert main(["compare", str(first), str(other)]) == 2
    (other / "results.json").write_text("{}")
    with pytest.raises(UserError, match="no results of champ-jax evaluate"):
        read_results(other)


def test_shards_by_the_command(evaluated, tmp_path, capsys):
    root, first, _ = evaluated
    arguments = ["evaluate", f"--generated={root / 'noisy/generated'}", f"--reference={root / 'noisy/reference'}", "--out", str(tmp_path)]
    assert main([*arguments, "--shard", "1/2"]) == 0
    assert "waits for 00000-of-00002.npz" in capsys.readouterr().err and not (tmp_path / "report.html").exists()
    assert main([*arguments, "--shard", "0/2", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    psnr = {row["name"]: row["value"] for row in results["metrics"]}["psnr"]
    assert psnr == pytest.approx({row["name"]: row["value"] for row in read_results(first)["metrics"]}["psnr"])
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard", "2/2"], "--shard: '2/2': expected I/N"),
        (["--generated", "nowhere"], "no such folder"),
        (["--weights", "nowhere"], "no such folder of weights"),
        (["--size", "big"], "--size is 'big'"),
        (["--baseline", "nowhere"], "no results"),
        (["--run", "nowhere"], "metrics.jsonl"),
        (["--estimator", "nobody"], "pose estimator 'nobody'"),
        (["--faces", "nobody"], "face model 'nobody'"),
        (["--protocol", "disco"], "invalid choice"),
    ],
)
def test_wrong_input_is_one_line(evaluated, tmp_path, capsys, more, message):
    root, *_ = evaluated
    arguments = ["evaluate", f"--generated={root / 'noisy/generated'}", "--out", str(tmp_path / "out"), *more]
    try:
        assert main(arguments) == 2
    except SystemExit as stopped:  # argparse's own
        assert stopped.code == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
