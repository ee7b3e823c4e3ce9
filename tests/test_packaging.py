"""What is built of this project: a wheel and an sdist with the package alone, which work in an empty environment."""

import email
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import TOLERANT_LOAD
from tests.documents import ROOT, clean_environment, script, table

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STEM = f"pytest_autotune-{PROJECT['version']}"
PACKAGE = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "pytest_autotune").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build by the script that CI uploads from; the wheel is made of the sdist."""
    directory = tmp_path_factory.mktemp("built")
    result = script("package", directory)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("PASSED") == 2
    return {"wheel": directory / f"{STEM}-py3-none-any.whl", "sdist": directory / f"{STEM}.tar.gz"}


def by_pip(python, package):
    subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    # Compiling all modules takes longer than the rest, and the tests import few.
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-compile", package], env=clean_environment(), check=True)


def by_uv(python, package):
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, python.parents[1]], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", python, package], env=clean_environment(), check=True)


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(built["wheel"]) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    return email.message_from_bytes(wheel.read(f"{STEM}.dist-info/METADATA"))


def test_the_wheel_holds_the_package_with_its_types_and_nothing_else(wheel):
    described = {f"{STEM}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    assert set(wheel.namelist()) == PACKAGE | described | {f"{STEM}.dist-info/licenses/LICENSE"}
    assert "pytest_autotune/py.typed" in PACKAGE


def test_the_sdist_holds_what_a_wheel_is_built_of(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.removeprefix(f"{STEM}/") for name in archive.getnames()}
    project = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert names == PACKAGE | project


def test_metadata_says_what_the_package_is(metadata):
    assert metadata["Name"] == "pytest-autotune"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    assert {"Framework :: Pytest", "Typing :: Typed"} <= set(metadata.get_all("Classifier"))


def test_extras_are_documented_and_all_has_the_light_ones(metadata):
    required = metadata.get_all("Requires-Dist")
    of = {
        extra: {line.partition(";")[0] for line in required if re.search(rf"extra == '{extra}'", line)}
        for extra in metadata.get_all("Provides-Extra")
    }
    assert set(table((ROOT / "README.md").read_text(), "Extras")) == of.keys()
    assert of["all"] == of["postgres"] | of["datasets"] | of["dashboard"] | of["docker"]
    assert of["all"] | of["docs"] < of["dev"]


def test_the_changelog_has_this_version_or_says_that_it_will_be():
    text = (ROOT / "CHANGELOG.md").read_text()
    version = re.escape(PROJECT["version"])
    assert re.search(rf"^## \[{version}\] - \d{{4}}-\d\d-\d\d$|^Will be {version}\.$", text, re.MULTILINE)


@pytest.mark.parametrize(("name", "install"), [("wheel", by_pip), ("sdist", by_uv)], ids=["wheel", "sdist"])
def test_it_works_in_an_environment_with_nothing_else(built, tmp_path, name, install):
    """One test for all of it, as the installation takes longer than the rest."""
    python = tmp_path / "venv" / "bin" / "python"
    install(python, built[name])
    holds_no_test_no_suite_and_no_conftest(python)
    is_listed_by_pytest_with_its_options(python, tmp_path)
    has_its_own_command(python, tmp_path)
    tunes_the_quickstart_suite(python, tmp_path)


def by_pip(python, package):
    subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    # Compiling all modules takes longer than the rest, and the tests import few.
    command = [python, "-m", "pip", "install", "-q", "--no-compile", package]
    subprocess.run(command, env=clean_environment(), check=True)


def by_uv(python, package):
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, python.parents[1]], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", python, package], env=clean_environment(), check=True)


def run(python, directory, *arguments):
    command = [python, "-m", *arguments]
    return subprocess.run(
        command, cwd=directory, env=clean_environment(), capture_output=True, text=True, timeout=600, check=False
    )


def holds_no_test_no_suite_and_no_conftest(python):
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    assert {path.name for path in site.iterdir()}.isdisjoint({"tests", "suites", "docs", "benchmarks", "conftest.py"})
    installed = {path.relative_to(site) for path in (site / "pytest_autotune").rglob("*") if path.is_file()}
    assert {str(path) for path in installed if path.suffix != ".pyc"} == PACKAGE


def is_listed_by_pytest_with_its_options(python, directory):
    versions = run(python, directory, "pytest", "-VV")
    assert f"pytest-autotune-{PROJECT['version']} at " in versions.stdout + versions.stderr
    offered = run(python, directory, "pytest", "--help").stdout
    assert all(f"  {option}" in offered for option in ("--autotune ", "--autotune-store=", "autotune_suites (args)"))


def has_its_own_command(python, directory):
    offered = run(python, directory, "pytest_autotune", "--help")
    assert offered.returncode == 0
    assert {"schema", "load"} <= set(offered.stdout.split())
    assert json.loads(run(python, directory, "pytest_autotune", "schema").stdout)["properties"]


def tunes_the_quickstart_suite(python, directory):
    (directory / "suites").mkdir()
    shutil.copy(ROOT / "suites" / "quickstart.yaml", directory / "suites")
    (directory / "tolerant_load.py").write_text(TOLERANT_LOAD)
    arguments = ("-p", "tolerant_load", "suites", "--autotune", "-k", "defaults", "-v")
    result = run(python, directory, "pytest", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(rf"^plugins: .*\bautotune-{PROJECT['version']}\b", result.stdout, re.MULTILINE)
    assert "suites/quickstart.yaml::defaults::deploy DEPLOYED" in result.stdout
    assert (directory / ".autotune" / "results.db").exists()
