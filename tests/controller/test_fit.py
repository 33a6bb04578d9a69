"""magi fit: by what is remembered of the hosts, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._base.states import State
from ansible_collections.magi.models.plugins.module_utils._host.values import Host, Running
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, Row
from ansible_collections.magi.models.plugins.module_utils._models.model import Model
from ansible_collections.magi.models.plugins.module_utils._plan.need import question
from ansible_collections.magi.models.plugins.module_utils._plan.options import resolve_options

from magi.errors import ExitCode, UsageError
from magi.profiles.fit import fit
from magi.state.catalog import Known, learn

from .known import BINARY, Q2, Q3, model

GIB = 1 << 30
SHAPE = {
    "block_count": 32,
    "embedding_length": 4096,
    "head_count": 32,
    "head_count_kv": 8,
    "head_count_kv_total": 256,
    "key_length": 128,
    "value_length": 128,
    "vocab_size": 128256,
    "feed_forward_length": 14336,
}
BIG = {**model("llama-8b-q4_k_m", "Llama 8B", "Q4"), "shape": SHAPE, "size_bytes": 4 * GIB, "context_length": 131072}
NAME = BIG["id"]


def look(*instances: Running, total=32.0, free=30.0, gpu=None, **more) -> dict:
    """Return the result of a look at a host, in GiB; ``gpu`` has the memory of CUDA0 and what is free of it."""
    memory = {"CUDA0": tuple(int(size * GIB) for size in gpu)} if gpu else {}
    names = tuple(memory)
    binary = replace(BINARY, devices=names, default_devices=names, device_memory=memory)
    host = Host(
        manager="systemd",
        home="/etc/magi",
        cores=8,
        memory_bytes=int(total * GIB),
        available_bytes=int(free * GIB),
        binary=binary,
        gpus=("/dev/nvidia0",) if gpu else (),
        instances=instances,
        looked_at=1000.0,
    )
    return {"host": {**host.to_dict(), **more}}


def server(need: str, own: float = 0) -> Running:
    return Running("b", State.RUNNING, 7, 8080, environment={"MAGI_NEED": need}, own_memory=int(own * GIB))


def known(*looks: dict, models=(BIG,), name="gpu1") -> dict[str, Known]:
    registry = {"registry_path": "/r", "models": [*models], "rejected": [], "companions": []}
    return learn({}, [(name, registry), *((name, item) for item in looks)])


def on(hosts, **options) -> dict:
    """Return what fit says of the first host."""
    return fit(hosts, NAME, options, 1180.0).document["hosts"][0]


def gib(sizes) -> dict[str, float]:
    return {device: round(size / GIB, 1) for device, size in sizes.items()}


def test_it_fits_with_so_much_to_spare_and_so_long_a_context():
    result = fit(known(look()), NAME, {"ctx_size": 8192}, 1180.0)
    (host,) = result.document["hosts"]
    assert result.exit_code == ExitCode.OK
    assert (host["host"], host["fits"], host["context"], host["slots"]) == ("gpu1", True, 8192, 4)
    assert host["estimated"]
    assert sum(host["need"].values()) + host["spare"][HOST] == 29 * GIB
    # an 8B in f16 has 128 KiB of context for each token, and the estimate a margin
    assert 100_000 < host["largest_context"] == host["largest_context_alone"] <= 131072
    assert on(known(look()), ctx_size=host["largest_context"])["fits"]
    assert result.lines[4].startswith("gpu1  yes   8192")
    assert result.lines[4].endswith("3 min ago")


def test_beside_what_runs_and_if_nothing_did():
    """What runs has what it needs, though it has not touched it yet."""
    host = on(known(look(server(f"Host={14 * GIB} mapped={GIB}", own=2), free=28)), ctx_size=8192)
    assert (host["fits"], host["fits_alone"]) == (True, True)
    assert host["largest_context"] < host["largest_context_alone"]
    host = on(known(look(server(f"Host={26 * GIB} mapped={GIB}", own=2), free=28)), ctx_size=8192)
    assert (host["fits"], host["fits_alone"], host["largest_context"]) == (False, True, 0)
    assert host["spare"][HOST] < 0


def test_a_model_that_fits_nowhere_lacks_so_much():
    result = fit(known(look(total=8, free=7)), NAME, {}, 1000.0)
    (host,) = result.document["hosts"]
    assert result.exit_code == ExitCode.FAILED
    assert (host["fits"], host["fits_alone"], host["context"]) == (False, False, 131072)
    assert 0 < host["largest_context"] < 131072
    assert "memory lacks" in result.lines[4]


def test_the_best_host_comes_first_and_those_without_the_model_are_named():
    hosts = {
        **known(look(free=10), name="a"),
        **known(look(), name="b"),
        **known(look(), models=(Q2,), name="c"),
        **known(name="d"),
    }
    result = fit(hosts, NAME, {"ctx_size": 8192}, 1000.0)
    assert [item["host"] for item in result.document["hosts"]] == ["b", "a"]
    assert result.document["without"] == ["c"]
    assert result.document["unknown"] == ["d: nobody has looked at its memory yet; run magi plan."]


def test_a_gpu_is_what_others_and_ours_leave_of_it_whenever_it_was_looked_at():
    ours = server(f"CUDA0={8 * GIB} Host={GIB} mapped=0")
    # it ran when the GPU was looked at, and runs on
    both = on(known(look(ours, gpu=(16, 7))), ctx_size=8192)
    assert (both["fits"], both["fits_alone"]) == (False, True)
    # it was started after that; a later look at the instances asks no GPU
    later = {**look(ours)["host"], "binary": None, "gpus": ["/dev/nvidia0"]}
    since = on(known(look(gpu=(16, 15)), {"host": later}), ctx_size=8192)
    assert gib(since["spare"]) == gib(both["spare"])
    # and has ended since
    ended = {**look()["host"], "binary": None, "gpus": ["/dev/nvidia0"]}
    assert on(known(look(ours, gpu=(16, 7)), {"host": ended}), ctx_size=8192)["fits"]


def test_what_the_host_s_llama_fit_params_said_counts():
    binary = replace(BINARY, devices=())
    asked = question(binary, Model.from_dict(BIG), resolve_options(binary, [("", {"ctx_size": 8192})]), {})
    rows = [Row(HOST, 4 * GIB, GIB, GIB)]
    hosts = known(look(), {**look(), "needs": {asked.key: [rows, ""]}})
    told = on(hosts, ctx_size=8192)
    assert not told["estimated"]
    # 64 MiB are the process's, and its cache of prompts gets an eighth of the host, to a power of two
    assert gib(told["need"]) == {HOST: 4 + 2 + 4 + 0.1}
    assert on(hosts, ctx_size=4096)["estimated"]


@pytest.mark.parametrize(
    ("hosts", "name", "options", "said"),
    [
        ({}, NAME, {}, "No host is known yet, so nobody can tell: run magi plan, which looks at all hosts."),
        (known(), NAME, {}, "gpu1: nobody has looked at its memory yet; run magi plan."),
        (known(look(available_bytes=None)), NAME, {}, "gpu1: its free memory is not known, as it is no Linux."),
        (known(look()), NAME[:-1], {}, f"No host has a model {NAME[:-1]}, as of the last look; did you mean {NAME}?"),
        (known(look()), "x", {}, "No host has a model x, as of the last look; magi discover lists the models."),
        (
            known(look()),
            NAME,
            {"ctx_sise": 1},
            "Host gpu1: llama-server (11434) has no option ctx_sise; did you mean ctx_size?",
        ),
    ],
)
def test_where_nobody_can_tell_there_is_one_sentence(hosts, name, options, said):
    with pytest.raises(UsageError) as error:
        fit(hosts, name, options, 1000.0)
    assert (str(error.value), error.value.exit_code) == (said, ExitCode.USAGE)


def test_others_of_the_host_are_no_models_of_it():
    assert fit(known(look(), models=(BIG, Q3)), Q3["id"], {}, 1000.0).exit_code == ExitCode.OK
