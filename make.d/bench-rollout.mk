.PHONY: bench-rollout
bench-rollout: pinned $(VENV)/dev.stamp ## Rollouts compared with a plain role, pings and magi; time and memory by hosts
	benchmarks/bench_rollout.py
