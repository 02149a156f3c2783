"""Imports between rooms run one way."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: room -> rooms of this package that it may import, beside itself
BASE = {"errors", "progress"}
MIDDLE = BASE | {"targets", "codec", "teachers"}
ROOMS = {
    "errors": set(),
    "progress": set(),
    "targets": {"errors"},
    "codec": {"errors"},
    "teachers": {"errors", "targets"},
    "samplers": {"errors", "targets"},
    "losses": {"errors", "targets"},
    "store": {"errors", "targets", "codec"},
    "build": MIDDLE | {"samplers", "store"},
    "loader": MIDDLE | {"store"},
    "training": MIDDLE | {"samplers", "losses", "store", "loader"},
    "demo": MIDDLE | {"samplers", "losses", "store", "build", "loader", "training"},
    "cli": MIDDLE | {"samplers", "losses", "store", "build", "loader", "training", "demo"},
}
#: packages -> the only rooms that may import them
OWNERS = {
    "zarr": {"store"},
    "pyarrow": {"store", "build"},
    "pcodec": {"codec"},
    "numba": {"codec"},
    "transformers": {"teachers", "training"},
    "matplotlib": {"demo"},
    "click": {"cli"},
    "triton": {"triton_kernels"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files():
    for room in [*ROOMS, "triton_kernels"]:
        place = ROOT / room if room in ("cli", "triton_kernels") else ROOT / "logitstore" / room
        for path in [place.with_suffix(".py")] if place.with_suffix(".py").exists() else place.rglob("*.py"):
            yield room, path


def test_every_room_is_in_the_table():
    entries = [
        path for path in (ROOT / "logitstore").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    assert {path.stem for path in entries} - {"__init__"} == {*ROOMS, "triton_kernels"}


def test_imports_run_one_way():
    wrong = []
    for room, path in files():
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "logitstore" and len(parts) > 1:
                known = parts[1] in ROOMS
                if known and parts[1] != room and parts[1] not in ROOMS.get(room, set()):
                    wrong.append(f"{path.relative_to(ROOT)}: {name}")
            elif room not in OWNERS.get(parts[0], {room}):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert wrong == []
