"""Running a playbook by ansible-runner: what goes in, the processes, and what is kept of them."""
