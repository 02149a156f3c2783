"""Small builds of many units, and what their stores must come to, in a folder or a bucket."""

import hashlib
import json

import logitstore
from logitstore.build import local
from logitstore.build.plan import Plan
from logitstore.store.storage import open_storage
from tests.support.toy_teachers import toy_teacher

SEQ_LEN = 32
#: sequences of a unit
PER_UNIT = 4


def write_data(folder, num_sequences=40):
    """Write token ids for so many sequences; return the file."""
    path = folder / "tokens.jsonl"
    ids = [(7 * i * i + 3 * i) % 97 for i in range(SEQ_LEN * num_sequences)]
    path.write_text(json.dumps({"ids": ids}) + "\n")
    return path


def build(store, data, *, teacher=None, **options):
    """Build or resume."""
    usual = local.make_plan
    local.make_plan = lambda sequences, tokens: Plan(sequences, PER_UNIT)
    try:
        fixed = {"tokens_field": "ids", "seq_len": SEQ_LEN, "quiet": True, "batch_size": 4, "resume": True}
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
