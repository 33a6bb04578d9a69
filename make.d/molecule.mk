.PHONY: fleet molecule-test fleet-test
fleet: pinned molecule-test fleet-test ## Everything on real systemd hosts in containers (needs docker)

molecule-test: $(VENV)/dev.stamp ## Molecule's scenarios on real systemd hosts, which stay up
	molecule/hosts/hosts.py up $(HOSTS)
	molecule test --scenario-name rollout --destroy never

fleet-test: $(VENV)/dev.stamp ## What a fleet survives, on real systemd hosts, which stay up
	pytest -m fleet
