"""Small builds in processes that can be killed, and what their stores must come to."""

import os
import signal
import sys
import traceback

import torch

import logitstore
from logitstore.build.join import join_build
from logitstore.errors import StoreError
from logitstore.store import open_store, verify_store
from tests.support.toy_teachers import toy_teacher


def join(store):
    """Help a build."""
    return join_build(store, teacher=toy_teacher(), quiet=True)


def in_child(function, *arguments):
    """Call a function in a forked process; return its id. It exits with 0, or with 1 after a StoreError or the like."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        function(*arguments)
        code = 0
    except logitstore.LogitstoreError as error:
        sys.stderr.write(f"{type(error).__name__}[{error.kind}]: {error}\n")
    except BaseException:
        traceback.print_exc()
        code = 3
    finally:
        sys.stderr.flush()
        os._exit(code)


def kill(child):
    """Kill a process as nothing can resist; return whether it was still running."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def check_visible(store):
    """A store that is not finished is refused by name; one that is finished is clean."""
    try:
        open_store(store)
    except StoreError as error:
        if error.kind not in ("not-a-store", "not-sealed"):
            raise
    else:
        assert verify_store(store) == []


def leftovers(store):
    """Return what lies beside a store and begins with its name."""
    return [path.name for path in store.parent.iterdir() if path.name.startswith(f".{store.name}.")]
