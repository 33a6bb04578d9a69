"""The controller of magi.models: drives the collection's playbooks through ansible-runner."""
