"""Small builds in a bucket, and what their stores must come to."""

import hashlib
import json
import re
from contextlib import suppress

import torch

import logitstore
from logitstore.build import local
from logitstore.build.plan import Plan
from logitstore.store.object_requests import RequestFailed
from logitstore.store.object_storage import ObjectStorage
from logitstore.store.storage import open_storage
from logitstore.teachers import ArrayTeacher

VOCAB_SIZE = 120
SEQ_LEN = 32
NUM_SEQUENCES = 22
#: sequences of a unit: six units
PER_UNIT = 4


def _logits(tokens):
    before = torch.cat([tokens[:1] * 0, tokens[:-1]])
    mix = (tokens * 29 + before * 13)[:, None] + torch.arange(VOCAB_SIZE)[None, :] * 7
    return torch.sin(mix.float()) * 4


def toy_teacher(before=None):
    """A causal teacher whose logits depend on two tokens; `before` is called first each time."""

    def function(tokens):
        if before is not None:
            before()
        return torch.stack([_logits(row) for row in tokens])

    return ArrayTeacher(function, vocab_size=VOCAB_SIZE, name="toy")


def write_data(folder):
    """Write token ids for `NUM_SEQUENCES` sequences; return the file."""
    path = folder / "tokens.jsonl"
    ids = [(7 * i * i + 3 * i) % 97 for i in range(SEQ_LEN * NUM_SEQUENCES)]
    path.write_text(json.dumps({"ids": ids}) + "\n")
    return path


def build(store, data, *, teacher=None, resume=True, **options):
    """Build or resume."""
    usual = local.make_plan
    local.make_plan = lambda sequences, tokens: Plan(sequences, PER_UNIT)
    try:
        fixed = {"tokens_field": "ids", "seq_len": SEQ_LEN, "quiet": True, "batch_size": 4, "resume": resume}
        return logitstore.build(store, teacher=teacher or toy_teacher(), data=[data], **fixed | options)
    finally:
        local.make_plan = usual


def fingerprint(place):
    """Return a hash of every file of a store, here or in a bucket; when and where it ran is left out of the manifest."""
    storage, found = open_storage(place), {}
    for name in storage.names():
        content = storage.read(name)
        if name.endswith("manifest.json"):
            manifest = json.loads(content)
            del manifest["created"]
            content = json.dumps(manifest).encode()
        if name.endswith("sealed.json"):
            sealed = json.loads(content)
            del sealed["manifest_sha256"], sealed["sha256"]
            content = json.dumps(sealed).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


class StopAt:
    """Stops the process's work at its N-th request to a bucket: before it is made, or after, when nobody knows."""

    def __init__(self, monkeypatch, nth, *, after):
        self.made = []
        real = ObjectStorage._once

        def once(storage, seconds, operation, *arguments):
            # one name stands for all of a folder; what a process tries out has a name of its own each time
            name = arguments[0] if isinstance(arguments[0], str) else arguments[0][0]
            self.made.append((operation, re.sub(r"/\d.*|attempts/.*", "", name)))
            if len(self.made) != nth:
                return real(storage, seconds, operation, *arguments)
            if after:
                with suppress(RequestFailed):
                    real(storage, seconds, operation, *arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(ObjectStorage, "_once", once)
