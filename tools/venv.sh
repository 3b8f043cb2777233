# Makes .venv with what the project needs, once for each state of pyproject.toml and the pins.
# Sourced by the other tools: `ensure_venv run` for the program, `ensure_venv dev` for its checks,
# `ensure_venv bench` for what it is measured beside, `ensure_venv sim` for pictures of runs.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local candidate found=""
    for candidate in ${P2PWEB_PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return 0
        fi
        found="$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
    done
    say "p2pweb needs Python 3.11 or newer, and this machine has ${found:-none}: install one, or name it in P2PWEB_PYTHON."
    return 1
}

ensure_venv() {
    local python
    python="$(find_python)" || exit 1
    # One tool at a time: the lock is the open file's, so it outlives the Python that takes it.
    exec 9>.venv.lock
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    make_venv "$1" "$python"
    exec 9>&-
}

make_venv() {
    local what="$1" python="$2" stamp want target="." made=""
    [ "$what" = run ] || target=".[$what]"
    want="$(cat pyproject.toml tools/constraints.txt | cksum) $("$python" --version)"
    # A stamp for each extra that is installed. Any of them has what the program itself needs, and
    # an extra is added to those of the same state; a .venv of another state is made anew.
    for stamp in .venv/.stamp-*; do
        [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] || continue
        made=yes
        case "$what" in run | "${stamp##*/.stamp-}") return 0 ;; esac
    done
    if [ -n "$made" ]; then
        say "adding what '$what' needs to .venv (once) ..."
    else
        say "preparing .venv (once) ..."
        if ! "$python" -m venv --clear .venv >.venv.log 2>&1; then
            say "cannot make .venv with $python: $(tail -n 1 .venv.log)"
            say "On Debian and Ubuntu, install python3-venv; then try again."
            exit 1
        fi
    fi
    if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint tools/constraints.txt --editable "$target" >.venv.log 2>&1; then
        say "cannot install what p2pweb needs: $(grep -i error .venv.log | tail -n 1)"
        say "The whole story is in .venv.log."
        exit 1
    fi
    rm -f .venv.log
    printf '%s' "$want" >".venv/.stamp-$what"
}
