"""What magi keeps of its own: run folders, what it saw of hosts, and questions on their way."""
