#!/usr/bin/env bash
# What a GPU is worth, in one command of less than 8 minutes: `bash bench/device.sh [--mnist FILE]` on a machine with CUDA.
#
#   --smoke   all parts at tiny sizes on the CPU, in seconds; the tests marked gpu are collected only
#   OUT       where to write (bench/out without it): the output of each part, and lines.md for bench/RESULTS.md
#   WHEELS    a folder of wheels to use where dependencies are missing: they go to a folder that is thrown away
#   PYTHON    the interpreter; without it .venv/bin/python, or python3 where that is missing or WHEELS is given
#   MNIST     mnist.npz; also found at data/mnist/mnist.npz and mnist.npz. Without it, images are made up.
#
# Parts do not depend on each other, and each has its own time limit. Exit status 1 if any failed.
set -uo pipefail
cd "$(dirname "$0")/.."

smoke=""
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --smoke) smoke=yes; options+=(--smoke) ;;
        --mnist) [ $# -gt 1 ] || { echo "--mnist needs a file" >&2; exit 2; }; options+=(--mnist "$2"); shift ;;
        *) echo "unknown option $1: see the head of $0" >&2; exit 2 ;;
    esac
    shift
done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
out=${OUT:-bench/out}
[ -z "$smoke" ] || [ -n "${OUT:-}" ] || out=$scratch/out
mkdir -p "$out"
: > "$out/lines.md"

python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    [ -n "${WHEELS:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python
fi
packages=$scratch/packages
mkdir "$packages"
if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --target "$packages" "$WHEELS"/*.whl || exit 1
fi
ln -s "$PWD/cli" "$packages/genmem_cli"  # the package that an installed genmem has
export PYTHONPATH=$PWD:$packages${PYTHONPATH:+:$PYTHONPATH}

if [ -z "$smoke" ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "$python has no torch that sees a CUDA device: see the head of $0" >&2
    exit 2
fi

failed=()
part() {  # name, seconds it may take, command
    local name=$1 limit=$2 start=$SECONDS status
    shift 2
    echo "== $name (at most $limit s)"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$out/$name.txt"
    status=${PIPESTATUS[0]}
    [ "$status" -eq 0 ] || failed+=("$name (exit status $status)")
    echo "== $name: exit status $status after $((SECONDS - start)) s"
}

mapfile -t tests < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
if [ -n "$smoke" ]; then
    part gpu-tests 60 "$python" -m pytest -m gpu -q --collect-only -p no:cacheprovider "${tests[@]}"
else
    part gpu-tests 100 "$python" -m pytest -m gpu -q -p no:cacheprovider "${tests[@]}"
fi
part lanes 75 "$python" bench/device.py lanes --out "$out" "${options[@]}"
part study 145 "$python" bench/device.py study --out "$out" "${options[@]}"
part influence 90 "$python" bench/device.py influence --out "$out" "${options[@]}"
part search 45 "$python" bench/device.py search --out "$out" "${options[@]}"

echo
echo "| what | straightforward | genmem | ratio | where |"
echo "|---|---|---|---|---|"
cat "$out/lines.md"
echo
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "all parts done in $SECONDS s"
