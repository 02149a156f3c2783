"""Build stores: read data, run the teacher, sample, commit.

The room and the public function share one name, `logitstore.build`: the module can be called.
"""

import sys
from types import ModuleType
from typing import Any

from logitstore.build.local import build
from logitstore.store import Store

__all__ = ["build"]


class _CallableRoom(ModuleType):
    __wrapped__ = staticmethod(build)

    def __call__(self, *args: Any, **options: Any) -> Store:
        return build(*args, **options)


sys.modules[__name__].__class__ = _CallableRoom
