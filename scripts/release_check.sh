#!/usr/bin/env bash
# Build the sdist and the wheel, install the wheel in a new environment outside the checkout, and run the examples there.
set -euo pipefail
unset PYTHONPATH  # what is tested is what is installed
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$root/out/dist"
"$root/.venv/bin/python" -m build --outdir "$root/out/dist" "$root"
"$root/.venv/bin/python" -m venv "$work/env"
wheel=$(echo "$root"/out/dist/*.whl)
"$work/env/bin/pip" install --quiet --constraint "$root/constraints.txt" "$wheel[cpu,data,torch]" pytest
cp -r "$root/examples" "$work/examples"
cd "$work"
for example in examples/[!t]*.py; do
  echo "$example"
  env/bin/python "$example"
done
env/bin/python -m pytest -q examples/test_a_port.py
env/bin/paddle-dla --version
env/bin/paddle-dla info
