from __future__ import annotations

import os
from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._host.needs import Asker, find_tool, needs_path, read_needs
from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, MIB, Row, Told
from ansible_collections.magi.models.plugins.module_utils._plan.need import Question
from ansible_collections.magi.models.tests.unit.plugins.module_utils.builders import BINARY

ROWS = (Row(HOST, MIB, 2 * MIB, 3 * MIB),)
ASKED = Question({"LLAMA_ARG_MODEL": "/m.gguf"}, (), "k1")


def write_tool(folder, does):
    """Write a llama-fit-params that appends a line to ``asked`` beside it and does something; return its folder."""
    folder.mkdir(exist_ok=True)
    path = folder / "llama-fit-params"
    path.write_text(f'#!/bin/sh\necho "$*" >>{folder}/asked\n{does}\n')
    path.chmod(0o755)
    return folder


@pytest.fixture
def build(tmp_path):
    write_tool(tmp_path / "bin", "echo 'Host 1 2 3 '")
    return replace(BINARY, path=str(tmp_path / "bin" / "llama-server"))


@pytest.mark.parametrize(
    ("does", "arguments", "told"),
    [
        ("echo 'Host 1 2 3 '; echo noise >&2", (), Told(ROWS)),
        # arguments that only the server knows are left out
        ("case $1 in --odd) exit 1;; esac; echo 'Host 1 2 3 '", ("--odd", "1"), Told(ROWS)),
        ("echo 'Host 1 2 3 '; kill -ABRT $$", (), Told((), "llama-fit-params does not print what this model needs")),
        ("echo rubbish", (), Told((), "llama-fit-params does not print what this model needs")),
        ("exec sleep 60", (), Told((), "llama-fit-params did not answer in 0.2 seconds")),
    ],
)
def test_what_the_tool_says(build, tmp_path, does, arguments, told):
    write_tool(tmp_path / "bin", does)
    assert Asker(build, find_tool(build), limit=0.2).ask(replace(ASKED, arguments=arguments)) == told


def test_one_that_hangs_is_not_asked_again(build, tmp_path):
    write_tool(tmp_path / "bin", "exec sleep 60")
    asker = Asker(build, find_tool(build), limit=0.2)
    assert {asker.ask(ASKED).why, asker.ask(ASKED).why} == {"llama-fit-params did not answer in 0.2 seconds"}
    assert len((tmp_path / "bin" / "asked").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("version", "told"), [("11434", Told(ROWS)), ("2", Told((), "{tool} is of another build than llama-server"))]
)
def test_one_in_the_path_counts_if_it_is_of_the_same_build(build, tmp_path, monkeypatch, version, told):
    (tmp_path / "bin" / "llama-fit-params").unlink()
    folder = write_tool(tmp_path / "path", f"test $1 = --version && echo 'version: {version}'; echo 'Host 1 2 3 '")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    why = told.why.format(tool=folder / "llama-fit-params")
    assert Asker(build, find_tool(build)).ask(ASKED) == told._replace(why=why)


def test_one_beside_what_a_link_leads_to_is_found(build, tmp_path):
    (tmp_path / "bin" / "llama-server").touch()
    (tmp_path / "llama-server").symlink_to(tmp_path / "bin" / "llama-server")
    linked = replace(build, path=str(tmp_path / "llama-server"))
    assert find_tool(linked) == str(tmp_path / "bin" / "llama-fit-params")


def test_answers_are_kept_beside_the_registry(build, tmp_path):
    kept = needs_path(str(tmp_path / "registry.json"))
    asked = tmp_path / "bin" / "asked"

    def read(*questions, **more):
        return read_needs(build, questions, kept, **{"write": True, **more})

    assert read(ASKED, write=False) == {"k1": Told(ROWS)}
    assert not kept.exists()
    assert read(ASKED) == read(ASKED) == {"k1": Told(ROWS)}
    assert (kept.name, len(asked.read_text().splitlines())) == ("registry.needs.json", 2)
    # what is new is asked, and only that
    assert read(ASKED, replace(ASKED, key="k2")).keys() == {"k1", "k2"}
    assert len(asked.read_text().splitlines()) == 3
    read(ASKED, refresh=True)
    assert len(asked.read_text().splitlines()) == 4
    kept.write_text('{"k1": 7}')
    assert read(ASKED) == {"k1": Told(ROWS)}


@pytest.mark.parametrize(("devices", "times"), [((), 1), (("CUDA0",), 2)])
def test_a_failure_is_kept_unless_a_full_gpu_may_be_its_cause(build, tmp_path, devices, times):
    write_tool(tmp_path / "bin", "exit 1")
    for _again in range(2):
        (told,) = read_needs(replace(build, devices=devices), [ASKED], tmp_path / "needs.json", write=True).values()
        assert told.why == "llama-fit-params does not print what this model needs"
    assert len((tmp_path / "bin" / "asked").read_text().splitlines()) == times


def test_a_tool_that_is_installed_later_is_asked(build, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    tool = tmp_path / "bin" / "llama-fit-params"
    tool.rename(tmp_path / "away")
    kept = tmp_path / "needs.json"
    (told,) = read_needs(build, [ASKED], kept, write=True).values()
    assert told == Told((), "there is no llama-fit-params beside llama-server, nor in the PATH")
    (tmp_path / "away").rename(tool)
    assert read_needs(build, [ASKED], kept, write=True) == {"k1": Told(ROWS)}
