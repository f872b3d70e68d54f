"""Public addresses that can be moved from one host to another."""
