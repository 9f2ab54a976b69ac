"""Damaged picture files, through --mode=restore and through the training source."""

import time

import numpy as np
import pytest

from fmdp import data
from fmdp.config.defaults import default_config
from fmdp.data.decoding import UnusableError
from fmdp.errors import InputError
from fmdp.restoration.picture_files import read_picture
from tests.support import damaged_pictures
from tests.support.bad_input import at_most, one_line
from tests.support.image_folders import restored

FILES = 3000  # for each of the two ways
LONGEST = 5.0  # seconds that one file may take
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's of metadata, which fmdp ignores, too


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All damaged files, and the whole ones, in one folder."""
    root = tmp_path_factory.mktemp("fuzz") / "in"
    root.mkdir()
    for number, (suffix, content) in enumerate(damaged_pictures.damaged(FILES)):
        (root / f"{number:04d}.{suffix}").write_bytes(content)
    for name, content in damaged_pictures.originals().items():
        (root / name).write_bytes(content)
    return root


def test_each_file_is_decoded_or_refused_in_time(folder):
    slowest, whole = 0.0, 0
    for path in sorted(folder.iterdir()):
        began = time.monotonic()
        with at_most(LONGEST):
            try:
                pixels = read_picture(path).pixels
            except UnusableError as error:
                assert one_line(str(error)), path.name  # noqa: PT017
            else:
                whole += 1
                assert pixels.dtype == np.float32
                assert pixels.ndim == 3
                assert np.abs(pixels).max() <= 1
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < LONGEST
    assert 0.1 * FILES < whole < 0.7 * FILES  # the fuzzer reaches beyond the headers, and does damage


@pytest.mark.slow
def test_restoring_accounts_for_every_file(folder, tmp_path, capsys):
    done, faults = restored(folder, tmp_path / "out", seconds=300)
    names = {path.name for path in folder.iterdir()}
    assert len(names) == FILES + len(damaged_pictures.originals())
    assert done + len(faults) == len(names)
    assert done > 0.1 * FILES
    assert len(list(tmp_path.glob("out/*.json"))) == done
    assert len(list(tmp_path.glob("out/*_measured.png"))) == done
    assert not list(tmp_path.glob("out/.*"))
    assert all(one_line(line) for line in faults)
    assert {line.split(":")[0].rpartition("/")[2] for line in faults} < names
    assert "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("strict", [False, True])
def test_the_training_source_accounts_for_every_file(folder, strict, caplog):
    c = default_config().data
    c.update(path=str(folder), size=8, strict=strict)
    with at_most(120):
        if strict:
            with pytest.raises(InputError) as refused:
                data.load_split(c)
            assert one_line(str(refused.value))
            return
        split = data.load_split(c)
        images = split.train[:]
    assert len(split.train) + len(split.held_out) + len(split.left_out) == len(list(folder.iterdir()))
    assert all(one_line(line) for line in split.left_out)
    assert np.abs(images).max() <= 1
    standing_in = [record for record in caplog.records if "stands in" in record.getMessage()]
    assert 0 < len(standing_in) < FILES
    assert all(one_line(record.getMessage()) for record in caplog.records)
