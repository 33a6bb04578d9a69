# GGUF: speed compared with llama.cpp and gguf-py, and 100,000 mutations compared with llama.cpp's verdict.
.PHONY: bench-gguf gguf-oracle

BENCH_GGUF_FLAGS ?= --real data/models/SmolLM2-135M-Instruct.Q4_1.gguf \
  --llama-server $(HOME)/.cache/magi/llama.cpp/current/llama-server

bench-gguf: pinned $(VENV)/dev.stamp ## Time GGUF readers and scans, compared with llama.cpp and gguf-py
	python benchmarks/bench_gguf.py $(BENCH_GGUF_FLAGS)

gguf-oracle: pinned $(VENV)/dev.stamp ## 100,000 mutations: we refuse whatever llama.cpp refuses
	MAGI_GGUF_MUTATIONS=100000 pytest tests/gguf -k mutation -s --timeout 7200
