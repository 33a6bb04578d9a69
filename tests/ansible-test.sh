#!/usr/bin/env bash
# ansible-test.sh sanity|units: without docker; the only network is the package index.
set -euo pipefail
cd "$(dirname "$0")/../collections/ansible_collections/magi/models"

# sanity downloads a get-pip script to make virtual environments; give it one that takes pip from the index.
cache=~/.ansible/test/cache/get_pip_24_2.py
if [ ! -e "$cache" ]; then
  mkdir -p "$(dirname "$cache")"
  cat >"$cache" <<'PY'
import subprocess
import sys

options = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
packages = [word for word in options if not word.startswith("-")] or ["pip==24.2"]
flags = [word for word in options if word.startswith("-")]
subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *flags, *packages], check=True)
PY
fi

python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $1 in
  # Skipped: pslint is for PowerShell, and shellcheck is not installed everywhere.
  sanity) ansible-test sanity --requirements --python "$python" --skip-test pslint --skip-test shellcheck --color no ;;
  units) ansible-test units --python "$python" --color no ;;
esac
