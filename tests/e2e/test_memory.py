"""What does not fit is refused in numbers, and what runs was planned with what it needs: the real llama-fit-params."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import Deployment, environment_of

pytestmark = pytest.mark.e2e

Q2 = "smollm2-135m-instruct.q2_k"
TOO_LONG = 8_000_000  # tokens: 172 GiB


def test_what_does_not_fit_is_refused_and_what_fits_is_asked_once(deployment: Deployment):
    deployment.add_model("Q2_K")
    deployment.add_profile("large", {"model": Q2, "options": {"ctx_size": TOO_LONG}})
    deployment.add_profile("small", {"model": Q2, "options": {"ctx_size": 1024}})

    refused = deployment.play("site", profile="large")
    assert refused.code == 2, refused.output
    said = " ".join(refused.output.split())
    assert "1 of 1 instance does not fit into memory, and nothing was changed." in said
    fits = re.search(rf"{Q2}: it needs \d+\.\d GiB of memory, .* are missing; with ctx_size: (\d+) it fits", said)
    assert fits, said
    assert 256 <= int(fits[1]) < TOO_LONG
    assert not (deployment.home / "instances").exists()

    assert deployment.play("site", profile="small").code == 0
    needs = deployment.registry.with_suffix(".needs.json")
    written = needs.stat()
    assert len(json.loads(needs.read_text())) == 2
    environment = environment_of(deployment.servers()[Q2]["pid"])
    assert environment["LLAMA_ARG_FIT"] == "off"
    assert re.fullmatch(r"Host=\d+ mapped=\d+", environment["MAGI_NEED"])
    again = deployment.play("site", profile="small")
    assert "changed=0" in again.output
    assert needs.stat().st_ino == written.st_ino
