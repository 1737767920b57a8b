#!/usr/bin/env bash
# Checks the package and examples/lambda-python: types, then tests against the server that FANFARE_BIN names, or the one
# that was built last in target/. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"

for built in ../../target/debug/fanfare ../../target/release/fanfare; do
  [ -x "$built" ] && default=$built
done
FANFARE_BIN=$(realpath "${FANFARE_BIN:-${default:?build the server, or name its program in FANFARE_BIN}}")
export FANFARE_BIN

# An environment of its own, made again when the requirements change.
venv=$PWD/python_modules
if ! cmp -s requirements.txt "$venv/requirements.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.txt
  cp requirements.txt "$venv/"
fi
export PATH="$venv/bin:$PATH"

# The package is built by the hatchling of the requirements (0 means without isolation), and tested as it is installed.
export PIP_NO_BUILD_ISOLATION=0
python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .

mypy src tests ../../examples/lambda-python/function.py ../../examples/lambda-python/test_function.py
python -m pytest "$@"
