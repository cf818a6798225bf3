#!/usr/bin/env bash
# Debian packages without which no environment can be made (venv) or Paddle not be imported (OpenMP's runtime):
# installs what is missing as root, otherwise names it. Usage: scripts/system_packages.sh PYTHON
set -euo pipefail
missing=()
"$1" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
"$1" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || missing+=(libgomp1)
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "first: apt-get install ${missing[*]}" >&2; exit 1; }
  apt-get update -qq && apt-get install -y -qq "${missing[@]}"
fi
