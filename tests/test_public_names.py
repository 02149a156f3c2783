"""The public door, and what stands behind it."""

import subprocess
import sys

import pytest

import logitstore

NAMES = [
    "InvalidInput",
    "LogitDataset",
    "LogitstoreError",
    "SparseTargets",
    "StoreError",
    "TeacherError",
    "build",
    "create_store",
    "linear_sparse_kd_loss",
    "make_dataloader",
    "open_store",
    "samplers",
    "sparse_kd_loss",
    "training",
    "verify_store",
]


def test_the_public_names_are_these():
    assert sorted(logitstore.__all__) == sorted(["__version__", *NAMES])
    assert dir(logitstore) == sorted(logitstore.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(logitstore, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        logitstore.nothing  # noqa: B018


def test_build_is_a_room_and_a_function():
    import logitstore.build.plan

    assert logitstore.build.plan.make_plan(1, 1).num_units == 1
    with pytest.raises(logitstore.InvalidInput, match="data is no list of paths"):
        logitstore.build("nowhere", teacher="none", data=[])


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["torch", "zarr", "triton", "transformers", "pyarrow", "matplotlib", "click"]
    code = f"import logitstore, sys; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_training_rooms_load_no_extras():
    code = "import logitstore.loader, logitstore.losses, logitstore.build, logitstore.training, sys; "
    assert run_python(code + "print('transformers' in sys.modules)").strip() == "False"
