"""Latency, memory, arithmetic and energy of a bundle on the machine it runs on."""
