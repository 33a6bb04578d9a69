from __future__ import annotations

import shutil
import subprocess

import pytest
from ansible_collections.magi.models.plugins.module_utils._haproxy.keys import MAPS, KeysError
from ansible_collections.magi.models.plugins.module_utils._haproxy.sealed import sealed
from ansible_collections.magi.models.plugins.module_utils._haproxy.secrets import SecretError, Sources, read_secrets

FILES = {
    "haproxy.cfg": "global\n    description magi 0123456789abcdef\n    maxconn 1\n",
    "names.txt": "a\nb\n",
    "models.json": '{"data": [{"id": "a"}, {"id": "b"}]}',
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return a certificate and its key, and another key, as PEM."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    made = []
    for name in ("one", "two"):
        files = [str(folder / f"{name}.{part}") for part in ("key", "crt")]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
        subprocess.run([*command, "-keyout", files[0], "-out", files[1]], check=True, capture_output=True)
        made += [(folder / f"{name}.{part}").read_text() for part in ("crt", "key")]
    return made


def test_what_only_the_host_knows(tmp_path, certificate):
    assert read_secrets(Sources(), FILES) == {}
    keys, backend, tls = (tmp_path / name for name in ("keys", "backend", "tls"))
    assert read_secrets(Sources(str(keys)), FILES) == dict.fromkeys(MAPS, "")  # no key yet: nobody gets in
    keys.write_text(f"{'a' * 64} alice models=a\n")
    backend.write_text("# the servers' key\n\ns3cret-key\nolder\n")
    tls.write_text(certificate[0] + certificate[1])
    found = read_secrets(Sources(str(keys), str(backend), str(tls)), FILES)
    assert found["keys.map"] == f"{'a' * 64} alice\n"
    assert found["allowed.map"] == "1/a 1\n"
    assert found["backend.map"] == "key s3cret-key\n"
    assert found["tls.pem"] == tls.read_text()


@pytest.mark.parametrize("content", [None, "", "# none\n", "two words\n", " x\n", "é\n", "x" * 5000])
def test_a_servers_key_that_can_not_be_used(tmp_path, content):
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(SecretError, match=rf"^model_gateway_backend_key_file {path} .*(correct it|write it there)\.$"):
        read_secrets(Sources(backend_key_file=str(path)), FILES)


def test_a_certificate_that_can_not_be_used(tmp_path, certificate):
    one, key, other, _other_key = certificate
    path = tmp_path / "tls.pem"
    for content in (None, "", "no PEM", one, key, other + key, one + key.replace("A", "B")):
        if content is not None:
            path.write_text(content)
        with pytest.raises(
            SecretError, match=rf"^model_gateway_tls_certificate {path} is no certificate with its private"
        ):
            read_secrets(Sources(tls_certificate=str(path)), FILES)


def test_a_keys_file_that_can_not_be_used(tmp_path):
    with pytest.raises(SecretError, match="can't be read"):
        read_secrets(Sources(str(tmp_path)), FILES)
    (tmp_path / "keys").write_text("nonsense\n")
    with pytest.raises(KeysError, match="keys, line 1: the first word"):
        read_secrets(Sources(str(tmp_path / "keys")), FILES)


def test_the_revision_is_that_of_configuration_and_secrets():
    revision, files = sealed(FILES, {"keys.map": "x"})
    assert files["haproxy.cfg"] == FILES["haproxy.cfg"].replace("0123456789abcdef", revision)
    assert sealed(files, {"keys.map": "x"}) == (revision, files)  # also from what runs
    others = {sealed(FILES, {"keys.map": "y"})[0], sealed(FILES, {})[0], sealed({**FILES, "names.txt": ""}, {})[0]}
    assert len(others | {revision}) == 4
