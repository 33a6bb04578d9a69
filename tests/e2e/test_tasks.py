"""What models are for, on the real llama-server: an embedder beside a chat model, and files that nothing serves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from itertools import product
from pathlib import Path

import gguf
import numpy as np
import pytest

from .. import minilm
from .conftest import LLAMA_SERVER, ask, embedding_model

pytestmark = pytest.mark.e2e

PAIRS = [
    ("A cat sleeps on the sofa.", "A kitten is napping on the couch."),
    ("The stock market fell sharply today.", "Shares lost much of their value this afternoon."),
    ("How do I bake bread?", "A recipe for a loaf with yeast and flour."),
    ("The rocket was launched into orbit.", "A spacecraft lifted off and left the atmosphere."),
]


def asked(port: int, path: str, question: dict) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/{path}", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def embed(port: int, texts: list[str]) -> list[np.ndarray]:
    return [np.array(item["embedding"]) for item in asked(port, "embeddings", {"input": texts})["data"]]


def reranker(path: Path) -> None:
    """Write a model whose header says that it ranks. llama-server serves it as one; its scores mean nothing, as nobody
    trained it for that."""
    shutil.copyfile(embedding_model(), path)
    reader = gguf.GGUFReader(path, "r+")
    pooling = reader.fields["bert.pooling_type"]
    pooling.parts[pooling.data[0]][0] = gguf.PoolingType.RANK
    reader.data.flush()


def unservable(path: Path, architecture: str) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("model")
    writer.add_tensor("a.weight", np.zeros((4, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_an_embedder_a_reranker_a_chat_model_and_files_that_nothing_serves(deployment):
    deployment.add_model("Q4_1")
    shutil.copyfile(embedding_model(), deployment.models / minilm.NAME)
    reranker(deployment.models / "ranks-F16.gguf")
    for architecture in ("flux", "whisper", "gemma4-assistant", "of-tomorrow"):
        unservable(deployment.models / f"{architecture}.gguf", architecture)
    deployment.add_profile("all", "*")
    run = deployment.play(profile="all")
    assert run.code == 0, run.output
    report = deployment.report()
    assert report["summary"]["degraded"] == []
    servers = {server["task"]: server for server in report["servers"] if server["is_ready"]}
    assert servers.keys() == {"chat", "embedding", "rerank"}
    assert len(report["servers"]) == 3
    assert ask(servers["chat"]["port"])
    ranked = asked(servers["rerank"]["port"], "rerank", {"query": "bread", "documents": PAIRS[2]})["results"]
    assert sorted(item["index"] for item in ranked) == [0, 1]
    assert ranked[0]["relevance_score"] > ranked[1]["relevance_score"]
    vectors = embed(servers["embedding"]["port"], [text for pair in PAIRS for text in pair])
    near = np.array([[one @ other for other in vectors[1::2]] for one in vectors[::2]])
    assert (near.argmax(axis=1) == np.arange(len(PAIRS))).all(), near
    assert all(near[i, i] > near[i, j] + 0.2 for i, j in product(range(len(PAIRS)), repeat=2) if i != j), near
    deep = deployment.play("health", deep=True)  # each is asked what it is for
    assert deep.code == 0, deep.output
    found = deployment.play("discover")
    assert found.code == 0, found.output
    for name in ("flux", "whisper", "gemma4-assistant", "of-tomorrow"):
        assert re.search(rf"{name}\.gguf (is|has) ", found.text)


@pytest.mark.parametrize("entry", [{"task": "embedding"}, {"tier": "F16", "task": "embedding"}])
def test_a_profile_may_enable_the_embedders_alone(deployment, entry):
    deployment.add_model("Q4_1")
    shutil.copyfile(embedding_model(), deployment.models / minilm.NAME)
    deployment.add_profile("embedders", entry)
    run = deployment.play(profile="embedders")
    assert run.code == 0, run.output
    assert [server["task"] for server in deployment.report()["servers"]] == ["embedding"]


@pytest.mark.parametrize("name", ["x-Q4_1-00001-of-00001.gguf", "x-Q4_1-00001-of-00002.gguf"])
def test_a_whole_model_that_is_named_like_a_shard_is_served(deployment, name):
    deployment.add_model("Q4_1", name)
    deployment.add_profile("one", "x-q4_1")
    run = deployment.play(profile="one")
    assert run.code == 0, run.output
    assert ask(deployment.servers()["x-q4_1"]["port"])


def test_a_model_that_was_split_and_merged_is_served_from_either(deployment):
    tool = LLAMA_SERVER.resolve().with_name("llama-gguf-split")
    whole = deployment.add_model("Q2_K", "whole.gguf")
    split = deployment.models / "split-Q2_K"
    subprocess.run([tool, "--split", "--split-max-tensors", "150", whole, split], check=True, capture_output=True)
    merged = deployment.models / "merged-Q2_K-00001-of-00002.gguf"  # named like what it was merged from
    first = deployment.models / "split-Q2_K-00001-of-00002.gguf"
    subprocess.run([tool, "--merge", first, merged], check=True, capture_output=True)
    whole.unlink()
    deployment.add_profile("both", "merged-q2_k", "split-q2_k")
    run = deployment.play(profile="both")
    assert run.code == 0, run.output
    assert all(ask(server["port"]) for server in deployment.servers().values())
    assert len(deployment.servers()) == 2
