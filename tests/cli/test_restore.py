import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from fmdp import main, networks
from fmdp.cli import restore as restore_command
from fmdp.errors import InputError
from fmdp.evaluation.calibration import Calibration
from fmdp.pretrained import prior as prior_files
from tests.cli.test_main import command

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained prior, whose field is zero: the denoiser gives back what it is given."""
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    network = networks.make_backbone("mlp", {"width": 8, "blocks": 1})
    params = network.init(jax.random.key(0), jnp.zeros(SHAPE), 0.5, 0.5)["params"]
    prior = prior_files.Prior(params=params, network=network, image_shape=SHAPE, about=prior_files.PriorMetadata())
    prior_files.save(folder, prior)
    calibration = Calibration.fit([0.05, 0.3], [0.0, 0.5, 1.0], [[0.1, 0.11, 0.13], [0.2, 0.22, 0.26]])
    (folder / "calibration.json").write_text(json.dumps(calibration.to_dict()))
    return folder


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    return tmp_path / "in"


def run(**given):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**given):
        restore_command.run_restore()


@pytest.mark.slow
def test_a_folder_from_the_command_line(checkpoint, pictures, tmp_path):
    out = tmp_path / "out"
    process = command(
        "--mode=restore", f"--checkpoint={checkpoint}", f"--input={pictures}", f"--output={out}", "--sweep",
        "--operator=box_inpainting", "--operator_arg=size=3", "--steps=3", "--sigma=0.1",
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.splitlines()[-1] == f"1 restored, 1 not; results in {out}"
    assert "b.png: not a picture" in stdout + stderr
    assert re.search(r"a.png: PSNR (\d+\.\d\d(, )?){5} dB at lookahead 0, 0.25, 0.5, 0.75, 1", stdout + stderr)
    settings = json.loads((out / "a.json").read_text())
    assert settings["operator"] == "box_inpainting"
    assert settings["parameters"] == {"size": 3}
    assert settings["sigma"] == 0.1
    assert len(settings["psnr"]) == len(restore_command.SWEEP)
    assert settings["checkpoint"] == str(checkpoint)
    assert len(list(out.glob("a_r*.png"))) == 5


def test_nothing_restored_is_exit_code_2(checkpoint, pictures, tmp_path):
    (pictures / "a.png").unlink()
    with pytest.raises(SystemExit) as ended:
        run(checkpoint=str(checkpoint), input=str(pictures), output=str(tmp_path / "out"))
    assert ended.value.code == 2
    assert not list(tmp_path.glob("out/*"))


def test_a_full_disk_ends_it_in_one_line(checkpoint, pictures, small_disk):
    (small_disk / "other").write_bytes(bytes(2**21 - 2**14))
    with pytest.raises(InputError, match=f"no room in {small_disk}/out, 0 restored before {pictures}/a.png: make"):
        run(checkpoint=str(checkpoint), input=str(pictures), output=str(small_disk / "out"), sweep=True, sigma=0.1)
    assert not list(small_disk.rglob("*.json"))


@pytest.mark.parametrize(
    ("name", "mode", "another"),
    [("config", "restore", "train"), ("workdir", "restore", "inverse"), ("lookahead", "evaluate", "restore")],
)
def test_flags_of_another_mode_are_refused(name, mode, another):
    with flagsaver.flagsaver():
        assert main.inapplicable_flags(mode) == []
        flags.FLAGS[name].present = 1
        assert main.inapplicable_flags(mode) == [name]
        assert main.inapplicable_flags(another) == []


def test_settings_of_plug_and_play_are_not_for_denoising(checkpoint, pictures, tmp_path):
    with flagsaver.flagsaver():
        flags.FLAGS["gain"].present = 1
        with pytest.raises(InputError, match="--gain is of plug-and-play"):
            run(checkpoint=str(checkpoint), input=str(pictures), output=str(tmp_path / "out"))


def test_checkpoints_that_exist_are_listed(checkpoint, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=rf"or one of fashion_mnist, {tmp_path}/mine$"):
        prior_files.find_prior(tmp_path / "nobody")


def test_a_budget_becomes_a_lookahead(checkpoint, pictures, tmp_path):
    sigma = 0.05 / 0.95
    run(checkpoint=str(checkpoint), input=str(pictures), output=str(tmp_path / "out"), sigma=sigma, budget_db=0.41)
    (lookahead,) = json.loads((tmp_path / "out" / "a.json").read_text())["lookaheads"]
    assert lookahead == pytest.approx(0.5, abs=0.01)  # 10 log10(1.1) dB


def test_masks_and_kernels_are_pictures(tmp_path):
    Image.fromarray(np.array([[0, 255], [90, 200]], np.uint8)).save(tmp_path / "m.png")
    name, mask = restore_command.parse_operator_arg(f"mask={tmp_path / 'm.png'}")
    assert name == "mask"
    np.testing.assert_array_equal(mask, [[0, 1], [0, 1]])
    _, kernel = restore_command.parse_operator_arg(f"kernel={tmp_path / 'm.png'}")
    assert kernel.sum() == pytest.approx(1)
    assert restore_command.parse_operator_arg("size=9") == ("size", 9)
    assert restore_command.parse_operator_arg("boundary=circular") == ("boundary", "circular")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(checkpoint=None), "--checkpoint is missing"),
        (dict(checkpoint="nobody"), "no checkpoint 'nobody': name a folder of one, or one of"),
        (dict(input="/nowhere/at/all"), "--input=/nowhere/at/all does not exist"),
        (dict(lookahead=0.5, sweep=True), "--lookahead and --sweep exclude each other"),
        (dict(lookahead=1.5), "--lookahead=1.5: must be from 0"),
        (dict(budget_db=0.5, operator="hdr"), "--budget_db=0.5: calibrated for --operator=denoising"),
        (dict(budget_db=9.0, sigma=0.1), "a budget of 9 dB cannot be spent"),
        (dict(budget_db=0.1, sigma=9.0), "--sigma=9: this checkpoint is calibrated from 0.0526 to 0.429"),
        (dict(operator_arg=["size"]), "--operator_arg=size: write NAME=VALUE"),
        (
            dict(operator_arg=["size=3", "size=4"], operator="box_inpainting"),
            "--operator_arg=size=4: size is there twice",
        ),
        (dict(operator_arg=["mask=/nowhere.png"]), "--operator_arg=mask=/nowhere.png"),
        (dict(operator="blur"), "--operator=blur"),
        (dict(operator="hdr", operator_arg=["scale=" + "[" * 10**5]), "hdr: scale='[["),
        (dict(operator="hdr", operator_arg=["scale=NaN"]), "scale=nan: pass a finite number"),
        (dict(input="~nobody_of_this_name/x"), "'~nobody_of_this_name/x' can be no file"),
        (dict(output="x" * 5000), "can be no file (File name too long)"),
        (dict(checkpoint="x" * 5000), "can be no file (File name too long)"),
    ],
)
def test_flags_that_cannot_be_used_are_one_line(checkpoint, pictures, tmp_path, changes, message):
    given = dict(checkpoint=str(checkpoint), input=str(pictures), output=str(tmp_path / "out")) | changes
    with pytest.raises(InputError) as refused:
        run(**given)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
