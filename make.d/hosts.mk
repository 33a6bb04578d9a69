# The hosts that tests run on: molecule/hosts/hosts.py
HOSTS ?= 3

.PHONY: hosts hosts-down fleet
hosts: ## Bring up HOSTS real systemd hosts in containers
	molecule/hosts/hosts.py up --install $(HOSTS)

hosts-down: ## Remove them, and the docker daemon if we started it
	molecule/hosts/hosts.py down --engine

fleet: pinned hosts ## What needs these hosts: tests and molecule's scenarios; the hosts stay up
	pytest tests/fleet
