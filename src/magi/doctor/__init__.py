"""What stands in the way of a deployment: facts about this machine and the hosts, then findings."""
