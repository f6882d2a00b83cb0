#!/bin/sh
# Print the path of a Python that can make .venv: $PYTHON if set, else the one that .venv has already, else 3.11 or
# 3.12 on the PATH, else a newer one. Every candidate is run, because a name on the PATH may be a shim for nothing.
set -u
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 2

version_of() { "$1" -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null; }

# ensurepip is its own package on Debian and Ubuntu, and without it `python -m venv` fails half way.
usable() { "$1" -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

refuse_without_venv() {
    echo "$1 can't make virtual environments: its module ensurepip is missing." >&2
    echo "  Debian, Ubuntu   sudo apt install python$(version_of "$1")-venv" >&2
    exit 2
}

if [ -n "${PYTHON:-}" ]; then
    version=$(version_of "$PYTHON") || { echo "PYTHON=$PYTHON doesn't run." >&2; exit 2; }
    case $version in
        3.1[1-9] | 3.[2-9][0-9]) ;;
        *) echo "PYTHON=$PYTHON is Python $version; ZenGlow needs 3.11 or newer." >&2; exit 2 ;;
    esac
    usable "$PYTHON" || refuse_without_venv "$PYTHON"
    command -v -- "$PYTHON"
    exit
fi

without_venv=
for name in "$root/.venv/bin/python" python3.11 python3.12 python3 python python3.13 python3.14; do
    path=$(command -v -- "$name" 2>/dev/null) || continue
    case $(version_of "$path") in
        3.1[1-9] | 3.[2-9][0-9]) ;;
        *) continue ;;
    esac
    if usable "$path"; then
        echo "$path"
        exit
    fi
    without_venv=${without_venv:-$path}
done

[ -z "$without_venv" ] || refuse_without_venv "$without_venv"
cat >&2 <<'END'
No Python 3.11 or 3.12 on the PATH. Install one, or say where it is: make venv PYTHON=/path/to/python3.11
  Debian, Ubuntu   sudo apt install python3 python3-venv
  Fedora, RHEL     sudo dnf install python3.12
  macOS            brew install python@3.12
END
exit 2
