"""What the documents tell people to type is there: make targets, commands with their options, addresses, links."""

import re
import shlex
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from finetune_site.api.client import parser
from finetune_site.api.door import api
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"```sh\n(.*?)```|```.*?```|`([^`]+)`", re.DOTALL)


def lines(page: Path) -> list[str]:
    """Everything a page sets as code, a line each; comments left out."""
    found = CODE.findall(page.read_text())
    typed = [line for block, inline in found for line in block.splitlines() or [" ".join(inline.split())]]
    return [line.split("  #")[0].strip() for line in typed]


def ids(page: Path) -> str:
    return page.name


# Who runs each command that a page tells people to type, for real. A command with no test says why.
RUN_BY = {
    "manage.py backup": "tests/site/test_backup.py",
    "manage.py check": "tests/test_architecture.py",
    "manage.py check_invariants": "tests/site/test_invariants.py",
    "manage.py cluster": "tests/site/test_recovery.py",
    "manage.py connect_label_studio": "tests/labelstudio/test_connection.py",
    "manage.py connect_ollama": "tests/publishing/test_servers.py",
    "manage.py createcachetable": "tests/site/test_backup.py",
    "manage.py createsuperuser": "tests/datasets/test_sample.py",
    "manage.py demo": "tests/engine/test_demo.py",
    "manage.py migrate": "tests/site/test_backup.py",
    "manage.py purge": "tests/site/test_purge.py",
    "manage.py restore": "tests/site/test_backup.py",
    "manage.py sample_project": "tests/datasets/test_sample.py",
    "manage.py share_files": "tests/site/test_bucket.py",
    "manage.py up": "tests/site/test_recovery.py",
    "curl": "tests/publishing/test_walks.py",
    "finetune": "tests/publishing/test_walks.py",
    "ray start": "",  # the tests' cluster (tests/engine/test_train_ray.py) is one of ray.cluster_utils, on one machine
    "docker compose": "",  # needs a Docker engine: tests/site/test_containers.py parses the file as compose does
    "docker build": "",  # the same; what was built by buildah instead stands in docs/containers.md
}


def programs(page: Path) -> set[str]:
    """The programs that a page calls, those of `manage.py` by their command."""
    typed = set()
    for line in lines(page):
        typed |= {f"manage.py {name}" for name in re.findall(r"(?:manage\.py|--then) ([a-z_]+)", line)}
        typed |= set(re.findall(r"^(curl|finetune|ray start|docker compose|docker build) ", line))
    return typed


def test_every_command_is_run_by_a_test():
    typed = set().union(*map(programs, PAGES))
    assert typed == set(RUN_BY), "commands without a row, or rows without a command"
    for program, test in RUN_BY.items():
        word = program.split()[-1]
        assert not test or re.search(rf'"{word}[" ]', (ROOT / test).read_text()), f"{test} does not run {program}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_make_target_is_there(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words.split()[1] for words in lines(page) if re.match(r"make [a-z-]+", words)}
    assert named - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_command_takes_what_it_is_given(page):
    for line in lines(page):
        if not (called := re.search(r"manage\.py ([a-z_]+)(.*)", line)):
            continue
        name, rest = called.groups()
        assert name in get_commands(), line
        options = {option for action in command(name)._actions for option in action.option_strings}
        given = {word for word in shlex.split(rest.partition("--then")[0]) if word.startswith("--")}
        assert given - options == set(), line
        if then := re.search(r"--then ([a-z_]+)", rest):
            assert then[1] in get_commands(), line


def command(name: str):
    loaded = load_command_class(get_commands()[name], name)
    return loaded.create_parser("manage.py", name)


def test_the_client_takes_every_line_of_its_page():
    typed = [line for line in lines(ROOT / "docs" / "api.md") if line.startswith("finetune ")]
    assert len(typed) >= 8
    for line in typed:
        parser().parse_args(shlex.split(line)[1:])


def test_every_address_of_the_walk_is_an_operation():
    schema = api.get_openapi_schema(path_prefix="/api/v1/")["paths"]
    known = [(re.compile(re.sub(r"\{\w+\}", r"[\\w-]+", path)), methods) for path, methods in schema.items()]
    typed = [line for line in lines(ROOT / "docs" / "api.md") if line.startswith("curl ")]
    assert len(typed) >= 8
    for line in typed:
        words = shlex.split(line)
        path = next(word for word in words if "$URL" in word).replace("$URL", "/api/v1").split("?")[0]
        sent = {"-F", "-d"} & set(words)
        method = words[words.index("-X") + 1].lower() if "-X" in words else "post" if sent else "get"
        methods = next((found for pattern, found in known if pattern.fullmatch(path)), {})
        assert method in methods, line


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
