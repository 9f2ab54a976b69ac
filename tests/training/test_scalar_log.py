import json
import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog

from fmdp.training import scalar_log


def events(path):
    """The records of an event file, each behind its length and a checksum of that, before a checksum of its own."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_scalars_are_lines_and_events_that_go_on_where_a_run_was_resumed(tmp_path):
    with scalar_log.ScalarLog(tmp_path, 0) as log:
        log.write(1, {"loss": 2.0, "norm": float("nan")})
        log.write(2, {"loss": 1.0, "norm": 3.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 2.0, "norm": None}, {"step": 2, "loss": 1.0, "norm": 3.0}]
    (path,) = tmp_path.glob("events.out.tfevents.*")
    version, start, *scalars = events(path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (1, SessionLog.START)
    assert [(e.step, next((v.tag, v.simple_value) for v in e.summary.value)) for e in scalars] == [
        (1, ("loss", 2.0)),
        (2, ("loss", 1.0)),
    ]
    path.unlink()
    with scalar_log.ScalarLog(tmp_path, 1):
        pass
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    (path,) = tmp_path.glob("events.out.tfevents.*")
    assert events(path)[1].step == 2  # from which on a viewer forgets what was there
