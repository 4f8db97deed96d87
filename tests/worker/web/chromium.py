"""A real browser: Chromium without a window, at the width and in the colours that a test asks for."""

from __future__ import annotations

import shutil
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.worker.harness import until

WIDTHS = (1100, 390)
COLOURS = ("light", "dark")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions")
SERIOUS = ("serious", "critical")
KEPT = "kept"  # a variable of the page that a reload would lose


def programs() -> tuple[str, str] | None:
    """Return the paths of Chromium and its driver; None if this machine lacks one."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return None if browser is None or driver is None else (browser, driver)


@dataclass(frozen=True)
class Browser:
    """A window of Chromium. Every look at a page first asserts that the page did nothing it must not do."""

    driver: webdriver.Chrome

    def open(self, url: str, *, width: int = WIDTHS[0], colours: str = COLOURS[0]) -> None:
        """Open an address in a window of this width, in light or dark colours."""
        mobile = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", mobile)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": colours}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        self.driver.get(url)

    def picture(self, path: Path, height: int) -> None:
        """Write the top of the page, `height` pixels high, as a PNG file."""
        self.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        width = self.driver.execute_script(
            "document.documentElement.style.scrollbarGutter = 'auto'; return innerWidth"
        )
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        path.write_bytes(b64decode(shot["data"]))

    def text(self) -> str:
        """Return what a person reads on the page, which may be replaced meanwhile."""
        return str(self.driver.execute_script("return document.querySelector('main')?.innerText ?? ''"))

    def comes_to(self, text: str) -> None:
        """Wait until this page, or the next, shows a text."""
        until(lambda: text in self.text(), f"a page says {text}", every_s=0.2)

    def waits_for(self, text: str) -> None:
        """Wait until the page shows a text, without a reload."""
        self.driver.execute_script(f"window.{KEPT} = true")
        until(lambda: text in self.text(), f"the page says {text}", every_s=0.2)
        assert self.driver.execute_script(f"return window.{KEPT}") is True

    def click(self, name: str) -> None:
        """Click the button or link whose name has this prefix."""
        elements = self.driver.find_elements(By.CSS_SELECTOR, "main a, main button, summary")
        next(element for element in elements if element.text.startswith(name)).click()

    def complaints(self) -> list[str]:
        """Return the browser's log since the last call, with violations of the content policy."""
        log: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [str(entry["message"]) for entry in log]

    def serious(self) -> list[str]:
        """Return the serious accessibility problems that axe finds on the page."""
        axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
        self.driver.execute_script(axe)
        report: dict[str, Any] = self.driver.execute_async_script("axe.run().then(arguments[0])")
        return [
            f"{violation['id']}: {node['html']}"
            for violation in report["violations"]
            if violation["impact"] in SERIOUS
            for node in violation["nodes"]
        ]

    def overflows(self) -> bool:
        """Return True if a person has to scroll sideways."""
        size = "document.documentElement"
        return bool(self.driver.execute_script(f"return {size}.scrollWidth > {size}.clientWidth"))


@contextmanager
def chromium(browser: str, driver: str) -> Iterator[Browser]:
    """Start the browser for the length of the block."""
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(window)
    finally:
        window.quit()
