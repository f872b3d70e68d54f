"""Servers on loopback that act as the providers of public addresses, and refuse what the real ones refuse."""
