"""Takes pictures of the page, from the demo's data: `python scripts/screenshots/take.py --help`.

Needs Debian's chromium, and what `make test` installs: run it by `.venv/bin/python`. Starts
`metrics-service demo` on a directory of its own, signs in as its output says, and opens every page:
light and dark, wide and on a phone. `--readme` writes the three that the README shows, beside this
file.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

HERE = Path(__file__).resolve().parent
PORT = 8765
STARTS_S = 180
ZONE = "Europe/Berlin"
SIZES = {"wide": (1360, 900), "phone": (390, 844)}
LOGIN = re.compile(
    r"^(?P<name>.+) \(\w+\)  (?P<url>http\S+)\n\s+login (?P<email>\S+)  (?P<password>\S+)$",
    re.MULTILINE,
)
PATHS = {
    "overview": "/",
    "sessions": "/sessions?last=30d",
    "tools": "/tools?last=30d",
    "tool": "/tools?last=30d&tool=Bash",
    "models": "/models?last=30d",
    "people": "/people?last=30d",
    "dashboards": "/dashboards",
    "set-up": "/set-up",
    "settings": "/settings",
}
# The library that draws them is made when the first page asks for it.
DRAWN = """() => [...document.querySelectorAll("[data-figure]")].every((chart) => {
  const { top, bottom } = chart.getBoundingClientRect();
  return chart.hasAttribute("data-drawn") || bottom < 0 || top > innerHeight;
})"""
README = {"overview": "light", "session": "light", "dashboard": "dark"}


@contextmanager
def demo() -> Iterator[dict[str, str]]:
    """A running demo; the address and the login of its second tenant, which has the most to show."""
    with tempfile.TemporaryDirectory(prefix="screenshots-") as place:
        # PostgreSQL does not run as root: its user must be able to enter.
        Path(place).chmod(0o755)
        process = subprocess.Popen(
            [sys.executable, "-m", "metrics_service", "demo", "--port", str(PORT)],
            env={**os.environ, "METRICS_DATA_DIR": f"{place}/data", "METRICS_LOG_LEVEL": "error"},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            said = ""
            while len(found := [one.groupdict() for one in LOGIN.finditer(said)]) < 3:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line, f"the demo ended: {said}"
                said += line
            yield found[1]
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


async def sign_in(page: Page, login: dict[str, str]) -> None:
    await page.goto(f"{login['url']}/sign-in")
    await page.get_by_label("Email").fill(login["email"])
    await page.get_by_label("Password").fill(login["password"])
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"{login['url']}/")


async def addresses(page: Page, origin: str) -> dict[str, str]:
    """Every page, with a session and a dashboard that there are."""
    found = dict(PATHS)
    for name, path, pattern in (
        ("session", "/sessions?last=30d&sort=-tool_call_count", "main a[href^='/sessions/']"),
        ("dashboard", "/dashboards", "main a[href^='/dashboards/']:has-text('Team overview')"),
    ):
        await page.goto(origin + path)
        href = await page.locator(pattern).first.get_attribute("href")
        found[name] = str(href)
    found["editor"] = f"{found['dashboard']}/edit"
    found["versions"] = f"{found['dashboard']}/versions"
    return found


async def take(
    browser: Browser,
    login: dict[str, str],
    wanted: dict[str, Any],
    place_of: Callable[[str, str, str], Path],
) -> None:
    """Take what is wanted; a picture's place follows from its name, theme and size."""
    for theme in wanted["themes"]:
        for size in wanted["sizes"]:
            width, height = SIZES[size]
            context = await browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=theme,
                timezone_id=ZONE,
                device_scale_factor=1,
            )
            page = await context.new_page()
            await page.goto(f"{login['url']}/sign-in")
            if not wanted["names"] or "sign-in" in wanted["names"]:
                await page.screenshot(path=place_of("sign-in", theme, size))
            await sign_in(page, login)
            for name, path in (await addresses(page, login["url"])).items():
                if name not in wanted["names"] and wanted["names"]:
                    continue
                await page.goto(login["url"] + path)
                # Charts are drawn when they come into sight.
                for y in (600, 1200, 1800, 0):
                    await page.mouse.wheel(0, y or -4000)
                    await page.wait_for_timeout(400)
                    await page.wait_for_function(DRAWN)
                shot = place_of(name, theme, size)
                await page.screenshot(path=shot, full_page=wanted["full"])
                print(shot)
            await context.close()


async def main(arguments: argparse.Namespace) -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert chromium, "chromium is not installed"
    with demo() as login:
        async with async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            if arguments.readme:
                for name, theme in README.items():
                    wanted = {"themes": [theme], "sizes": ["wide"], "names": [name], "full": False}
                    await take(browser, login, wanted, lambda name, *_: HERE / f"{name}.png")
            else:
                wanted = {
                    "themes": ["light", "dark"],
                    "sizes": list(SIZES),
                    "names": arguments.names,
                    "full": True,
                }
                arguments.out.mkdir(parents=True, exist_ok=True)
                await take(
                    browser,
                    login,
                    wanted,
                    lambda name, theme, size: arguments.out / f"{name}-{theme}-{size}.png",
                )
            await browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="pages; without any, all")
    parser.add_argument("--out", type=Path, default=Path("screenshots"), help="where to")
    parser.add_argument("--readme", action="store_true", help="the three of the README")
    asyncio.run(main(parser.parse_args()))
