# GGUF: speed beside llama.cpp and gguf-py, and 100,000 mutations beside llama.cpp's verdict.
.PHONY: bench-gguf gguf-oracle

BENCH_GGUF_FLAGS ?=
PYTHON ?= python3

bench-gguf:  ## time GGUF readers and scans; writes benchmarks/README.md and results/gguf.json
	$(PYTHON) benchmarks/bench_gguf.py $(BENCH_GGUF_FLAGS)

gguf-oracle:  ## 100,000 mutations: whatever llama.cpp refuses, we refuse
	MAGI_GGUF_MUTATIONS=100000 $(PYTHON) -m pytest tests/gguf -k mutation -s --timeout 3600
