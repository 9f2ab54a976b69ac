import base64
import html.parser
import io
import json
import math
import re
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from fmdp.evaluation.summary import digest, read_summary
from fmdp.reporting import animation, html_page, panels
from fmdp.reporting.pictures import load_pictures, save_pictures
from fmdp.reporting.report import write_report
from tests.support import browser as browsers

EVIL = "<script>alert(1)</script>.png"
VOID = {"meta", "link", "input", "img", "br"}
COMMAND = "python -m fmdp.main --config=configs/digits.py"
FLOOR = {
    "kernel_distance": {"mean": 0.0, "low": -2e-4, "high": 3e-4},
    "frechet_distance": {"mean": 0.15, "low": 0.1, "high": 0.2},
}


def points(random, count, **more):
    mse, perception = np.sort(random.uniform(0.1, 0.3, count)), -np.sort(-random.uniform(0, 0.1, count))
    setting = np.linspace(0, 1, count)
    return [
        {"t": 0.5 + 0.5 * float(r), "setting": float(r), "evaluations": 1, "mse": float(x), "mse_std": 0.01}
        | {"psnr": float(20 - x), "kernel_distance": float(y), "frechet_distance": 3 * float(y)}
        | more
        for r, x, y in zip(setting, mse, perception, strict=True)
    ]


def truth(settings):
    """The truth of one noise level."""
    rows = []
    for r in np.linspace(0, 1, settings).tolist():
        interval = {"low": 0.05 * (1 - r), "high": 0.1 * (1.1 - r), "low_error": 0.0, "high_error": 0.0}
        rows.append({"setting": r, "mse": 0.1 + 0.1 * r, "mse_error": 0.0, "squared_w2": interval, "excess": interval})
    curves = [{"field": f, "knob": k, "points": rows} for f in ("exact", "learned") for k in ("lookahead", "chord")]
    frontier = [{"perception": p, "mse": 0.2 - p, "mse_high": 0.2 - p} for p in (0.0, 0.1)]
    level = {"noise_level": 0.5, "s": 0.5, "mmse": 0.1, "squared_p_star": interval, "floor": 0.0, "field_error": []}
    return level | {"curves": curves, "frontier": frontier}


def run(levels=3, settings=15, images=3, name="digits", task="box_inpainting", side=8, known=False):
    """The summary and the pictures of a run."""
    random = np.random.default_rng(0)
    summary = {"config": name, "images": 359, "draws": 4, "denoise": [], "floor": FLOOR, "inverse_floor": FLOOR}
    pictures = {}
    shape = (images, side, side)
    for level in range(levels):
        for knob, count in (("lookahead", settings), ("chord", settings), ("mean_of_samples", 3)):
            curve = {"noise_level": 0.3 + 0.2 * level, "s": 0.5, "knob": knob, "points": points(random, count)}
            summary["denoise"].append(curve)
        for key, of in (("clean", shape), ("noisy", shape), ("restored", (settings, *shape))):
            pictures[f"denoise/{level}/{key}"] = random.integers(0, 256, of, np.uint8)
    if known:
        summary["truth"] = [truth(settings) for _ in range(levels)]
    rows = []
    for steps, knob in ((20, "relative"), (100, "relative"), (100, "chord")):
        more = {"task": task, "solver": "pnp", "knob": knob, "steps": steps, "nfe": steps}
        rows += [row | more | {"t_or_lookahead": row["setting"]} for row in points(random, 3)]
    rows.append({"task": task, "solver": "dps", "knob": "", "t_or_lookahead": None, "failed": "dps diverged"})
    other = {"task": task, "solver": "ot_ode", "knob": "", "t_or_lookahead": None, "steps": 100}
    rows.append(points(random, 1)[0] | other)
    summary["inverse"] = rows
    pictures["inverse/0/clean"] = random.integers(0, 256, (1, side, side), np.uint8)
    pictures["inverse/0/noisy"] = random.integers(0, 256, (1, side // 2, side // 2), np.uint8)
    pictures["inverse/0/restored"] = random.integers(0, 256, (10, 1, side, side), np.uint8)
    config = {"name": name, "seed": 7, "data": {"path": name}, "inverse": {"seeds": 2}}
    summary["made"] = {"command": f"{COMMAND} --config.name={name}", "versions": {"jax": "0.0"}, "config": config}
    summary["inverse_made"] = summary["made"]
    return summary, pictures


def render(summary, pictures):
    """The page of a summary as JSON."""
    return html_page.render_page(read_summary(summary), pictures)


class Page(html.parser.HTMLParser):
    """The parts of a page that are compared."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.texts = [], [], [], {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tbody":
            self.tables.append([])
        elif tag == "data":
            self.tables[-1].append(json.loads(dict(attrs)["value"]))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open:
            name = self.open[-1]
            if name in ("pre", "script", "h1", "option", "dd"):
                self.texts.setdefault(name, []).append(text)

    def data(self):
        return json.loads(self.texts["script"][0])


def test_page_is_well_formed_and_asks_for_nothing():
    page = Page(render(*run(known=True)))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        if tag == "label":
            assert attributes["for"] in ids
        if tag == "img":
            assert attributes["alt"] or "src" not in attributes
        for key in ("src", "href"):
            assert attributes.get(key, "data:").startswith("data:")
    assert sum("data-measure" in attributes for _, attributes in page.tags) == 3 * 3 + 2
    styles = [attributes.get("class", "") for _, attributes in page.tags]
    assert styles.count("curve exact-lookahead") == styles.count("curve frontier") == 2 * 3  # in plane and legend


def test_every_number_of_the_tables_is_that_of_the_summary():
    summary, pictures = run()
    page = Page(render(summary, pictures))
    assert len(page.tables) == 4
    for level, table in enumerate(page.tables[:3]):
        curves = [c for c in summary["denoise"] if math.isclose(c["noise_level"], 0.3 + 0.2 * level)]
        assert table == [v for c in curves for p in c["points"] for k, v in p.items() if k != "mse_std"]
    numbers = sorted(
        v for r in summary["inverse"] for k, v in r.items() if isinstance(v, int | float) and k != "mse_std"
    )
    assert sorted(page.tables[3]) == numbers
    assert "dps diverged" in render(summary, pictures)


def test_marker_stands_on_the_curve_and_pictures_follow():
    summary, pictures = run()
    data = Page(render(summary, pictures)).data()
    for view, level in zip(data, panels.build_panels(read_summary(summary), pictures), strict=True):
        for plane in view["planes"]:
            marker = np.array(plane["marker"])
            assert (np.diff(marker[:, 0]) >= 0).all()  # more distortion is to the right
            assert (np.diff(marker[:, 1]) >= 0).all()  # less distance is lower
            assert (marker[-1] - marker[0] > 50).all()
            assert len(marker) == len(plane["readout"]) == len(view["positions"]) == len(level.positions)
        assert all(len(row["restored"]) == len(row["residual"]) == len(marker) for row in view["pictures"])
    assert [len(view["pictures"]) for view in data] == [3, 3, 3, 1]
    assert data[3]["positions"] == ["lookahead 0", "lookahead 0.5", "lookahead 1"]
    restored, residual = (decoded(data[1]["pictures"][2][key][4]) for key in ("restored", "residual"))
    assert np.array_equal(restored, pictures["denoise/1/restored"][4, 2])
    apart = np.abs(restored.astype(int) - pictures["denoise/1/clean"][2])
    assert np.array_equal(residual, np.minimum(2 * apart, 255))
    longest = decoded(data[3]["pictures"][0]["restored"][1])
    assert np.array_equal(longest, pictures["inverse/0/restored"][4, 0])


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


@pytest.mark.parametrize(("settings", "last"), [(3, "t = 1.00"), (15, "t = 1.000"), (100, "t = 1.0000")])
def test_positions_within_a_view_are_told_apart(settings, last):
    summary, _ = run(settings=settings)
    for curve in summary["denoise"]:
        for point, r in zip(curve["points"], np.linspace(0, 1, settings), strict=False):
            point["t"] = 0.5 + 0.5 * float(1 - (1 - r) ** 2)  # as in a sweep: close together towards t = 1
    found = panels.build_panels(read_summary(summary), {})
    assert len(found) == 4
    for view in found:
        assert len(set(view.positions)) == len(view.positions)
    assert found[0].positions[-1] == last


def test_task_is_named_with_its_parameters_and_knows_no_sure_ends():
    summary, pictures = run()
    task = {"operator": "box_inpainting", "size": 3, "sigma": 0.05}
    summary["inverse_made"]["config"]["inverse"]["tasks"] = {"box_inpainting": task}
    text = render(summary, pictures)
    assert "<h2>Inverse problems: box inpainting</h2>" in text
    assert "operator box_inpainting, sigma 0.05, size 3</p>" in text
    data = Page(text).data()
    assert data[0]["ends"] == ["t = s: for least error", "t = 1: to look real"]
    assert data[3]["ends"] == ["lookahead 0", "lookahead 1"]
    del summary["denoise"]
    alone = render(summary, pictures)
    assert "<span>lookahead 0</span><span>lookahead 1</span>" in alone
    assert 'data-group="Denoising" hidden' in alone
    assert 'data-group="Inverse problems" hidden' not in alone


def test_names_and_values_are_shown_as_text():
    text = render(*run(name=EVIL, task=EVIL))
    assert "<script>alert" not in text
    page = Page(text)
    assert EVIL in page.texts["h1"][0]
    assert EVIL in page.texts["option"]
    assert [json.loads(text)["data"]["path"] for text in page.texts["pre"][1::2]] == [EVIL, EVIL]
    assert f"{COMMAND} --config.name={EVIL}" in page.texts["pre"]
    summary, pictures = run()
    summary["denoise"][0]["points"][0]["mse"] = summary["denoise"][0]["points"][1]["kernel_distance"] = math.nan
    marker = Page(render(summary, pictures)).data()[0]["planes"][0]["marker"]
    assert marker[0] is None
    assert marker[1] is None
    assert None not in marker[2:]


def test_page_of_little_or_much():
    assert "has not been measured" in render({"config": "x"}, {})
    summary, _ = run(images=1)
    assert not any(view["pictures"] for view in Page(render(summary, {})).data())
    failed = {
        "config": "x",
        "inverse": [{"task": "a", "solver": "pnp", "knob": "", "t_or_lookahead": None, "failed": "why"}],
    }
    assert "why" in render(failed, {})
    assert len(render(*run())) < 6e6


def test_page_of_too_few_images_to_measure(tmp_path):
    """Of one held-out image no perception can be told."""
    summary, pictures = run(images=1, levels=1)
    for point in (point for curve in summary["denoise"] for point in curve["points"]):
        point |= {"kernel_distance": math.inf, "frechet_distance": math.nan}
    summary["floor"] = {name: dict.fromkeys(("mean", "low", "high"), math.nan) for name in FLOOR}
    data = Page(render(summary, pictures)).data()
    assert len(data[0]["pictures"]) == 1
    assert data[0]["planes"][0]["marker"] == [None] * 15
    animation.write_gif(tmp_path / "knob.gif", panels.build_panels(read_summary(summary), pictures)[0])
    assert (tmp_path / "knob.gif").exists()


def test_pictures_of_the_other_group_stay(tmp_path):
    summary, pictures = run(settings=4)
    write_report(tmp_path, read_summary(summary), pictures)
    new = {"inverse/0/clean": 0 * pictures["inverse/0/clean"]}
    write_report(tmp_path, read_summary(summary), new)
    path = tmp_path / "pictures.npz"
    assert load_pictures(path, "denoise", read_summary(summary)).keys() == {
        name for name in pictures if name.startswith("denoise/")
    }
    assert load_pictures(path, "inverse", read_summary(summary)).keys() == new.keys()
    assert [len(view["pictures"]) for view in Page((tmp_path / "report.html").read_text()).data()] == [3, 3, 3, 0]
    path.write_bytes(b"PK damaged")
    assert load_pictures(path, "inverse", read_summary(summary)) == {}
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "pictures.npz", "knob.gif"}


def test_pictures_of_other_numbers_are_not_shown(tmp_path):
    """There are as many pictures as numbers in both runs, so that only the digest tells them apart."""
    summary, pictures = run(levels=1)
    path = tmp_path / "pictures.npz"
    save_pictures(path, pictures, read_summary(summary))
    again = json.loads(json.dumps(summary))
    assert load_pictures(path, "denoise", read_summary(again)).keys() == {n for n in pictures if n[0] == "d"}
    again["denoise"][0]["points"][3]["mse"] += 1e-9
    assert load_pictures(path, "denoise", read_summary(again)) == {}
    assert load_pictures(path, "inverse", read_summary(again)).keys() == {n for n in pictures if n[0] == "i"}
    again["inverse"][0]["seeds"] = [{"mse": 0.5}]
    write_report(tmp_path, read_summary(again), {})
    assert [view["pictures"] for view in Page((tmp_path / "report.html").read_text()).data()] == [[], []]


def test_pictures_of_the_first_version_are_recognised_by_their_number(tmp_path):
    """Version 0.1.0 wrote no digest."""
    summary, pictures = run(levels=2, settings=4)
    np.savez_compressed(tmp_path / "pictures.npz", **pictures)
    for group in ("denoise", "inverse"):
        kept = load_pictures(tmp_path / "pictures.npz", group, read_summary(summary))
        assert kept.keys() == {name for name in pictures if name.startswith(group)}
    other, _ = run(levels=2, settings=5)
    del other["inverse"][0]
    for group in ("denoise", "inverse"):
        assert load_pictures(tmp_path / "pictures.npz", group, read_summary(other)) == {}


def test_digest_survives_json():
    summary, _ = run()
    summary["denoise"][0]["points"][0]["mse"] = math.nan
    read = read_summary(json.loads(json.dumps(summary)))
    assert digest(read.denoise) == digest(read_summary(summary).denoise)
    assert digest(read.denoise) != digest(read.inverse)


@pytest.mark.parametrize("drawn", [True, False])
def test_moving_picture_has_a_frame_for_every_setting(tmp_path, drawn):
    summary, pictures = run(levels=1, settings=5)
    animation.write_gif(tmp_path / "knob.gif", panels.build_panels(read_summary(summary), pictures if drawn else {})[0])
    with Image.open(tmp_path / "knob.gif") as picture:
        assert picture.n_frames == 5
        assert picture.width <= 720
        first = np.asarray(picture.convert("RGB"))
        picture.seek(4)
        assert picture.info["duration"] == animation.PAUSE
        assert (np.asarray(picture.convert("RGB")) != first).mean() > 0.001
    assert (tmp_path / "knob.gif").stat().st_size < 600_000


def luminance(colour):
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_wcag_aa():
    folder = resources.files("fmdp").joinpath("reporting/templates")
    text = "".join(folder.joinpath(name).read_text() for name in ("base.html.j2", "report.html.j2"))
    colours = re.findall(r"--([a-z]+): light-dark\((#\w{6}), (#\w{6})\)", text)
    named = {name: pair for name, *pair in colours if name != "c"}
    lines = [pair for name, *pair in colours if name == "c"]
    assert len(lines) >= 10
    for theme in (0, 1):
        for ink in ("ink", "soft", "accent"):
            for ground in ("page", "card"):
                assert contrast(named[ink][theme], named[ground][theme]) >= 4.5, (ink, ground, theme)
        for pair in [*lines, named["rule"]]:
            assert contrast(pair[theme], named["page"][theme]) >= 3, (pair, theme)
        for pair in lines:
            assert contrast(pair[theme], named["band"][theme]) >= 3, (pair, theme)


@pytest.mark.slow
@pytest.mark.skipif(not (browsers.CHROMIUM and browsers.DRIVER), reason="needs chromium and chromedriver")
def test_page_in_a_browser(tmp_path):
    summary, pictures = run(name=EVIL, task=EVIL, known=True)
    html_page.write_page(tmp_path / "report.html", read_summary(summary), pictures)
    state = """
        const section = document.querySelector(".view:not([hidden])");
        return {marker: section.querySelector(".plane:not([hidden]) .marker").getAttribute("transform"),
          images: [...section.querySelectorAll("img[data-row]")].map(image => image.src),
          loaded: [...section.querySelectorAll("img")].every(image => image.complete && image.naturalWidth > 0),
          section: section.id, value: document.getElementById("lookahead").value,
          text: document.getElementById("readout").textContent,
          spoken: document.getElementById("lookahead").getAttribute("aria-valuetext"),
          ground: getComputedStyle(document.body).backgroundColor, dialog: document.getElementById("dialog").open}"""
    choose = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change'))"
    )
    with browsers.browser() as browser:
        browser.look(1280)
        browser.open(tmp_path / "report.html")
        first = browser.run(state)
        assert (first["section"], first["value"], first["loaded"]) == ("view-2", "0", True)
        browser.press("#lookahead", browsers.RIGHT)
        moved = browser.run(state)
        assert moved["value"] == "1"
        assert all(moved[key] != first[key] for key in ("marker", "text", "spoken"))
        changed = [a != b for a, b in zip(first["images"], moved["images"], strict=True)]
        assert changed == [False, False, True, True] * 3  # original and noisy stay
        browser.run(choose, "measure", "frechet_distance")
        assert "Fréchet" in browser.run(state)["text"]
        browser.press("#view", "noise level 0.3")
        other = browser.run(state)
        assert other["section"] == "view-0"
        assert other["value"] == "1"
        words = 'return [...document.querySelectorAll(".intro:not([hidden]), .ends")].map(e => e.innerText).join(" ")'
        assert "in one step" in browser.run(words)
        browser.run(choose, "view", "3")
        assert "in many steps" in browser.run(words)
        assert "in one step" not in browser.run(words)
        assert "to look real" not in browser.run(words)
        task = browser.run(state)
        assert task["section"] == "view-3"
        assert len(task["images"]) == 4
        browser.press(".view:not([hidden]) .zoom", browsers.ENTER)
        assert browser.run(state)["dialog"]
        browser.press("dialog button", browsers.ESCAPE)
        assert not browser.run(state)["dialog"]
        browser.press("#theme", browsers.ENTER)
        dark = browser.run(state)["ground"]
        assert dark != first["ground"]
        browser.look(390, 844, "dark")
        browser.open(tmp_path / "report.html")
        assert browser.run(state)["ground"] == dark
        for number in range(4):
            browser.run(choose, "view", str(number))
            assert browser.run("return document.documentElement.scrollWidth") == 390
        assert browser.log() == []
