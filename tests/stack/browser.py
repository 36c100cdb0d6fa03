# SPDX-License-Identifier: Apache-2.0
"""Scripts for a headless Chromium on the dashboard: browser.py ADMIN-URL SCRIPT [ARGUMENT].

*In*: the admin listener of a gateway that has served requests. *Out*: what was found, on standard output; exit status 1 with
the reason otherwise. *Never*: a request to another host.
"""
import asyncio
import json
import pathlib
import sys
import urllib.request

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import async_playwright, expect

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
PAGES = {"overview": "#/", "latency": "#/latency", "requests": "#/requests", "guardrails": "#/guardrails",
         "backends": "#/backends", "usage": "#/usage", "settings": "#/settings", "playground": "#/playground", "definitions": "#/definitions"}
SIZES = {390: 844, 1440: 900}


class Browser:
    """A browser with one page; what its console reports is a fault."""

    def __init__(self, admin):
        self.admin, self.faults = admin, []

    async def __aenter__(self):
        self.playwright = await async_playwright().start()
        self.browser = await self.playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        return self

    async def __aexit__(self, *_):
        await self.browser.close()
        await self.playwright.stop()

    async def page(self, width=1440, scheme="light"):
        context = await self.browser.new_context(viewport={"width": width, "height": SIZES[width]}, color_scheme=scheme)
        page = await context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and self.faults.append(message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: request.url.startswith(self.admin) or self.faults.append(f"asks {request.url}"))
        return page

    async def open(self, page, place="#/"):
        await page.goto("about:blank")
        await page.goto(f"{self.admin}/{place}", wait_until="load")
        await expect(page.locator("main h1")).to_be_visible()


def newest(admin):
    """The newest request whose answer was a stream."""
    with urllib.request.urlopen(f"{admin}/api/requests?outcome=ok", timeout=10) as answer:
        return next(one["id"] for one in json.load(answer)["requests"] if one.get("content_events"))


async def pages(browser, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    places = PAGES | {"request": f"#/request/{newest(browser.admin)}"}
    for width in SIZES:
        for scheme in ("light", "dark"):
            page = await browser.page(width, scheme)
            for name, place in places.items():
                await browser.open(page, place)
                if name == "overview":
                    await expect(page.get_by_role("img", name="Gap between tokens at the client")).to_be_visible()
                if name == "request":
                    await expect(page.locator(".line.events i").first).to_be_visible()
                if name == "latency":
                    await expect(page.locator(".heat a").first).to_be_visible()
                if name == "usage":
                    await expect(page.locator("main tr", has_text="all requests")).to_contain_text(" %")
                await check(page, folder, name, width, scheme)
    assert not browser.faults, browser.faults
    print(f"{len(places)} pages, {2 * len(SIZES)} times each")


async def check(page, folder, name, width, scheme):
    """What is shown now: axe finds nothing, nothing is wider than the screen; a screenshot of it."""
    await page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
    found = await axe(page)
    assert not found, f"{name}, {width}, {scheme}: {found}"
    wider = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wider <= 0, f"{name} is {wider} pixels wider than {width}"


async def axe(page):
    """What axe finds. The page's policy forbids foreign scripts, so the browser evaluates it in a world of its own."""
    session = await page.context.new_cdp_session(page)
    tree = await session.send("Page.getFrameTree")
    world = await session.send("Page.createIsolatedWorld", {"frameId": tree["frameTree"]["frame"]["id"]})
    script = Axe().axe_script + "; axe.run(document).then(found => JSON.stringify(found.violations.map(one => [one.id, one.nodes.map(node => node.html)])))"
    answer = await session.send("Runtime.evaluate", {
        "expression": script, "contextId": world["executionContextId"], "awaitPromise": True, "returnByValue": True})
    return json.loads(answer["result"]["value"])


async def newcomer(browser, _):
    page = await browser.page()
    await browser.open(page)
    verdict = page.locator(".verdict")
    await expect(verdict).to_contain_text("cloud")
    await expect(verdict).to_contain_text("first token")
    await verdict.get_by_role("link", name="See its requests").last.click()
    await expect(page.locator("main h1")).to_have_text("Requests")
    rows = page.locator("main tbody tr")
    await expect(rows.first).to_contain_text("cloud")
    assert await page.locator("main tbody tr", has_text="edge").count() == 0
    await rows.first.get_by_role("link").first.click()
    await expect(page.locator("main h1")).to_contain_text("Request ")
    await expect(page.locator(".waterfall")).to_contain_text("await first token")
    await expect(page.locator(".waterfall")).to_contain_text("100.0 %")
    assert not browser.faults, browser.faults
    print(await page.locator("main h1").inner_text())


async def tail(browser, _):
    page = await browser.page()
    await browser.open(page, "#/requests?live=true")
    print("watching", flush=True)
    rows = page.locator("main tbody tr")
    await expect(rows.first).to_be_visible(timeout=20_000)
    await page.get_by_role("button", name="Pause").click()
    before = await rows.count()
    print("paused", flush=True)
    await expect(page.get_by_text("newer")).to_contain_text("2 newer", timeout=20_000)
    assert await rows.count() == before
    await page.get_by_role("button", name="Pause").click()
    await expect(rows).to_have_count(before + 2)
    assert not browser.faults, browser.faults


async def sign_in(browser, folder):
    folder, operator, viewer = pathlib.Path(folder), *sys.argv[4:6]
    for width in SIZES:
        for scheme in ("light", "dark"):
            page = await browser.page(width, scheme)
            await browser.open(page)
            await expect(page.locator("main h1")).to_have_text("Sign in")
            await check(page, folder, "sign-in", width, scheme)
    await page.get_by_label("Token").fill("a wrong token")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("not one of admin.auth")
    await page.get_by_label("Token").fill(operator)
    await page.keyboard.press("Enter")
    await expect(page.locator("main h1, main h2").first).not_to_have_text("Sign in")
    await expect(page.locator("#session")).to_contain_text("ops, operator")
    [cookie] = await page.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and operator not in cookie["value"], cookie
    assert await page.evaluate("document.cookie") == ""
    # The session survives another visit, and a stream uses it.
    await browser.open(page, "#/requests?live=true")
    live = await page.evaluate("""new Promise(done => { const source = new EventSource("/api/live");
        source.onopen = () => { source.close(); done("open") }; source.onerror = () => done("refused") })""")
    assert live == "open", live
    for width in SIZES:
        await page.set_viewport_size({"width": width, "height": SIZES[width]})
        for name, place in PAGES.items():
            await browser.open(page, place)
            await check(page, folder, f"{name}-signed-in", width, scheme)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.locator("main h1")).to_have_text("Sign in")
    await page.get_by_label("Token").fill(viewer)
    await page.keyboard.press("Enter")
    await expect(page.locator("#session")).to_contain_text("grafana, viewer")
    await browser.open(page, "#/playground")
    await expect(page.locator("main")).to_contain_text("role operator")
    # The browser reports the answers to the first visits and the wrong token.
    faults = [fault for fault in browser.faults if "401 (Unauthorized)" not in fault]
    assert not faults, faults
    print("signed in twice")


async def playground(browser, folder):
    for width in SIZES:
        for scheme in ("light", "dark"):
            page = await browser.page(width, scheme)
            await browser.open(page, "#/playground")
            await page.get_by_label("Model").fill("m")
            await page.get_by_label("System message").fill("You are brief.")
            await page.get_by_label("Max tokens").fill("40")
            await page.get_by_role("button", name="Send").click()
            state = page.get_by_role("status").filter(has_text="Ended")
            await expect(state).to_contain_text("Ended (", timeout=20_000)
            assert await page.locator("pre.answer").inner_text()
            await expect(page.locator(".waterfall")).to_contain_text("100.0 %")
            await check(page, pathlib.Path(folder), "playground-answer", width, scheme)
    await page.get_by_label("Max tokens").fill("100000")
    await page.get_by_role("button", name="Send").click()
    await expect(page.get_by_role("status").filter(has_text="First token after")).to_be_visible(timeout=20_000)
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_role("status").filter(has_text="Ended: stopped")).to_be_visible()
    await page.locator("main dl").get_by_role("link").click()
    await expect(page.locator("main h1")).to_contain_text("Request ")
    assert not browser.faults, browser.faults
    print("answered and stopped")


async def settings(browser, argument):
    folder, file = pathlib.Path(argument), pathlib.Path(sys.argv[4])
    text = file.read_text()
    for width in SIZES:
        for scheme in ("light", "dark"):
            page = await browser.page(width, scheme)
            await browser.open(page, "#/settings")
            await expect(page.locator("main")).to_contain_text(f"lines of {file}")
            box, result = page.get_by_label("Text of a settings file"), page.locator("[aria-live] [role=status]")
            await box.fill(text)
            await page.get_by_role("button", name="Check").click()
            await expect(result).to_contain_text("No value differs")
            await box.fill(text.replace(", guardrail: checked", "") + "workers: 3\nzone: west\n")
            await page.get_by_role("button", name="Check").click()
            await expect(result).to_contain_text("1 at the next start")
            await expect(page.locator("main li", has_text="guardrail of route")).to_be_visible()
            await expect(page.locator("main tr", has_text="workers")).to_contain_text("at the next start")
            await expect(page.locator("main tr", has_text="zone")).to_contain_text("with a reload")
            await check(page, folder, "settings-change", width, scheme)
            await box.fill(text + "wrokers: 3\nzone: '${HOME}'\n")
            await page.get_by_role("button", name="Check").click()
            await expect(result).to_contain_text("2 problems")
            await expect(page.locator("main tr", has_text="workers")).to_contain_text("did you mean")
            await expect(page.locator("main tr", has_text="zone")).to_contain_text("is not read here")
            await check(page, folder, "settings-problems", width, scheme)
            line = len(text.splitlines()) + 1
            await page.get_by_role("button", name=f"Go to line {line}").click()
            selected = await box.evaluate("box => box.value.slice(box.selectionStart, box.selectionEnd)")
            assert selected == "wrokers: 3", selected
    assert not browser.faults, browser.faults
    print("a change and problems")


async def views(browser, folder):
    page = await browser.page()
    await browser.open(page, "#/requests?backend=cloud&slower_than=100ms")
    await page.get_by_label("Save these filters as").fill("slow cloud")
    await page.get_by_role("button", name="Save").click()
    await browser.open(page, "#/requests")
    view = page.locator(".views").get_by_role("link", name="slow cloud")
    await expect(view).to_have_attribute("href", "#/requests?backend=cloud&slower_than=100ms")
    await check(page, pathlib.Path(folder), "requests-views", 1440, "light")
    await view.click()
    await expect(page.get_by_label("Duration over")).to_have_value("100ms")
    assert await page.locator("main tbody tr", has_text="edge").count() == 0
    await expect(page.locator(".views").get_by_role("link", name="slow cloud")).to_have_attribute("aria-current", "true")
    await page.get_by_role("button", name="Delete the view slow cloud").click()
    await expect(view).to_have_count(0)
    # What another program has stored does not break the page.
    await page.evaluate("localStorage.setItem('llm-lens.views', '{')")
    await browser.open(page, "#/requests")
    await expect(page.get_by_label("Save these filters as")).to_be_visible()
    assert not browser.faults, browser.faults
    print("saved, used, deleted")


async def unreadable(browser, _):
    page = await browser.page()
    body = json.dumps({"error": {"message": "the database is down", "param": None}})
    for name in ("charts", "facets", "records"):
        await page.route(f"**/api/{name}*", lambda route: route.fulfill(status=503, content_type="application/json", body=body))
    for place in ("#/", "#/requests"):
        await browser.open(page, place)
        await expect(page.locator("main")).to_contain_text("the database is down")
        await expect(page.locator("main tbody tr").first).to_be_visible()
    await browser.open(page, f"#/request/{newest(browser.admin)}")
    await expect(page.locator(".waterfall")).to_contain_text("100.0 %")


async def hostile(browser, _):
    page = await browser.page()
    for place in PAGES.values():
        await browser.open(page, place)
        assert "owned" not in await page.title(), place
        assert await page.locator("main img").count() == 0, place
    await browser.open(page, "#/requests")
    await expect(page.locator("main")).to_contain_text("<img src=x")
    assert not browser.faults, browser.faults


async def restart(browser, _):
    page = await browser.page()
    await browser.open(page)
    print("shown", flush=True)
    state = page.locator("#state")
    await expect(state).to_contain_text("does not answer", timeout=20_000)
    await expect(page.locator(".verdict")).to_be_visible()
    print("alone", flush=True)
    await expect(state).to_contain_text("live", timeout=20_000)


async def main():
    admin, script, argument = sys.argv[1], sys.argv[2], (sys.argv[3:] or [None])[0]
    async with Browser(admin) as browser:
        await {"pages": pages, "newcomer": newcomer, "tail": tail, "hostile": hostile, "sign_in": sign_in, "playground": playground, "settings": settings, "views": views, "unreadable": unreadable, "restart": restart}[script](browser, argument)


asyncio.run(main())
