"""The document against a server process: requests made from it get no 5xx, and no answer that it does not describe."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from ..conftest import launched

KEY = "a-write-key-of-the-tests"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,unsupported_method"
)


def test_no_answer_is_undocumented(bundle: Path, index_folder: Path, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", "--max-examples", "12", "--seed", "1",
        "--generation-database", "none", "--phases", "coverage,fuzzing", "--checks", CHECKS, "--no-color",
    ]  # fmt: skip
    index = shutil.copytree(index_folder, tmp_path / "index")
    (tmp_path / "key").write_text(KEY)  # so that PUT and DELETE do what they are asked
    command += ["--header", f"Authorization: Bearer {KEY}"]
    writing = ("--index", str(index), "--writable", "--write-key-file", str(tmp_path / "key"))
    with launched(str(bundle), *writing) as server:
        url = f"{server.url}/openapi.json"
        operations = sum(map(len, httpx.get(url, timeout=60).json()["paths"].values()))
        asked = subprocess.run([*command, url], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert asked.returncode == 0, asked.stdout
    # All but GET /openapi.json, where it has the document from.
    assert f"Tested: {operations - 1}" in asked.stdout, asked.stdout
    cases = re.search(r"(\d+) generated, (\d+) passed", asked.stdout)
    assert cases is not None
    assert int(cases[1]) == int(cases[2]) > 500


def test_the_headers_that_tell_what_to_do_are_described(api: Any) -> None:
    document = api.ask("GET", "/openapi.json").json()
    told = {"401": "WWW-Authenticate", "405": "Allow", "429": "Retry-After", "503": "Retry-After"}
    seen = set()
    for item in document["paths"].values():
        for operation in item.values():
            for status, header in told.items():
                if answer := operation["responses"].get(status):
                    assert header in answer["headers"], (operation["operationId"], status)
                    seen.add(status)
    assert seen == set(told)


def test_every_path_says_which_methods_it_takes(api: Any) -> None:
    document = api.ask("GET", "/openapi.json").json()
    for path, item in document["paths"].items():
        answer = api.ask("PATCH", path.replace("{id}", "1").replace("{model}", "1"))
        assert answer.status_code == 405, path
        assert set(answer.headers["allow"].split(", ")) == {method.upper() for method in item}
        for operation in item.values():
            assert "405" in operation["responses"]


def test_what_is_refused_before_a_route_is_found_is_described_for_each(api: Any) -> None:
    for item in api.ask("GET", "/openapi.json").json()["paths"].values():
        for operation in item.values():
            wanted = {"431", "503"} | ({"408"} if "requestBody" in operation else set())
            assert wanted <= set(operation["responses"]), operation["operationId"]


def test_what_takes_no_body_may_be_late_all_the_same(api: Any) -> None:
    item = api.ask("GET", "/openapi.json").json()["paths"]["/documents/{id}"]
    for operation in item.values():
        assert {"408", "413", "422", "499", "504"} <= set(operation["responses"])
        assert {each["name"] for each in operation["parameters"]} == {"X-Request-Id", "id"}, (
            "no lane: it needs no model"
        )
        assert "Server-Timing" in operation["responses"]["200"]["headers"]
