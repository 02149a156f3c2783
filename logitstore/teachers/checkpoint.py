"""Where a teacher is: a folder, one GGUF file, or a repository on the Hugging Face hub."""

from __future__ import annotations

import os
import re
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore.errors import InvalidInput, TeacherError

#: what the hub accepts as the name of a repository
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
WEIGHT_SUFFIXES = (".safetensors", ".bin")
#: the hub's own client retries for 23 s where there is no network; one attempt to connect says the same
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Checkpoint:
    """A teacher that exists as far as can be said without reading it.

    Attributes:
        model: folder, or repository on the hub.
        gguf_file: name of the GGUF file in it; None for a Hugging Face checkpoint.
        revision: branch, tag or commit on the hub; None for the default branch.
        trust_remote_code: run Python code that comes with the checkpoint.
        is_local: `model` is a folder.
    """

    model: str
    gguf_file: str | None
    revision: str | None
    trust_remote_code: bool
    is_local: bool

    def __str__(self) -> str:
        return f"{self.model}/{self.gguf_file}" if self.gguf_file else self.model

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments that every `from_pretrained` of this checkpoint needs."""
        options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        if self.gguf_file:
            options["gguf_file"] = self.gguf_file
        if not self.is_local:
            options |= {"revision": self.revision, "local_files_only": not hub_reachable()}
        return options


def find_checkpoint(
    model: str | Path, *, gguf_file: str | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """Return where `model` is; a folder with one GGUF file and nothing else to load needs no `gguf_file`.

    Raises:
        TeacherError: kind "teacher-missing", a local path is absent or holds no model.
        InvalidInput: a folder of several GGUF files and no word which, or `gguf_file` given twice.
    """
    path = Path(model).expanduser()
    if not path.exists():
        name = str(model)
        if isinstance(model, Path) or not HUB_ID.fullmatch(name) or name.endswith(".gguf"):
            raise TeacherError(
                f"there is no teacher at {name}: no such file or folder, and it cannot be the name of a Hugging Face "
                "repository. Check the path.",
                kind="teacher-missing",
            )
        return Checkpoint(name, gguf_file, revision, trust_remote_code, is_local=False)
    if path.is_file():
        if gguf_file is not None or path.suffix != ".gguf":
            raise InvalidInput(
                f"teacher {model} is a file; a folder was wanted, or a single .gguf file without gguf_file."
            )
        path, gguf_file = path.parent, path.name
    gguf_file = _find_gguf(path, gguf_file)
    if gguf_file is None:
        _check_folder(path)
    return Checkpoint(str(path), gguf_file, None, trust_remote_code, is_local=True)


def _find_gguf(folder: Path, gguf_file: str | None) -> str | None:
    if gguf_file is not None:
        if not (folder / gguf_file).is_file():
            raise TeacherError(f"there is no file {gguf_file} in {folder}. Check its name.", kind="teacher-missing")
        return gguf_file
    if (folder / "config.json").exists():
        return None
    found = sorted(file.name for file in folder.glob("*.gguf"))
    if len(found) > 1:
        raise InvalidInput(f"{folder} has several GGUF files ({', '.join(found)}); say which with --gguf-file.")
    return found[0] if found else None


def _check_folder(folder: Path) -> None:
    wanted = "a folder as `save_pretrained` writes it, or one with a .gguf file, was wanted."
    if not (folder / "config.json").is_file():
        raise TeacherError(f"{folder} has no config.json; {wanted}", kind="teacher-missing")
    if not any(file.name.endswith(WEIGHT_SUFFIXES) for file in folder.iterdir()):
        raise TeacherError(
            f"{folder} has a config.json but no weights ({' or '.join('*' + s for s in WEIGHT_SUFFIXES)}); {wanted}",
            kind="teacher-missing",
        )


def hub_reachable() -> bool:
    """Say whether the hub can be asked; where it cannot, only what was downloaded earlier is left."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    place = urllib.parse.urlsplit(constants.ENDPOINT)
    if urllib.request.getproxies().get(place.scheme) or os.environ.get("ALL_PROXY"):
        return True  # only the proxy can know
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        with socket.create_connection((place.hostname or "", port), timeout=CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False
