"""A container image made of this Python's own files, with the embedded engine inside: nothing has to be pulled."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import httptools

import pytest_autotune

if TYPE_CHECKING:
    from collections.abc import Iterator

_CACHE = "__pycache__"
IMAGE = "pytest-autotune-test:latest"
_LEFT_OUT = re.compile(r"/(?:test|tests|idlelib|tkinter|ensurepip|site-packages|config-[^/]*|__pycache__)(?:/|$)")


def build(docker, path: Path) -> str:
    """Import the image, with a file system that is packed at `path`; return its name."""
    base = Path(sys.base_prefix)
    binary = Path(sys.executable).resolve()
    with tarfile.open(path, "w") as archive:
        library = Path(sysconfig.get_path("stdlib"))
        archive.add(binary, binary)
        archive.add(library, library, filter=lambda entry: None if _LEFT_OUT.search("/" + entry.name) else entry)
        packages = [Path(module.__file__).parent for module in (pytest_autotune, httptools)]
        binaries = [binary, *library.glob("lib-dynload/*.so"), *packages[1].rglob("*.so")]
        for needed in sorted(_libraries(binaries)):
            archive.add(needed.resolve(), needed)
        for package in packages:
            archive.add(package, f"/app/{package.name}", filter=lambda entry: None if _CACHE in entry.name else entry)
        link = tarfile.TarInfo("/usr/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, str(binary)
        archive.addfile(link)
        for name in ("tmp", "proc", "sys", "dev", "etc"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(directory)
    repository, _, tag = IMAGE.partition(":")
    with path.open("rb") as file:
        docker.api.import_image_from_data(
            file, repository=repository, tag=tag, changes=[f"ENV PYTHONPATH=/app PYTHONHOME={base}"]
        )
    return IMAGE


def _libraries(binaries: list[Path]) -> Iterator[Path]:
    """Yield the shared libraries that the binaries are linked with, and the loader."""
    seen = set()
    for binary in binaries:
        said = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
        for found in re.findall(r"(/\S+\.so[^\s:]*)", said):
            if found not in seen:
                seen.add(found)
                yield Path(found)
