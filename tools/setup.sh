#!/bin/sh
# Finds a Python of at least 3.11 and lets it make or repair .venv:  sh tools/setup.sh notebook|site|test
# When everything is in place already this costs one start of Python.
set -u
cd "${0%/*}/.." || exit 1
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV

if [ -x .venv/bin/python ] && .venv/bin/python -I tools/install.py "$1" --is-current 2>/dev/null; then
    exit 0
fi

# PYTHON may name one; a name alone is no proof that it starts (version managers leave such stubs)
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$candidate" -I tools/install.py "$1"
    fi
done
found=$(python3 -c 'import sys; print("Python %d.%d" % sys.version_info[:2])' 2>/dev/null) || found=
echo "Expected Python 3.11 or newer, got ${found:-none}. Install one (python.org, your package manager), or name one: make PYTHON=/path/to/python3.12 ..." >&2
exit 1
