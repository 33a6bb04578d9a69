# Random faults during deployments on real systemd hosts; tests/chaos/chaos.py says what must hold
CHAOS_FLAGS ?= --minutes 15

.PHONY: chaos
chaos: pinned ## Break deployments at random: kills, pauses, re-execs, file swaps, reboots (CHAOS_FLAGS="--seed N")
	molecule/hosts/hosts.py inventory &>/dev/null || trap 'molecule/hosts/hosts.py down --engine' EXIT
	python -m tests.chaos.chaos $(CHAOS_FLAGS)
