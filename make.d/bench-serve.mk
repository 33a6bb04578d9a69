.PHONY: bench-serve
bench-serve: pinned $(VENV)/dev.stamp ## How fast magi serve says what runs, to 100 clients and in a browser, while it deploys
	benchmarks/bench_serve.py
