"""What every Ollama does, asked of the double and, where OLLAMA_URL names one, of a real server; and what our client
makes of it. The official client has to get along with both.
"""

import hashlib
import json
import os

import httpx
import ollama
import pytest

from tests.go_template import GoTemplateError, render_go
from training_app.engine.bundled import find_gguf
from training_app.engine.go_template import derive
from training_app.ollama import Client, OllamaError, Trouble

pytestmark = [pytest.mark.slow]
NAME = "ft/contract-test"
ASKED = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def digest() -> str:
    return hashlib.sha256(find_gguf().read_bytes()).hexdigest()


@pytest.fixture
def client(ollama_url):
    with Client(ollama_url) as made:
        yield made
        if made.find(f"{NAME}:latest"):
            made.delete(NAME)


@pytest.fixture
def made(client, digest) -> str:
    """The bundled GGUF, uploaded and made a model."""
    client.upload(find_gguf(), digest, lambda done: None)
    client.create(NAME, digest, parameters={"temperature": 0, "stop": ["<|im_end|>"]})
    return NAME


def test_a_file_is_uploaded_once_and_becomes_a_model(client, digest):
    heard: list[int] = []
    client.upload(find_gguf(), digest, heard.append)
    assert not heard or heard[-1] == find_gguf().stat().st_size
    assert client.upload(find_gguf(), digest, heard.append) is False
    statuses: list[str] = []
    client.create(NAME, digest, system="Be brief.", on_status=statuses.append)
    assert statuses[0] == "parsing GGUF" and statuses[-2:] == ["writing manifest", "success"]
    assert client.show(NAME).system == "Be brief." and client.show(NAME).architecture == "llama"
    model = client.find(f"{NAME}:latest")
    assert model and model.size >= find_gguf().stat().st_size and len(model.digest) >= 64


def test_it_answers_whole_and_in_pieces_and_tells_its_prompts(client, made):
    answer = client.chat(made, ASKED, num_predict=40, temperature=0)
    assert answer.text and answer.ended_by in ("stop", "length") and answer.prompt_tokens > 8
    pieces = list(client.stream(made, ASKED, num_predict=12, temperature=0))
    assert len(pieces) > 3 and "".join(pieces[:-1]) == pieces[-1].text
    assert "capital of France?" in client.rendered(made, ASKED)
    assert client.read(made, "one two three") == 3
    assert made in str(client.look().loaded)
    client.unload(made)


def test_names_are_copied_and_removed(client, made):
    client.copy(made, f"{made}:v1")
    look = client.look()
    assert look.version and look.named(f"{made}:v1").digest == look.named(f"{made}:latest").digest
    client.delete(f"{made}:v1")
    client.delete(f"{made}:v1")  # there is none any more
    with pytest.raises(OllamaError) as caught:
        client.copy("ft/nowhere", "ft/elsewhere")
    assert caught.value.trouble == Trouble.GONE


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "bad name!", "files": {"m.gguf": "sha256:" + "0" * 64}}, 400, "invalid model name"),
        ({"model": NAME, "files": {"../m.gguf": "sha256:" + "0" * 64}}, 400, "file path must be relative"),
        ({"model": NAME, "files": {"m.gguf": "nonsense"}}, 400, "invalid digest format"),
        ({"model": NAME}, 400, "neither 'from' or 'files' was specified"),
    ],
)
def test_what_is_refused_before_anything_is_made(body, status, words, ollama_url):
    told = httpx.post(f"{ollama_url}/api/create", json=body)
    assert (told.status_code, words in told.text) == (status, True), told.text


def test_a_blob_under_a_wrong_digest_is_refused(ollama_url):
    told = httpx.post(f"{ollama_url}/api/blobs/sha256:{'0' * 64}", content=b"GGUF")
    assert told.status_code == 400 and "digest mismatch" in told.text
    assert httpx.head(f"{ollama_url}/api/blobs/sha256:{'0' * 64}").status_code == 404


def test_a_template_that_cannot_be_read_fails_within_the_stream(client, digest):
    client.upload(find_gguf(), digest, lambda done: None)
    with pytest.raises(OllamaError, match="Ollama refuses it: template"):
        client.create(NAME, digest, template="{{ if .System }}never closed")


def test_the_official_client_gets_along(ollama_url, made):
    official = ollama.Client(host=ollama_url)
    assert made in [model.model.removesuffix(":latest") for model in official.list().models]
    assert official.chat(made, ASKED, options={"num_predict": 5}).message.content
    pieces = list(official.chat(made, ASKED, options={"num_predict": 5}, stream=True))
    assert pieces[-1].done and len(pieces) > 2
    assert official.generate(made, "one two", raw=True, options={"num_predict": 1}).prompt_eval_count == 2
    assert official.show(made).modelinfo["general.architecture"] == "llama"
    with pytest.raises(ollama.ResponseError) as caught:
        official.chat("ft/nowhere", ASKED)
    assert caught.value.status_code == 404


# --- what only the double can be told to do ---

only_double = pytest.mark.skipif(bool(os.environ.get("OLLAMA_URL")), reason="a real server does not misbehave to order")


@only_double
def test_a_key_is_sent_and_asked_for(double):
    double.behave.key = "a-key"
    with Client(double.base_url, "a-key") as client:
        assert client.look().version
    with Client(double.base_url) as client, pytest.raises(OllamaError, match="does not let us in"):
        client.look()


@only_double
def test_a_key_of_our_environment_goes_to_no_server(double, monkeypatch):
    monkeypatch.setenv("OLLAMA_API_KEY", "another-servers-key")
    double.behave.key = "another-servers-key"
    with Client(double.base_url) as client, pytest.raises(OllamaError, match="does not let us in"):
        client.copy("a", "b")


@only_double
def test_models_are_pulled_with_their_progress(double, client):
    double.registry["smollm2:135m"] = find_gguf()
    heard: list[tuple[str, int, int]] = []
    client.pull("smollm2:135m", lambda *told: heard.append(told))
    assert heard[0][0] == "pulling manifest" and heard[-1][0] == "success"
    assert any(done == total > 0 for _, done, total in heard)
    assert client.find("smollm2:135m")
    with pytest.raises(OllamaError, match="file does not exist"):
        client.pull("nowhere:1b", lambda *told: None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_a_server_that_is_away_is_a_sentence(url):
    with Client(url) as client, pytest.raises(OllamaError, match="cannot be reached") as caught:
        client.look()
    assert caught.value.trouble == Trouble.UNREACHABLE


# --- templates ---


def test_a_template_in_gos_language_writes_what_was_trained(smollm2):
    from training_app.engine.template import load_tokenizer, render

    tokenizer = load_tokenizer(str(smollm2))
    template = derive(tokenizer)
    talks = [
        ASKED,
        [{"role": "system", "content": "Say {{ this }}"}, *ASKED],
        [*ASKED, {"role": "assistant", "content": "Paris.\n"}, {"role": "user", "content": "Sure?"}],
    ]
    for talk in talks:
        system = "\n\n".join(message["content"] for message in talk if message["role"] == "system")
        named = [{"Role": message["role"], "Content": message["content"]} for message in talk]
        assert render_go(template, {"System": system, "Messages": named}) == render(tokenizer, talk, ask=True)


@pytest.mark.parametrize(
    "template", ["{{ if .System }}", "{{ end }}", "{{ .Prompt", "{{ Prompt }}", "{{ range .X }}{{ end }}"]
)
def test_a_template_that_go_cannot_read_is_an_error(template):
    with pytest.raises(GoTemplateError):
        render_go(template, {"System": "", "Messages": []})


def test_nothing_of_a_template_is_taken_for_an_action(smollm2):
    from training_app.engine.go_template import _literal

    text = json.dumps({"a": {"b": 1}}) + "{{ .System }}"
    assert render_go(_literal(text), {"System": "no", "Messages": []}) == text
