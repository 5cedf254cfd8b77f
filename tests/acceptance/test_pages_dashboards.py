"""Dashboards as pages over HTTP: what they show without scripts, to whom, and what they refuse."""

from __future__ import annotations

import asyncio
import html
import re

import msgspec

from acceptance.talk import BASE, stored_batch, stored_session, tool_metric
from metrics_service.db.tenancy import TenantContext, tenant_connection

ROUTE = "/api/v1/dashboards"
DAYS = "from=2026-03-01&to=2026-03-03"
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\N{RIGHT-TO-LEFT OVERRIDE}gnp'
# As the editor sends it.
SENT = {"Content-Type": "application/json", "X-Refresh": "main"}
NOWHERE = "00000000-0000-7000-8000-000000000000"


def widget(id_="w1", **changes):
    query = {"source": "tool_metrics", "measures": ["count"], "group_by": ["tool_name"]}
    return {"id": id_, "kind": "table", "title": "Calls", "query": query, **changes}


async def stored(client, headers, **changes):
    """A dashboard of whoever signed in, as the API tells it."""
    body = {"name": "Tools", "widgets": [widget()], "visibility": "tenant", **changes}
    answer = await client.post(ROUTE, json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def shown(client, path, headers, status=200):
    answer = await client.get(path, headers=headers)
    assert answer.status_code == status, answer.text
    kind = "text/html" if status == 200 else "application/problem+json"
    assert answer.headers["content-type"].startswith(kind)
    return answer.text


async def worked(client, tenant):
    made = await stored_session(client, tenant, agent="claude-code", team="web")
    of = {"agent": made["agent"], "external_session_id": made["external_id"]}
    await stored_batch(client, tenant, [tool_metric(tool_name="Bash", started_at=BASE, **of)])
    await stored_batch(client, tenant, [tool_metric(tool_name="Read", started_at=BASE)])


async def test_figures_are_in_the_page_and_its_address_says_of_what(client, new_tenant, sign_in):
    tenant = await new_tenant()
    await worked(client, tenant)
    headers = await sign_in(tenant)
    made = await stored(client, headers)
    path = f"/dashboards/{made['id']}"
    whole = await shown(client, f"{path}?{DAYS}", headers)
    filtered = await shown(client, f"{path}?{DAYS}&agent=claude-code", headers)
    without = await shown(client, f"{path}?from=2026-01-01&to=2026-01-02", headers)
    assert "<bdi>Bash</bdi>" in whole and "<bdi>Read</bdi>" in whole
    assert "<bdi>Bash</bdi>" in filtered and "<bdi>Read</bdi>" not in filtered
    assert "Nothing in this range." in without
    assert '<option value="claude-code" selected>' in filtered

    for wrong, named in (
        ("last=1y", "parameter last"),
        ("colour=red", "colour"),
        ("from=2026-02-30", "parameter from"),
    ):
        text = await shown(client, f"{path}?{wrong}", headers, status=400)
        assert named in text


async def test_a_time_that_is_chosen_holds_for_widgets_with_days_of_their_own(
    client, new_tenant, sign_in
):
    tenant = await new_tenant()
    await worked(client, tenant)
    headers = await sign_in(tenant)
    own = {"from": "2026-03-01T00:00:00Z", "to": "2026-03-03T00:00:00Z"}
    made = await stored(
        client, headers, widgets=[widget(query={**widget()["query"], "range": own})]
    )
    path = f"/dashboards/{made['id']}"

    as_set = await shown(client, path, headers)
    chosen = await shown(client, f"{path}?from=2026-01-01&to=2026-01-02", headers)

    assert "<bdi>Bash</bdi>" in as_set
    assert "<bdi>Bash</bdi>" not in chosen
    assert f'<a href="{path}" aria-current="true">As set</a>' in as_set


async def test_names_that_mean_harm_are_shown_as_they_are_written(client, new_tenant, sign_in):
    tenant = await new_tenant()
    headers = await sign_in(tenant, name=HOSTILE)
    made = await stored(
        client,
        headers,
        name=HOSTILE,
        description=HOSTILE * 50,
        tags=[HOSTILE],
        widgets=[widget(title=HOSTILE, description=HOSTILE * 80)],
    )
    change = {
        "name": "n" * 255,
        "widgets": [widget(title="t" * 255)],
        "version": 1,
        "note": HOSTILE,
    }
    path = f"/dashboards/{made['id']}"
    before = [await shown(client, at, headers) for at in ("/dashboards", path, f"{path}/edit")]
    assert (
        await client.put(f"{ROUTE}/{made['id']}", json=change, headers=headers)
    ).status_code == 200
    after = [
        await shown(client, at, headers)
        for at in (path, f"{path}/versions?from=1&to=2", f"{path}/versions/1", f"{path}/edit")
    ]
    token = await linked(client, headers, made["id"])
    after.append(await shown(client, f"/shared/{token}", {"Host": headers["Host"]}))
    for text in (*before, *after):
        assert "<img" not in text and "<script>" not in text
        assert "onerror=alert(1)&gt;" in text or "\\u003cimg" in text or "nnn" in text
        # In data for scripts it is what somebody wrote; nowhere else does it turn what follows.
        written = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
        fields = re.sub(r'(?:value|data-name|href)="[^"]*"', "", written)
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in html.unescape(fields)


async def test_roles_are_offered_what_they_may_do(client, new_tenant, sign_in):
    tenant = await new_tenant()
    owner, viewer = await sign_in(tenant), await sign_in(tenant, "viewer")
    path = f"/dashboards/{(await stored(client, owner))['id']}"
    hidden = (await stored(client, owner, name="Hidden", visibility="private"))["id"]
    mine, theirs = await shown(client, path, owner), await shown(client, path, viewer)
    for offered in (f'href="{path}/edit"', 'id="share"', 'id="copy"', 'id="delete"'):
        assert offered in mine
        assert offered not in theirs
    assert "/dashboards/new" not in await shown(client, "/dashboards", viewer)
    assert "Hidden" not in await shown(client, "/dashboards", viewer)
    for refused, status in (
        (f"{path}/edit", 403),
        ("/dashboards/new", 403),
        (f"/dashboards/{hidden}", 404),
        (f"/dashboards/{hidden}/versions", 404),
        (f"/dashboards/{NOWHERE}", 404),
        (f"{path}/versions/7", 404),
        (f"{path}/versions?from=7", 404),
    ):
        await shown(client, refused, viewer, status=status)


async def test_nothing_of_another_tenant_is_there(client, new_tenant, sign_in):
    here, there = await new_tenant(), await new_tenant()
    mine, theirs = await sign_in(here), await sign_in(there)
    made = await stored(client, theirs, name="Theirs alone", tags=["theirs"])
    token = await linked(client, theirs, made["id"])
    for path in ("", "/edit", "/versions", "/versions/1"):
        await shown(client, f"/dashboards/{made['id']}{path}", mine, status=404)
    assert "Theirs alone" not in await shown(client, "/dashboards?tag=theirs", mine)
    stranger = {"Host": mine["Host"]}
    await shown(client, f"/shared/{token}", stranger, status=404)
    # Nor is what one of them was shown a moment ago given to the other.
    await shown(client, f"/dashboards/{made['id']}", theirs)
    await shown(client, f"/dashboards/{made['id']}", mine, status=404)


async def test_the_list_is_searched_and_narrowed(client, new_tenant, sign_in):
    tenant = await new_tenant()
    one, other = await sign_in(tenant, "editor"), await sign_in(tenant, "editor")
    await stored(client, one, name="First of one", tags=["weekly"])
    await stored(client, other, name="Second of other")
    for query, expected in (
        ("", {"First of one", "Second of other"}),
        ("?q=", {"First of one", "Second of other"}),
        ("?q=second", {"Second of other"}),
        ("?whose=mine", {"First of one"}),
        ("?whose=shared", set()),
        ("?tag=weekly", {"First of one"}),
        ("?page=2", set()),
    ):
        text = await shown(client, f"/dashboards{query}", one)
        found = {
            name for name in ("First of one", "Second of other") if f"<bdi>{name}</bdi>" in text
        }
        assert found == expected, query
    assert "page" in await shown(client, "/dashboards?page=0", one, status=400)
    assert "whose" in await shown(client, "/dashboards?whose=yours", one, status=400)


async def test_a_preview_answers_what_is_stored_nowhere(client, new_tenant, sign_in):
    tenant = await new_tenant()
    await worked(client, tenant)
    viewer = await sign_in(tenant, "viewer")

    async def preview(body, headers=viewer):
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        path = f"/dashboards/preview?{DAYS}"
        return await client.post(path, content=content, headers={**headers, **SENT})

    right = await preview({"widgets": [widget("p", title=HOSTILE)]})
    assert right.status_code == 200
    assert 'id="figure-p"' in right.text and "<bdi>Bash</bdi>" in right.text
    assert "<img" not in right.text
    assert "No dashboards yet" in await shown(client, "/dashboards", viewer)

    for body, field in (
        ({"widgets": [widget(kind="pie")]}, "widgets[0].kind"),
        ({"widgets": [widget(), widget()]}, "widgets[1].id"),
        ({"widgets": [widget()], "layout": {"w1": {"x": 11, "y": 0, "w": 6, "h": 1}}}, "layout.w1"),
        ({"widgets": [widget(f"w{n}") for n in range(101)]}, "widgets"),
        ({"widgets": [], "id": NOWHERE}, "id"),
    ):
        wrong = await preview(body)
        assert wrong.status_code == 422
        assert wrong.json()["errors"][0]["field"] == field
    assert (await preview(b'{"widgets":' + b"[" * 100_000)).status_code == 400
    # From another site, or without having signed in, nothing is answered.
    assert (
        await preview({"widgets": []}, {**viewer, "Sec-Fetch-Site": "cross-site"})
    ).status_code == 403
    stranger = {"Host": viewer["Host"]}
    assert (await preview({"widgets": []}, stranger)).status_code == 401
    # What our own page asks for is no lost export, also when nobody is signed in any more.
    ended = await preview({"widgets": []}, {**stranger, "Sec-Fetch-Site": "same-origin"})
    assert ended.status_code == 401
    assert ended.headers["content-type"] == "application/problem+json"


async def test_whatever_was_stored_is_shown(client, new_tenant, sign_in, engine):
    tenant = await new_tenant()
    headers = await sign_in(tenant)
    many = [widget(f"w{n}", title=f"Title {n}") for n in range(100)]
    far = {f"w{n}": {"x": n % 12, "y": 1000 - n * 9, "w": 1, "h": 1 + n % 9} for n in range(50)}
    made = await stored(client, headers, widgets=many, layout=far)
    path = f"/dashboards/{made['id']}"
    for at in (path, f"{path}/edit"):
        text = await shown(client, f"{at}?last=24h", headers)
        assert len(re.findall(r'id="figure-w\d+"', text)) == 100
    # As from before widgets were checked: on top of each other, beyond the grid, and no widgets at all.
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await connection.execute(
            """
            UPDATE dashboard_configs SET
                widgets = jsonb_build_array(widgets -> 0, widgets -> 1, '7', '{"id": "<b>"}', '{}'),
                layout = '{"w0": {"x": 9, "y": 3, "w": 9, "h": 2}, "w1": {"x": 8, "y": 3, "w": 4, "h": 9},
                           "<b>": "there"}'
            WHERE id = $1
            """,
            made["id"],
        )
    text = await shown(client, f"{path}?last=90d", headers)
    assert text.count("of an older kind") == 3
    assert "Title 0" in text and "Title 1" in text


async def linked(client, headers, dashboard_id):
    answer = await client.post(
        f"{ROUTE}/{dashboard_id}/shares",
        json={"kind": "link"},
        headers=headers,
    )
    assert answer.status_code == 201, answer.text
    return answer.json()["token"]


async def test_a_link_shows_figures_and_no_people(client, new_tenant, sign_in):
    tenant = await new_tenant()
    call = tool_metric(started_at=BASE, user_email="ada@example.com")
    await stored_batch(client, tenant, [call])
    headers = await sign_in(tenant, name="Grace")
    query = {"source": "tool_metrics", "measures": ["count"], "group_by": ["user_id"]}
    board = await stored(client, headers, widgets=[widget(query=query)])
    signed_in = await shown(client, f"/dashboards/{board['id']}?{DAYS}", headers)
    assert "<bdi>ada@example.com</bdi>" in signed_in

    token = await linked(client, headers, board["id"])
    stranger = {"Host": headers["Host"]}
    answer = await client.get(f"/shared/{token}?{DAYS}", headers=stranger)
    assert answer.status_code == 200
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert '<meta name="robots" content="noindex">' in answer.text
    assert re.search(r"<bdi>user [0-9a-f]{8}</bdi>", answer.text)
    assert "ada@example.com" not in answer.text and "Grace" not in answer.text
    assert 'aria-label="Pages"' not in answer.text
    assert "agent" in await shown(client, f"/shared/{token}?agent=x", stranger, status=400)

    # Neither a sign-in nor a key makes up for a token that is wrong.
    gone = [f"/shared/{token[:-1]}A", "/shared/x", "/shared/", f"/shared/{token}/data"]
    shares = await client.get(f"{ROUTE}/{board['id']}/shares", headers=headers)
    (share,) = shares.json()["data"]
    path = f"{ROUTE}/{board['id']}/shares/{share['id']}"
    assert (await client.delete(path, headers=headers)).status_code == 204
    for wrong in (*gone, f"/shared/{token}"):
        await shown(client, wrong, stranger, status=404)
        await shown(client, wrong, headers, status=404)


async def test_who_tries_links_is_slowed_down(new_tenant, open_app):
    tenant = await new_tenant()
    async with open_app(metrics_auth_failures_per_minute=3) as client:
        tries = [
            await client.get("/shared/wrong", headers={"Host": tenant.headers["Host"]})
            for _ in range(5)
        ]
    assert [one.status_code for one in tries] == [404, 404, 404, 429, 429]


async def test_a_tenant_that_shows_no_individuals_names_nobody(client, new_tenant, sign_in):
    tenant = await new_tenant()
    owner = await sign_in(tenant, name="Grace Hopper")
    made = await stored(client, owner)
    path = f"/dashboards/{made['id']}"
    pages = ("/dashboards", path, f"{path}/versions", f"{path}/versions/1")
    for at in pages[1:]:
        text = await shown(client, at, owner)
        assert "Grace Hopper" in main_of(text)
    answer = await client.patch(
        "/api/v1/settings",
        json={"hide_people": True},
        headers=owner,
    )
    assert answer.status_code == 200, answer.text
    async with asyncio.timeout(5):
        while "Grace Hopper" in main_of(await shown(client, path, owner)):
            await asyncio.sleep(0.1)
    for at in (*pages, f"{path}/edit"):
        text = main_of(await shown(client, at, owner))
        assert "Grace Hopper" not in text and "@example.com" not in text, at


def main_of(text):
    return text[text.index("<main") : text.index("</main>")]
