"""Builds in a bucket that are stopped."""

import re
from contextlib import suppress

from logitstore.store.object_requests import RequestFailed
from logitstore.store.object_storage import ObjectStorage


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
