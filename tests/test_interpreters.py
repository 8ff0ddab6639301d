"""Which Pythons are accepted: said alike everywhere, asked before an environment is made, and met by every pin."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
CHECK = ROOT / "requirements" / "check_python.py"
VERSION = ".".join(map(str, sys.version_info[:3]))
RANGE = ">=3.11,<3.13"


def test_all_places_say_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == RANGE
    assert re.search(r'python_requires="(.+)"', (ROOT / "setup.py").read_text())[1] == RANGE
    named = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if c.startswith("Programming Language")]
    assert named == ["3.11", "3.12"]
    assert 'FIRST, LAST = (3, 11), (3, 12)\nACCEPTED = "Python 3.11 or 3.12"' in CHECK.read_text()
    assert "Python 3.11 or 3.12" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("file", ["runtime", "dev", "curation"])
def test_pins_install_on_every_accepted_python(file: str) -> None:
    """By what the installed packages say of themselves; Debian 12's Python is 3.11.2."""
    lines = (ROOT / "requirements" / f"{file}.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and line[0] not in "#-"]
    refusing = {}
    for pin in pins:
        for version in ("3.11.2", "3.11.14", "3.12.0", "3.12.12"):
            environment = {"python_version": version[:4], "python_full_version": version}
            if pin.marker is not None and not (pin.marker.evaluate(environment) and pin.marker.evaluate()):
                continue
            if importlib.metadata.version(pin.name) not in pin.specifier:
                continue  # an environment that make has not brought up to date says nothing of this pin
            said = importlib.metadata.metadata(pin.name)["Requires-Python"]
            if said and version not in SpecifierSet(said):
                refusing[f"{pin} on {version}"] = said
    assert refusing == {}


def checked(python: str, environment: Path) -> tuple[int, str]:
    done = subprocess.run([python, CHECK, environment], capture_output=True, text=True)
    return done.returncode, done.stderr


def test_an_accepted_python(tmp_path: Path) -> None:
    assert checked(sys.executable, Path(sys.prefix)) == (0, "")
    (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {VERSION}\n")
    assert checked(sys.executable, tmp_path) == (0, "")
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.99\n")
    status, said = checked(sys.executable, tmp_path)
    assert status == 2
    assert f"Python {VERSION}, but the environment {tmp_path} is of Python 3.11.99; accepted: that version" in said


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13), (3, 13, 0), (3, 14, 2)])
def test_another_python_is_refused(version: tuple[int, int, int], tmp_path: Path) -> None:
    """As it would say of itself, and by make before anything is made."""
    python = tmp_path / "python"
    code = f"import runpy, sys; sys.version_info = {version}; sys.argv = sys.argv[1:]; "
    code += "len(sys.argv) and sys.argv[0].endswith('.py') and runpy.run_path(sys.argv[0], run_name='__main__')"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nexec {sys.executable} -c "{code}" "$@"\n')
    python.chmod(0o755)
    command = ["make", "setup", f"PYTHON={python}", f"VENV={tmp_path / 'new'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    named = ".".join(map(str, version))
    assert error.endswith(f"Python {named}; accepted: Python 3.11 or 3.12, for instance make setup PYTHON=python3.11")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["no-such-python", "false"])
def test_what_is_no_python_is_refused(command: str, tmp_path: Path) -> None:
    make = ["make", "setup", f"PYTHON={command}", f"VENV={tmp_path / 'new'}"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 2
    assert f"error: PYTHON={command} does not start; accepted: Python 3.11 or 3.12" in done.stderr


def test_a_python_that_cannot_make_environments(tmp_path: Path) -> None:
    """Debian's without python3-venv: said before a half-made folder is left behind."""
    code = "import runpy, sys; sys.modules['ensurepip'] = None; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, CHECK, tmp_path / "new"], capture_output=True, text=True)
    assert done.returncode == 2
    minor = "{}.{}".format(*sys.version_info[:2])
    assert "cannot make environments; accepted:" in done.stderr
    assert f"apt-get install python{minor}-venv" in done.stderr
