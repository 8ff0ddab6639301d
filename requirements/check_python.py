"""Whether an interpreter can become the environment: python requirements/check_python.py [VENV].

Runs on any Python, because any may be given. The pins of this folder are tried on the accepted versions; newer ones
lack builds of some packages.
"""

import os
import sys

FIRST, LAST = (3, 11), (3, 12)
ACCEPTED = "Python 3.11 or 3.12"


def version_of(venv):
    """Of the interpreter in an environment, such as "3.11.2"; None where there is no environment."""
    path = os.path.join(venv, "pyvenv.cfg")
    if not os.path.exists(path):
        return None
    with open(path) as lines:
        entries = dict(line.strip().split(" = ", 1) for line in lines if " = " in line)
    return entries.get("version")


def problem(venv):
    """What is wrong with this interpreter for an environment in the folder `venv`; None if nothing is."""
    mine = "%d.%d.%d" % sys.version_info[:3]  # noqa: UP031, f-strings are newer than some that are refused
    name = "PYTHON=%s: Python %s" % (sys.executable, mine)  # noqa: UP031
    if not FIRST <= sys.version_info[:2] <= LAST:
        return "%s; accepted: %s, for instance make setup PYTHON=python3.11" % (name, ACCEPTED)  # noqa: UP031
    if os.path.realpath(sys.prefix) == os.path.realpath(venv):
        return None
    there = version_of(venv)
    if there is not None:
        if there == mine:
            return None
        return (
            "%s, but the environment %s is of Python %s; accepted: that version, another folder (VENV=.venv-%s), "  # noqa: UP031
            "or none there (rm -r %s)" % (name, venv, there, mine, venv)
        )
    try:
        import ensurepip  # noqa: F401
        import venv as _  # noqa: F401
    except ImportError:
        package = "python%d.%d-venv" % sys.version_info[:2]  # noqa: UP031
        return "%s cannot make environments; accepted: with its module ensurepip (Debian: apt-get install %s)" % (  # noqa: UP031
            name,
            package,
        )
    return None


if __name__ == "__main__":
    said = problem(sys.argv[1] if len(sys.argv) > 1 else ".venv")
    if said:
        sys.stderr.write("error: %s\n" % said)  # noqa: UP031
        sys.exit(2)
