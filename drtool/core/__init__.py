"""Deciding: functions of values. No clock, network, file or randomness; ``now`` is an argument."""
