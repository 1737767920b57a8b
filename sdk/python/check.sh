#!/usr/bin/env bash
# Checks the package and examples/lambda-python: lint, types, then tests against the server that FANFARE_BIN names.
# Without it, that is target/release/fanfare, or the debug build if there is no other. Arguments go to pytest.
set -euo pipefail
root=$(realpath "$(dirname "$0")/../..")

for built in "$root"/target/{debug,release}/fanfare; do
  [ -x "$built" ] && default=$built
done
FANFARE_BIN=$(realpath -e "${FANFARE_BIN:-${default:?build the server, or name its program in FANFARE_BIN}}")
export FANFARE_BIN
cd "$root/sdk/python"

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

example=../../examples/lambda-python
ruff check --quiet . "$example" --config pyproject.toml
ruff format --quiet --check . "$example" --config pyproject.toml
mypy src tests "$example/function.py" "$example/test_function.py"
python -m pytest "$@"
