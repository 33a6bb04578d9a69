"""Running a playbook by ansible-runner: arguments, processes, and what is kept of a run."""
