.PHONY: bench-top
bench-top: pinned $(VENV)/dev.stamp ## How often magi top hears from 16 hosts
	benchmarks/bench_top.py
