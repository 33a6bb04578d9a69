.PHONY: bench-gateway
bench-gateway: pinned $(VENV)/dev.stamp ## What the gateway costs and brings: latency, reloads, memory, slots, affinity
	benchmarks/bench_gateway.py
	benchmarks/bench_changes.py
