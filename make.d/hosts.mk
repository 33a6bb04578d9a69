# The test hosts: molecule/hosts/hosts.py
HOSTS ?= 3

.PHONY: hosts hosts-down fleet
hosts: ## Bring up HOSTS real systemd hosts in containers
	molecule/hosts/hosts.py up --install $(HOSTS)

hosts-down: ## Remove them, and the docker daemon if we started it
	molecule/hosts/hosts.py down --engine

fleet: pinned hosts ## Tests and molecule's scenarios on these hosts, which stay up
	pytest tests/fleet
