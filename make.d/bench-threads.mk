.PHONY: bench-threads
bench-threads: pinned $(VENV)/dev.stamp ## Tokens per second with and without sharing the cores
	benchmarks/bench_threads.py
