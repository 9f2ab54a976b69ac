import zipfile

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from fmdp import data
from fmdp.config.defaults import default_config
from fmdp.config.validation import validate
from fmdp.data.crops import DRAWS, crop_box, cut, fixed_draw
from fmdp.errors import InputError

SIZE = 8


def coordinates(width, height):
    """A picture whose red is the column and whose green is the row of each pixel."""
    row, column = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([column, row, 0 * row], -1).astype(np.uint8))


def fill(root, count=8, first=0):
    """A folder of pictures of several sizes."""
    root.mkdir(exist_ok=True)
    for i in range(first, first + count):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + 3 * i, 40 - 2 * i, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"photo{i}.png")
    return root


def opened(path):
    with Image.open(path) as picture:
        return picture.copy()


def settings(path, **changes):
    c = default_config().data
    c.update(dict(path=str(path), size=SIZE, test_share=0.25, crop="random") | changes)
    return c


def steps(iterator, count):
    return np.stack([next(iterator)["image"] for _ in range(count)])


def test_at_scale_1_a_crop_is_a_slice_at_the_drawn_place():
    picture = coordinates(200, 150)
    for draw, (left, top) in (((0.5, 0, 0), (0, 0)), ((0.1, 0.5, 0.25), (96, 35)), ((0, 0.9999, 0.9999), (192, 142))):
        box = crop_box(200, 150, SIZE, 1.0, np.array(draw))
        assert box == (left, top, left + SIZE, top + SIZE)
        np.testing.assert_array_equal(
            cut(picture, box, SIZE), np.asarray(picture)[top : top + SIZE, left : left + SIZE]
        )
    gray = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    np.testing.assert_array_equal(cut(gray, (1, 2, 3, 4), 2), [[[9], [10]], [[13], [14]]])


def test_a_shrunk_crop_shows_the_drawn_place_to_its_edges():
    """The filter keeps a ramp a ramp: pixel j shows place left + (j + 1/2) side / size - 1/2, also at the edges."""
    picture = coordinates(200, 150)
    for draw in np.random.default_rng(0).random((50, DRAWS)):
        left, top, right, bottom = crop_box(200, 150, SIZE, 0.2, draw)
        side = right - left
        assert side == bottom - top
        if min(left, top, 200 - right, 150 - bottom) < 3 * side / SIZE:  # there the filter meets the picture's border
            continue
        at = (np.arange(SIZE) + 0.5) * side / SIZE - 0.5
        crop = cut(picture, (left, top, right, bottom), SIZE)
        np.testing.assert_allclose(crop[..., 0], np.tile(left + at, (SIZE, 1)), atol=0.6)
        np.testing.assert_allclose(crop[..., 1], np.tile(top + at, (SIZE, 1)).T, atol=0.6)


def test_a_crop_is_that_of_the_shrunk_picture_without_aliases():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    half = np.asarray(picture.resize((60, 45), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(cut(picture, (40, 20, 56, 36), SIZE), half[10:18, 20:28])
    board = Image.fromarray((255 * (np.indices((90, 120)).sum(0) % 2)).astype(np.uint8))
    np.testing.assert_allclose(cut(board, (31, 20, 59, 48), SIZE), 127.5, atol=1)


def test_scales_and_places_are_uniform():
    draws = np.random.default_rng(1).random((7000, DRAWS))
    boxes = np.array([crop_box(10, 8, 4, 1.0, draw) for draw in draws])
    counts = np.histogram2d(boxes[:, 0], boxes[:, 1], [np.arange(8), np.arange(6)])[0]
    assert counts.sum() == len(draws)
    assert scipy.stats.chisquare(counts.ravel()).pvalue > 0.01
    for min_scale, smallest in ((0.0, 64 / 3000), (0.25, 0.25)):
        boxes = np.array([crop_box(4000, 3000, 64, min_scale, draw) for draw in draws])
        left, top, right, bottom = boxes.T
        np.testing.assert_array_equal(right - left, bottom - top)
        assert (boxes >= 0).all()
        assert right.max() <= 4000
        assert bottom.max() <= 3000
        scales = 64 / (right - left)
        assert scipy.stats.kstest(scales, scipy.stats.uniform(smallest, 1 - smallest).cdf).pvalue > 0.01
        across = left / (4000 - (right - left))
        assert scipy.stats.kstest(across, "uniform").pvalue > 0.01
        assert abs(np.corrcoef(scales, across)[0, 1]) < 0.05
    assert crop_box(4000, 3000, 64, 0.0, np.array([0, 0.5, 0.5])) == (500, 0, 3500, 3000)
    assert crop_box(64, 64, 64, 0.0, np.array([0.3, 0.9, 0.9])) == (0, 0, 64, 64)


def test_batches_show_the_crops_of_their_draws(tmp_path):
    images = data.load_split(settings(fill(tmp_path), min_scale=0.3)).train
    batches, names = data.batches(images, 6, seed=5), images.names
    for epoch in range(3):
        draws = np.random.default_rng((5, epoch, 3)).random((6, DRAWS))
        index = data.records(images, 6, 5, epoch)
        np.testing.assert_array_equal(np.sort(index), np.arange(6))
        for shown, i, draw in zip(next(batches)["image"], index, draws, strict=True):
            picture = opened(tmp_path / names[i])
            np.testing.assert_array_equal(shown, cut(picture, crop_box(*picture.size, SIZE, 0.3, draw), SIZE))


def test_crops_follow_from_seed_and_epoch_and_resume_at_any_batch(tmp_path):
    c = settings(fill(tmp_path))
    kept, read = (data.load_split(settings(tmp_path, memory_gb=memory)).train for memory in (1.0, 0.0))
    assert (kept.kept, read.kept) == (True, False)
    expected = steps(data.batches(kept, 4, 0, flip=True), 12)
    np.testing.assert_array_equal(steps(data.batches(read, 4, 0, flip=True), 12), expected)
    others = steps(data.batches(kept, 4, 1, flip=True), 12)
    ours, theirs = ({crop.tobytes() for crop in crops.reshape(48, -1)} for crops in (expected, others))
    assert len(ours) > 45  # each epoch draws anew, and
    assert len(ours & theirs) < 3  # small pictures have few places
    for position in range(12):
        resumed = data.batches(data.load_split(c).train, 4, 0, flip=True)
        resumed.set_state({"next_index": position})
        np.testing.assert_array_equal(steps(resumed, 12 - position), expected[position:])
        resumed.close()
    halves = [steps(data.batches(kept, 4, 0, process, 2, flip=True), 12) for process in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves, 1), expected)


@pytest.mark.slow
def test_worker_processes_give_the_crops_of_threads_and_resume_them(tmp_path):
    images = data.load_split(settings(fill(tmp_path), memory_gb=0.0)).train
    expected = steps(data.batches(images, 4, 0, flip=True), 6)
    workers = data.batches(images, 4, 0, flip=True, workers=2)
    np.testing.assert_array_equal(steps(workers, 3), expected[:3])
    workers.set_state({"next_index": 2})
    np.testing.assert_array_equal(steps(workers, 4), expected[2:])
    workers.close()


def test_held_out_crops_are_fixed_by_their_names_and_have_the_law_of_training(tmp_path):
    first = data.load_split(settings(fill(tmp_path)))
    again = data.load_split(settings(tmp_path, memory_gb=0.0))
    np.testing.assert_array_equal(first.test, again.test)
    np.testing.assert_array_equal(first.train[:], again.train[:])
    for _ in range(2):
        steps(data.batches(first.train, 4, 0), 2)
        np.testing.assert_array_equal(first.train[:], again.train[:])
    for name, shown in zip(first.held_out, first.test, strict=True):
        picture = opened(tmp_path / name)
        crop = cut(picture, crop_box(*picture.size, SIZE, 0.0, fixed_draw(name)), SIZE)
        np.testing.assert_array_equal(shown, data.to_float(crop))
    more = data.load_split(settings(fill(tmp_path, 2, first=8)))  # others beside them change nothing
    for name in set(more.train.names) & set(first.train.names):
        ours, theirs = (x.train[np.array([x.train.names.index(name)])] for x in (first, more))
        np.testing.assert_array_equal(ours, theirs)
    draws = np.array([fixed_draw(f"photo{i}.png") for i in range(2000)])
    for column in draws.T:
        assert scipy.stats.kstest(column, "uniform").pvalue > 0.01
    assert np.abs(np.corrcoef(draws.T) - np.eye(DRAWS)).max() < 0.1


def test_a_zip_gives_the_crops_of_its_folder(tmp_path):
    folder = fill(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as file:
        for path in folder.iterdir():
            file.write(path, path.name)
    there, here = (data.load_split(settings(path)) for path in (tmp_path / "in.zip", folder))
    np.testing.assert_array_equal(there.test, here.test)
    for ours, theirs in zip(*(steps(data.batches(x.train, 4, 0), 3) for x in (there, here)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_whole_pictures_are_kept_only_where_all_of_them_fit(tmp_path):
    needed = sum(4 * (20 + 3 * i) * (40 - 2 * i) for i in range(8))
    fill(tmp_path)
    Image.new("RGB", (SIZE - 1, 100)).save(tmp_path / "small.png")  # is left out and takes no memory
    fits, exceeds = (data.load_split(settings(tmp_path, memory_gb=n / 1e9)) for n in (needed, needed - 1))
    assert (fits.train.kept, exceeds.train.kept) == (True, False)
    assert fits.left_out == (f"'small.png': 100x{SIZE - 1} is smaller than size={SIZE} (config.data.size)",)
    gray = data.load_split(settings(tmp_path, memory_gb=needed / 4e9, channels=1)).train
    assert gray.kept
    assert gray[:].shape == (6, SIZE, SIZE, 1)
    expected = steps(data.batches(fits.train, 6, 0), 2)
    for i in range(8):
        (tmp_path / f"photo{i}.png").unlink()
    np.testing.assert_array_equal(steps(data.batches(fits.train, 6, 0), 2), expected)
    with pytest.raises(InputError, match="none of 6 images can be decoded"):
        exceeds.train[:1]


def test_another_picture_stands_in_for_a_damaged_one(tmp_path, caplog):
    images = data.load_split(settings(fill(tmp_path), memory_gb=0.0)).train
    damaged, next_one = (tmp_path / name for name in images.names[2:4])
    damaged.write_bytes(damaged.read_bytes()[:-200])
    picture = opened(next_one)
    wanted = cut(picture, crop_box(*picture.size, SIZE, 0.0, fixed_draw(damaged.name)), SIZE)
    np.testing.assert_array_equal(images.read_bytes(np.array([2]))[0], wanted)
    assert f"'{damaged.name}': damaged" in caplog.text


def test_what_has_no_larger_pictures_is_refused(tmp_path):
    np.savez(tmp_path / "images.npz", np.zeros((8, 16, 16, 3), np.uint8))
    for changes, source in (({}, "npz"), (dict(source="digits"), "digits"), (dict(source="gaussian"), "gaussian")):
        message = f"config.data.crop = 'random': needs picture files, .* and {source} has arrays: set it to center"
        with pytest.raises(InputError, match=message):
            data.load_split(settings(tmp_path / "images.npz", **changes))
    for changes, message in (
        (dict(crop="middle"), "config.data.crop = 'middle': must be one of center, random"),
        (dict(crop="random", min_scale=1.5), r"config.data.min_scale = 1.5: must be from 0 \(the smallest that fits\)"),
        (dict(min_scale=0.5), "config.data.min_scale = 0.5: needs config.data.crop=random"),
    ):
        c = default_config()
        c.data.update(changes)
        with pytest.raises(InputError, match=message):
            validate(c)
