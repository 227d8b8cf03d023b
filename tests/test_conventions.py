"""Files that other programs read: the workflow, forms, hooks and images. None of them runs here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
IMAGES = sorted((ROOT / "containers").glob("*.Dockerfile"))
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def parsed(path: Path) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# --- the workflow -------------------------------------------------------------------------------


def test_the_workflow_runs_the_one_entry_on_every_python() -> None:
    flow = parsed(ROOT / ".github" / "workflows" / "ci.yml")
    (job,) = flow["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    document = (ROOT / "docs" / "install.md").read_text()
    assert f"{PYTHONS[0]} to {PYTHONS[-1]}" in document


def test_the_workflow_may_only_read_and_runs_once_a_branch() -> None:
    flow = parsed(ROOT / ".github" / "workflows" / "ci.yml")
    assert flow["permissions"] == {"contents": "read"}
    assert "github.ref" in flow["concurrency"]["group"]
    triggers = flow[True]  # YAML 1.1 reads the key `on` so
    assert set(triggers) == {"push", "pull_request"}, "no trigger with a token that writes"
    (job,) = flow["jobs"].values()
    assert "permissions" not in job
    assert job["timeout-minutes"] <= 180
    for step in job["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v[0-9]+", step["uses"])
    checkout = next(step for step in job["steps"] if step.get("uses", "").startswith("actions/ch"))
    assert checkout["with"]["persist-credentials"] is False
    # What a pull request's author writes is in no command.
    assert "${{" not in str([step.get("run", "") for step in job["steps"]])


# --- forms: the schema that the forge documents ------------------------------------------------


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Text = Annotated[str, Field(min_length=1)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class Required(Strict):
    required: bool = False


class Said(Strict):
    label: Text
    description: str = ""


class Line(Said):
    placeholder: str = ""
    value: str = ""


class Area(Line):
    render: str = ""


class Choice(Said):
    multiple: bool = False
    options: Annotated[list[Text], Field(min_length=1)]
    default: int | None = None


class Tick(Required):
    label: Text


class Ticks(Said):
    options: Annotated[list[Tick], Field(min_length=1)]


class Markdown(Strict):
    value: Text


class MarkdownElement(Strict):
    type: Literal["markdown"]
    attributes: Markdown


class Element(Strict):
    id: Id
    validations: Required = Required()


class InputElement(Element):
    type: Literal["input"]
    attributes: Line


class AreaElement(Element):
    type: Literal["textarea"]
    attributes: Area


class ChoiceElement(Element):
    type: Literal["dropdown"]
    attributes: Choice


class TicksElement(Element):
    type: Literal["checkboxes"]
    attributes: Ticks


class Form(Strict):
    name: Text
    description: Text
    title: str = ""
    labels: list[Text] = []
    assignees: list[Text] = []
    body: Annotated[
        list[
            Annotated[
                MarkdownElement | InputElement | AreaElement | ChoiceElement | TicksElement,
                Field(discriminator="type"),
            ]
        ],
        Field(min_length=1),
    ]


def faults(form: Any) -> list[str]:
    """What the forge would refuse of a form."""
    try:
        read = TypeAdapter(Form).validate_python(form)
    except ValidationError as error:
        return [str(each["loc"]) for each in error.errors()]
    asked = [each for each in read.body if not isinstance(each, MarkdownElement)]
    found = [] if asked else ["nothing is asked"]
    for what in ([each.id for each in asked], [each.attributes.label for each in asked]):
        found += [f"{each!r} is there twice" for each in set(what) if what.count(each) > 1]
    for each in asked:
        options = getattr(each.attributes, "options", [])
        names = [getattr(option, "label", option) for option in options]
        found += [f"two options are called {each}" for each in names if names.count(each) > 1]
        found += [f"{each} is reserved" for each in names if each.lower() == "none"]
    return found


def test_there_is_a_form_for_each_occasion() -> None:
    assert [path.stem for path in FORMS] == ["attack", "bug", "config", "defense", "record"]
    config = parsed(ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml")
    assert set(config) <= {"blank_issues_enabled", "contact_links"}
    forms = [parsed(path) for path in FORMS if path.stem != "config"]
    assert len({form["name"] for form in forms}) == len(forms)


@pytest.mark.parametrize("path", [path for path in FORMS if path.stem != "config"], ids=str)
def test_forms_keep_the_rules(path: Path) -> None:
    assert faults(parsed(path)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda form: form.pop("description"),
        lambda form: form["body"][1].update(id="two words"),
        lambda form: form["body"][1].update(type="text"),
        lambda form: form["body"][1]["attributes"].pop("label"),
        lambda form: form["body"][1].update(required=True),
        lambda form: form["body"][2].update(id=form["body"][1]["id"]),
        lambda form: form.update(body=form["body"][:1]),
        lambda form: form["body"][-1]["attributes"].update(options=["plain"]),
    ],
)
def test_a_form_that_breaks_a_rule_is_noticed(change: Any) -> None:
    form = parsed(ROOT / ".github" / "ISSUE_TEMPLATE" / "record.yml")
    change(form)
    assert faults(form)


def test_forms_offer_the_kinds_and_accesses_that_there_are() -> None:
    from typing import get_args

    from mibench.types import Access, DefenseKind

    def options(form: str, field: str) -> list[str]:
        body = parsed(ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml")["body"]
        (found,) = [each for each in body if each.get("id") == field]
        return [each.partition(" ")[0] for each in found["attributes"]["options"]]

    assert options("defense", "kind") == list(get_args(DefenseKind))
    assert options("attack", "access") == list(get_args(Access))


# --- hooks --------------------------------------------------------------------------------------


def test_hooks_run_what_continuous_integration_runs() -> None:
    hooks = [
        hook for repo in parsed(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]
    ]
    entries = [hook["entry"] for hook in hooks]
    for program in ("ruff check", "ruff format", "mypy", "check-added-large-files"):
        assert sum(entry.startswith(program) for entry in entries) == 1
    assert all(hook["language"] == "system" for hook in hooks), "nothing is fetched"
    run = (ROOT / ".ci" / "run").read_text()
    for program in ("ruff check", "ruff format", "mypy"):
        assert f".venv/bin/{program}" in run
    needed = " ".join(PROJECT["optional-dependencies"]["dev"])
    assert all(each in needed for each in ("ruff", "mypy", "pre-commit>", "pre-commit-hooks"))


def test_the_hooks_file_is_valid() -> None:
    pytest.importorskip("pre_commit", reason="pip install 'mibench[dev]'")
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", ".pre-commit-config.yaml"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# --- images -------------------------------------------------------------------------------------


def instructions(path: Path) -> list[tuple[str, str]]:
    """Name and arguments of each instruction; continued lines are one."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name, " ".join(rest.split())) for name, rest in lines]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_images_are_of_a_pinned_base_without_secrets_and_run_as_a_user(path: Path) -> None:
    found = instructions(path)
    known = {"ARG", "FROM", "ENV", "RUN", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in found} <= known, "ADD fetches, VOLUME and EXPOSE are not needed"
    (base,) = [rest for name, rest in found if name == "FROM"]
    arguments = dict(rest.partition("=")[::2] for name, rest in found if name == "ARG")
    assert base == "python:${PYTHON}-slim"
    assert arguments["PYTHON"] in PYTHONS
    assert arguments["TORCH_INDEX_URL"] == "", "no index is named"
    secret = re.compile(r"(?i)token|secret|passw|credential|api_?key|://")
    assert not [rest for _, rest in found if secret.search(rest)]
    user = [place for place, (name, _) in enumerate(found) if name == "USER"]
    assert found[user[-1]][1] not in ("root", "0")
    assert "RUN" not in [name for name, _ in found[user[0] :]], "all is installed before"
    commands = [rest for name, rest in found if name == "RUN"]
    assert any("useradd" in each and f" {found[user[0]][1]}" in each for each in commands)
    installs = [each for each in commands if "pip install" in each]
    assert all("--no-cache-dir" in each for each in installs)
    assert installs[-1].endswith("pip install --no-cache-dir .")
    assert ("ENTRYPOINT", '["mibench"]') in found
    assert f"containers/{path.name}" in (ROOT / "docs" / "install.md").read_text()


def test_there_is_an_image_for_cpus_and_one_for_gpus() -> None:
    assert [path.name for path in IMAGES] == ["cpu.Dockerfile", "cuda.Dockerfile"]
    gpu = dict(rest.partition("=")[::2] for name, rest in instructions(IMAGES[1]) if name == "ENV")
    assert gpu["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


@pytest.mark.slow
def test_the_package_builds_from_what_the_images_copy(tmp_path: Path) -> None:
    pytest.importorskip("build")
    kept = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    source = tmp_path / "source"
    source.mkdir()
    for name in kept:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source],
        check=True,
        capture_output=True,
    )
    assert len([*tmp_path.glob("mibench-*.whl")]) == 1
