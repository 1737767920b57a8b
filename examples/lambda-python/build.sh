#!/usr/bin/env bash
# Makes build/function.zip: the handler and what it imports.
set -euo pipefail
cd "$(dirname "$0")"

rm -rf build
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target build/package \
  --require-hashes --only-binary :all: --no-compile -r requirements.txt
# Until the package is published, it comes from this repository.
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target build/package \
  --no-deps --no-compile ../../sdk/python
cp function.py build/package/
(cd build/package && python3 -m zipfile -c ../function.zip ./*)
