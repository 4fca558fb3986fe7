"""Locks and temporary files, also where a file system locks otherwise than a disk."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from swift_bids.base import locks
from swift_bids.base.files import remove_parts, write_atomically, write_json, write_text
from swift_bids.base.locks import exclusive
from swift_bids.execution.work_folder import reserved_folder, work_folder

LONG_AGO = time.time() - 2 * 86_400


def is_locked(path):
    with open(path, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def left_by_a_killed_call(path):
    """A file, or a lock, of a process that was killed while it had it."""
    code = "from pathlib import Path; from swift_bids.base.locks import locked; import os; "
    code += f"locked(Path({str(path)!r})).__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.exists()


@pytest.fixture
def network_file_system(monkeypatch):
    """Locks as on NFS: exclusive ones need a file that is open for writing."""
    real = fcntl.flock

    def flock(file, how):
        handle = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_left_behind_on_a_network_file_system(tmp_path, network_file_system):
    """They were taken for left behind after a day only."""

    def write_beside_others(path):
        remove_parts(tmp_path)
        path.write_text("b")

    left_by_a_killed_call(tmp_path / ".a.tsv.0.part")
    remove_parts(tmp_path)
    assert os.listdir(tmp_path) == []
    write_atomically(tmp_path / "b.tsv", write_beside_others)
    assert os.listdir(tmp_path) == ["b.tsv"]


def test_one_at_a_time_on_a_network_file_system(tmp_path, network_file_system):
    """All were let through, since a folder cannot be opened for writing."""
    left_by_a_killed_call(tmp_path / ".lock.part")
    inside, most = [], []

    def change():
        for _ in range(20):
            with exclusive(tmp_path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1
    assert os.listdir(tmp_path) == []


def test_a_lock_that_somebody_else_has_by_now_stays(tmp_path, monkeypatch):
    """Between the look and the lock it was removed and made anew: two were in."""
    path = tmp_path / ".lock.part"
    left_by_a_killed_call(path)
    real, others = fcntl.flock, []

    def flock(file, how):
        if not others:
            path.unlink()
            others.append(open(path, "ab"))
            real(others[0], how)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    remove_parts(tmp_path)
    assert is_locked(path)
    others[0].close()


def test_a_call_of_days_where_there_are_no_locks(tmp_path, monkeypatch):
    """Its work folder was taken for left behind after a day."""

    def flock(file, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    parent = tmp_path / ".swift_bids_work"
    for name in ("living", "dead"):
        (parent / name / "wf" / "run").mkdir(parents=True)
        (parent / name / ".lock").touch()
        for path in (*parent.glob(f"{name}/**/*"), parent / name):
            os.utime(path, (LONG_AGO, LONG_AGO))
    (parent / "living" / "wf" / "run" / "now").touch()
    with work_folder(None, tmp_path, "mine"):
        assert sorted(os.listdir(parent)) == ["living", "mine"]


def test_nobody_waits_for_ever(tmp_path, monkeypatch):
    """A machine that went away with a lock, which its file server keeps."""
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", 2)
    with exclusive(tmp_path, "run"):
        begin = time.monotonic()
        with exclusive(tmp_path, "another"):
            assert time.monotonic() - begin < 2
        with exclusive(tmp_path, "run"):
            assert 2 <= time.monotonic() - begin < 30


def test_what_is_being_removed_cannot_be_taken(tmp_path, monkeypatch):
    """Between the look and the removal another call could begin to write it."""
    left_by_a_killed_call(tmp_path / ".a.tsv.0.part")
    held = []
    real = Path.unlink

    def unlink(path, **options):
        held.append(is_locked(path))
        real(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink)
    remove_parts(tmp_path)
    assert held == [True]


def test_work_folders_of_killed_calls(tmp_path):
    """Those without a lock stayed for ever."""
    parent = tmp_path / ".swift_bids_work"
    for name, age in (("old", LONG_AGO), ("young", None)):
        (parent / name / "pymp").mkdir(parents=True)
        if age:
            for path in (parent / name / "pymp", parent / name):
                os.utime(path, (age, age))
    left_by_a_killed_call(parent / "locked" / ".lock")
    with work_folder(None, tmp_path, "mine") as folder:
        assert sorted(os.listdir(parent)) == ["mine", "young"]
        assert folder == parent / "mine"
    assert os.listdir(parent) == ["young"]


def test_only_what_the_call_made_goes(tmp_path):
    """An empty output folder of the user's own was removed."""
    for place, left in ((tmp_path / "users", True), (tmp_path / "made" / "here", False)):
        if left:
            place.mkdir()
        with work_folder(None, place, "mine"):
            pass
        assert place.exists() == left
        assert not left or os.listdir(place) == []


def test_a_kept_work_folder_alone_is_locked(tmp_path):
    with reserved_folder(tmp_path, tmp_path / "steps", ["run"], "first") as first:
        assert first == tmp_path
        with reserved_folder(tmp_path, tmp_path / "steps", ["other"], "second") as second:
            assert second == tmp_path


def test_half_a_character(tmp_path):
    """As a name that is no UTF-8 holds, and JSON may: an error of Python ended the call."""
    write_text(tmp_path / "a.txt", "f\udcfc \ud83d é")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "f\\udcfc \\ud83d é"
    write_json(tmp_path / "a.json", {"Authors": ["\ud83d"]})
    assert '"\\ud83d"' in (tmp_path / "a.json").read_text(encoding="utf-8")
