"""The standard variables: what switches export on, and what a wrong value is told."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st

from metrics_service.errors import SettingsError
from metrics_service.observability.export import load_otel_settings

SECRET = "secret-4711"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def load(**variables: str):
    return load_otel_settings(variables)


def test_nothing_is_sent_unless_a_variable_says_so() -> None:
    assert not load().is_on
    assert not load(PATH="/bin", OTEL_SERVICE_NAME="x", OTEL_EXPORTER_OTLP_PROTOCOL="grpc").is_on


def test_an_endpoint_switches_all_signals_on_and_each_has_its_path() -> None:
    settings = load(OTEL_EXPORTER_OTLP_ENDPOINT="https://collector.example:4318/otel/?a=1")

    assert set(settings.ways) == {"traces", "metrics", "logs"}
    target = settings.targets["logs"]
    assert (target.is_tls, target.authority, target.path) == (
        True,
        "collector.example:4318",
        "/otel/v1/logs?a=1",
    )


def test_a_signals_own_endpoint_is_taken_as_it_is_and_switches_it_on_alone() -> None:
    settings = load(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://[::1]:9000/in")

    assert set(settings.ways) == {"traces"}
    assert settings.targets["traces"].path == "/in"
    assert settings.targets["traces"].authority == "[::1]:9000"


def test_exporters_choose_the_signals() -> None:
    settings = load(
        OTEL_TRACES_EXPORTER="otlp, console",
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_LOGS_EXPORTER="none",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318",
    )

    assert settings.ways == {"traces": ("otlp", "console")}
    assert load(OTEL_METRICS_EXPORTER="otlp").targets["metrics"].authority == "localhost:4318"


def test_switched_off_it_sends_nothing_but_is_checked() -> None:
    off = load(OTEL_SDK_DISABLED="TRUE", OTEL_EXPORTER_OTLP_ENDPOINT="http://c:1")

    assert not off.is_on
    assert off.targets == {}
    with pytest.raises(SettingsError, match="OTEL_BSP_SCHEDULE_DELAY"):
        load(OTEL_SDK_DISABLED="true", OTEL_BSP_SCHEDULE_DELAY="soon")


def test_a_signals_own_variable_goes_before_the_common_one() -> None:
    settings = load(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318",
        OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20one,x-a=1",
        OTEL_EXPORTER_OTLP_LOGS_HEADERS="authorization=two",
        OTEL_EXPORTER_OTLP_TIMEOUT="2500",
        OTEL_EXPORTER_OTLP_METRICS_TIMEOUT="100",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="none",
        OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="grpc",
    )

    targets = settings.targets
    assert targets["traces"].headers == {"authorization": "Bearer one", "x-a": "1"}
    assert targets["logs"].headers == {"authorization": "two"}
    assert [targets[kind].timeout_s for kind in ("traces", "metrics", "logs")] == [2.5, 0.1, 2.5]
    assert [targets[kind].is_gzipped for kind in ("traces", "metrics")] == [False, True]
    assert [targets[kind].protocol for kind in ("traces", "metrics")] == ["http/protobuf", "grpc"]


def test_grpc_takes_an_endpoint_without_a_scheme() -> None:
    variables = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", ENDPOINT: "collector:4317"}

    assert load(**variables).targets["traces"].is_tls
    plain = load(**variables, OTEL_EXPORTER_OTLP_INSECURE="true").targets["traces"]
    assert (plain.is_tls, plain.authority) == (False, "collector:4317")


def test_the_resource_is_what_the_environment_says() -> None:
    assert load().resource == {"service.name": "metrics-service"}
    assert load(OTEL_RESOURCE_ATTRIBUTES="service.name=a,deployment.environment.name=%C3%A9") == (
        load(OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=%C3%A9", OTEL_SERVICE_NAME="a")
    )


def test_batching_and_intervals() -> None:
    settings = load(
        OTEL_BSP_SCHEDULE_DELAY="100",
        OTEL_BSP_MAX_QUEUE_SIZE="100",
        OTEL_BLRP_MAX_EXPORT_BATCH_SIZE="7",
        OTEL_METRIC_EXPORT_INTERVAL="1500",
    )

    assert (settings.spans.delay_s, settings.spans.max_queue, settings.spans.max_batch) == (
        0.1,
        100,
        100,
    )
    assert (settings.lines.delay_s, settings.lines.max_queue, settings.lines.max_batch) == (
        1.0,
        2048,
        7,
    )
    assert (settings.metric_interval_s, settings.metric_timeout_s) == (1.5, 30)


WRONG = [
    ("OTEL_SDK_DISABLED", "yes"),
    ("OTEL_TRACES_EXPORTER", "zipkin"),
    ("OTEL_TRACES_EXPORTER", "prometheus"),
    ("OTEL_METRICS_EXPORTER", "none,otlp"),
    ("OTEL_LOGS_EXPORTER", "otpl"),
    ("OTEL_TRACES_SAMPLER", "sometimes"),
    ("OTEL_RESOURCE_ATTRIBUTES", f"a,{SECRET}"),
    ("OTEL_RESOURCE_ATTRIBUTES", "a=%ff"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "1e3"),
    ("OTEL_BSP_EXPORT_TIMEOUT", "0"),
    ("OTEL_BLRP_EXPORT_TIMEOUT", "never"),
    ("OTEL_METRIC_EXPORT_TIMEOUT", "-5"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "٣"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "99999999999"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", f"collector:4318/{SECRET}"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", f"ftp://{SECRET}"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://user:{SECRET}@collector"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:99999"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b/"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector/a b"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector"),
    ("OTEL_EXPORTER_OTLP_HEADERS", SECRET),
    ("OTEL_EXPORTER_OTLP_HEADERS", f"a={SECRET}%0d%0ax: y"),
    ("OTEL_EXPORTER_OTLP_HEADERS", f"a b={SECRET}"),
    ("OTEL_EXPORTER_OTLP_HEADERS", f"Host={SECRET}"),
    ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", f"content-length={SECRET}"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
    ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", f"/nowhere/{SECRET}"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "a\0b"),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_named_and_not_repeated(name: str, value: str) -> None:
    variables = {ENDPOINT: "http://collector:4318", name: value}

    with pytest.raises(SettingsError) as raised:
        load(**variables)

    assert str(raised.value).startswith(f"{name} has a wrong value: ")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("ratio", ["", "0", "1", "0.25", ".5", "1e-3"])
def test_a_ratio_is_from_0_to_1(ratio: str) -> None:
    settings = load(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=ratio)

    assert settings.sampling.ratio == float(ratio or "1")


@pytest.mark.parametrize("ratio", ["nan", "inf", "-0.1", "1.1", "half", ".", "e", "1_0", "0x1"])
def test_any_other_ratio_is_wrong(ratio: str) -> None:
    with pytest.raises(SettingsError, match="OTEL_TRACES_SAMPLER_ARG"):
        load(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG=ratio)


def test_what_grpc_cannot_send_is_wrong_for_grpc_alone() -> None:
    for header in ("grpc-timeout=1S", "a-bin=1", "user-agent=x", "a!=1", "a=%C3%A9"):
        variables = {ENDPOINT: "http://c:4317", "OTEL_EXPORTER_OTLP_HEADERS": header}

        assert load(**variables).is_on
        with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_HEADERS"):
            load(**variables, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")


def test_files_that_hold_no_certificates_are_wrong(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    made, key = _certificate(tmp_path)

    for variables, name in [
        ({"CERTIFICATE": str(empty)}, "CERTIFICATE"),
        ({"CLIENT_CERTIFICATE": str(empty)}, "CLIENT_CERTIFICATE"),
        ({"CLIENT_CERTIFICATE": made, "CLIENT_KEY": str(empty)}, "CLIENT_CERTIFICATE"),
    ]:
        with pytest.raises(SettingsError, match=f"OTEL_EXPORTER_OTLP_{name} has a wrong value"):
            load(
                OTEL_EXPORTER_OTLP_ENDPOINT="https://c",
                **{f"OTEL_EXPORTER_OTLP_{key}": value for key, value in variables.items()},
            )

    assert load(
        OTEL_EXPORTER_OTLP_ENDPOINT="https://c",
        OTEL_EXPORTER_OTLP_CERTIFICATE=made,
        OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=made,
        OTEL_EXPORTER_OTLP_CLIENT_KEY=key,
    ).is_on


def _certificate(folder: Path) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "made.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "made.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(folder / "made.pem"), str(folder / "made.key")


def test_a_proxy_is_found_unless_it_is_to_be_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("https_proxy", f"http://user:{SECRET}@proxy:3128")

    assert load(OTEL_EXPORTER_OTLP_ENDPOINT="http://c").targets["traces"].proxy is None
    proxied = load(OTEL_EXPORTER_OTLP_ENDPOINT="https://c").targets["traces"]
    assert proxied.proxy == f"http://user:{SECRET}@proxy:3128"
    monkeypatch.setenv("no_proxy", "c")
    assert load(OTEL_EXPORTER_OTLP_ENDPOINT="https://c").targets["traces"].proxy is None

    monkeypatch.setenv("all_proxy", f"socks5://{SECRET}")
    with pytest.raises(SettingsError, match="all_proxy has a wrong value") as raised:
        load(OTEL_EXPORTER_OTLP_ENDPOINT="http://d")
    assert SECRET not in str(raised.value)


@given(st.sampled_from(sorted({name for name, _ in WRONG})), st.text(max_size=60))
@example("OTEL_EXPORTER_OTLP_HEADERS", "a=\ud800")
@example("OTEL_EXPORTER_OTLP_ENDPOINT", "http://\u2100")
def test_whatever_a_variable_holds_it_is_taken_or_named(name: str, value: str) -> None:
    try:
        load(**{ENDPOINT: "http://collector:4318", name: value})
    except SettingsError as error:
        assert re.match(r"OTEL_[A-Z_]+ has a wrong value: ", str(error))


def test_a_sampler_decides_by_the_trace_and_the_caller() -> None:
    def kept(sampler: str, argument: str, caller: bool | None) -> int:
        settings = load(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument)
        return sum(
            settings.sampling.keeps(bytes(8) + (number * 2**56 // 1000).to_bytes(8), caller)
            for number in range(1000)
        )

    assert kept("always_on", "", False) == 1000
    assert kept("always_off", "", True) == 0
    assert kept("traceidratio", "0.25", True) == 250
    assert kept("parentbased_traceidratio", "0.25", None) == 250
    assert kept("parentbased_traceidratio", "0.25", True) == 1000
    assert kept("parentbased_always_on", "", False) == 0
    assert kept("parentbased_always_off", "", None) == 0
    assert kept("parentbased_always_off", "", True) == 1000
