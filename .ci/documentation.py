"""What the documentation's site is made of: files of this repository, each at the path it has here.

So a relative link is right in both or in neither, and the README is the front page.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files, InclusionLevel

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

PAGES = ("README.md", "CHANGELOG.md", "benchmarks/README.md", "docs/*")
LINKED = ("LICENSE", "suites/*.yaml", ".github/**/*.yml", "pytest_autotune/*.py", "benchmarks/*.py", "benchmarks/*.c")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace what was found in docs/ and keep what the theme brings."""
    root = Path(config.docs_dir).parent
    theme = [file for file in files if not Path(file.abs_src_path or "").is_relative_to(config.docs_dir)]
    paths = [path.relative_to(root) for pattern in (*PAGES, *LINKED) for path in sorted(root.glob(pattern))]
    return Files([*theme, *(_file(path, root, config) for path in paths)])


def _file(path: Path, root: Path, config: MkDocsConfig) -> File:
    """Return a file that is shown although a directory of its path may be a hidden one."""
    return File(str(path), str(root), config.site_dir, config.use_directory_urls, inclusion=InclusionLevel.INCLUDED)
