"""Thread pools, locks, prefetching, renewed leases, and the circuit breaker."""
