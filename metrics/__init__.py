"""What operators watch: plain counters, updated in place by the daemon, and their Prometheus exposition."""
