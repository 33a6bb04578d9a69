"""Where replicas run: properties that hold for any fleet, and what people read."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.magi.models.plugins.module_utils._llama.need import HOST, Need
from ansible_collections.magi.models.plugins.module_utils._plan.ledger import Book
from ansible_collections.magi.models.plugins.plugin_utils._fleet.place import Opening, Room, Want, place
from hypothesis import given, settings
from hypothesis import strategies as st

GIB = 1 << 30
NAMES = [f"gpu{number}" for number in range(1, 7)]
DEVICES = ("CUDA0", "CUDA1")


def want(replicas: int, offers: dict[str, Opening], **more) -> Want:
    return Want("Profile p, entry 1 (m)", more.pop("model", "m"), replicas, offers, **more)


def on(size: int, runs: int = 0, *devices: str) -> Opening:
    needs = tuple(Need({device: size, HOST: 1}) for device in devices) or (Need({HOST: size}),)
    return Opening(runs, needs, "/models/m.gguf")


@st.composite
def fleets(draw):
    rooms = {
        name: Room({device: draw(st.integers(0, 20)) for device in (HOST, *DEVICES)})
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6))
    }
    wants = []
    for number in range(draw(st.integers(1, 5))):
        size, devices = draw(st.integers(1, 8)), draw(st.sampled_from([(), DEVICES]))
        offers = {name: on(size, draw(st.integers(0, 2)), *devices) for name in rooms if draw(st.integers(0, 3))}
        last = tuple(draw(st.lists(st.sampled_from(NAMES), max_size=3)))
        gone = {name: "can't be reached" for name in last if name not in offers}
        wants.append(want(draw(st.integers(1, 6)), offers, model=f"m{number}", last=last, gone=gone))
    return wants, rooms


@settings(deadline=None)
@given(fleets())
def test_what_comes_has_room_what_runs_stays_and_the_numbers_are_right(fleet):
    wants, rooms = fleet
    found = place(wants, rooms)
    assert found == place(wants, rooms)
    books = {name: Book(room.left) for name, room in rooms.items()}
    short = {item.want.model: item for item in found.short}
    coming: dict[str, list[tuple[str, ...]]] = {name: [] for name in rooms}
    for item, placed in zip(wants, found.placed):
        runs = {name: offer.runs for name, offer in item.offers.items()}
        assert placed.counts.keys() == runs.keys()
        total = sum(placed.counts.values())
        assert (total == item.replicas) != (item.model in short)
        more = {name: placed.counts[name] - runs[name] for name in runs}
        # Minimal moves: nothing ends where too few run, and nothing starts where enough do.
        if sum(runs.values()) >= item.replicas:
            assert max(more.values(), default=0) <= 0
        else:
            assert min(more.values(), default=0) >= 0
        for name, count in more.items():
            assert (name in placed.why) == (count != 0)
            for _each in range(count):
                coming[name].append(tuple(item.offers[name].needs[0].own))
                books[name].left[HOST] -= min(need.own[HOST] for need in item.offers[name].needs)
        assert placed.moved <= {name for name, count in more.items() if count > 0}
    assert all(book.left[HOST] >= 0 for name, book in books.items() if coming[name])


@settings(deadline=None)
@given(fleets())
def test_no_device_is_given_more_than_it_has(fleet):
    wants, rooms = fleet
    found = place(wants, rooms)
    for name, room in rooms.items():
        on_devices = [
            max(item.offers[name].needs[0].own.values())
            for item, placed in zip(wants, found.placed)
            if name in item.offers and len(item.offers[name].needs) > 1
            for _each in range(placed.counts[name] - item.offers[name].runs)
        ]
        assert sum(on_devices) <= sum(room.left[device] for device in DEVICES)
        assert all(size <= max(room.left[device] for device in DEVICES) for size in on_devices)


@settings(deadline=None)
@given(fleets())
def test_what_was_placed_stays_in_the_next_run(fleet):
    wants, rooms = fleet
    found = place(wants, rooms)
    then = [
        replace(item, offers={name: replace(item.offers[name], runs=placed.counts[name]) for name in item.offers})
        for item, placed in zip(wants, found.placed)
    ]
    full = {name: Room(dict.fromkeys(room.left, 0)) for name, room in rooms.items()}
    again = place(then, full)
    assert [item.counts for item in again.placed] == [item.counts for item in found.placed]
    assert all(not item.why for item in again.placed)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12))
def test_where_all_have_room_the_counts_differ_by_at_most_one(replicas, hosts):
    names = [f"host{number}" for number in range(hosts)]
    (placed,) = place([want(replicas, {name: on(1) for name in names})], {x: Room({HOST: 100}) for x in names}).placed
    assert max(placed.counts.values()) - min(placed.counts.values()) <= 1
    assert sum(placed.counts.values()) == replicas


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 5), st.integers(1, 20))
def test_a_host_has_two_fewer_than_another_only_where_it_has_no_room(left, size, replicas):
    rooms = {f"host{number}": Room({HOST: room}) for number, room in enumerate(left)}
    (placed,) = place([want(replicas, dict.fromkeys(rooms, on(size)))], rooms).placed
    most = max(placed.counts.values())
    for name, count in placed.counts.items():
        assert count >= most - 1 or (count + 1) * size > rooms[name].left[HOST]


def counts(*wants: Want, room: int = 100) -> list[dict[str, int]]:
    hosts = {name for item in wants for name in item.offers}
    return [dict(item.counts) for item in place(wants, {name: Room({HOST: room}) for name in hosts}).placed]


def test_a_replica_moves_from_a_host_that_is_gone_and_stays_when_it_is_back():
    gone = want(2, {"a": on(1), "b": on(1, 1)}, last=("b", "c"), gone={"c": "can't be reached"})
    (placed,) = place([gone], {}).placed
    assert (placed.counts, placed.moved) == ({"a": 1, "b": 1}, {"a"})
    assert placed.why == {"a": "moved from c, which can't be reached"}
    back = want(2, {"a": on(1, 1), "b": on(1, 1), "c": on(1, 1)}, last=("a", "b"))
    (placed,) = place([back], {}).placed
    assert placed.counts == {"a": 1, "b": 1, "c": 0}
    assert placed.why == {"c": "2 replicas are enough, on a, b"}


def test_what_can_not_be_changed_counts_and_what_must_not_be_changed_stays():
    assert counts(want(2, {"a": on(1, 1), "b": on(1)})) == [{"a": 1, "b": 1}]
    failed = want(2, {"a": replace(on(1, 1), fixed=True), "b": on(1), "c": on(1)})
    assert counts(failed) == [{"a": 1, "b": 1, "c": 0}]
    limited = want(2, {"a": on(1, 1), "b": on(1), "c": on(1)}, frozen="--limit leaves out d")
    assert counts(limited) == [{"a": 1, "b": 0, "c": 0}]


def test_the_one_with_no_choice_comes_first_where_another_would_take_its_place():
    large = want(1, {"a": on(60), "b": on(60)}, model="large")
    small = want(1, {"a": on(50)}, model="small")
    assert counts(large, small) == [{"a": 0, "b": 1}, {"a": 1}]


def test_a_host_that_refuses_nothing_is_filled_when_no_other_has_room():
    offers = {"a": on(60), "b": on(60)}
    found = place([want(3, offers)], {"a": Room({HOST: 100}), "b": Room({HOST: 100}, strict=False)})
    assert (found.short, found.placed[0].counts) == ((), {"a": 1, "b": 2})


def test_no_room_is_said_in_numbers():
    offers = {"gpu1": on(2 * GIB), "gpu2": on(2 * GIB)}
    found = place([want(3, offers, gone={"gpu3": "can't be reached"})], {x: Room({HOST: 3 * GIB}) for x in offers})
    assert [item.sentence for item in found.short] == [
        "Profile p, entry 1 (m): 2 of 3 replicas have a place, 1 has none: each needs 2.0 GiB of memory, and of the "
        "hosts that have the model gpu1 has 1.0 GiB of memory, gpu2 has 1.0 GiB of memory left; gpu3 can't be reached. "
        "Set replicas: 2, lower ctx_size, copy the model to another host, or set model_server_memory: warn to try all "
        "the same."
    ]
    (none,) = place([want(2, {}, gone={"gpu3": "can't be reached"})], {}).short
    assert none.sentence == (
        "Profile p, entry 1 (m): no host that it is for has m (gpu3 can't be reached), so there is no place for 2 "
        "replicas: copy it to one, or correct the entry."
    )
