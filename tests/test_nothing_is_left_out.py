"""pytest skips folders named "build" unless told otherwise; here that is a room."""

from fnmatch import fnmatch
from pathlib import Path


def test_pytest_walks_into_every_folder_of_tests(request):
    skipped = request.config.getini("norecursedirs")
    folders = {path.parent.name for path in Path(__file__).parent.rglob("test_*.py")}
    assert "build" in folders
    assert [name for name in folders if any(fnmatch(name, pattern) for pattern in skipped)] == []
