from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mibench import protocols
from mibench.cell.request import Request
from mibench.cell.resolve import Cell, check, resolve
from mibench.errors import NotApplicableError, RequestError
from mibench.inversion.attack import ATTACKS, Attack
from mibench.names import AttackName
from mibench.protocols import PROTOCOLS, Protocol
from mibench.settings import parse_setting
from mibench.training.defense import DEFENSES, Defense
from mibench.types import AttackCard

pytestmark = pytest.mark.usefixtures("tiny")


def cell(attack: str = "gmi", **fields: Any) -> Cell:
    overrides = fields.pop("overrides", {})
    return check(resolve(Request(protocol="tiny", attack=attack, overrides=overrides, **fields)))


def setting(path: str, value: Any, **fields: Any) -> Cell:
    return cell(overrides={path: value}, **fields)


@pytest.mark.parametrize("name", ["gmi+", "gmi+lomm", "gmi+lom+lom", "improved-gmi+lom", "gmi+LOM"])
def test_malformed_attack_names_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="attack"):
        cell(name)


@pytest.mark.parametrize("name", ["gmi", "gmi+lom", "gmi+ma", "improved-gmi"])
def test_a_variant_sets_objective_and_students(name: str) -> None:
    config, parsed = cell(name).attack_config, AttackName.parse(name)
    assert config.identity.objective == ("logit" if parsed.lom else "cross-entropy")
    assert config.augment == parsed.ma
    assert config.identity.views == "none"
    for views in ("taa", "paa"):
        varied = cell(f"{name}+{views}").attack_config
        identity = config.identity.model_copy(update={"views": views})
        assert varied == config.model_copy(update={"identity": identity})
        assert varied.identity.views_a_step == 8


@pytest.mark.parametrize("name", ["gmi+untrap", "improved-kedmi+paa+untrap"])
def test_untrap_is_of_targets_with_trapdoors_alone(name: str) -> None:
    for strength in (0, 0.2):  # the control has triggers, too: they open nothing
        made = setting("defense.beta", strength, attack=name, defense="trap-mid")
        plain = cell(name.removesuffix("+untrap")).attack_config
        assert made.attack_config == plain.model_copy(update={"untrap": True})
    for other in ("none", "bido"):
        with pytest.raises(RequestError, match=f"{other}. this one has none: leave \\+untrap out"):
            cell(name, defense=other)
    with pytest.raises(RequestError, match="lookup optimises no identity loss"):
        cell("lookup+untrap", defense="trap-mid")


@pytest.mark.parametrize("name", ["gmi+taa+paa", "gmi+taa+taa", "improved-gmi+TAA", "gmi+eot"])
def test_names_of_views_are_one_of_two(name: str) -> None:
    with pytest.raises(RequestError, match="attack"):
        cell(name)


OUTPUT = [name for name in DEFENSES.names() if DEFENSES.get(name).filters()]


def test_a_white_box_attack_on_a_defense_of_answers_is_not_applicable() -> None:
    assert sorted(OUTPUT) == ["label-only", "purifier", "rounding", "ssd", "top-k"]
    for defense in OUTPUT:
        for attack in ("gmi", "improved-kedmi+taa"):
            with pytest.raises(NotApplicableError, match=rf"'{defense}' is not applicable \(n/a\)"):
                resolve(Request(protocol="tiny", attack=attack, defense=defense))
        for attack in ("lookup", "lookup-label-only", "lookup+repeat"):
            found = resolve(Request(protocol="tiny", attack=attack, defense=defense))
            assert found.defense_name == defense
    control = {"defense.step": 0}
    with pytest.raises(NotApplicableError, match="takes that off"):
        cell("gmi", defense="rounding", overrides=control)


def test_repeating_is_a_variant_of_attacks_without_weights() -> None:
    for name in ("lookup", "lookup-label-only"):
        plain, repeated = cell(name), cell(f"{name}+repeat")
        assert (plain.attack_config.repeat, repeated.attack_config.repeat) == (False, True)
        assert repeated.attack_config == plain.attack_config.model_copy(update={"repeat": True})
        for views in ("+taa", "+lom", "+ma"):
            with pytest.raises(RequestError, match=f"there are {name} and {name}.repeat"):
                cell(f"{name}{views}")
    for name in ("gmi+repeat", "kedmi+repeat"):
        with pytest.raises(RequestError, match=r"\+repeat is for attacks that only ask the target"):
            cell(name)
    set_anyway: dict[str, Any] = {"attack.repeat": True}
    for name in ("lookup", "lookup+repeat", "gmi"):
        with pytest.raises(RequestError, match=r"attack\.repeat: choose it by the attack's name"):
            cell(name, overrides=set_anyway)
    asked = {"attack.repeats.times": 5, "attack.repeats.noise": 0}
    repeats = cell("lookup+repeat", overrides=asked).attack_config.repeats
    assert (repeats.times, repeats.noise) == (5, 0)
    with pytest.raises(RequestError, match=r"attack\.repeats\.times"):
        cell("lookup+repeat", overrides={"attack.repeats.times": 1})


@pytest.mark.parametrize("objective", ["max-margin", "top-k-margin", "poincare"])
def test_an_objective_is_a_setting_of_what_the_improved_one_is_not_chosen_for(
    objective: str,
) -> None:
    asked = {"attack.identity.objective": objective}
    for name in ("gmi", "gmi+ma", "gmi+paa"):
        assert cell(name, overrides=asked).attack_config.identity.objective == objective
    for name in ("gmi+lom", "improved-gmi", "gmi+lom+taa"):
        with pytest.raises(RequestError, match="objective: choose it by the attack's name"):
            cell(name, overrides=asked)


def test_an_attack_of_another_objective_can_have_the_baselines() -> None:
    assert cell("ppa").attack_config.identity.objective == "poincare"
    asked = {"attack.identity.objective": "cross-entropy"}
    assert cell("ppa", overrides=asked).attack_config.identity.objective == "cross-entropy"


class Sampler(Attack):
    """An attack that optimises nothing."""

    card = AttackCard(title="t", authors="a", year=2024, venue="v", url="u")
    optimises_identity = False


def test_variants_of_an_attack_without_an_identity_loss_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ATTACKS, "get", lambda name: Sampler)
    monkeypatch.setattr(ATTACKS, "names", lambda: ["sampler"])
    monkeypatch.setattr(ATTACKS, "name_of", lambda cls: "sampler")
    assert cell("sampler").attack_class is Sampler
    for name in ("sampler+lom", "sampler+ma", "improved-sampler"):
        with pytest.raises(RequestError, match="sampler optimises no identity loss"):
            cell(name)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("attack.iterations=600", "attack.iterations", 600),
        (" attack.clip =null", "attack.clip", None),
        ("defense.measure=coco", "defense.measure", "coco"),
        ("target.augment=false", "target.augment", False),
        ("target.learning_rate=1e-2", "target.learning_rate", 0.01),
        ('attack.students.architectures=["a","b"]', "attack.students.architectures", ["a", "b"]),
        ("a.b=x=y", "a.b", "x=y"),
    ],
)
def test_settings_are_a_path_and_a_json_value_or_text(text: str, path: str, value: Any) -> None:
    assert parse_setting(text) == (path, value)


@pytest.mark.parametrize("text", ["attack.iterations", "=3", "", "  =3"])
def test_settings_without_path_or_value_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="write a path and a value"):
        parse_setting(text)


def use(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Protocol:
    card = PROTOCOLS["tiny"].model_copy(update=changes)
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", card)
    return card


def test_target_training_protocol_then_defense_then_card_then_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = use(monkeypatch).training
    assert cell().training == plain
    assert (plain.optimizer, plain.learning_rate, plain.batch_size) == ("sgd", 0.02, 16)
    # BiDO's own training goes over the protocol's, and leaves what it does not name.
    bido = cell(defense="bido").training
    assert (bido.optimizer, bido.learning_rate, bido.batch_size) == ("adam", 1e-4, 16)
    # The protocol's card of the defense goes over the defense's own.
    use(monkeypatch, defenses={"bido": {"target.learning_rate": 3e-4, "defense.sigma": 2.0}})
    carded = cell(defense="bido")
    assert (carded.training.optimizer, carded.training.learning_rate) == ("adam", 3e-4)
    assert carded.defense_config.model_dump()["sigma"] == 2.0
    assert cell(defense="none").training == plain
    # What was passed wins over all of them.
    asked = {"target.learning_rate": 5e-4, "target.optimizer": "sgd", "defense.sigma": 9.0}
    last = cell(defense="bido", overrides=asked)
    assert (last.training.optimizer, last.training.learning_rate) == ("sgd", 5e-4)
    assert last.defense_config.model_dump()["sigma"] == 9.0


def test_attack_options_defaults_then_protocol_then_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    default = ATTACKS.get("gmi").Config().model_dump()
    found = cell("improved-gmi").attack_config.model_dump()
    assert found["iterations"] == 3 != default["iterations"]  # the card's, for every variant
    assert found["learning_rate"] == default["learning_rate"]
    assert setting("attack.iterations", 7).attack_config.model_dump()["iterations"] == 7
    card = use(monkeypatch, attacks={})
    assert cell().attack_config.model_dump()["iterations"] == default["iterations"]
    assert cell().prior_config.gan == card.gan
    assert cell().attack_config.students == card.students
    assert setting("prior.gan.steps", 4).prior_config.gan.steps == 4
    assert setting("prior.gan.steps", 4).prior_config.gan.latent == card.gan.latent


@pytest.mark.parametrize("attack", ["gmi", "kedmi"])
def test_priors_settings_are_the_defaults_the_cards_and_the_passed_ones(
    attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"attack": attack, "prior": "inversion-gan"}
    assert cell(**wanted).prior_config.model_dump()["steps"] == 5  # the card's, for every attack
    passed = cell(**wanted, overrides={"prior.steps": 7})
    assert passed.prior_config.model_dump()["steps"] == 7
    own = {"prior.kind": "inversion-gan"} if attack == "gmi" else {}
    assert passed.passed("prior") == {"prior.steps": 7, **own}
    use(monkeypatch, priors={})
    assert cell(**wanted).prior_config.model_dump()["steps"] == 2000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("attack.prior.gan.steps", "prior.gan.steps"),
        ("attack.prior.source", "prior.source"),
        ("attack.prior_training.steps", "prior.steps"),
        ("attack.prior_training", "prior"),
    ],
)
def test_where_a_priors_settings_were_is_refused_with_where_they_are(old: str, new: str) -> None:
    with pytest.raises(
        RequestError, match=rf"--set {old}: .* no longer the attack's; write {new}$"
    ):
        cell("kedmi", overrides={old: 4})
    assert cell("kedmi", overrides={"attack.prior_weight": 4})


def test_priors_that_an_attack_cannot_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"unknown prior 'gann'; did you mean 'gan'"):
        cell("gmi", prior="gann")
    with pytest.raises(RequestError, match=r"there is no such field; did you mean 'prior\.steps'"):
        cell("kedmi", overrides={"prior.step": 1})
    gmi = ATTACKS.get("gmi")
    monkeypatch.setattr(gmi, "access", "label-only")
    with pytest.raises(RequestError, match="black-box access to the target, which the label-only"):
        cell("gmi", prior="inversion-gan")
    assert cell("gmi").prior_name == "gan"
    monkeypatch.setattr(gmi, "prior", dict)
    with pytest.raises(RequestError, match="'gmi': its prior is <class 'dict'>; write"):
        cell("gmi")


def test_settings_reach_only_their_part() -> None:
    found = setting("target.epochs", 3)
    assert found.training.epochs == 3
    assert found.attack_config.students.training.epochs == 1
    assert found.passed("target") == {"target.epochs": 3}
    assert found.passed("attack") == {}


def test_the_target_is_the_protocols_unless_one_is_asked_for() -> None:
    assert cell().architecture == "test_resnet"
    assert cell(target="test_vit").architecture == "test_vit"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("attack.iteration", 3, "no such field; did you mean 'attack.iterations'"),
        ("attack.identity.eots", 3, "did you mean 'attack.identity.eot'"),
        ("target.epoch", 3, "did you mean 'target.epochs'"),
        ("defense.zzzz", 3, "--set defense.zzzz: there is no such field"),
        ("protocol.sample", 3, "did you mean 'protocol.samples'"),
        ("attacks.iterations", 3, "paths start with one of protocol., target., defense., attack."),
        ("attack", 3, "paths start with one of"),
        ("iterations", 3, "paths start with one of"),
    ],
)
def test_wrong_paths_are_refused_with_close_names(path: str, value: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        setting(path, value)
    assert message in str(caught.value)
    assert f"--set {path}" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("attack.iterations", "many"),
        ("attack.iterations", 0),
        ("attack.iterations", 2.5),
        ("target.optimizer", "lion"),
        ("attack.identity.eot", None),
        ("protocol.samples", "x"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_the_value(path: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        setting(path, value)
    assert path in str(caught.value)
    assert f"got {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("data.classes", "1,2", "a valid tuple (got '1,2'), which is written as [1, 2]"),
        ("data.val_fraction", 0.9, "--set protocol.data.val_fraction: Input should be less"),
    ],
)
def test_wrong_data_is_not_held_against_other_kinds_of_data(
    path: str, value: Any, reason: str
) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(Request(protocol="mnist-32", overrides={f"protocol.{path}": value}))
    assert reason in str(caught.value)
    assert str(caught.value).count(f"protocol.{path}") == 1
    assert "min_images" not in str(caught.value)  # a field of image folders


@pytest.mark.parametrize(
    "overrides",
    [
        {"attack.augment": True},
        {"attack.untrap": True},
        {"attack.identity.objective": "logit"},
        {"attack.identity.views": "taa"},
        {"attack.identity.views": "none"},
        {"attack.identity": {"views": "paa"}},
    ],
    ids=str,
)
def test_the_variant_is_chosen_by_name_only(overrides: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"choose it by the attack's name \(gmi, gmi\+lom"):
        cell(overrides=overrides)


def test_a_whole_identity_setting_cannot_swap_the_objective() -> None:
    """The record says ``gmi``: a nested value must not make it ``gmi+lom`` by the back door."""
    with pytest.raises(RequestError, match="objective"):
        setting("attack.identity", {"objective": "logit"})


@pytest.mark.parametrize("name", ["synthfaces-32", "synthfaces-32-dev"])
def test_a_frozen_protocol_cannot_be_changed(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} is frozen"):
        resolve(Request(protocol=name, attack="gmi", overrides={"protocol.samples": 3}))


def test_an_unfrozen_protocol_can_be_changed_but_not_its_identity() -> None:
    assert setting("protocol.samples", 2).protocol.samples == 2
    for path, value in (("name", "mine"), ("version", 2)):
        with pytest.raises(RequestError, match="identifies the protocol and is fixed"):
            setting(f"protocol.{path}", value)


def test_unknown_names_are_refused_with_close_ones() -> None:
    with pytest.raises(RequestError, match="'synthfaces-32'"):
        resolve(Request(protocol="synthfaces32"))
    with pytest.raises(RequestError, match="bido"):
        cell(defense="bidos")
    with pytest.raises(RequestError, match="kedmi"):
        cell("kedmy")
    with pytest.raises(RequestError, match="test_resnet"):
        cell(target="test_resnett")


def test_the_folder_protocol_needs_its_folder_and_only_it() -> None:
    with pytest.raises(RequestError, match="--root DIR"):
        resolve(Request(protocol="folder"))
    with pytest.raises(RequestError, match="--root is for the protocol `folder`, not 'tiny'"):
        cell(root="somewhere")


def test_folder_options_have_short_paths() -> None:
    overrides = {"protocol.min_images": 4, "protocol.data.split_seed": 9, "protocol.samples": 2}
    overrides |= {"attack.students.architectures": ["test_resnet"]}
    spec = Request(
        protocol="folder", root="x", target="test_resnet", attack="gmi", overrides=overrides
    )
    found = resolve(spec).protocol
    data = found.data.model_dump()
    assert (data["min_images"], data["split_seed"], found.samples) == (4, 9, 2)


def test_architectures_that_cannot_take_the_resolution_are_refused() -> None:
    with pytest.raises(RequestError, match="32×32"):
        cell(target="inception_v3")
    # A student is checked too, but only where students are attacked.
    students = {"attack.students.architectures": ["inception_v3"]}
    assert not cell("gmi", overrides=students).attack_config.augment
    with pytest.raises(RequestError, match="32×32"):
        cell("gmi+ma", overrides=students)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValidationError):
        Request(seed=-1)


def test_a_files_method_needs_its_card(tmp_path: Path) -> None:
    """The record reads it, after everything else was computed."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from mibench.training.defense import Defense\nclass Mine(Defense):\n    pass\n"
    )
    with pytest.raises(RequestError, match=r"Mine has no card; write `card = DefenseCard"):
        cell(defense=f"{file}:Mine")


def test_a_cell_is_resolved_without_methods() -> None:
    """For what only judges: neither is looked for, and their parts are those of their bases."""
    request = Request(protocol="tiny", defense="nobody", attack="improved-nobody", seed=3)
    made = resolve(request, without=("defense", "attack"))
    assert (made.defense_class, made.attack_class) == (Defense, Attack)
    assert made.training == made.protocol.training
    assert made.prior_config.gan == made.protocol.gan
    assert not made.attack_config.augment
    for kept, left_out in (("defense", "attack"), ("attack", "defense")):
        with pytest.raises(RequestError, match=f"unknown {kept} 'nobody'"):
            resolve(request, without=(left_out,))
