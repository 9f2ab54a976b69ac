"""What is kept, what is refused, and a disk that is full."""

import json
import shutil
import subprocess
import sys
import textwrap
from collections import namedtuple

import flax.traverse_util
import numpy as np
import orbax.checkpoint as ocp
import pytest

from fmdp.errors import InputError
from fmdp.io.weights import read_weights
from fmdp.training import checkpoint, loop
from tests.cli.test_main import command
from tests.training.test_loop import IMAGES, leaves, small_config

SHAPE = IMAGES.shape[1:]


def steps(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())


@pytest.mark.device
@pytest.mark.slow
def test_the_last_and_every_nth_are_kept_with_their_weights(tmp_path):
    c = small_config(steps=11)
    c.train.update(checkpoint_every=1, max_to_keep=2, keep_period=4)
    state, progress = loop.fit(c, IMAGES, tmp_path)
    assert steps(tmp_path) == [4, 8, 10, 11]
    average = flax.traverse_util.flatten_dict(state.ema, sep="/")
    for folder in (tmp_path, tmp_path / "weights" / "11"):
        arrays, model, _ = read_weights(folder)
        assert arrays.keys() == average.keys()
        assert all((arrays[name] == average[name]).all() for name in average)
        assert model["network"]["width"] == c.network.width
        assert model["image_shape"] == SHAPE
        assert model["about"]["train"] == progress
    assert sorted(int(path.name) for path in (tmp_path / "weights").iterdir()) == [4, 8, 10, 11]
    assert read_weights(tmp_path / "weights" / "4")[1]["about"]["steps"] == 4


@pytest.mark.slow
def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    c = small_config()
    loop.fit(c, IMAGES, tmp_path)
    before = sorted(tmp_path.rglob("checkpoints/**/*"))
    c.train.steps = 12
    usage = namedtuple("usage", "total used free")(10**6, 10**6, 70_000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
    needed = sum(x.nbytes for x in leaves(loop.restore_state(c, SHAPE, tmp_path)[0]))
    with pytest.raises(InputError, match=r"no room .*checkpoints: it takes 0\.2 MB and 0\.1 MB are free") as refused:
        loop.fit(c, IMAGES, tmp_path)
    assert 0.9 * needed / 1e6 < float(str(refused.value).split("takes ")[1].split()[0])
    assert sorted(tmp_path.rglob("checkpoints/**/*")) == before
    monkeypatch.undo()
    assert loop.fit(c, IMAGES, tmp_path)[1]["steps"] == 12


TRAINED = """
    import pathlib, sys
    from fmdp.training import checkpoint
    from fmdp.training import loop
    from tests.training.test_loop import IMAGES, small_config
    c = small_config(steps=100)
    c.network.width = 56
    c.train.max_to_keep = 3
    checkpoint.shutil.disk_usage = lambda path: type("Usage", (), {"free": 10**9})
    loop.fit(c, IMAGES, pathlib.Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_old_checkpoints_whole(small_disk):
    """Told before writing by the command; while writing, where the room was not seen to be short (a quota)."""
    options = ["--config.network.width=64", "--config.train.steps=1000", "--config.train.checkpoint_every=5"]
    options += ["--config.train.max_to_keep=5", "--mode=train", f"--workdir={small_disk / 'told'}"]
    _, err = command("--config=configs/digits.py:smoke", *options).communicate(timeout=200)
    last = err.splitlines()[-1]
    assert "Traceback" not in err
    assert last.startswith("fmdp: no room for a checkpoint in ")
    kept = steps(small_disk / "told")
    assert kept
    assert kept[0] == 5
    assert len(list((small_disk / "told" / "checkpoints").iterdir())) == len(kept)  # and nothing half-written

    shutil.rmtree(small_disk / "told")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    full = command("--config=configs/digits.py:smoke", "--mode=train", f"--workdir={small_disk / 'full'}")
    out, err = full.communicate(timeout=200)
    assert (full.returncode, out, len(err.splitlines())) == (2, "", 1), err
    assert "No space left on device: make room" in err
    filler.unlink()

    run = small_disk / "run"
    program = [sys.executable, "-c", textwrap.dedent(TRAINED), str(run)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=200)
    assert "fmdp.errors.InputError: no room for a checkpoint in" in done.stderr, done.stderr[-2000:]
    assert "No space left" in done.stderr
    c = small_config()
    c.network.width = 56
    state, progress = loop.restore_state(c, SHAPE, run)
    assert progress["steps"] == max(steps(run)) == 8
    assert all(np.isfinite(x).all() for x in leaves(state))
    assert not list((run / "checkpoints").glob("*tmp*"))
    assert {path.name for path in (run / "weights").iterdir()} == {"4", "8"}
    read_weights(run)


@pytest.mark.slow
def test_records_of_other_formats_and_those_that_lie(tmp_path):
    c = small_config()
    state, _ = loop.fit(c, IMAGES, tmp_path)
    record = tmp_path / "checkpoints" / "8" / "run" / "metadata"
    whole = json.loads(record.read_text())
    assert whole["format"] == checkpoint.FORMAT

    def write(**changed):
        run = {name: x for name, x in (whole | changed).items() if name != "digest" and x is not None}
        record.write_text(json.dumps(run | {"digest": checkpoint._digest(run)}))

    newer = checkpoint.FORMAT + 1
    write(format=newer)
    with pytest.raises(InputError, match=rf"checkpoints/8 has format {newer}, and .* reads up to format {newer - 1}"):
        loop.fit(c, IMAGES, tmp_path)
    assert steps(tmp_path) == [4, 8]
    write(format=None)
    old, progress = loop.restore_state(c, SHAPE, tmp_path)
    assert progress["steps"] == 8
    for a, b in zip(leaves(old), leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)

    progress = whole["progress"]
    for lie in (
        dict(format="x"), dict(config=[]), dict(progress=3), dict(data=3), dict(data={"next_index": -5}),
        *(dict(progress=progress | changed) for changed in ({"steps": "8"}, {"steps": 3}, {"steps": -3}, {"steps": 8.0},
          {"skipped": 2**40}, {"seconds": None})),
    ):  # fmt: skip
        write(**lie)
        assert loop.restore_state(c, SHAPE, tmp_path)[1]["steps"] == 4, lie
    older = {name: x for name, x in whole["config"]["loss"].items() if name != "weighting"}  # a key that came later
    write(config=whole["config"] | {"loss": older})
    assert loop.restore_state(c, SHAPE, tmp_path)[1]["steps"] == 8
    write(config=whole["config"] | {"data": 3})
    with pytest.raises(InputError, match=r"config.data was 3 and is now \{"):
        loop.restore_state(c, SHAPE, tmp_path)
    for half in (tmp_path / "checkpoints").glob("*/_CHECKPOINT_METADATA"):
        half.write_text("[" * 10**5)
    with pytest.raises(InputError, match=r"checkpoints cannot be opened .*: remove what is damaged in it"):
        loop.restore_state(c, SHAPE, tmp_path)


@pytest.mark.device
@pytest.mark.slow
def test_another_architecture_is_refused_with_nothing_but_the_difference(tmp_path):
    c = small_config(steps=2)
    loop.fit(c, IMAGES, tmp_path)
    c.network.width = 9
    with pytest.raises(InputError, match=r"config.network was \{'width': 8\} and is now \{'width': 9\};"):
        loop.restore_state(c, SHAPE, tmp_path)


@pytest.mark.slow
def test_a_run_resumes_with_products_of_another_type(tmp_path):
    c = small_config(steps=2)
    c.network = dict(name="unet", channels=4, multipliers=(1,), blocks=0, attention=(), dtype="bfloat16", remat=True)
    state, _ = loop.fit(c, IMAGES, tmp_path)
    c.network.update(dtype="auto", remat=False)
    for a, b in zip(leaves(loop.restore_state(c, SHAPE, tmp_path)[0]), leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_reading_disturbs_no_writing_and_follows_what_is_replaced(tmp_path, monkeypatch):
    c = small_config()
    loop.fit(c, IMAGES, tmp_path / "run")
    half = tmp_path / "run" / "checkpoints" / "12.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "run" / "checkpoints" / "4", half)
    assert loop.restore_state(c, SHAPE, tmp_path / "run")[1]["steps"] == 8
    assert half.is_dir()

    c.train.steps = 12
    shutil.copytree(tmp_path / "run", tmp_path / "later")
    later, _ = loop.fit(c, IMAGES, tmp_path / "later")
    assert steps(tmp_path / "later") == [8, 12]
    read = checkpoint.Checkpoints._read

    def overtaken(self, step, items):
        for old in (4, 8):
            shutil.rmtree(tmp_path / "run" / "checkpoints" / str(old), ignore_errors=True)
        shutil.copytree(tmp_path / "later" / "checkpoints" / "12", tmp_path / "run" / "checkpoints" / "12")
        monkeypatch.setattr(checkpoint.Checkpoints, "_read", read)
        return read(self, step, items)

    names = type(ocp.path.step.standard_name_format())
    find = names.find_all

    def removed(self, folder):
        monkeypatch.setattr(names, "find_all", find)
        found = list(find(self, folder))
        shutil.rmtree(folder / "4")
        return found

    monkeypatch.setattr(names, "find_all", removed)
    monkeypatch.setattr(checkpoint.Checkpoints, "_read", overtaken)
    state, progress = loop.restore_state(c, SHAPE, tmp_path / "run")
    assert progress["steps"] == 12
    for a, b in zip(leaves(state), leaves(later), strict=True):
        np.testing.assert_array_equal(a, b)
