# GGUF: speed beside llama.cpp and gguf-py, and 100,000 mutations beside llama.cpp's verdict.
.PHONY: bench-gguf gguf-oracle

BENCH_GGUF_FLAGS ?= --real data/models/SmolLM2-135M-Instruct.Q4_1.gguf \
  --llama-server $(HOME)/.cache/magi/llama.cpp/current/llama-server

bench-gguf: pinned $(VENV)/dev.stamp ## Time GGUF readers and scans beside llama.cpp and gguf-py
	python benchmarks/bench_gguf.py $(BENCH_GGUF_FLAGS)

gguf-oracle: pinned $(VENV)/dev.stamp ## 100,000 mutations: whatever llama.cpp refuses, we refuse
	MAGI_GGUF_MUTATIONS=100000 pytest tests/gguf -k mutation -s --timeout 7200
