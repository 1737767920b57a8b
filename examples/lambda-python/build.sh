#!/usr/bin/env bash
# Makes function.zip: the handler and what it imports.
set -euo pipefail
cd "$(dirname "$0")"

rm -rf python_modules function.zip
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target python_modules \
  --require-hashes --only-binary :all: --no-compile -r requirements.txt
# Until the package is published, it comes from this repository.
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target python_modules \
  --no-deps --no-compile ../../sdk/python
cp function.py python_modules/
(cd python_modules && python3 -m zipfile -c ../function.zip ./*)
