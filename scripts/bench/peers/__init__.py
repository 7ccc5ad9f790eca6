"""What ``bench_peers.py`` sets side by side."""
