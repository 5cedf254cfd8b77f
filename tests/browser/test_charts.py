"""Charts in Chromium, under the policy of every page: what is drawn, what it tells, what it costs."""

from __future__ import annotations

import http.server
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec
import pytest

from browser.conftest import WATCH
from metrics_service import web
from metrics_service.dashboards.data import PreviousData, WidgetData
from metrics_service.dashboards.pictures.theme import DARK, LIGHT
from metrics_service.dashboards.widgets import Widget, widget_errors
from metrics_service.http.browser import POLICY
from metrics_service.web.environment import ENVIRONMENT
from metrics_service.web.figures import figure_of
from metrics_service.web.vega import VegaBundle

STATIC = Path(web.__file__).parent / "static"
FROM = datetime(2026, 2, 9, tzinfo=UTC)
TO = FROM + timedelta(days=30)
TOOLS = ["Bash", "Edit", "Read", "Grep", "mcp__playwright__browser_navigate", "Fetch"]
HOSTILE = [
    "<script>hurt()</script>",
    "</script><img src=x onerror=hurt()>",
    "\u202eevil",
    "x" * 9000,
]

PAGE = """<!doctype html><html lang="en" data-theme="THEME"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Charts</title>
<link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/style.css">
<link rel="stylesheet" href="/static/charts.css"><script type="module" src="/start.js"></script></head>
<body class="plain" data-vega="/vega.js"><main id="main">FIGURES</main></body></html>"""
MACRO = (
    '{% import "macros.html" as m %}{% for figure in figures %}{{ m.chart(figure) }}{% endfor %}'
)
START = 'import { drawCharts } from "/static/js/charts.js"; drawCharts(document);'


def day(number, begin=FROM):
    return (begin + timedelta(days=number)).isoformat()


def series(names, column="tool_name", measure="count"):
    return [
        {"day": day(n), column: name, measure: (n * 37 + place * 11) % 90 + place}
        for n in range(30)
        for place, name in enumerate(names)
    ]


def listed(names, column="tool_name"):
    return [{column: name, "count": 900 - 97 * place} for place, name in enumerate(names)]


def crossed():
    return [
        {"tool_name": tool, "agent": agent, "count": (place * 31 + len(agent) * 7) % 90}
        for place, tool in enumerate(TOOLS)
        for agent in ("claude-code", "codex", "gemini-cli")
    ]


# Each with what it asks for, how it is drawn, and its rows.
CHARTS = {
    "columns": ("day tool_name", {"mark": "bar"}, series(TOOLS)),
    "lines": ("day tool_name", {"mark": "line"}, series(TOOLS[:3])),
    "areas": ("day tool_name", {"mark": "area"}, series(TOOLS[:3])),
    "points": ("day", {"mark": "point"}, series([None])),
    "weeks": ("week", {"mark": "bar"}, [{"week": day(7 * n), "count": n + 3} for n in range(5)]),
    "bars": ("tool_name", {}, listed(TOOLS)),
    "stacked": ("tool_name agent", {}, crossed()),
    "ring": ("tool_name", {"mark": "arc"}, listed(TOOLS)),
    "heat": ("day tool_name", {"mark": "rect"}, series(TOOLS)),
    "names": ("tool_name agent", {"mark": "rect"}, crossed()),
    "clients": (
        "day tool_name",
        {"mark": "line", "encoding": {"x": {"field": "day"}, "y": {"field": "count"},
                                      "color": {"field": "tool_name"}}},
        series(TOOLS[:2]),
    ),
    "shades": (
        "tool_name agent",
        {"mark": "rect", "encoding": {"x": {"field": "tool_name"}, "y": {"field": "agent"},
                                      "color": {"field": "count"}}},
        crossed(),
    ),
    "hostile": ("day tool_name", {"mark": "bar"}, series(HOSTILE)),
    "compared": ("day", {"mark": "bar"}, series([None])),
}  # fmt: skip


def figure(name, *, factor=1):
    group_by, options, rows = CHARTS[name]
    query = {"source": "tool_metrics", "measures": ["count"], "group_by": group_by.split()}
    previous = None
    if name == "compared":
        query["compare"] = "previous_period"
        earlier = FROM - timedelta(days=30)
        then = [{"day": day(n, earlier), "count": 40 - n} for n in range(30)]
        previous = PreviousData(earlier, FROM, then, None)
    given = {"id": name, "title": name, "kind": "chart", "query": query, **options}
    assert widget_errors([given], {}) == []
    data = WidgetData(
        id=name, columns=[], rows=[{**row, "count": row["count"] * factor} for row in rows],
        totals=None, previous=previous, from_=FROM, to=TO, truncated=False, notes=[],
    )  # fmt: skip
    return figure_of(msgspec.convert(given, Widget), data, {}, ZoneInfo("UTC"))


def html_of(names, *, factor=1):
    figures = [figure(name, factor=factor) for name in names]
    return ENVIRONMENT.from_string(MACRO).render(figures=figures)


class Charts:
    """A server of nothing but charts, each by its name."""

    def __init__(self, library):
        self.library = library
        self.has_library = True
        self.factor = 1
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body, kind, status = outer.answer(self.path)
                self.send_response(status)
                self.send_header("content-type", f"{kind}; charset=utf-8")
                self.send_header("content-security-policy", POLICY)
                self.send_header("content-length", str(len(body)))
                if self.path == "/vega.js":
                    self.send_header("content-encoding", "gzip")
                    # One window after the other takes it from the browser's own store.
                    self.send_header(
                        "cache-control", "max-age=3600" if outer.has_library else "no-store"
                    )
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *given):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path):
        if path == "/start.js":
            return START.encode(), "text/javascript", 200
        if path == "/vega.js":
            return (
                (self.library, "text/javascript", 200)
                if self.has_library
                else (b"", "text/plain", 503)
            )
        if path.startswith("/static/"):
            kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
            return (
                (STATIC / path.removeprefix("/static/")).read_bytes(),
                kinds[path.rpartition(".")[2]],
                200,
            )
        parts = urlsplit(path)
        figures = html_of(parts.query.split(","), factor=self.factor)
        page = PAGE.replace("THEME", parts.path.strip("/")).replace("FIGURES", figures)
        return page.encode(), "text/html", 200


@pytest.fixture(scope="module")
async def library(tmp_path_factory):
    return await VegaBundle(tmp_path_factory.mktemp("vega")).body()


@pytest.fixture(scope="module")
def all_charts(library):
    made = Charts(library)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def charts(all_charts):
    all_charts.has_library, all_charts.factor = True, 1
    return all_charts


@pytest.fixture(scope="module")
async def browsing(chromium, all_charts):
    """Somebody's browser, or with options somebody else's."""

    async def begun(**options):
        context = await chromium.new_context(base_url=all_charts.url, **options)
        context.set_default_timeout(15_000)
        await context.add_init_script(WATCH)
        return context

    return begun


@pytest.fixture(scope="module")
async def usual(browsing):
    """A window for one page after the other: a new one costs more than most of them."""
    context = await browsing()
    yield await context.new_page()
    await context.close()


@pytest.fixture
async def look(browsing, usual, charts):
    """Open charts by name; what the console or the policy says fails the test."""
    opened, said = [], []

    async def open_(names, *, theme="light", width=900, height=800, allowed="\0", **options):
        page = usual if not options else await (await browsing(**options)).new_page()

        def heard(one):
            if allowed not in one.text:
                said.append(one.text)

        def failed(one):
            said.append(str(one))

        opened.append((page, heard, failed))
        page.on("console", heard)
        page.on("pageerror", failed)
        await page.mouse.move(0, 0)
        await page.set_viewport_size({"width": width, "height": height})
        await page.goto(f"/{theme}?{','.join(names)}")
        return page

    yield open_
    for page, heard, failed in opened:
        said += await page.evaluate("window.broken ?? []")
        page.remove_listener("console", heard)
        page.remove_listener("pageerror", failed)
        if page is not usual:
            await page.context.close()
    assert not said


async def drawn(page):
    """Scroll by everything, and wait until all of it is drawn."""
    every = page.locator("figure[data-chart]")
    for place in range(await every.count()):
        await every.nth(place).scroll_into_view_if_needed()
        await every.nth(place).locator(".chart[data-drawn] svg").wait_for()


async def replaced(page, charts, names):
    """What refreshing does: each figure comes anew, and the page is told."""
    figures = html_of(names, factor=charts.factor)
    await page.evaluate(
        """(html) => {
            document.getElementById("main").innerHTML = html;
            document.dispatchEvent(new CustomEvent("page:refreshed"));
        }""",
        figures,
    )


COLOURS = """() => [...document.querySelectorAll(".chart svg")].flatMap((svg) =>
    [...svg.querySelectorAll("path, text, line")].flatMap((one) => {
        const name = svg.closest("figure").id, style = getComputedStyle(one);
        return ["fill", "stroke"].filter((side) => (one.getAttribute(side) ?? "").includes("var("))
            .map((side) => [name, one.getAttribute(side), style[side]]);
    }))"""


def css(colour):
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgb({red}, {green}, {blue})"


def colours_of(theme):
    named = {"text": theme.text, "muted": theme.muted, "grid": theme.grid, "card": theme.card,
             "accent": theme.accent, "bad": theme.bad, "other": theme.other,
             "previous": theme.previous, "previous-fill": theme.previous_fill}  # fmt: skip
    named |= {str(place + 1): colour for place, colour in enumerate(theme.series)}
    named |= {f"ramp-{place + 1}": colour for place, colour in enumerate(theme.ramp)}
    return {f"var(--chart-{name})": css(colour) for name, colour in named.items()}


# What is black without having been told so: its colour was not understood.
BLACK = """() => [...document.querySelectorAll(".chart svg path, .chart svg text")]
    .filter((one) => !one.closest(".over_marks") && !one.matches(".background, clipPath > path") && one.getAttribute("fill") !== "none")
    .map((one) => [one.closest("figure").id, one.getAttribute("fill"), getComputedStyle(one)])
    .filter(([, given, style]) => style.fill === "rgb(0, 0, 0)" && style.fillOpacity !== "0"
        && style.opacity !== "0" && given !== "transparent")
    .map(([figure, given]) => [figure, given])"""


async def test_every_chart_is_drawn_in_the_colours_of_its_theme_and_turns_dark_by_itself(look):
    page = await look(CHARTS)
    await drawn(page)
    await page.evaluate("window.first = [...document.querySelectorAll('.chart svg')]")

    found = await page.evaluate(COLOURS)

    assert {name for name, _, _ in found} == {f"figure-{name}" for name in CHARTS}
    assert len(found) > 800
    light, dark = colours_of(LIGHT), colours_of(DARK)
    assert [one for one in found if one[2] != light[one[1]]] == []
    await page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert [one for one in await page.evaluate(COLOURS) if one[2] != dark[one[1]]] == []
    assert await page.evaluate(BLACK) == []
    assert await page.evaluate(
        "first.every((svg, place) => svg === document.querySelectorAll('.chart svg')[place])"
    )


FITS = """() => [...document.querySelectorAll(".chart svg")].every((svg) =>
    Math.abs(svg.getBoundingClientRect().width - svg.closest(".chart").clientWidth) <= 2)"""
OVERLAPS = """() => [...document.querySelectorAll(".chart svg")].flatMap((svg) =>
    [...svg.querySelectorAll(".role-axis-label, .role-legend-label")].flatMap((labels) => {
        const boxes = [...labels.querySelectorAll("text")]
            .filter((one) => getComputedStyle(one).opacity !== "0" && !/rotate/.test(one.getAttribute("transform")))
            .map((one) => [one.textContent, one.getBoundingClientRect()]);
        return boxes.flatMap(([said, a], place) => boxes.slice(place + 1)
            .filter(([, b]) => a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)
            .map(([other]) => [svg.closest("figure").id, said, other]));
    }))"""


async def test_labels_do_not_stand_on_each_other_and_nothing_is_wider_than_the_page(look):
    # High enough that all are near, and drawn again without being scrolled to.
    page = await look(CHARTS, width=320, height=9000)
    for width in (320, 360, 1500):
        await page.set_viewport_size({"width": width, "height": 9000})
        await drawn(page)
        await page.wait_for_function(FITS)

        assert await page.evaluate(OVERLAPS) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        wide = await page.evaluate(
            """() => [...document.querySelectorAll(".chart svg")].filter((svg) =>
                svg.getBoundingClientRect().width > svg.closest(".chart").clientWidth + 1
                || svg.getBoundingClientRect().height > svg.closest("figure").dataset.height * 1 + 1)
                .map((svg) => svg.closest("figure").id)"""
        )
        assert wide == []


async def test_axes_say_their_figures_and_days(look):
    page = await look(["columns", "bars"])
    await drawn(page)

    said = await page.locator("#figure-columns svg text").all_text_contents()
    ends = await page.locator("#figure-bars svg .role-mark text").all_text_contents()

    assert "9 Feb" in said
    assert any(re.fullmatch(r"[1-9]\d*", one) for one in said)
    assert ends == ["900", "803", "706", "609", "512", "415"]


async def tip_at(page, name, x, y):
    # What was scrolled by has said so: that hides tips.
    await page.evaluate("() => new Promise((done) => setTimeout(done, 200))")
    box = await page.locator(f"#figure-{name} .chart svg").bounding_box()
    await page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
    shown = page.locator(".chart-tip")
    await shown.wait_for()
    lines = [one.replace("\xa0", " ") for one in await shown.locator("dt, dd").all_text_contents()]
    title = shown.locator(".chart-tip-title")
    said = await title.text_content() if await title.count() else ""
    return said, dict(zip(lines[::2], lines[1::2], strict=True))


async def test_a_tip_tells_what_the_pointer_is_over_in_the_words_of_the_table(look):
    page = await look(["columns", "names"])
    await drawn(page)

    await page.locator("#figure-columns").scroll_into_view_if_needed()
    title, lines = await tip_at(page, "columns", 0.5, 0.6)

    row = page.locator("#figure-columns tbody tr").filter(has_text=title).locator("td")
    cells = [one.replace("\xa0", " ").strip() for one in await row.all_text_contents()]
    assert re.fullmatch(r"\w{3} \d+ (Feb|Mar) 2026", title)
    head = await page.locator("#figure-columns th").all_text_contents()
    told = dict(zip([one.strip() for one in head], cells, strict=True))
    assert {name: lines[name] for name in TOOLS} == {name: told[name] for name in TOOLS}
    await page.mouse.move(1, 1)
    assert await page.locator(".chart-tip").is_hidden()
    await page.locator("#figure-names").scroll_into_view_if_needed()
    title, lines = await tip_at(page, "names", 0.5, 0.5)
    assert title in TOOLS
    assert lines.keys() <= {"Claude Code", "Codex", "Gemini CLI"}


async def test_names_are_text_wherever_they_are_shown(look):
    page = await look(["hostile"])
    await drawn(page)

    _, lines = await tip_at(page, "hostile", 0.5, 0.7)

    assert set(HOSTILE[:2]) <= lines.keys()
    assert "evil" in lines
    assert (
        await page.locator(".chart-tip img, .chart-tip script, svg image, svg script").count() == 0
    )
    box = await page.locator(".chart-tip").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 900


async def test_what_did_not_change_is_not_drawn_again(look, charts):
    names = ["columns", "bars"]
    page = await look(names)
    await drawn(page)
    await page.evaluate("window.first = [...document.querySelectorAll('.chart svg')]")

    await replaced(page, charts, names)

    assert await page.evaluate(
        "first.every((svg, place) => svg === document.querySelectorAll('.chart svg')[place])"
    )
    charts.factor = 3
    await replaced(page, charts, names)
    # What was there stays until the new one is.
    assert await page.locator(".chart svg").count() >= 2
    await page.locator("#figure-bars svg text", has_text="2,700").wait_for()
    await page.wait_for_function(
        "() => [...document.querySelectorAll('.chart svg')].every(one => !first.includes(one))"
    )
    assert await page.locator(".chart svg").count() == 2


async def test_refreshing_for_hours_keeps_nothing(look, charts):
    names = ["columns", "lines"]
    page = await look(names)
    await drawn(page)
    session = await page.context.new_cdp_session(page)

    async def kept(times):
        for _ in range(times):
            charts.factor += 1
            await replaced(page, charts, names)
            await page.wait_for_function(
                "() => document.querySelectorAll('.chart-coming').length === 0"
            )
            await page.wait_for_timeout(60)
            await page.wait_for_function(
                "() => document.querySelectorAll('.chart-coming').length === 0"
            )
        await session.send("HeapProfiler.collectGarbage")
        counts = await session.send("Memory.getDOMCounters")
        heap = await session.send("Runtime.getHeapUsage")
        return counts["nodes"], counts["jsEventListeners"], heap["usedSize"]

    before = await kept(5)
    after = await kept(15)

    assert after[0] < before[0] * 1.2
    assert after[1] <= before[1] + 2
    assert after[2] < before[2] + 3_000_000


async def test_a_chart_fits_when_its_room_changes(look):
    page = await look(["columns", "bars"], width=1200)
    await drawn(page)

    await page.set_viewport_size({"width": 400, "height": 800})

    await page.wait_for_function(FITS)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 400


async def test_nothing_moves_when_charts_are_drawn(look):
    page = await look(["columns", "bars", "ring", "lines"], height=1400)
    before = await page.evaluate(
        "[...document.querySelectorAll('figure')].map((one) => one.getBoundingClientRect().height)"
    )

    await drawn(page)

    after = await page.evaluate(
        "[...document.querySelectorAll('figure')].map((one) => one.getBoundingClientRect().height)"
    )
    assert after == pytest.approx(before, abs=1)


async def test_charts_far_below_wait_until_they_are_near(look):
    page = await look(CHARTS, height=400)
    await page.locator(".chart[data-drawn]").first.wait_for()
    await page.wait_for_timeout(300)

    assert await page.locator(".chart[data-drawn]").count() < 5
    await drawn(page)
    assert await page.locator(".chart[data-drawn]").count() == len(CHARTS)


async def test_without_the_library_the_figures_are_there_and_it_is_tried_again(look, charts):
    charts.has_library = False
    page = await look(["bars"], allowed="", locale="en-GB")

    await page.locator(".chart-failed").wait_for()

    assert await page.locator("#figure-bars td", has_text="Bash").is_visible()
    charts.has_library = True
    await replaced(page, charts, ["bars"])
    await drawn(page)
    assert await page.locator(".chart-failed").count() == 0


async def test_without_scripts_there_is_the_table_and_no_empty_room(look):
    page = await look(["bars"], java_script_enabled=False)

    await page.locator("summary").click()

    assert await page.locator("td", has_text="Bash").is_visible()
    assert await page.locator(".chart").is_hidden()


async def test_people_who_hear_the_page_get_the_table_and_no_marks(look):
    page = await look(["columns"])
    await drawn(page)

    assert await page.locator(".chart").get_attribute("aria-hidden") == "true"
    assert await page.locator(".chart [tabindex]").count() == 0
    assert await page.get_by_role("graphics-document").count() == 0
