.PHONY: bench-threads
bench-threads: prepare ## Tokens per second with and without sharing the cores
	benchmarks/bench_threads.py
