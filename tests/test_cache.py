"""Derived results are kept, never read for other versions, and never needed."""

import json
import os
from pathlib import Path

import pytest

from crystalgfn import cache
from crystalgfn.cache import cache_folder, cache_path, cached


class Work:
    """Counts how often it is asked, and keeps what it gives as JSON."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, path: Path) -> list[int]:
        return cached(path, self._derive, lambda p: _checked(json.loads(p.read_text())), _write)

    def _derive(self) -> list[int]:
        self.times += 1
        return [1, 2, 3]


def _checked(value: object) -> list[int]:
    if not isinstance(value, list):
        raise ValueError("no list")
    return value


def _write(path: Path, value: list[int]) -> None:
    path.write_text(json.dumps(value))


def test_derived_once(tmp_path: Path) -> None:
    work, path = Work(), tmp_path / "new" / "a.json"
    assert work(path) == work(path) == [1, 2, 3]
    assert work.times == 1
    assert list(path.parent.iterdir()) == [path], "a temporary file stays"


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\xff\xfe", b"{}", b"null"])
def test_damaged_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    work, path = Work(), tmp_path / "a.json"
    path.write_bytes(content)
    assert work(path) == [1, 2, 3]
    assert json.loads(path.read_text()) == [1, 2, 3]


def test_other_versions_are_derived_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYSTALGFN_CACHE", str(tmp_path))
    versions = {"spglib": "1", "crystalgfn": "1"}
    monkeypatch.setattr(cache, "version", versions.__getitem__)
    work = Work()

    def ask() -> int:
        work(cache_path("table_v1", ".json", *versions))
        return work.times

    assert ask() == ask() == 1
    versions["spglib"] = "2"
    assert ask() == 2
    versions["crystalgfn"] = "2"
    assert ask() == 3
    versions |= {"spglib": "1", "crystalgfn": "1"}
    assert ask() == 3


def test_no_folder_can_be_made(tmp_path: Path) -> None:
    # A file where the folder should be stops root too, which a read-only folder does not.
    (tmp_path / "file").write_text("")
    work = Work()
    assert work(tmp_path / "file" / "a.json") == [1, 2, 3]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert Work()(tmp_path / "a.json") == [1, 2, 3]
    finally:
        tmp_path.chmod(0o700)


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def write(path: Path, value: list[int]) -> None:
        path.write_text("half")
        raise OSError("the disk is full")

    assert cached(tmp_path / "a.json", lambda: [1], lambda p: json.loads(p.read_text()), write) == [1]
    assert not list(tmp_path.iterdir())


def test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("CRYSTALGFN_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "crystalgfn"
    monkeypatch.setenv("CRYSTALGFN_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "crystalgfn"


def test_unknown_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYSTALGFN_CACHE", str(tmp_path))
    assert cache_path("table_v1", ".json", "no-such-package").name == "table_v1_no-such-package-unknown.json"
