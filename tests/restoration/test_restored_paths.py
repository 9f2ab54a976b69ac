"""Picture files that Python code restores by their paths: the file tells its range."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from fmdp.errors import InputError, ParameterError
from fmdp.restoration.picture_files import read_picture
from fmdp.restoration.prepare import Note
from fmdp.restoration.request import Request
from fmdp.restoration.restore import restore
from tests.support.exact_priors import COLOUR, PRIOR

REQUEST = Request(sigma=0.3)
BRIGHT = np.random.default_rng(0).integers(140, 256, (9, 11), np.uint8)


def test_a_bright_picture_needs_no_range(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(BRIGHT).save("bright.png")
    wanted = restore(PRIOR, BRIGHT, REQUEST)
    for given in (
        "bright.png",
        pathlib.Path("bright.png"),
        tmp_path / "bright.png",
        read_picture(tmp_path / "bright.png"),
    ):
        found = restore(PRIOR, given, REQUEST)
        np.testing.assert_array_equal(found.images, wanted.images)
        np.testing.assert_array_equal(found.measured, wanted.measured)
        assert found.facts == wanted.facts | {"range": [0, 255]}
        assert found.notes == wanted.notes
    with pytest.raises(ParameterError, match="use only the upper half"):  # an array does not tell it
        restore(PRIOR, read_picture(tmp_path / "bright.png").pixels, REQUEST)


def test_what_was_assumed_about_a_file_comes_first(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (8, 8)).astype(np.uint16)
    pixels[0, 0] = 4095
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    found = restore(COLOUR, tmp_path / "deep.png", REQUEST)
    text = f"values from {pixels.min()} to 4095 of uint16: white is taken as 4095"
    assert found.notes[:2] == (Note(text, "range"), Note("gray, restored in colour"))
    assert found.facts["notes"][0] == text
    stated = restore(COLOUR, tmp_path / "deep.png", Request(sigma=0.3, range=(0, 8190)))
    np.testing.assert_allclose(stated.measured[..., :1], pixels[..., None] / 4095 - 1, atol=1e-6)
    assert stated.facts["range"] == [0, 8190]


def test_results_are_shown_without_their_numbers(tmp_path):
    Image.fromarray(BRIGHT).save(tmp_path / "bright.png")
    picture = read_picture(tmp_path / "bright.png")
    assert repr(picture) == "Picture(pixels=array(9, 11, 1), range=(0, 255), notes=[])"
    for request, clean in ((REQUEST, "None"), (Request(degraded=False), "array(9, 11, 1)")):
        found = restore(PRIOR, picture, request)
        arrays = f"images=array(1, 1, 9, 11, 1), measured=array(9, 11, 1), clean={clean}"
        assert repr(found) == f"Restored({arrays}, facts={found.facts})"


def test_files_that_cannot_be_restored_are_one_line(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    np.save(tmp_path / "x.npy", np.linspace(0, 3000, 64).reshape(8, 8))
    for name, message in [
        ("bad.png", "bad.png'): not an image"),
        ("none.png", "none.png'): No such file or directory: name a picture file"),
        ("", "'): neither a file nor a link to one"),
        ("x.npy", "x.npy: values from 0 to 3000 are not floats from -1 to 1: state"),
    ]:
        with pytest.raises(InputError) as refused:
            restore(PRIOR, tmp_path / name, REQUEST)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="is an address"):
        restore(PRIOR, "https://host/photo.png", REQUEST)
