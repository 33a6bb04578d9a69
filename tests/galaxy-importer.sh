#!/usr/bin/env bash
# What Galaxy does with the collection when it is uploaded: build, import, lint. Needs no network.
set -euo pipefail
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
