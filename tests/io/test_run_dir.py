import errno
import fcntl
import os

import pytest

from fmdp.errors import InputError
from fmdp.io.run_dir import RunDir


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_causes_a_warning_only(number, tmp_path, monkeypatch, caplog):
    def flock(lock, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunDir(tmp_path).lock():
        (message,) = caplog.messages
    assert message == f"{tmp_path} cannot be locked ({os.strerror(number)}): start no second run in it"


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for name, reason in (("file", "File exists"), ("file/run", "Not a directory")):
        with pytest.raises(InputError) as refused:
            RunDir.open(f"{tmp_path}/{name}")
        fault = f"is not a folder that can be written to ({reason}): name another"
        assert str(refused.value) == f"--workdir={tmp_path}/{name} {fault}"
