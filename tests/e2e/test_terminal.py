"""magi at a terminal, with real servers: what a person sees. Other tests read what it says without a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..command import Ran, Terminal, begin
from ..load import Clients
from .conftest import Deployment, ports

pytestmark = pytest.mark.e2e

Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))
STEPS = (
    "[1/5] Model discovery",
    "[2/5] Loading profile",
    "[3/5] Filtering enabled models",
    "[4/5] Launching servers",
    "[5/5] Health check",
)
PORTS = ports(18140)
SPINNER = "[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]"


@pytest.fixture
def two(deployment: Deployment) -> Deployment:
    deployment.variables["model_server_port_range"] = PORTS
    deployment.add_model("Q2_K")
    deployment.add_model("Q3_K_M")
    return deployment


def seen(deployment: Deployment, *arguments: str, code: int = 0, **more) -> str:
    """Run a verb to its end at a terminal; return the last screen."""
    terminal = Terminal(Path(deployment.folder, "state"), *arguments, "-i", str(deployment.inventory()), **more)
    assert terminal.code == code, terminal.screen
    assert "\x1b[" in terminal.printed  # colours, or a picture that moves
    assert not re.search(SPINNER, terminal.screen), terminal.screen
    return terminal.screen.strip()


def test_each_verb_from_a_plan_to_the_end(two: Deployment):
    planned = seen(two, "plan", code=4)
    assert "2 to change: run magi up." in planned

    up = Terminal(two.folder / "state", "up", "-i", str(two.inventory()))
    assert up.code == 0, up.screen
    assert all(f"✔ {step}" in up.screen for step in STEPS), up.screen
    assert re.search(SPINNER, up.printed)
    assert f"● {Q2}" in up.screen and f"● {Q3}" in up.screen
    assert "2/2 ready  profile development" in up.screen
    assert "PLAY" not in up.screen

    status = seen(two, "status")
    rows = [line.split() for line in status.splitlines() if line.startswith("●")]
    assert [(row[1], row[2], row[3], row[4], row[6]) for row in rows] == [
        (Q2, "Q2", "localhost", str(PORTS[0]), "ready"),
        (Q3, "Q3", "localhost", str(PORTS[0] + 1), "ready"),
    ]
    assert "Nothing to change." in seen(two, "plan")
    assert Q2 in seen(two, "discover")
    assert re.search(rf"port_range +{PORTS[0]}, {PORTS[1]} +inventory model_server_port_range", seen(two, "config"))
    assert "Problems: 0, warnings: 0." in seen(two, "doctor")
    assert f"listening on http://127.0.0.1:{PORTS[0]}" in seen(two, "logs", Q2, "-n", "5")
    answer, speed = seen(two, "ask", Q2, "What is the capital of France?", "--max-tokens", "16").splitlines()
    assert answer.strip()
    assert re.fullmatch(r"localhost: \d+ tokens, [\d.]+ tokens/s.*", speed)
    assert f"stop {Q3}" in seen(two, "stop", Q3)
    assert "1/2 ready" in seen(two, "status", code=3)
    down = seen(two, "down")
    assert f"remove {Q2}" in down and f"remove {Q3}" in down
    assert "Nothing runs." in seen(two, "status")


def test_a_terminal_that_hangs_up_ends_a_deployment(two: Deployment):
    state, inventory = two.folder / "state", str(two.inventory())

    def begun(screen: str) -> bool:
        return STEPS[3] in screen and f"◌ {Q2}" in screen

    assert Terminal(state, "up", "-i", inventory, hang_up_when=begun).code == 130
    assert not (state / "magi" / "defect.log").exists()
    assert "2/2 ready" in seen(two, "up")


def test_ctrl_c_ends_a_deployment_with_a_sentence(two: Deployment):
    screen = seen(two, "up", code=130, interrupt_when=lambda screen: STEPS[3] in screen and f"◌ {Q2}" in screen)
    assert "Run it again: it goes on from there." in re.sub(r"\s+", " ", screen)
    assert screen.splitlines()[:3] == [
        "Stopping; Ansible gets 10 seconds to end.",
        "magi up",  # the picture is where it was
        f"✔ {STEPS[0]}",
    ]
    assert f"✗ {STEPS[3]}" in screen
    assert "2/2 ready" in seen(two, "up")


def test_what_servers_do(two: Deployment):
    """Live until Ctrl-C, with --json once."""
    assert two.play().code == 0
    state, inventory = two.folder / "state", str(two.inventory())
    last: list[str] = []

    def working(screen: str) -> bool:
        last[:] = next((line.split() for line in screen.splitlines() if line.startswith(Q2)), [])
        return bool(last) and last[3] == "1/4" and last[2] not in ("–", "0.0")

    with Clients("127.0.0.1", PORTS[0], [Q2], count=1) as clients:
        terminal = Terminal(state, "top", "-i", inventory, interrupt_when=working)
        found = Ran(begin(state, "top", "--json", "--sort", "queue", "-i", inventory)).document
    assert clients.wrong == []
    assert (terminal.code, last[1], last[-1]) == (0, "localhost", "ready")
    # It had a screen of its own, and restores the one before.
    assert "\x1b[?1049h" in terminal.printed
    assert "\x1b[?1049l" in terminal.printed
    busy, idle = found["servers"]  # nobody waits, so by name
    assert (busy["instance"], busy["busy"], busy["slots"], busy["state"]) == (Q2, 1, 4, "ready")
    assert busy["tokens_per_second"] > 1
    assert (idle["instance"], idle["busy"], idle["tokens_per_second"]) == (Q3, 0, 0)


def test_a_status_that_is_watched(two: Deployment):
    assert two.play().code == 0
    terminal = Terminal(
        two.folder / "state",
        "status",
        "--watch",
        "-i",
        str(two.inventory()),
        interrupt_when=lambda screen: "2/2 ready" in screen and "Ctrl-C ends" in screen,
    )
    assert terminal.code == 0
    # It had a screen of its own, and restores the one before.
    assert "\x1b[?1049h" in terminal.printed
    assert "\x1b[?1049l" in terminal.printed
