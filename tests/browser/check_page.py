#!/usr/bin/env python3
"""Opens a page of `longscan report` in a headless Chromium and checks what a reader meets: no
message on the console, no request to a network, nothing cut off at 1200 and 390 pixels, every
control reached by the keyboard, sorting, a legend that hides, links that open a run, dark mode.

usage: check_page.py PAGE.html [--shots FOLDER]     status 77: no Chromium here
Speaks the DevTools protocol over a pair of pipes, so that nothing but Python is needed.
"""
import argparse, base64, json, os, pathlib, shutil, subprocess, sys, tempfile

WIDTHS = (1200, 390)
# Elements that stick out of the window, other than inside of what scrolls by itself.
OUTSIDE = """(() => {
  const wide = document.documentElement.clientWidth, found = [];
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest(".scroll, pre, svg, details:not([open]) > :not(summary)")) continue;
    const box = e.getBoundingClientRect();
    if (box.width && (box.right > wide + 1 || box.left < -1))
      found.push(e.tagName + "." + e.className + " " + Math.round(box.right));
  }
  if (document.documentElement.scrollWidth > wide) found.push("the page scrolls sideways");
  return found.slice(0, 5);
})()"""
# Text of a drawing that is cut off by its picture.
CUT = """[...document.querySelectorAll(".panel")].flatMap(panel => {
  const all = panel.getBoundingClientRect();
  return [...panel.querySelectorAll("text")].filter(t => {
    const box = t.getBoundingClientRect();
    return t.textContent && box.width && (box.left < all.left - 1 || box.right > all.right + 1 ||
                                          box.top < all.top - 1 || box.bottom > all.bottom + 1);
  }).map(t => panel.getAttribute("aria-label") + ": " + t.textContent);
}).slice(0, 5)"""
FOCUSABLE = """[...document.querySelectorAll("a[href], button, summary, [tabindex='0']")].filter(
  e => e.checkVisibility ? e.checkVisibility() : e.getClientRects().length).length"""
CONTRAST = """(() => {
  const parse = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = c => { const [r, g, b] = parse(c).map(v => { v /= 255;
      return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const back = light(getComputedStyle(document.body).backgroundColor);
  const ratio = e => { const x = light(getComputedStyle(e).color);
    return (Math.max(x, back) + .05) / (Math.min(x, back) + .05); };
  return [back, Math.min(...[...document.querySelectorAll("p.quiet, h1, h2, a, td")].slice(0, 400)
      .map(ratio))];
})()"""


class Browser:
    def __init__(self, program):
        self.profile = tempfile.mkdtemp(prefix="longscan-browser-")
        to_read, self.write = os.pipe()
        self.read, to_write = os.pipe()

        def pipes():  # Chromium reads 3 and writes 4
            a, b = os.dup(to_read), os.dup(to_write)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
             "--hide-scrollbars", "--no-first-run", "--disable-extensions",
             "--disable-background-networking", "--disable-dev-shm-usage",
             "--user-data-dir=" + self.profile, "about:blank"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.buffer, self.number, self.events, self.session = b"", 0, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def message(self):
        while b"\0" not in self.buffer:
            more = os.read(self.read, 1 << 20)
            if not more:
                raise RuntimeError("the browser ended")
            self.buffer += more
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **params):
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.write, json.dumps(request).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def wait(self, method):
        while not any(e.get("method") == method for e in self.events):
            self.events.append(self.message())

    def value(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                           awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"])[:400])
        return result["result"].get("value")

    def key(self, name, code):
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name,
                      windowsVirtualKeyCode=code)

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


def settle(browser):
    browser.value("new Promise(done => setTimeout(() => requestAnimationFrame(done), 400))")


def show(browser, width, dark):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                 deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", features=[
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
    settle(browser)


def shoot(browser, path):
    """The whole page in pictures of at most 1600 lines."""
    tall = browser.value("document.documentElement.scrollHeight")
    wide = browser.value("document.documentElement.clientWidth")
    for part, top in enumerate(range(0, tall, 1600)):
        clip = {"x": 0, "y": top, "width": wide, "height": min(1600, tall - top), "scale": 1}
        data = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        pathlib.Path(f"{path}-{part}.png").write_bytes(base64.b64decode(data))


def keyboard(browser, faults):
    """Tab goes through every control once; Enter sorts a table."""
    wanted = browser.value(FOCUSABLE)
    browser.value("document.activeElement.blur(); window.scrollTo(0, 0)")
    browser.value("""window.reached = new Set();
        document.addEventListener("focusin", e => window.reached.add(e.target))""")
    for _ in range(wanted + 5):
        browser.key("Tab", 9)
    reached = browser.value("window.reached.size")
    if reached < wanted:
        faults.append(f"the keyboard reaches {reached} of {wanted} controls")
    order = """[...document.querySelector("table.sortable").tBodies[0].rows].map(
        r => r.cells[0].textContent).join()"""
    browser.value('document.querySelector("table.sortable th button").focus()')
    orders = []
    for _ in range(2):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r",
                     windowsVirtualKeyCode=13)
        browser.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter",
                     windowsVirtualKeyCode=13)
        orders.append(browser.value(order))
    rows = orders[0].split(",")
    if rows != sorted(rows, key=str.lower) and len(set(rows)) > 1 and orders[0] == orders[1]:
        faults.append("Enter on the head of a table sorts nothing")


def use(browser, faults):
    """A legend's button hides a line; a link to a run opens it."""
    if browser.value("!!window.Plotly"):
        drawn = 'document.querySelector(".panels").querySelectorAll(".trace").length'
        before = browser.value(drawn)
        browser.value('document.querySelector(".legend button").click()')
        settle(browser)
        after = browser.value(drawn)
        if before == 0 or after >= before:
            faults.append(f"a legend hides nothing: {before} lines, then {after}")
        browser.value('document.querySelector(".legend button").click()')
        settle(browser)
    opened = browser.value("""(async () => {
        const link = document.querySelector("a[href^='#run-']");
        link.click();
        await new Promise(done => setTimeout(done, 200));
        const run = document.querySelector(link.getAttribute("href"));
        return run.open && run.querySelector("pre").textContent.includes("task");
    })()""")
    if not opened:
        faults.append("a link to a run does not open its config")


def check(browser, page, shots):
    faults = []
    for domain in ("Page", "Runtime", "Network", "Log"):
        browser.call(domain + ".enable")
    show(browser, WIDTHS[0], False)
    browser.call("Page.navigate", url=page.resolve().as_uri())
    browser.wait("Page.loadEventFired")
    for dark in (False, True):
        for width in WIDTHS:
            show(browser, width, dark)
            name = f"{width}{'-dark' if dark else ''}"
            for what, script in (("cut off", OUTSIDE), ("text cut off", CUT)):
                faults += [f"{name}: {what}: {x}" for x in browser.value(script)]
            back, contrast = browser.value(CONTRAST)
            if (back < 0.2) != dark:
                faults.append(f"{name}: the page is {'light' if dark else 'dark'}")
            if contrast < 4.5:
                faults.append(f"{name}: a text has a contrast of {contrast:.1f}, 4.5 is needed")
            if shots:
                shoot(browser, f"{shots}/{name}")
    show(browser, WIDTHS[0], False)
    keyboard(browser, faults)
    use(browser, faults)
    for event in browser.events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            faults.append("exception: " + json.dumps(params["exceptionDetails"])[:300])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            faults.append("console: " + json.dumps(params["args"])[:300])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            faults.append("log: " + params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:", "about:")):
                faults.append("asks the network for " + url)
    return faults


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--shots", help="folder for pictures of the page")
    arguments = parser.parse_args()
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next((p for p in map(shutil.which, names) if p), None)
    if program is None:
        print("[skipped] no Chromium is installed; scripts/setup.sh --checks installs it")
        return 77
    if arguments.shots:
        os.makedirs(arguments.shots, exist_ok=True)
    browser = Browser(program)
    try:
        faults = check(browser, arguments.page, arguments.shots)
    finally:
        browser.close()
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
