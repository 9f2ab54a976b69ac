import os

import jax
import pytest

from fmdp.cli import compile_cache
from fmdp.errors import InputError

VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE")
CHANGED = (compile_cache.DIRECTORY, compile_cache.SIZE, compile_cache.MIN_SECONDS)


@pytest.fixture
def settings(monkeypatch):
    """Without the variables of the cache; what is set in a test is undone."""
    before = {name: getattr(jax.config, name) for name in CHANGED}
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch
    for name, value in before.items():
        jax.config.update(name, value)


def fill(folder, **ages):
    """Programs of 100 bytes, used so many seconds ago, and a file that is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, age in {**ages, "notes": 10**6}.items():
        path = folder / (name if name == "notes" else f"{name}-cache")
        path.write_bytes(bytes(100))
        os.utime(path, (10**9 - age, 10**9 - 10**7))
    return folder


def left(folder):
    return sorted(path.name.removesuffix("-cache") for path in folder.iterdir())


@pytest.mark.parametrize(
    ("limit", "kept"), [(300, "abc"), (299, "ac"), (200, "ac"), (100, "a"), (99, ""), (0, ""), (10**12, "abc")]
)
def test_the_programs_used_least_recently_go_first_and_other_files_stay(tmp_path, limit, kept):
    fill(tmp_path, a=1, b=3, c=2)
    compile_cache.trim(tmp_path, limit)
    assert left(tmp_path) == [*kept, "notes"]


def test_a_folder_that_is_not_there_or_a_file_that_goes_meanwhile_is_no_hindrance(tmp_path, monkeypatch):
    compile_cache.trim(tmp_path / "absent", 0)
    (fill(tmp_path, a=1) / "gone-cache").symlink_to(tmp_path / "nothing")
    compile_cache.trim(tmp_path, 0)
    assert left(tmp_path) == ["gone", "notes"]


def test_the_cache_is_in_the_home_folder_and_below_the_limit_when_a_program_starts(settings, tmp_path):
    settings.setenv("HOME", str(tmp_path))
    settings.setattr(compile_cache, "MAX_BYTES", 250)
    folder = fill(tmp_path / ".cache" / "fmdp" / "jax", a=1, b=3, c=2)
    compile_cache.use_compile_cache()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert left(folder) == ["a", "c", "notes"]


@pytest.mark.parametrize(("size", "kept"), [("-1", "abc"), ("100", "a"), ("0", "abc")])
def test_the_environment_names_another_folder_and_limit(settings, tmp_path, size, kept):
    fill(tmp_path, a=1, b=3, c=2)
    settings.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    settings.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", size)
    jax.config.update(compile_cache.SIZE, int(size))  # as JAX does when it is imported
    compile_cache.use_compile_cache()
    assert jax.config.jax_compilation_cache_dir == (None if size == "0" else str(tmp_path))
    assert jax.config.jax_compilation_cache_max_size == -1
    assert left(tmp_path) == [*kept, "notes"]


def test_a_limit_that_is_not_possible_is_named(settings):
    settings.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "-5")
    jax.config.update(compile_cache.SIZE, -5)
    with pytest.raises(InputError, match=r"JAX_COMPILATION_CACHE_MAX_SIZE=-5: give the size in bytes, 0 for no cache"):
        compile_cache.use_compile_cache()
