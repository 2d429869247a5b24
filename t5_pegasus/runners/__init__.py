"""The same map over documents in different places."""
