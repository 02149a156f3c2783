"""Small builds in processes that can be killed, and what their stores must come to."""

import hashlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch

import logitstore
from logitstore.build.join import join_build
from logitstore.errors import StoreError
from logitstore.store import open_store, verify_store
from logitstore.teachers import ArrayTeacher

VOCAB_SIZE = 120
SEQ_LEN = 32
NUM_SEQUENCES = 40
#: sequences of a unit
PER_UNIT = 4


def _logits(tokens):
    before = torch.cat([tokens[:1] * 0, tokens[:-1]])
    mix = (tokens * 31 + before * 17)[:, None] + torch.arange(VOCAB_SIZE)[None, :] * 7
    return torch.sin(mix.float()) * 4


def toy_teacher():
    """A causal teacher whose logits depend on two tokens, one sequence at a time."""
    return ArrayTeacher(lambda tokens: torch.stack([_logits(row) for row in tokens]), vocab_size=VOCAB_SIZE, name="toy")


def write_data(folder):
    """Write token ids for `NUM_SEQUENCES` sequences; return the file."""
    path = folder / "tokens.jsonl"
    ids = [(7 * i * i + 3 * i) % 97 for i in range(SEQ_LEN * NUM_SEQUENCES)]
    path.write_text(json.dumps({"ids": ids}) + "\n")
    return path


def build(store, data):
    """Build or resume."""
    from logitstore.build import local
    from logitstore.build.plan import Plan

    local.make_plan = lambda sequences, tokens: Plan(sequences, PER_UNIT)
    options = {"tokens_field": "ids", "seq_len": SEQ_LEN, "pack": True, "quiet": True, "resume": True}
    return logitstore.build(store, teacher=toy_teacher(), data=[data], **options)


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


def fingerprint(store):
    """Return a hash of each file that a build decides about; when and where it ran is left out of the manifest."""
    found = {}
    for path in sorted(Path(store).rglob("*")):
        if path.is_file() and path.name != "sealed.json":
            content = path.read_bytes()
            if path.name == "manifest.json":
                manifest = json.loads(content)
                del manifest["created"]
                content = json.dumps(manifest).encode()
            found[path.relative_to(store).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


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
