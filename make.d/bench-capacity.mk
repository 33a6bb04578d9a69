.PHONY: bench-capacity
bench-capacity: pinned $(VENV)/dev.stamp ## What a plan says that servers need of memory, and what real ones take
	benchmarks/bench_placement.py
	benchmarks/bench_capacity.py
