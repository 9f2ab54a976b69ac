import dataclasses
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
from fmdp.cli.operator_args import parse_operator_arg
from fmdp.errors import InputError
from fmdp.evaluation.calibration import Calibration
from fmdp.pretrained import prior as prior_files
from fmdp.restoration.request import Request
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
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff")  # damaged, too
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
        "--operator=box_inpainting", "--operator_arg=size=3", "--steps=3", "--sigma=0.1", "--degrade",
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.splitlines()[-1] == f"1 restored, 1 not; results in {out}"
    assert "b.png: not an image" in stdout + stderr
    assert "Warning" not in stderr  # Pillow's of the metadata of a.png
    assert re.search(r"a.png: PSNR (\d+\.\d\d(, )?){5} dB at lookahead 0, 0.25, 0.5, 0.75, 1", stdout + stderr)
    settings = json.loads((out / "a.json").read_text())
    assert settings["operator"] == "box_inpainting"
    assert settings["parameters"] == {"size": 3}
    assert settings["sigma"] == 0.1
    assert len(settings["psnr"]) == len(restore_command.SWEEP)
    assert settings["checkpoint"] == str(checkpoint)
    assert len(list(out.glob("a_r*.png"))) == 5


def test_nothing_restored_is_exit_code_2(checkpoint, pictures, tmp_path, capsys):
    (pictures / "a.png").unlink()
    with pytest.raises(SystemExit) as ended:
        run(checkpoint=str(checkpoint), input=str(pictures), output=str(tmp_path / "out"))
    assert ended.value.code == 2
    assert capsys.readouterr().out.splitlines()[-1] == "0 restored, 1 not; nothing was written"
    assert not (tmp_path / "out").exists()


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
    main.define_flags()  # before the flags are saved
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
    with pytest.raises(InputError, match=rf"or one of fashion_mnist, .*{tmp_path}/mine$"):
        prior_files.find_prior(tmp_path / "nobody")


def test_a_run_that_was_not_trained_names_the_command_that_trains_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.py").write_text("")
    with pytest.raises(InputError) as refused:
        prior_files.find_prior("runs/digits")
    train = "train it with python -m fmdp.main --config=configs/digits.py --workdir=runs/digits"
    assert str(refused.value).startswith(
        f"no checkpoint 'runs/digits': {train}, or name a folder of one, or one of fash"
    )
    with pytest.raises(InputError, match="no checkpoint 'runs/other': name a folder of one, or one of fashion_mnist, "):
        prior_files.find_prior("runs/other")


def test_a_budget_becomes_a_lookahead(checkpoint, pictures, tmp_path):
    sigma = 0.05 / 0.95
    run(checkpoint=str(checkpoint), input=str(pictures), output=str(tmp_path / "out"), sigma=sigma, budget_db=0.41)
    (lookahead,) = json.loads((tmp_path / "out" / "a.json").read_text())["lookaheads"]
    assert lookahead == pytest.approx(0.5, abs=0.01)  # 10 log10(1.1) dB


def test_a_budget_is_spent_on_the_noise_that_is_left_in_gray(checkpoint, pictures, tmp_path, capsys):
    """The luma averages the noise of the channels, so the calibration at another level counts."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(pictures / "c.png")
    least, most = 0.05 / 0.95, 0.3 / 0.7
    shrink = np.linalg.norm([0.299, 0.587, 0.114])
    common = dict(checkpoint=str(checkpoint), input=str(pictures), budget_db=0.41)

    def spent(name, **given):
        run(**common | given, output=str(tmp_path / name))
        facts = [json.loads((tmp_path / name / f"{stem}.json").read_text()) for stem in ("a", "c")]
        return [(fact["sigma"], fact["lookaheads"][0]) for fact in facts]

    (gray, at_gray), (colour, at_colour) = spent("one", sigma=0.2)
    assert (gray, colour) == (0.2, pytest.approx(0.2 * shrink))
    calibration = Calibration.from_dict(json.loads((checkpoint / "calibration.json").read_text()))
    for sigma, lookahead in ((gray, at_gray), (colour, at_colour)):
        assert lookahead == pytest.approx(calibration.knob_for_loss(sigma / (1 + sigma), 0.41))
    said = capsys.readouterr().out
    assert f"c.png: --budget_db=0.41: lookahead {at_colour:.3g}\n" in said
    assert len({level for _, level in spent("two", sigma=0.2, degrade=True)}) == 1  # added in gray
    capsys.readouterr()
    (pictures / "a.png").unlink()
    with pytest.raises(SystemExit):
        run(**common, sigma_255=1.2 * least * 127.5, output=str(tmp_path / "three"))
    assert re.search(
        r"c.png: --sigma_255=5.\d+ in gray: this checkpoint is calibrated from 6.71", capsys.readouterr().out
    )
    run(**common, sigma=1.2 * most, output=str(tmp_path / "four"))  # calibrated in gray alone


def test_masks_and_kernels_are_pictures(tmp_path):
    Image.fromarray(np.array([[0, 255], [90, 200]], np.uint8)).resize((20, 20), 0).save(tmp_path / "m.png")
    with pytest.raises(InputError) as refused:
        parse_operator_arg(f"mask={tmp_path / 'm.png'}")
    remedy = "50% of its pixels are gray: paint observed pixels white and hidden ones black"
    assert str(refused.value) == f"--operator_arg=mask={tmp_path}/m.png: {remedy}"
    Image.fromarray(np.array([[0, 255], [10, 250]], np.uint8)).save(tmp_path / "m.png")
    name, mask = parse_operator_arg(f"mask={tmp_path / 'm.png'}")
    assert name == "mask"
    np.testing.assert_array_equal(mask, [[False, True], [False, True]])
    _, kernel = parse_operator_arg(f"kernel={tmp_path / 'm.png'}")
    assert kernel.sum() == pytest.approx(1)
    red = np.zeros((3, 3, 3), np.uint8)
    red[..., 0] = 9
    for pixels, fault in ((red[..., 1], "it is black: paint"), (red, "it is in colour: save it in gray")):
        Image.fromarray(pixels).save(tmp_path / "k.png")
        with pytest.raises(InputError, match=f"k.png: {fault}"):
            parse_operator_arg(f"kernel={tmp_path / 'k.png'}")
    assert parse_operator_arg("size=9") == ("size", 9)
    assert parse_operator_arg("width=.1") == ("width", 0.1)
    assert parse_operator_arg("boundary=circular") == ("boundary", "circular")


def test_levels_and_formats_from_the_command_line(checkpoint, tmp_path, capsys):
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
    (tmp_path / "in").mkdir()
    Image.fromarray(ramp).save(tmp_path / "in" / "a.png")
    common = dict(checkpoint=str(checkpoint), input=str(tmp_path / "in"), sigma=0.1)
    run(**common, output=str(tmp_path / "out"), output_format="npy")
    assert "a.png: --white_level: values from 0 to 3780 of uint16: white is taken as 4095" in capsys.readouterr().out
    np.testing.assert_allclose(np.load(tmp_path / "out" / "a_measured.npy")[..., 0], ramp / 2047.5 - 1, atol=1e-6)
    run(**common, output=str(tmp_path / "two"), output_format="png16", white_level=3780.0, black_level=-60.0)
    assert "taken as" not in capsys.readouterr().out
    with Image.open(tmp_path / "two" / "a_measured.png") as written:
        np.testing.assert_allclose(np.asarray(written), np.round((ramp + 60.0) / 3840 * 65535), atol=1)
    np.save(tmp_path / "in" / "b.npy", ramp / 1.5)
    run(**common, output=str(tmp_path / "three"))
    assert "b.npy: --white_level: values from 0 to 2520 are not floats from -1 to 1: state" in capsys.readouterr().out
    with pytest.raises(InputError, match="--black_level=5 alone: set --white_level, too"):
        run(**common, output=str(tmp_path / "four"), black_level=5.0)


def test_masks_and_kernels_are_arrays(tmp_path):
    laplacian = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])
    for name in ("kernel", "psf"):
        for values in (np.array([[0.0, 3.0], [1.0, 0.0]]), laplacian, -laplacian - 1):
            np.save(tmp_path / "k.npy", values)  # numbers are taken as they are, whatever their sum
            np.testing.assert_array_equal(parse_operator_arg(f"{name}={tmp_path / 'k.npy'}")[1], values)
    np.save(tmp_path / "m.npy", np.eye(2, dtype=bool))
    np.testing.assert_array_equal(parse_operator_arg(f"mask={tmp_path / 'm.npy'}")[1], np.eye(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(checkpoint=None), "--checkpoint is missing"),
        (dict(checkpoint="nobody"), "no checkpoint 'nobody': name a folder of one, or one of"),
        (dict(lookahead=0.5, sweep=True), "--lookahead and --sweep exclude each other"),
        (dict(degrade=True, already_degraded=True), "--degrade and --already_degraded exclude each other: keep one"),
        (dict(operator="phase_retrieval"), "without --degrade: phase_retrieval does not measure an image"),
        (dict(budget_db=0.5, operator="hdr"), "--budget_db=0.5: only --operator=denoising with --sigma or --sigma_255"),
        (
            dict(budget_db=0.1, sigma_255=200.0),
            "--sigma_255=200: this checkpoint is calibrated from 6.71 to 54.6: leave --budget_db out for other levels",
        ),
        (dict(budget_db=9.0, sigma_255=25.0), "--sigma_255=25: a budget of 9 dB cannot be spent at noise level"),
        (dict(budget_db=9.0, sigma=0.1), "a budget of 9 dB cannot be spent"),
        (dict(budget_db=0.1, sigma=3.0), "--sigma=3: this checkpoint is calibrated from 0.0526 to 0.429"),
        (dict(sigma=0.1, sigma_255=25.0), "--sigma and --sigma_255 exclude each other: keep one"),
        (
            dict(sigma=25.0),
            "--sigma=25: the scale from black to white is 2; for 25 of 255 give --sigma_255=25 or --sigma=0.196",
        ),
        (dict(sigma=1e6), "--sigma=1000000.0: must be at most 4, which is 510 of 255"),
        (dict(sigma_255=600.0), "--sigma_255=600: must be at most 510, twice the range from black to white"),
        (dict(sigma_255=-1.0), "--sigma_255=-1.0: must be positive"),
        (
            dict(operator="gaussian_blur"),
            "--operator_arg: gaussian_blur: missing parameters 'kernel_size', 'std': pass kernel_size=..., std=...",
        ),
        (dict(operator="gaussian_blur", operator_arg=["kernelsize=5"]), "did you mean 'kernel_size'?"),
        (dict(operator_arg=["size"]), "--operator_arg=size: write NAME=VALUE"),
        (
            dict(operator_arg=["size=3", "size=4"], operator="box_inpainting"),
            "--operator_arg=size=4: size is given twice",
        ),
        (dict(operator_arg=["mask=/nowhere.png"]), "--operator_arg=mask=/nowhere.png"),
        (dict(operator="hdr", operator_arg=["scale=" + "[" * 10**5]), "hdr: scale='[["),
        (dict(operator="hdr", operator_arg=["scale=NaN"]), "scale=nan: pass a finite number"),
        (dict(input="~nobody_of_this_name/x"), "'~nobody_of_this_name/x' cannot be a file"),
        *(
            ({name: address}, f"{address!r} is an address, and only files on this machine are read and written: copy")
            for name in ("input", "output", "checkpoint")
            for address in ("gs://bucket/a.png", "s3://bucket/a.png", "https://host/a.png")
        ),
        (dict(operator_arg=["mask=gs://b/m.png"]), "--operator_arg=mask=gs://b/m.png: 'gs://b/m.png' is an address"),
        (dict(input="C:\\me\\a.png"), "is a path of Windows, and this is another system: name the file's path here"),
        (dict(output="x" * 5000), "cannot be a file (File name too long)"),
        (dict(checkpoint="x" * 5000), "cannot be a file (File name too long)"),
    ],
)
def test_flags_that_cannot_be_used_are_one_line(checkpoint, pictures, tmp_path, changes, message):
    assert message in refusal(checkpoint, pictures, tmp_path, changes)


PARAMETERS = {
    "operator": (dict(operator="blur"), "--operator=blur: unknown operator 'blur', did you mean"),
    "parameters": (
        dict(operator="hdr", operator_arg=["scale=-1"]),
        "--operator_arg=scale=-1: hdr: scale=-1: pass a number above 0",
    ),
    "degraded": (
        dict(operator="random_inpainting", operator_arg=["ratio=0.5"]),
        "without --degrade: random_inpainting would draw another mask: pass mask=... to the operator brush_inpainting, "
        "or have a clean image degraded",
    ),
    "sigma": (dict(sigma=-1.0), "--sigma=-1.0: must be positive, on the [-1, 1] scale"),
    "lookaheads": (dict(lookahead=1.5), "--lookahead=1.5: must be from 0 (minimum error) to 1 (perfect perception)"),
    "num_samples": (dict(num_samples=2), "--num_samples=2: denoising is deterministic: leave it out"),
    "steps": (dict(operator="hdr", steps=0), "--steps=0: must be an integer from 1 to 100000"),
    "gain": (dict(operator="hdr", gain=0.0), "--gain=0.0: must be positive"),
    "seed": (dict(seed=2**64), "--seed=18446744073709551616: must be an integer of 64 bits"),
    "tile": (dict(tile=16), "--tile=16: this prior only takes images of 8x8: leave it out"),
    "memory_gb": (dict(memory_gb=-1.0), "--memory_gb=-1.0: must be positive, in GB"),
    "range": (dict(white_level=-1.0), "--white_level=-1.0: must be two numbers, the value of black and the greater"),
    "source": (dict(input="/nowhere/at/all"), "--input=/nowhere/at/all: it does not exist: name an image"),
    "output": (dict(output="/dev/null"), "--output=/dev/null: it is a file: name a folder"),
}
"""Flags by which each parameter of the library gets a bad value, and how the message begins."""


@pytest.mark.parametrize("parameter", restore_command.FLAG_OF)
def test_parameters_of_the_library_are_named_by_their_flags(checkpoint, pictures, tmp_path, parameter):
    changes, message = PARAMETERS[parameter]
    assert refusal(checkpoint, pictures, tmp_path, changes).startswith(message)


def test_every_parameter_of_a_request_has_a_flag():
    names = [*(field.name for field in dataclasses.fields(Request)), "source", "output"]
    assert list(restore_command.FLAG_OF) == names


def refusal(checkpoint, pictures, tmp_path, changes):
    """The line that refuses a command with these changes."""
    given = dict(checkpoint=str(checkpoint), input=str(pictures), output=str(tmp_path / "out")) | changes
    with pytest.raises(InputError) as refused:
        run(**given)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    return str(refused.value)


def test_what_is_said_about_an_image_names_flags(checkpoint, pictures, tmp_path, capsys):
    common = dict(checkpoint=str(checkpoint), input=str(pictures), output=str(tmp_path / "out"))
    run(**common)
    facts = json.loads((tmp_path / "out" / "a.json").read_text())
    both = f"--sigma={facts['sigma']:.4f}, which is --sigma_255={facts['sigma'] * 255 / 2:.2f}"
    assert f"a.png: noise estimated: {both}\n" in capsys.readouterr().out
    run(**common, operator="box_inpainting", operator_arg=["size=2"], steps=2, sigma=0.3)
    assert "a.png: --sigma=0.3: the noise level has no effect" in capsys.readouterr().out
    run(**common | dict(degrade=True, operator="box_inpainting"), operator_arg=["size=2"], steps=2)
    (tmp_path / "out" / "a.json").unlink()
    with pytest.raises(SystemExit):
        run(**common)
    said = capsys.readouterr().out
    assert f"a.png: --output={tmp_path}/out: {tmp_path}/out/a.png is not from restoring: name another folder" in said


def test_a_picture_counts_as_measured_and_its_result_goes_beside_it(checkpoint, pictures, tmp_path, capsys):
    before = (pictures / "a.png").read_bytes()
    run(checkpoint=str(checkpoint), input=str(pictures / "a.png"))
    said = capsys.readouterr()
    assert said.err.count("fmdp:") == 0
    assert said.out.splitlines()[-1] == f"1 restored, 0 not; results in {pictures}/restored"
    given, measured = (np.asarray(Image.open(pictures / name)) for name in ("a.png", "restored/a_measured.png"))
    np.testing.assert_array_equal(measured, given)
    facts = json.loads((pictures / "restored" / "a.json").read_text())
    assert facts["degraded"]
    assert facts["sigma_estimated"]
    assert "psnr" not in facts
    assert (pictures / "a.png").read_bytes() == before
    run(checkpoint=str(checkpoint), input=str(pictures))  # without the results of its picture
    assert capsys.readouterr().out.splitlines()[-1] == f"1 restored, 1 not; results in {tmp_path}/restored"
    assert {path.name for path in (tmp_path / "restored").iterdir()} == {"a.png", "a_measured.png", "a.json"}


def test_a_clean_picture_is_degraded_on_request(checkpoint, pictures, tmp_path, capsys):
    output = tmp_path / "out"
    run(checkpoint=str(checkpoint), input=str(pictures), output=str(output), degrade=True, sigma=0.1)
    assert "a.png: PSNR " in capsys.readouterr().out
    given, noisy = (np.asarray(Image.open(path), float) for path in (pictures / "a.png", output / "a_measured.png"))
    assert (noisy - given).std() / 127.5 == pytest.approx(0.1, rel=0.3)


def test_a_mask_hides_what_it_says_and_the_share_is_reported(checkpoint, pictures, tmp_path, capsys):
    seen = np.full((8, 8), 255, np.uint8)
    seen[:2, :3] = 0
    common = dict(checkpoint=str(checkpoint), input=str(pictures / "a.png"), operator="brush_inpainting", steps=2)
    for name, picture in {"bytes": seen, "ones": seen // 255, "bits": seen > 0}.items():
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        run(**common, output=str(tmp_path / name), operator_arg=[f"mask={tmp_path / name}.png"])
        assert "a.png: 9.4% of the pixels are hidden\n" in capsys.readouterr().out
        assert json.loads((tmp_path / name / "a.json").read_text())["hidden"] == 6 / 64
        given, measured = (
            np.asarray(Image.open(path)) for path in (common["input"], tmp_path / name / "a_measured.png")
        )
        np.testing.assert_array_equal(measured[seen > 0], given[seen > 0])
        assert (np.abs(measured[seen == 0] - 127.5) <= 0.5).all()  # zero
    with pytest.raises(SystemExit):
        run(**common | dict(operator="box_inpainting"), operator_arg=["size=8"], output=str(tmp_path / "all"))
    assert "--operator_arg=size=8: they hide 100% of 8x8 pixels: hide some of them" in capsys.readouterr().out


def test_noise_in_levels_of_255(checkpoint, pictures, tmp_path):
    run(checkpoint=str(checkpoint), input=str(pictures), output=str(tmp_path / "out"), sigma_255=25.0, degrade=True)
    facts = json.loads((tmp_path / "out" / "a.json").read_text())
    assert facts["sigma"] == pytest.approx(2 * 25 / 255)
    assert facts["sigma_255"] == pytest.approx(25)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (dict(already_degraded=True), "--already_degraded=True: this is now the default, leave it out"),
        (dict(already_degraded=False, sigma=0.1), "--already_degraded=False: use --degrade"),
        (
            dict(sigma=0.1),
            "the pictures count as degraded: --degrade degrades clean ones first, --nodegrade hides this line",
        ),
        (dict(operator="hdr", steps=2), "the pictures count as degraded"),
        (dict(sigma=0.1, degrade=False), ""),
        (dict(sigma=0.1, degrade=True), ""),
    ],
)
def test_what_old_commands_meant_is_said_in_one_line(checkpoint, pictures, tmp_path, capsys, changes, line):
    run(checkpoint=str(checkpoint), input=str(pictures), output=str(tmp_path / "out"), **changes)
    said = [text for text in capsys.readouterr().err.splitlines() if text.startswith("fmdp:")]
    assert len(said) == bool(line)
    assert all(line in text for text in said)
    degraded = json.loads((tmp_path / "out" / "a.json").read_text())["degraded"]
    assert degraded is not (changes.get("degrade") is True or changes.get("already_degraded") is False)
