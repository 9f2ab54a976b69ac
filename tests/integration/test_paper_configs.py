import importlib
import json
import zipfile
from io import BytesIO

import jax
import numpy as np
import pytest
from PIL import Image

from fmdp.cli.run import run_config
from fmdp.config.validation import validate_for_devices
from fmdp.errors import InputError
from fmdp.io.run_dir import RunDir
from fmdp.metrics import weights
from fmdp.training.state import init_state, make_network
from fmdp.training.step import make_train_step
from tests.support.published import write_random_weights

NAMES = ("cifar10", "celeba", "afhq")
LEARNED = ("fid", "kid", "precision", "recall", "lpips_alex")
WEIGHT_NET = 297_344  # the released networks count their log-variance in


def png(seed, side=36):
    file = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def layout(name, root):
    """Images in the layout that a configuration expects, and the path to name: 8 to train on and 4 to test on."""
    if name == "cifar10":
        with zipfile.ZipFile(root / "cifar10-32x32.zip", "w") as file:
            for i in range(12):
                file.writestr(f"{'train' if i < 8 else 'test'}/{i % 2}/{i}.png", png(i))
        return root / "cifar10-32x32.zip"
    for i in range(12):
        folder = root / ("train" if i < 8 else "val") / ("cat", "dog")[i % 2] if name == "afhq" else root
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(png(i))
    return root


@pytest.fixture(scope="module")
def metric_weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder, "inception", "lpips_alex")
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["afhq", *(pytest.param(name, marks=pytest.mark.long) for name in ("cifar10", "celeba"))]
)
def test_smoke_runs_end_to_end_on_the_layout_the_config_names(name, metric_weights, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    c = importlib.import_module(f"configs.{name}").get_config("smoke")
    assert c.evaluate.inception == c.evaluate.lpips == weights.AUTO
    c.data.path = str(layout(name, tmp_path / "data"))
    c.data.test_share = 1 / 3
    validate_for_devices(c, jax.device_count())
    workdir = tmp_path / "run"
    workdir.mkdir()
    monkeypatch.setattr(weights, "_folders", list)  # of a machine without the published weights
    run_config(c, RunDir(workdir), "train_and_evaluate")
    summary = json.loads((workdir / "summary.json").read_text())
    assert not set(LEARNED) & set(summary["denoise"][0]["points"][0])
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not measured")]
    assert all(name in told for name in ("inception needs", "lpips_alex needs", "lpips_vgg needs"))

    c.evaluate.update(inception=metric_weights, lpips=metric_weights, small_fid=True, points=3, baseline_images=0)
    run_config(c, RunDir(workdir), "evaluate")
    scored = json.loads((workdir / "summary.json").read_text())["denoise"]
    assert all(np.isfinite([point[m] for m in LEARNED]).all() for curve in scored for point in curve["points"])
    assert scored[0]["points"][0]["mse"] == pytest.approx(summary["denoise"][0]["points"][0]["mse"])
    assert summary["config"] == f"{name}_smoke"
    assert summary["data"]["train_images"] == 8
    assert summary["data"]["test_images"] == 4
    assert len(json.loads((workdir / "split.json").read_text())["held_out"]) == 4
    assert (workdir / "denoise.png").exists()
    assert all(np.isfinite(point["mse"]) for curve in summary["denoise"] for point in curve["points"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("celeba", (128, 128, 3), 117_043_331 - WEIGHT_NET),
        ("afhq", (256, 256, 3), 112_836_739 - WEIGHT_NET),
        ("cifar10", (32, 32, 3), 115_962_627),
        ("fashion_mnist", (28, 28, 1), 345_185),
    ],
)
def test_networks_are_of_the_stated_size(name, shape, parameters):
    c = importlib.import_module(f"configs.{name}").get_config()
    validate_for_devices(c, 1)
    image = jax.ShapeDtypeStruct(shape, np.float32)
    assert c.network.resolution == shape[0]
    variables = jax.eval_shape(make_network(c).init, jax.random.key(0), image, 0.5, 0.5)
    assert sum(x.size for x in jax.tree.leaves(variables)) == parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_full_train_step_can_be_traced(name):
    """By shapes alone, with its real settings: nothing of that size is compiled here."""
    c = importlib.import_module(f"configs.{name}").get_config()
    shape = (c.data.size, c.data.size, 3)
    state = jax.eval_shape(lambda: init_state(c, shape, jax.random.key(0)))
    batch = {"image": jax.ShapeDtypeStruct((4, *shape), np.float32), "row": jax.ShapeDtypeStruct((4,), np.int32)}
    after, metrics = jax.eval_shape(make_train_step(c), state, batch, jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert {"loss", "diagonal", "off_diagonal"} <= set(metrics)


@pytest.mark.parametrize("name", [*NAMES, "fashion_mnist"])
def test_unknown_variants_are_refused_by_name(name):
    with pytest.raises(InputError, match=f"configs/{name}.py knows no variant 'big'"):
        importlib.import_module(f"configs.{name}").get_config("big")
