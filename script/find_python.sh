# Sourced by the scripts beside it: sets $python to a Python that the project runs on (3.10 to 3.14).
#
# PYTHON=/path/to/python chooses one. A Python that can make virtual environments is preferred; environment.py says
# what to install when there is none. Each candidate is run, because a name on the PATH may be a shim of nothing.

python=
for wanted in "ensurepip, venv" "sys"; do
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python3.14 python}; do
        if "$candidate" -c "import sys, $wanted; sys.exit(not (3, 10) <= sys.version_info < (3, 15))" 2>/dev/null; then
            python=$candidate
            break 2
        fi
    done
done
if [ -z "$python" ]; then
    echo "No Python from 3.10 to 3.14 found${PYTHON:+ at PYTHON=$PYTHON}." >&2
    echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or set PYTHON=/path/to/python3." >&2
    exit 1
fi
