async def test_smoke(new_tenant):
    t = await new_tenant()
    assert t.key
