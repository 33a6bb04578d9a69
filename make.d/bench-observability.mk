.PHONY: bench-observability
bench-observability: pinned $(VENV)/dev.stamp ## What it costs to watch 100 servers
	benchmarks/bench_observability.py
