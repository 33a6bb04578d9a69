"""What stands in the way of a deployment: collected of this machine and the hosts, then examined."""
