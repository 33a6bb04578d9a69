from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from ansible_collections.magi.models.plugins.module_utils._plan.allocation import Candidate, allocate

TWO = ("CUDA0", "CUDA1")


def candidate(name, *ways, among=TWO, now=(), holds=()):
    return Candidate(name, among, ways or ((10,),), now, holds)


@pytest.mark.parametrize(
    ("candidates", "room", "expected"),
    [
        # the GPU with the least room that is enough
        ([candidate("a")], {"CUDA0": 40, "CUDA1": 12}, {"a": ("CUDA1",)}),
        # the largest first, so that all fit
        (
            [candidate("a", (10,)), candidate("b", (40,))],
            {"CUDA0": 40, "CUDA1": 12},
            {"a": ("CUDA1",), "b": ("CUDA0",)},
        ),
        # of GPUs that are alike, the first
        ([candidate("a")], {"CUDA0": 40, "CUDA1": 40}, {"a": ("CUDA0",)}),
        # it stays, though another would be a better fit
        ([candidate("a", now=("CUDA0",))], {"CUDA0": 40, "CUDA1": 12}, {"a": ("CUDA0",)}),
        # also where somebody else takes more meanwhile, if it holds what it needs
        ([candidate("a", now=("CUDA0",), holds=(10,))], {"CUDA0": 9, "CUDA1": 90}, {"a": ("CUDA0",)}),
        ([candidate("a", (11,), now=("CUDA0",), holds=(10,))], {"CUDA0": 9, "CUDA1": 90}, {"a": ("CUDA1",)}),
        # and goes where there is no more room for it, or the GPU is gone
        ([candidate("a", now=("CUDA1",))], {"CUDA0": 40, "CUDA1": 9}, {"a": ("CUDA0",)}),
        ([candidate("a", now=("CUDA7",))], {"CUDA0": 40, "CUDA1": 9}, {"a": ("CUDA0",)}),
        # what runs comes first
        (
            [candidate("a", (12,)), candidate("b", now=("CUDA1",))],
            {"CUDA0": 40, "CUDA1": 12},
            {"a": ("CUDA0",), "b": ("CUDA1",)},
        ),
        # too large for one, empty or not
        ([candidate("a", (120,), (60, 60))], {"CUDA0": 90, "CUDA1": 90}, {"a": TWO}),
        # for both, too: where less is missing
        ([candidate("a", (220,), (110, 110))], {"CUDA0": 90, "CUDA1": 90}, {"a": TWO}),
        ([candidate("a", (110,), (110, 110))], {"CUDA0": 50, "CUDA1": 90}, {"a": ("CUDA1",)}),
        # too large only now, since somebody else is there: not split
        ([candidate("a", (90,), (45, 45))], {"CUDA0": 50, "CUDA1": 60}, {"a": ("CUDA1",)}),
        # one that got smaller has one again
        ([candidate("a", (60,), (30, 30), now=TWO)], {"CUDA0": 90, "CUDA1": 90}, {"a": ("CUDA0",)}),
        # as many as were asked for
        (
            [candidate("a", (20, 20), among=("CUDA0", "CUDA1", "CUDA2"))],
            {"CUDA0": 90, "CUDA1": 10, "CUDA2": 30},
            {"a": ("CUDA0", "CUDA2")},
        ),
        # one that fits nowhere takes nothing from the others
        (
            [candidate("a", (95,)), candidate("b", (90,))],
            {"CUDA0": 94, "CUDA1": 10},
            {"a": ("CUDA0",), "b": ("CUDA0",)},
        ),
    ],
)
def test_each_gets_the_gpu_that_fits_it_best(candidates, room, expected):
    assert allocate(candidates, room, dict.fromkeys(room, 100)) == expected


@pytest.mark.parametrize("seed", range(300))
def test_no_gpu_is_over_and_what_is_there_stays(seed):
    chance = random.Random(seed)
    devices = tuple(f"CUDA{i}" for i in range(chance.randint(2, 5)))
    sizes = {device: chance.randint(20, 100) for device in devices}
    room = {device: chance.randint(0, size) for device, size in sizes.items()}
    candidates = []
    for i in range(chance.randint(1, 12)):
        one, now = chance.randint(1, 120), tuple(chance.sample(devices, chance.randint(0, 1)))
        candidates.append(candidate(f"i{i}", (one,), (-(-one // len(devices)),) * len(devices), among=devices, now=now))
    found = allocate(candidates, room, sizes)
    assert found == allocate(candidates, room, sizes)
    given, taken = {x.name: x for x in candidates}, Counter()
    assert found.keys() == given.keys()

    def on(name):
        return next(way for way in given[name].ways if len(way) == len(found[name]))

    # those that fit, each beside all others that do, in the order in which they were given room
    order = sorted(candidates, key=lambda x: (found[x.name] != x.now, -sum(on(x.name))))
    started = []
    for x in order:
        if all(taken[d] + size <= room[d] for d, size in zip(found[x.name], on(x.name))):
            taken.update(dict(zip(found[x.name], on(x.name))))
            started.append(x)
    assert all(taken[device] <= room[device] for device in devices)
    for x in candidates:  # split only where one is too small
        assert len(found[x.name]) == 1 or x.ways[0][0] > max(sizes.values())
    # once all that fit run where they were put, nothing moves, and a new one moves nobody
    again = [replace(x, now=found[x.name]) for x in started]
    assert allocate(again, room, sizes) == {x.name: found[x.name] for x in started}
    more = allocate([candidate("new", (chance.randint(1, 120),), among=devices), *again], room, sizes)
    assert {name: more[name] for name in (x.name for x in started)} == {x.name: found[x.name] for x in started}
