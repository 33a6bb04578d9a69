#!/usr/bin/env bash
# What Galaxy does with the collection when it is uploaded: build, import, lint. The only network is the package index.
set -euo pipefail

# In a virtual environment of its own: it needs older packages than our other tools.
version=0.4.44
venv=${XDG_CACHE_HOME:-$HOME/.cache}/magi/galaxy-importer/$version
if [ ! -e "$venv/ready" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "galaxy-importer==$version" 'ansible-core>=2.19,<2.20'
  touch "$venv/ready"
fi
export PATH=$venv/bin:$PATH

cd "$(dirname "$0")/../collections/ansible_collections/magi/models"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ansible-galaxy collection build --output-path "$work" >/dev/null
cat >"$work/galaxy-importer.cfg" <<'CFG'
[galaxy-importer]
CHECK_REQUIRED_TAGS = True
CHECK_CHANGELOG = True
CFG
cd "$work" # it writes its result there
said=$(ANSIBLE_CONFIG='' GALAXY_IMPORTER_CONFIG=galaxy-importer.cfg python3 -m galaxy_importer.main ./*.tar.gz 2>&1) || {
  echo "$said" >&2
  exit 1
}
# It calls a finding a warning and goes on.
if grep -E 'WARNING|ERROR' <<<"$said" >&2; then exit 1; fi
