"""The page of one restored picture."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from fmdp.reporting.restoration_page import render_restoration_page, write_restoration_page
from fmdp.restoration.prepare import Note
from fmdp.restoration.request import Request
from fmdp.restoration.restore import Restored
from tests.reporting.test_html_page import EVIL, Page
from tests.support import browser as browsers

LOOKAHEADS = (0.0, 0.5, 1.0)


def restored(clean=True, side=12, notes=()):
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (len(LOOKAHEADS), 1, side, side, 3)).astype(np.float32)
    facts = {"sigma_255": 25.5, "sigma_estimated": not clean, "tiles": 4}
    facts |= {"psnr": [30.0, 29.5, 28.25]} if clean else {}
    return Restored(images, images[0, 0] + 0.2, images[1, 0] if clean else None, facts, tuple(notes))


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_slider_has_every_lookahead_with_its_picture():
    result = restored()
    data = Page(render_restoration_page("cat", result, Request(lookaheads=LOOKAHEADS))).data()
    assert data["readout"] == [f"lookahead {r:.2f}: PSNR {p:.2f} dB" for r, p in ((0, 30), (0.5, 29.5), (1, 28.25))]
    for uri, image in zip(data["pictures"], result.images[:, 0], strict=True):
        assert np.abs(decode(uri) - (image + 1) * 127.5).max() <= 0.51


def test_original_and_psnr_are_only_shown_where_they_are_known():
    for known in (True, False):
        page = render_restoration_page("cat", restored(known), Request(lookaheads=LOOKAHEADS))
        assert ("original" in page) is ("PSNR" in page) is known
        assert ("estimated from the picture" in page) is not known
        assert "standard deviation 25.5 of 255" in page


def test_the_sides_are_told_apart_by_words():
    result = restored()
    wide = result._replace(images=result.images[:, :, :7])
    assert "7 pixels high, 12 wide" in render_restoration_page("cat", wide, Request(lookaheads=LOOKAHEADS))


def test_plug_and_play_promises_nothing_about_the_ends():
    request = Request(operator="gaussian_blur", parameters={"kernel_size": 5, "std": 1.0}, lookaheads=LOOKAHEADS)
    page = render_restoration_page("cat", restored(), request)
    assert "in many steps" in page
    assert "to look real</span>" not in page


def test_names_and_notes_are_text():
    page = render_restoration_page(EVIL, restored(notes=[Note(EVIL)]), Request(lookaheads=LOOKAHEADS))
    assert EVIL not in page
    parsed = Page(page)
    assert parsed.texts["h1"] == [f"{EVIL}, restored"]
    assert all(a.get(key, "data:").startswith("data:") for _, a in parsed.tags for key in ("src", "href"))


@pytest.mark.slow
@pytest.mark.skipif(not (browsers.CHROMIUM and browsers.DRIVER), reason="needs chromium and chromedriver")
def test_page_in_a_browser(tmp_path):
    path = tmp_path / "cat.html"
    write_restoration_page(path, restored(side=120), Request(lookaheads=LOOKAHEADS))
    state = """
        const views = [...document.querySelectorAll(".view")];
        return {images: views.map(view => view.firstChild.src), widths: views.map(view => view.firstChild.clientWidth),
          scrolls: views.map(view => view.scrollLeft), text: document.getElementById("readout").textContent,
          loaded: views.every(view => view.firstChild.naturalWidth === 120),
          page: document.documentElement.scrollWidth}"""
    with browsers.browser() as browser:
        for width in (1280, 390):
            browser.look(width)
            browser.open(path)
            first = browser.run(state)
            assert first["loaded"]
            assert first["page"] == width
            browser.press("#lookahead", browsers.RIGHT)
            moved = browser.run(state)
            changed = [a != b for a, b in zip(first["images"], moved["images"], strict=True)]
            assert changed == [False, True, False]
            assert moved["text"] == "lookahead 0.50: PSNR 29.50 dB"
            browser.press("#enlarge", browsers.RIGHT * 2)  # twice as large
            large = browser.run(state)
            assert all(b > 1.8 * a for a, b in zip(first["widths"], large["widths"], strict=True))  # less a scrollbar
            assert large["page"] == width
            script = 'document.querySelector(".view").scrollLeft = 7; return new Promise(r => setTimeout(r, 200))'
            browser.run(script)
            assert browser.run(state)["scrolls"] == [7, 7, 7]
        assert browser.log() == []
