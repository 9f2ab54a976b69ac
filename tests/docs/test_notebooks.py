import pathlib
import re
import tomllib

import nbclient
import nbformat
import pytest

SMALLER = {  # numbers that a test does not need in full, by notebook
    "01": {
        "samples=20_000, test_samples=1_000": "samples=1_000, test_samples=200",
        "steps=1500, batch_size=256": "steps=100, batch_size=64",
    },
    "02": {
        "steps=40": "steps=2",
        "size = 128": "size = 32",
        "linspace(0, 1, 9)": "linspace(0, 1, 3)",
        "curve[round(8 * lookahead)]": "curve[round(2 * lookahead)]",
        # Tiles as small as the pictures.
        'fmdp.load("photos")': 'fmdp.load("photos")\n'
        'object.__setattr__(prior, "tiling", type(prior.tiling)(size=32, margin=4))',
    },
}
NOTEBOOKS = sorted(pathlib.Path("colab").glob("*.ipynb"))


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_carry_no_outputs_and_open_in_colab(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))
    assert "https://colab.research.google.com/" in notebook.cells[0].source
    assert "pip" in code(notebook)[0].source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_say_everything_once(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    text = " ".join(" ".join(cell.source for cell in cells).split())
    sentences = [sentence for sentence in re.split(r"(?<=[.:;)]) ", text) if len(sentence) > 20]
    assert len(sentences) > 10
    assert [sentence for sentence in set(sentences) if sentences.count(sentence) > 1] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("source", "machine", "wanted"),
    [
        ("https://host/fmdp", "", "fmdp[colab] @ git+https://host/fmdp"),
        ("https://host/fmdp", "gpu", "fmdp[colab,cuda12] @ git+https://host/fmdp"),
        ("https://host/fmdp", "tpu", "fmdp[colab,tpu] @ git+https://host/fmdp"),
        ("/content/fmdp", "gpu", "/content/fmdp[colab,cuda12]"),
    ],
)
def test_notebooks_install_what_the_machine_needs(path, source, machine, wanted, monkeypatch):
    cell = code(nbformat.read(path, as_version=4))[0].source
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: name if machine == "gpu" else None)
    monkeypatch.setattr("pathlib.Path.glob", lambda self, pattern: [self / pattern] * (machine == "tpu"))
    commands = []
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    with pytest.raises(SystemExit, match="name in SOURCE where it is"):
        exec(cell, {})
    exec(cell.replace('SOURCE = ""', f"SOURCE = {source!r}"), {})
    (command,) = commands
    assert command[-1] == wanted
    named = set(re.findall(r"\[(.*)\]", wanted)[0].split(","))
    assert named <= tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["optional-dependencies"].keys()


def shrink(notebook, changes):
    """Replace numbers in the code of a notebook, in place; each of them has to be there."""
    for old, new in changes.items():
        cells = [cell for cell in code(notebook) if old in cell.source]
        assert cells, f"no cell has {old}"
        for cell in cells:
            cell.source = cell.source.replace(old, new)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_start_to_end(path, tmp_path):
    for last in (False, True):  # on a busy machine the answer of an idle kernel was lost once in dozens of runs
        notebook = nbformat.read(path, as_version=4)
        shrink(notebook, SMALLER[path.name[:2]])
        client = nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}})
        try:
            client.execute()
            break
        except nbclient.exceptions.CellTimeoutError:
            if last:
                raise
    shown = [output.get("data", {}) for cell in code(notebook) for output in cell.outputs]
    # The knob's pictures are inside widgets.
    assert sum("image/png" in data for data in shown) + len(client.widget_state) >= 3
    assert any("application/vnd.jupyter.widget-view+json" in data for data in shown)


def test_both_notebooks_are_there():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02"]
