"""config.train.start_from on the command line, and the prior that takes the place of a network that was trained."""

import json

import jax
import numpy as np
import pytest

from configs import digits
from fmdp.cli.start_from import take_prior
from fmdp.data import Split
from fmdp.errors import InputError
from fmdp.evaluation.summary import read_summary
from fmdp.io.weights import read_weights
from fmdp.pretrained import prior as prior_files
from fmdp.reporting.html_page import _facts
from tests.support.forked import run_forked
from tests.training.test_start import write_prior

TRAIN = ["--config=configs/digits.py:smoke", "--mode=train", "--config.train.steps=2"]


@pytest.mark.slow
def test_a_run_starts_from_weights_and_says_so_and_the_same_command_resumes(tmp_path):
    prior = write_prior(tmp_path / "prior", dict(name="mlp", width=32, blocks=1))
    arguments = [*TRAIN, f"--config.train.start_from={prior}", f"--workdir={tmp_path / 'run'}"]
    first, second = (run_forked({"run": arguments})["run"] for _ in range(2))
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    line = f"starts from the weights of {prior} (tiny, 7 steps); the optimizer and the step count are new"
    assert first.out.splitlines()[0] == line
    assert f"resumed from step 2 in {tmp_path / 'run'}" in second.out
    assert prior not in second.out
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {key: found["started_from"][key] for key in ("source", "name", "steps")} == {
        "source": prior, "name": "tiny", "steps": 7
    }  # fmt: skip
    assert ("started from: source", prior) in _facts(read_summary(found))
    assert prior_files.load(tmp_path / "run").about["train"]["started_from"] == found["started_from"]
    (before, *_), (after, *_) = (read_weights(tmp_path / name) for name in ("prior", "run"))
    gap, size = (
        max(abs(x).max() for x in jax.tree.leaves(tree))
        for tree in (jax.tree.map(lambda a, b: a - b, before, after), before)
    )
    assert 0 < gap < 0.01 < 0.1 < size  # two steps move them a little


@pytest.mark.slow
def test_what_cannot_be_started_from_ends_in_one_line_with_nothing_written(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pkl").write_text("no weights")
    cases = {
        "nowhere": (tmp_path / "nowhere", "name a folder of one, or one of fashion_mnist"),
        "empty": (tmp_path / "empty", "holds neither model.json nor a run's config.json"),
        "text": (tmp_path / "text.pkl", "text.pkl"),
        "itself": (tmp_path / "itself", "this is the workdir of the run itself: name another --workdir"),
        "network": ("fashion_mnist", "config.network.name is mlp, and unet in the weights"),
    }
    ended = run_forked(
        {
            name: [*TRAIN, f"--workdir={tmp_path / name if name == 'itself' else tmp_path / 'run' / name}",
                   f"--config.train.start_from={source}"]
            for name, (source, _) in cases.items()
        }
    )  # fmt: skip
    for name, (source, message) in cases.items():
        code, out, err = ended[name]
        assert (code, out, len(err.splitlines())) == (2, "", 1), (name, err)
        assert err.startswith(f"fmdp: config.train.start_from={source}"), err
        assert message in err, (name, err)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "text.pkl"]


INVERSE = ["--config=configs/digits.py:smoke", "--mode=inverse", "--config.inverse.tuning_images=0"]


@pytest.mark.slow
def test_solvers_are_compared_with_a_prior_by_name_and_nothing_is_trained(tmp_path):
    prior = write_prior(tmp_path / "prior", dict(name="mlp", width=32, blocks=1), (8, 8, 1))
    run = tmp_path / "run"
    arguments = [*INVERSE, f"--workdir={run}", f"--checkpoint={prior}", "--config.inverse.steps=(2,)"]
    ended = run_forked({"run": arguments})["run"]
    assert ended.code == 0, ended.err
    found = json.loads((run / "summary.json").read_text())
    assert found["started_from"] == {"source": prior, "name": "tiny"}
    assert {row["solver"] for row in found["inverse"]} == {"pnp", "flower"}
    assert {row["options"]["gain"] for row in found["tuned"] if row["solver"] == "pnp"} == {1.0}
    files = {path.name for path in run.iterdir()}
    assert {"inverse.csv", "inverse_plane.png", "inverse_strips.png", "report.html"} <= files
    assert "inverse" not in files  # the parts are removed with the results there
    assert not {"config.json", "checkpoints", "model.json"} & files


@pytest.mark.slow
def test_what_a_prior_by_name_cannot_do_is_one_line(tmp_path):
    small, fits = (
        write_prior(tmp_path / f"prior{side}", dict(name="mlp", width=32, blocks=1), (side, side, 1)) for side in (6, 8)
    )
    cases = {
        "size": ([*INVERSE, f"--checkpoint={small}"], "takes images of 6x6 pixels, and these have 8x8"),
        "channels": ([*INVERSE, "--checkpoint=photos"], "takes images with C = 3 channels, and here C = 1"),
        "empty": ([*INVERSE, "--checkpoint="], "--checkpoint is empty: name a prior"),
        "trained": ([*INVERSE, f"--checkpoint={fits}"], "holds a run, whose results those of"),
        "nobody": ([*INVERSE, "--checkpoint=nobody"], "no checkpoint 'nobody'"),
        "few": ([*INVERSE, f"--checkpoint={fits}", "--config.inverse.images=1000"], "config.inverse.images = 1000"),
        "other flag": ([*INVERSE, "--sweep"], "--sweep does not go with --mode=inverse"),
        "other mode": (
            [*INVERSE[:1], "--checkpoint=photos"],
            "--checkpoint does not go with --mode=train_and_evaluate",
        ),
    }
    (tmp_path / "trained" / "checkpoints" / "5").mkdir(parents=True)
    ended = run_forked({name: [*given, f"--workdir={tmp_path / name}"] for name, (given, _) in cases.items()})
    for name, (_, message) in cases.items():
        code, out, err = ended[name]
        assert (code, out, len(err.splitlines())) == (2, "", 1), (name, err)
        assert message in err, (name, err)


def test_one_picture_is_no_set_to_compare_with(tmp_path):
    prior = write_prior(tmp_path / "prior", dict(name="mlp", width=32, blocks=1), (8, 8, 1))
    images = [np.zeros((n, 8, 8, 1), np.float32) for n in (1, 20)]
    split = Split(*images, np.zeros(1, int), np.zeros(20, int), "", None)
    with pytest.raises(InputError, match=r"^1 pictures are left as real ones to compare with.*: give more, or lower"):
        take_prior(digits.get_config("smoke"), split, prior, tmp_path)
