"""What magi keeps for itself: run folders, what it last saw on hosts, and questions on their way."""
