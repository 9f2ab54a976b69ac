import jax
import numpy as np
import pytest
import scipy.stats
from ml_collections import ConfigDict
from PIL import Image

from fmdp import data
from fmdp.config.defaults import default_config
from fmdp.errors import InputError


def images(n):
    return np.arange(n, dtype=np.float32)[:, None, None, None]


def rows(iterator, steps):
    return [next(iterator)["image"].ravel().astype(int) for _ in range(steps)]


def test_every_epoch_shows_every_image_once_in_a_new_order():
    seen = np.concatenate(rows(data.batches(images(10), 4, seed=0), 10)).reshape(4, 10)
    for epoch in seen:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(10))
    assert len({tuple(epoch) for epoch in seen}) == 4


def test_order_depends_on_the_seed_alone():
    a, b, c = (rows(data.batches(images(10), 4, seed=seed), 5) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_batches_beyond_two_billion_images():
    iterator = data.batches(images(14), 7, seed=0)
    iterator.set_state({"next_index": 2**31})
    assert sorted(np.concatenate(rows(iterator, 2))) == list(range(14))


def test_an_iterator_continues_from_a_saved_position():
    iterator = data.batches(images(10), 4, seed=0)
    rows(iterator, 3)
    state = iterator.get_state()
    expected = rows(iterator, 4)
    fresh = data.batches(images(10), 4, seed=0)
    fresh.set_state(state)
    np.testing.assert_array_equal(rows(fresh, 4), expected)


def test_one_batch_is_placed_ahead_and_each_says_where_to_continue():
    iterator, placed = data.batches(images(10), 4, seed=0), []

    def place(batch):
        placed.append(batch)
        return batch["image"].ravel().astype(int)

    expected = rows(data.batches(images(10), 4, seed=0), 6)
    rows(iterator, 1)
    for number, (batch, position) in enumerate(data.placed_ahead(iterator, place, 4), 1):
        np.testing.assert_array_equal(batch, expected[number])
        assert len(placed) == min(number + 1, 4)
        fresh = data.batches(images(10), 4, seed=0)
        fresh.set_state(position)
        np.testing.assert_array_equal(rows(fresh, 1)[0], expected[number + 1] if number < 4 else rows(iterator, 1)[0])
    assert number == 4
    assert not list(data.placed_ahead(iterator, place, 0))


def test_processes_share_the_batches_of_one():
    whole = data.batches(images(10), 8, seed=0)
    parts = [data.batches(images(10), 8, 0, process, 2) for process in range(2)]
    for _ in range(4):
        one, halves = next(whole), [next(part) for part in parts]
        for name in one:
            np.testing.assert_array_equal(one[name], np.concatenate([half[name] for half in halves]))
        np.testing.assert_array_equal(one["row"], np.arange(8))


def test_digits_split_is_fixed_stratified_and_apart():
    first, second = (data.load_split(ConfigDict(dict(source="digits", test_share=0.2))) for _ in range(2))
    assert first.hash == second.hash
    assert len(first.train) + len(first.test) == 1797
    assert first.train.shape[1:] == (8, 8, 1)
    assert first.train.min() == -1
    assert first.train.max() == 1
    pictures, labels = data.digits()
    where = {picture.tobytes(): label for picture, label in zip(pictures, labels, strict=True)}
    counts = np.bincount([where[picture.tobytes()] for picture in first.test])
    np.testing.assert_allclose(counts / np.bincount(labels), 0.2, atol=0.01)


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"'digitz'.*digits"):
        data.load_split(ConfigDict(dict(source="digitz", test_share=0.2)))
    with pytest.raises(InputError, match="no image"):
        data.batches(images(0), 4, seed=0)
    with pytest.raises(InputError, match="1 images"):
        data.split(images(1), np.zeros(1, int), 0.2)


def test_flips_are_drawn_for_every_example_and_epoch():
    wide = np.arange(20, dtype=np.float32).reshape(10, 1, 2, 1)

    def images(**options):
        iterator = data.batches(wide, 5, seed=0, **options)
        seen = [next(iterator)["image"] for _ in range(40)]
        return np.concatenate(seen).reshape(20, 10, 2)

    plain, flipped, again = images(), images(flip=True), images(flip=True)
    np.testing.assert_array_equal(flipped, again)
    np.testing.assert_array_equal(np.sort(flipped, -1), plain)
    turned = flipped[..., 0] > flipped[..., 1]
    assert 0.4 < turned.mean() < 0.6
    assert len({tuple(epoch) for epoch in turned}) > 15
    halves = [data.batches(wide, 4, 0, process, 2, flip=True) for process in range(2)]
    whole = data.batches(wide, 4, 0, flip=True)
    for _ in range(5):
        one, parts = next(whole), [next(half) for half in halves]
        np.testing.assert_array_equal(one["image"], np.concatenate([part["image"] for part in parts]))


def test_shuffling_and_flips_follow_numpys_generator():
    """The batches of a seed never change, so that a run of any version resumes with the images it would have seen."""
    wide = np.arange(20, dtype=np.float32).reshape(10, 1, 2, 1)
    iterator = data.batches(wide, 5, seed=3, flip=True)
    for epoch in range(3):
        expected = wide[np.random.default_rng((3, epoch)).permutation(10)]
        flipped = np.random.default_rng((3, epoch, 1)).random(10) < 0.5
        expected[flipped] = expected[flipped, :, ::-1]
        np.testing.assert_array_equal(np.concatenate([next(iterator)["image"] for _ in range(2)]), expected)


def test_quarter_turns_are_drawn_for_every_example_and_epoch():
    square = np.arange(40, dtype=np.float32).reshape(10, 2, 2, 1)

    def images(seed=0, **options):
        iterator = data.batches(square, 5, seed, **options)
        return np.concatenate([next(iterator)["image"] for _ in range(80)])

    plain, turned, flipped = images(), images(turn=True), images(turn=True, flip=True)
    forms = np.stack([np.rot90(plain, count, (1, 2)) for count in range(4)])
    same = (forms == turned).all((2, 3, 4))
    assert (same.sum(0) == 1).all()
    assert scipy.stats.chisquare(same.sum(1)).pvalue > 0.01
    assert len({tuple(epoch) for epoch in same.argmax(0).reshape(40, 10)}) > 35
    both = np.concatenate([forms, forms[..., ::-1, :]])
    same = (both == flipped).all((2, 3, 4))
    assert (same.sum(0) == 1).all()
    assert scipy.stats.chisquare(same.sum(1)).pvalue > 0.01
    np.testing.assert_array_equal(turned, images(turn=True))
    assert not np.array_equal(turned, images(1, turn=True))
    halves = [data.batches(square, 4, 0, process, 2, turn=True) for process in range(2)]
    whole = data.batches(square, 4, 0, turn=True)
    for _ in range(5):
        np.testing.assert_array_equal(next(whole)["image"], np.concatenate([next(half)["image"] for half in halves]))
    with pytest.raises(InputError, match=r"config\.data\.turn = True: images of 1x2 are not square"):
        data.batches(np.zeros((4, 1, 2, 1), np.float32), 4, 0, turn=True)


def test_bytes_stay_bytes_and_become_the_floats_that_division_gives():
    pixels = np.arange(256, dtype=np.uint8)
    wanted = pixels.astype(np.float32) / np.float32(127.5) - 1
    np.testing.assert_array_equal(data.to_float(pixels), wanted)
    np.testing.assert_array_equal(jax.jit(data.to_float)(pixels), wanted)
    assert data.to_float(wanted) is wanted
    stored = data.UInt8Images(pixels.reshape(16, 4, 4, 1))
    kept, floats = (data.batches(images, 12, seed=0, flip=True) for images in (stored, stored[:]))
    for _ in range(5):
        batch, converted = next(kept), next(floats)
        assert batch["image"].dtype == np.uint8
        np.testing.assert_array_equal(data.to_float(batch["image"]), converted["image"])
        np.testing.assert_array_equal(batch["row"], converted["row"])


@pytest.mark.slow
def test_worker_processes_give_the_batches_of_threads_and_resume_each_other(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(tmp_path / f"{i}.png")
    c = default_config().data
    c.update(path=str(tmp_path), size=8, memory_gb=0.0)
    images = data.load_split(c).train
    expected, iterator = [], data.batches(images, 4, 0, flip=True)
    for _ in range(8):
        expected.append(next(iterator))

    def check(iterator, steps):
        for step in steps:
            for name, array in next(iterator).items():
                np.testing.assert_array_equal(array, expected[step][name])

    workers = data.batches(images, 4, 0, flip=True, workers=2)
    check(workers, range(3))
    state = workers.get_state()
    check(workers, range(3, 5))
    workers.set_state(state)
    check(workers, range(3, 6))
    state = workers.get_state()
    workers.close()
    for others in (0, 1):
        resumed = data.batches(images, 4, 0, flip=True, workers=others)
        resumed.set_state(state)
        check(resumed, range(6, 8))
        resumed.close()
