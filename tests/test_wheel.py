"""An installed wheel claims no name but its own."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # a copy without build leftovers, links kept as the repository has them
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(source)], check=True, capture_output=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_has_one_top_level_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"logitstore"}
    for wanted in ("cli/main.py", "triton_kernels/__init__.py", "codec/FORMAT.md", "py.typed"):
        assert f"logitstore/{wanted}" in names
    assert any(name.startswith("logitstore/demo/data/") and name.endswith(".txt") for name in names)


def test_an_installed_wheel_makes_no_other_name_importable(wheel, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    code = (
        f"import sys; sys.path[:] = [{str(tmp_path)!r}] + [p for p in sys.path if 'python3' in p and 'site-packages' not in p]\n"
        "import importlib.util as u; print(u.find_spec('cli'), u.find_spec('triton_kernels'), bool(u.find_spec('logitstore')))"
    )
    output = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert output.stdout.split() == ["None", "None", "True"]
