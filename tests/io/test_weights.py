import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from fmdp.errors import InputError
from fmdp.io.weights import MODEL, WEIGHTS, read_weights, write_weights

DESCRIPTION = {"network": {"name": "mlp"}, "image_shape": [8, 8, 1], "about": {"steps": 3}}
ARRAYS = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


@pytest.fixture
def folder(tmp_path):
    write_weights(tmp_path, ARRAYS, DESCRIPTION)
    return tmp_path


def test_what_is_written_is_read(folder):
    arrays, model, matched = read_weights(folder)
    assert matched
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert model == DESCRIPTION | {"format": 1, "image_shape": (8, 8, 1)}
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, MODEL}
    write_weights(folder, {"b": jnp.ones(2, jnp.bfloat16)}, DESCRIPTION)
    assert read_weights(folder)[0]["b"].dtype == jnp.bfloat16


def test_both_files_can_be_read_by_whoever_may_read_the_folder(folder):
    assert (folder / WEIGHTS).stat().st_mode == (folder / MODEL).stat().st_mode


def test_a_changed_array_is_damage_and_version_0_1_0_wrote_no_digest(folder):
    path = folder / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights.safetensors is damaged \(an array was changed\)"):
        read_weights(folder)
    save_file(ARRAYS, path)
    np.testing.assert_array_equal(read_weights(folder)[0]["b"], ARRAYS["b"])


def test_a_description_that_was_edited_no_longer_matches_its_arrays(folder):
    model = json.loads((folder / MODEL).read_text())
    (folder / MODEL).write_text(json.dumps(model | {"about": {"steps": 4}}))
    assert read_weights(folder)[2]
    (folder / MODEL).write_text(json.dumps(model | {"network": {"name": "mlp", "width": 9}}))
    assert not read_weights(folder)[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "1"}, r"model.json is damaged \('format'"),
        ({"format": 2}, "is of format 2, this fmdp reads 1: install a newer fmdp"),
        ({"network": []}, r"model.json is damaged \('network'"),
        ({"about": 3}, r"model.json is damaged \('about'"),
        ({"image_shape": [8, 8]}, r"model.json is damaged \(images of shape \[8, 8\]\)"),
        ({"image_shape": [8, 8, True]}, "images of shape"),
        ({"image_shape": [8, 2**21, 1]}, "images of shape"),
    ],
)
def test_a_description_of_another_kind_is_refused(folder, change, message):
    path = pathlib.Path(folder, MODEL)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        read_weights(folder)
