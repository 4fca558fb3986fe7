"""Locks and temporary files, also on network file systems and on those without locks."""

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


def is_locked(path):
    with open(path, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def leave_as_killed_call(path):
    """Leave a file, or a lock, as a process does that is killed while it holds it."""
    code = "from pathlib import Path; from swift_bids.base.locks import locked; import os; "
    code += f"locked(Path({str(path)!r})).__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.exists()


@pytest.fixture
def network_file_system(monkeypatch):
    """Lock as NFS does: only files that are open for writing."""
    real = fcntl.flock

    def flock(file, how):
        handle = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_abandoned_files_on_a_network_file_system(tmp_path, network_file_system):
    """They are removed at once, not after a day."""

    def write_beside_others(path):
        remove_parts(tmp_path)
        path.write_text("b")

    leave_as_killed_call(tmp_path / ".a.tsv.0.part")
    remove_parts(tmp_path)
    assert os.listdir(tmp_path) == []
    write_atomically(tmp_path / "b.tsv", write_beside_others)
    assert os.listdir(tmp_path) == ["b.tsv"]


def test_one_at_a_time_on_a_network_file_system(tmp_path, network_file_system):
    """NFS does not lock a folder, which cannot be opened for writing."""
    leave_as_killed_call(tmp_path / ".lock.part")
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


def test_a_lock_that_another_call_has_taken_stays(tmp_path, monkeypatch):
    """Another call may remove and create the file between opening and locking it."""
    path = tmp_path / ".lock.part"
    leave_as_killed_call(path)
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


def test_a_lock_that_is_never_released(tmp_path, monkeypatch):
    """A file server may keep the lock of a machine that has lost its network."""
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", 2)
    with exclusive(tmp_path, "run"):
        waits = []
        monkeypatch.setattr(time, "sleep", waits.append)
        with exclusive(tmp_path, "another"):
            assert waits == []
        begin = time.monotonic()
        with exclusive(tmp_path, "run"):
            assert time.monotonic() - begin >= 2
        assert set(waits) == {locks.POLL_INTERVAL}


def test_a_file_is_locked_while_it_is_removed(tmp_path, monkeypatch):
    """Otherwise another call could start to write it."""
    leave_as_killed_call(tmp_path / ".a.tsv.0.part")
    held = []
    real = Path.unlink

    def unlink(path, **options):
        held.append(is_locked(path))
        real(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink)
    remove_parts(tmp_path)
    assert held == [True]


def test_work_folders_of_killed_calls_are_removed(tmp_path):
    parent = tmp_path / ".swift_bids_work"
    leave_as_killed_call(parent / "killed" / ".lock")
    with work_folder(None, tmp_path, "first"), work_folder(None, tmp_path, "second") as folder:
        assert sorted(os.listdir(parent)) == ["first", "second"]
        assert folder == parent / "second"
    assert not parent.exists()


def test_other_calls_files_are_kept_if_there_are_no_file_locks(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".swift_bids_work" / "other").mkdir(parents=True)
    (tmp_path / ".swift_bids_work" / "other" / ".lock").touch()
    with work_folder(None, tmp_path, "own"), exclusive(tmp_path):
        assert sorted(os.listdir(tmp_path / ".swift_bids_work")) == ["other", "own"]
    assert os.listdir(tmp_path / ".swift_bids_work") == ["other"]


def test_a_users_empty_output_folder_stays(tmp_path):
    """A call only removes folders that it made."""
    for place, left in ((tmp_path / "users", True), (tmp_path / "made" / "here", False)):
        if left:
            place.mkdir()
        with work_folder(None, place, "mine"):
            pass
        assert place.exists() == left
        assert not left or os.listdir(place) == []


def test_calls_for_different_runs_share_a_work_folder(tmp_path):
    with reserved_folder(tmp_path, tmp_path / "steps", ["run"], "first") as first:
        assert first == tmp_path
        with reserved_folder(tmp_path, tmp_path / "steps", ["other"], "second") as second:
            assert second == tmp_path


def test_lone_surrogates_are_escaped(tmp_path):
    """They occur in file names that are not UTF-8, and in JSON; Python cannot encode them."""
    write_text(tmp_path / "a.txt", "f\udcfc \ud83d é")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "f\\udcfc \\ud83d é"
    write_json(tmp_path / "a.json", {"Authors": ["\ud83d"]})
    assert '"\\ud83d"' in (tmp_path / "a.json").read_text(encoding="utf-8")
