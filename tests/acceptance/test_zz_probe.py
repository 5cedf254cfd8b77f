import httpx, json, pytest
from acceptance.talk import *

import structlog, logging
structlog.configure(processors=[structlog.processors.KeyValueRenderer()], wrapper_class=structlog.make_filtering_bound_logger(50))
async def test_probe(open_app, new_tenant, new_person):
    t = await new_tenant()
    async with open_app() as c:
        c.event_hooks = {"response": []}
        async def show(label, method, path, **kw):
            kw.setdefault("headers", {})
            kw["headers"] = {**t.headers, **kw["headers"]}
            r = await c.request(method, path, **kw)
            open("/tmp/probe.txt","a").write(f"{label} {r.status_code} " + (str(r.json().get("errors") or r.json().get("detail")) if r.status_code>=400 and r.text else r.text[:200]).replace("\n"," ")[:200] + "\n")
            return r
        J = {"Content-Type": "application/json"}
        for q in ["started_after=0001-01-01T00:00:00%2B14:00","started_after=9999-12-31T23:59:59-14:00","started_after=0001-01-01T00:00:00Z","started_after=9999-12-31T23:59:59.999999Z","started_after=1700000000","started_after=99999999999999999","started_after=nan","started_after=inf","started_after=1e400","started_after=-1e20","user_id=null","started_after=null","agent=null","agent=","foo=","foo","limit=","limit=5.0","limit=1e2","limit=%D9%A5","limit=null","limit=true","limit= 5","limit=%2B5","limit="+"9"*5000,"page=null","page=","cursor=","cursor=null","status=null","status=","a=1;b=2","limit=5;page=1","limit=5&","&&","limit=0x5","limit=1_0","user_id=urn:uuid:00000000-0000-0000-0000-000000000000", "user_id=0", "limit=-0", "page=100000&limit=500", "page=0", "sort=", "limit[]=5","tag=%F0%9F%98%80","tag=%ED%A0%80", "tag=%E2%80%A8"]:
            await show(q[:60], "GET", "/api/v1/sessions?"+q)
        for q in ["from=0001-01-01T00:00:00%2B14:00&to=9999-12-31T23:59:59-14:00","from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z","from=1&to=2","from=2026-01-01T00:00:00Z","from=0001-01-01T00:00:00Z&to=9999-12-31T23:59:59.999999Z&group_by=hour","from=null&to=null", "from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z&group_by=,"]:
            await show("SUM "+q[:70], "GET", "/api/v1/tool-metrics/summary?"+q)
        await show("me?x", "GET", "/api/v1/me?x=1")
        d = (await show("dash", "POST", "/api/v1/dashboards", json=dashboard())).json()
        for v in ["1","10"*20, "9"*5000, "-1", "0", "2147483648", "1.5", "%31"]:
            await show("restore "+v[:20], "POST", f"/api/v1/dashboards/{d['id']}/versions/{v}/restore")
        for n in ["1e30","1e20","1e308","123456789012345678901234567890","1e400", "9"*5000, "1e-320", "-0.0", "18446744073709551616","1E5"]:
            r = await show("dash num "+n[:20], "POST", "/api/v1/dashboards", content='{"name":"n","layout":{"x":%s}}'%n, headers=J)
            if r.status_code==201: await show("   get", "GET", "/api/v1/dashboards/"+r.json()["id"])
        await show("dash list", "GET", "/api/v1/dashboards")
        for n in ["1e30","1e308","123456789012345678901234567890","1e400","9"*5000,"1e-320"]:
            await show("tm meta "+n[:20], "POST", "/api/v1/tool-metrics/batch", content='[{"tool_name":"a","started_at":"2026-01-01T00:00:00Z","metadata":{"x":%s}}]'%n, headers=J)
            await show("tm dur "+n[:20], "POST", "/api/v1/tool-metrics/batch", content='[{"tool_name":"a","started_at":"2026-01-01T00:00:00Z","duration_ms":%s}]'%n, headers=J)
            await show("tm mem "+n[:20], "POST", "/api/v1/tool-metrics/batch", content='[{"tool_name":"a","started_at":"2026-01-01T00:00:00Z","memory_bytes":%s}]'%n, headers=J)
            await show("sess meta "+n[:20], "POST", "/api/v1/sessions", content='{"agent":"a","external_id":"b","started_at":"2026-01-01T00:00:00Z","metadata":{"x":%s}}'%n, headers=J)
        await show("tm list", "GET", "/api/v1/tool-metrics")
        for b in [b'{"items":[{"tool_name":"a\\u0000b","started_at":"2026-01-01T00:00:00Z"}]}', b'[{"tool_name":"a\\u0000b","started_at":"2026-01-01T00:00:00Z"}]', b'{"items":[{"tool_name":"ok","started_at":"2026-01-01T00:00:00Z","metadata":{"a":{"\\u0000":1}}}]}', b'[{"tool_name":"a\x00b","started_at":"2026-01-01T00:00:00Z"}]', b'[{"tool_name":"\\ud800","started_at":"2026-01-01T00:00:00Z"}]', b'[{"tool_name":"ok","started_at":"2026-01-01T00:00:00Z","metadata":{"a":"\\ud800"}}]', b'["\\u0000"]', b'"\\u0000"', b'{"items":"\\u0000"}', b'[', b'', b'null', b'{"items":null}', b'{}', b'[[]]', b'[1]', b'{"items":[]}', b'[]', b'{"items":[],"x":1}', b'[{"tool_name":"a","started_at":"2026-01-01T00:00:00Z","user_email":"a@b\\n"}]', b'{"items":[], "items":[]}']:
            await show(repr(b[:60]), "POST", "/api/v1/tool-metrics/batch", content=b, headers=J)
            await show(repr(b[:60])+" skip", "POST", "/api/v1/tool-metrics/batch?on_error=skip", content=b, headers=J)
        await show("sess", "POST", "/api/v1/sessions", content=b'{"agent":"a\\u0000","external_id":"b","started_at":"2026-01-01T00:00:00Z"}', headers=J)
        await show("head", "HEAD", "/api/v1/sessions"); r=await show("options", "OPTIONS", "/api/v1/sessions"); print(r.headers)
        s = (await show("s", "POST", "/api/v1/sessions", json=session())).json()
        await show("patch started", "PATCH", "/api/v1/sessions/"+s["id"], json={"started_at": at(3600)})
        s = (await show("s", "POST", "/api/v1/sessions", json=session(external_id="q", ended_at=at(60)))).json()
        await show("restate later", "POST", "/api/v1/sessions", json=session(external_id="q", started_at=at(3600)))
        await show("k", "POST", "/api/v1/keys", content=b'{"name":"a","scopes":["read"],"expires_in_days":1e30}', headers=J)
        await show("k", "POST", "/api/v1/keys", content=b'{"name":"a","scopes":[]}', headers=J)
        await show("k", "GET", "/api/v1/keys?sort=x")
        await show("k", "GET", "/api/v1/keys/00000000-0000-0000-0000-00000000000")
        await show("urn", "GET", "/api/v1/sessions/urn:uuid:"+s["id"])
        await show("brace", "GET", "/api/v1/sessions/{"+s["id"]+"}")
        await show("long", "GET", "/api/v1/sessions/"+s["id"]+"x")
        await show("slash", "GET", "/api/v1/sessions/"+s["id"]+"/")
        await show("x", "GET", "/api/v1/nothing")
        await show("x", "GET", "/schema/openapi.json")
        await show("x", "GET", "/schema")
        await show("x", "GET", "/")
        await show("x", "POST", "/v1/logs", content=b"x")
        await show("x", "GET", "/api/v1/../v1/me")
        await show("x", "GET", "/api/v1/%2e%2e/v1/me")
        await show("x", "GET", "/api%2Fv1%2Fme")
