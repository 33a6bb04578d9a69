"""The console in a real browser, on a real deployment: a profile is written, deployed, asked and taken back.

The pictures in docs/images are of this test: MAGI_PICTURES=docs/images pytest tests/e2e/test_console.py
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from ..waiting import until
from .conftest import Deployment, ask, ports
from .serving import Serving, serving

CHROMIUM = os.environ.get("MAGI_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not CHROMIUM and "CI" not in os.environ,
        reason="There is no Chromium: apt-get install chromium, or set MAGI_CHROMIUM.",
    ),
]

Q2, Q3 = (f"smollm2-135m-instruct.{q}" for q in ("q2_k", "q3_k_m"))
PORTS = ports(18240)
MINE = f"name: mine\ndescription: For the demonstration\nenabled_models:\n  - {Q2}\n"
expect.set_options(timeout=60_000)
LARGEST = 100_000
"""Bytes of the first page, with all that it needs."""
SIZE = """['navigation', 'resource'].flatMap(kind => performance.getEntriesByType(kind))
    .reduce((sum, entry) => sum + entry.decodedBodySize, 0)"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
PAGES = (
    "",
    "deploy",
    "jobs",
    "profiles",
    "profile?name=mine",
    "models",
    "playground",
    f"log?instance={Q2}",
    "confirm?verb=stop",
)


class Person:
    """Somebody at a browser of their own, in which nothing may go wrong that only a browser sees."""

    def __init__(self, context: BrowserContext, served: Serving):
        self.served, self.context = served, context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda said: self.wrong.append(said.text) if _is_wrong(said) else None)
        self.page.on("request", lambda asked: self._elsewhere(asked.url))

    def _elsewhere(self, url: str) -> None:
        if not url.startswith((self.served.url, "data:")):
            self.wrong.append(f"asked elsewhere: {url}")

    def go(self, path: str) -> None:
        self.page.goto(f"{self.served.url}/console/{path}")

    def sign_in(self, role: str) -> None:
        self.page.goto(self.served.url)
        self.page.get_by_label("A token of magi serve").fill(self.served.tokens[role])
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("heading", name="Fleet")).to_be_visible()

    def click(self, name: str, role: Any = "button") -> None:
        self.page.get_by_role(role, name=name, exact=True).first.click()

    def picture(self, name: str) -> None:
        if folder := os.environ.get("MAGI_PICTURES"):
            self.page.screenshot(path=Path(folder) / f"console-{name}.png")


def _is_wrong(said: Any) -> bool:
    """Browsers log an answer of 4xx as an error, too; such answers are asserted where they come."""
    return said.type in ("error", "warning") and not said.text.startswith("Failed to load resource")


@pytest.fixture
def browser() -> Iterator[Browser]:
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        value = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield value
        value.close()


@contextmanager
def person(browser: Browser, served: Serving, **more: Any) -> Iterator[Person]:
    given = {"viewport": {"width": 1120, "height": 700}, **more}
    with browser.new_context(**given) as context:
        somebody = Person(context, served)
        yield somebody
        assert somebody.wrong == []


def test_a_profile_is_written_deployed_asked_broken_and_taken_back(browser: Browser, deployment: Deployment):
    deployment.variables["model_server_port_range"] = [PORTS[0], PORTS[1] - 1]
    for quantization in ("Q2_K", "Q3_K_M"):
        deployment.add_model(quantization)
    (deployment.models / "notes.gguf").write_text("<script>document.title='owned'</script>")
    deployment.add_gateway(PORTS[1])
    with serving(deployment) as served, person(browser, served) as ann, person(browser, served) as bob:
        page = ann.page

        # Who has no token sees nothing; the first page is small, and says what to do.
        ann.go("profiles")
        page.get_by_label("A token of magi serve").fill("wrong-wrong-wrong-wrong")
        ann.click("Sign in")
        expect(page.get_by_role("alert").filter(has_text="none of ours")).to_be_visible()
        ann.sign_in("deploy")
        (cookie,) = ann.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/console/")
        assert served.tokens["deploy"] not in cookie["value"]
        expect(page.get_by_text("Nothing runs: deploy a profile.")).to_be_visible()
        assert page.evaluate(SIZE) < LARGEST

        # What a proxy says while magi serve is away is no part of the page, which goes on by itself.
        page.route("**/console/fleet*", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
        expect(page.locator("#offline")).to_be_visible()
        expect(page.get_by_text("Nothing runs: deploy a profile.")).to_be_visible()
        page.unroute("**/console/fleet*")
        expect(page.locator("#offline")).to_be_hidden()

        # What was found, and what not: a file's content is no part of the page.
        ann.click("Models", "link")
        expect(page.get_by_text("notes.gguf")).to_be_visible()
        assert page.title().startswith("Models")

        # A new profile, with a mistake that is shown at its line, and mended.
        ann.click("Profiles", "link")
        page.get_by_label("A new one").fill("mine")
        ann.click("Draft it")
        text = page.get_by_label("Profile mine as YAML")
        expect(text).to_have_value(re.compile(Q3))
        text.fill(MINE.replace("enabled_models", "enabled_model"))
        expect(page.locator("#problems li").first).to_contain_text("Line 3")
        expect(page.locator(".gutter .wrong").first).to_have_text("3")
        ann.picture("profile")
        text.fill(MINE + "stri")
        text.press("Control+Space")
        expect(text).to_have_value(MINE + "strict: ")
        expect(page.locator("#preview tr.start")).to_have_count(2)  # of the draft
        text.fill(MINE)
        expect(page.get_by_text("No mistake.")).to_be_visible()
        expect(page.locator("#preview tr.start")).to_have_count(1)  # it follows by itself
        expect(page.locator("#preview tr.start")).to_contain_text(Q2)
        ann.click("Save")
        expect(page.get_by_text("It is saved.")).to_be_visible()

        # Two editors: the second one sees what the first one wrote, and loses nothing.
        bob.sign_in("deploy")
        bob.go("profile?name=mine")
        text.fill(MINE.replace("the demonstration", "everybody"))
        ann.click("Save")
        expect(page.get_by_text("It is saved.")).to_be_visible()
        his = MINE + f"  - {Q3}\n"
        bob.page.get_by_label("Profile mine as YAML").fill(his)
        bob.click("Save")
        expect(bob.page.locator(".difference .minus", has_text="For everybody")).to_be_visible()
        expect(bob.page.get_by_label("Profile mine as YAML")).to_have_value(his)
        assert "everybody" in (deployment.folder / "profiles" / "mine.yml").read_text()

        # A deployment that is cancelled; and one whose five steps are watched, by a page that is loaded anew meanwhile.
        page.locator("form.editor").get_by_role("link", name="Deploy").click()
        expect(page.get_by_text("Gateway localhost: writes its configuration, starts.")).to_be_visible()
        expect(page.get_by_text("2 to change.")).to_be_visible()
        ann.click("Deploy mine")
        ann.click("Cancel")
        expect(page.locator("h1 .state")).to_have_text("cancelled")
        ann.click("Deploy again", "link")
        ann.click("Deploy mine")
        steps = page.locator(".steps li")
        expect(steps).to_have_count(5)
        expect(page.locator(".steps .now")).to_have_text("Launching servers")
        ann.picture("deployment")
        page.reload()
        expect(page.get_by_text("1 of 1 servers are ready: profile mine.")).to_be_visible()

        # It answers, through the gateway.
        ann.click("Playground", "link")
        expect(page.get_by_text("Through the gateway")).to_be_visible()
        page.get_by_label("Question").fill("Write a long story.")
        ann.click("Ask")
        expect(page.locator("[data-answer]")).to_have_text(re.compile(r"\w"))
        ann.click("Stop")  # there only while the answer is written
        expect(page.locator("[data-said]")).to_have_text("Stopped.")
        page.get_by_label("Question").fill("What is the capital of France?")
        ann.click("Ask")
        expect(page.locator("[data-answer]")).to_contain_text(re.compile(r"\w+ \w+"))
        expect(page.locator("[data-said]")).to_contain_text("through the gateway")

        # The other one saves over what he has seen, and deploys one more.
        bob.click("Save")
        expect(bob.page.get_by_text("It is saved.")).to_be_visible()
        expect(bob.page.locator("#preview tr.keep")).to_contain_text(Q2)
        expect(bob.page.locator("#preview tr.start")).to_contain_text(Q3)
        bob.page.locator("form.editor").get_by_role("link", name="Deploy").click()
        bob.click("Deploy mine")
        expect(bob.page.get_by_text("2 of 2 servers are ready: profile mine.")).to_be_visible()

        # Its log is followed: what it prints comes by itself.
        ann.go(f"log?instance={Q3}")
        log = page.get_by_role("log")
        expect(log).to_contain_text("listening")
        expect(log).not_to_contain_text("prompt eval time")
        ask(deployment.servers()[Q3]["port"])
        expect(log).to_contain_text("prompt eval time")

        # One of them breaks: the first page says so by itself, and why.
        ann.go("")
        expect(page.get_by_text("All 2 servers are ready")).to_be_visible()
        expect(page.locator("meter").first).to_be_visible()
        model = next(deployment.models.glob("*Q3_K_M.gguf"))
        model.write_bytes(model.read_bytes()[:1_000_000])
        os.kill(deployment.servers()[Q3]["pid"], signal.SIGKILL)
        trouble = page.locator(".trouble", has_text=Q3)
        expect(trouble).to_contain_text(re.compile("corrupt|does not load|truncated|incomplete"))
        ann.picture("trouble")
        expect(trouble.locator("a.button")).to_be_visible()
        page.route("**/log/lines*", lambda route: route.fulfill(status=502, body="Bad Gateway"))
        ann.go(f"log?instance={Q3}")
        expect(page.locator("#offline")).to_be_visible()
        page.unroute("**/log/lines*")
        expect(page.get_by_role("log")).to_contain_text("error")
        ann.click("History", "link")

        # Every page on a telephone, for who may only look; and the first one in the dark.
        with person(browser, served, viewport={"width": 360, "height": 740}) as eve:
            eve.sign_in("view")
            for path in PAGES:
                eve.go(path)
                expect(eve.page.get_by_text("The hosts are asked: this")).to_have_count(0)
                assert eve.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
                for word in ("Deploy", "Save", "Stop", "Roll back", "Remove"):
                    assert eve.page.get_by_role("button", name=word).count() == 0, (path, word)
            for origin, said in ((served.url, "may only look"), ("http://evil.example", "A page of")):
                where = f"{served.url}/console/start?verb=down"
                refused = eve.page.request.post(where, headers={"Origin": origin})
                assert refused.status == 403
                assert said in refused.text()
        with person(browser, served, color_scheme="dark") as eve:
            eve.sign_in("view")
            assert eve.page.evaluate(BACKGROUND) == "rgb(20, 23, 27)"

        # With the keyboard alone.
        with person(browser, served) as eve:
            keys = eve.page.keyboard
            eve.page.goto(served.url)
            keys.type(served.tokens["view"])
            keys.press("Enter")
            expect(eve.page.get_by_role("heading", name="Fleet")).to_be_visible()
            assert eve.page.evaluate(BACKGROUND) == "rgb(246, 247, 249)"
            reached = []
            while "Profiles" not in reached[-1:]:
                keys.press("Tab")
                reached.append(eve.page.evaluate("document.activeElement.textContent"))
                assert eve.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", reached
            assert reached[0] == "To the content"
            keys.press("Enter")
            expect(eve.page.get_by_role("heading", name="Profiles")).to_be_visible()

        # The way back.
        ann.click("Roll back…", "link")
        expect(page.locator("tr.stop")).to_contain_text(Q3)
        ann.click("Roll back")
        expect(page.get_by_text("1 of 1 servers are ready: profile mine.")).to_be_visible()
        ann.click("To the fleet", "link")
        expect(page.get_by_text("All 1 servers are ready")).to_be_visible()
        ann.click("History", "link")
        expect(page.locator("tbody tr")).to_have_count(4)
        assert until(lambda: served.process.poll() is None, 1, "the service")
