"""The rules of podTemplates: each finds what it is for, and nothing else; the API server's twins are held to the same
tables in tests/e2e/test_admission.py."""

import re
from typing import Any

import pytest
import yaml

from admission_cases import (
    BAD,
    BAD_OPTIONS,
    BAD_URLS,
    GOOD,
    GOOD_OPTIONS,
    GOOD_URLS,
    PROFILE,
    SECRET,
    Template,
    worker,
)
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.pod.cel import VARIABLES
from dcp_operator.api.pod.rules import POD_RULES, PodRule, PodSecurity, template_problems
from dcp_operator.api.pod.template import TemplateView
from dcp_operator.api.problems import SpecError
from dcp_operator.generate import admission
from scenes import manifest

EVERYTHING = {**BAD, **PROFILE}


def of(policy: admission.Policy) -> list[str]:
    return [each["expression"] for each in policy["spec"]["validations"]]


@pytest.mark.adversary
@pytest.mark.parametrize(("template", "said"), EVERYTHING.values(), ids=EVERYTHING)
def test_what_is_refused_is_said_in_one_line(template: Template, said: str) -> None:
    (found,) = template_problems(TemplateView.of(template))
    assert found.startswith("spec.workers.podTemplate")
    assert said in found
    assert SECRET not in found


@pytest.mark.adversary
@pytest.mark.parametrize("template", GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("security", PodSecurity)
def test_what_is_accepted(template: Template, security: PodSecurity) -> None:
    assert list(template_problems(TemplateView.of(template), security)) == []


@pytest.mark.adversary
@pytest.mark.parametrize("template", [each for each, _ in PROFILE.values()], ids=PROFILE)
def test_where_the_namespace_judges_the_profile_is_its_own_affair(template: Template) -> None:
    assert list(template_problems(TemplateView.of(template), PodSecurity.NAMESPACE)) == []


@pytest.mark.adversary
@pytest.mark.parametrize("template", [each for each, _ in BAD.values()], ids=BAD)
def test_what_is_not_of_the_profile_is_refused_wherever_it_runs(template: Template) -> None:
    assert list(template_problems(TemplateView.of(template), PodSecurity.NAMESPACE))


@pytest.mark.adversary
@pytest.mark.parametrize("rule", POD_RULES, ids=lambda rule: f"{rule.field}: {rule.message[:30]}")
def test_every_rule_has_its_twin_and_a_template_that_breaks_it(rule: PodRule) -> None:
    policy = admission.restricted() if rule.profile else admission.everywhere()
    assert rule.cel in of(policy)
    assert any(list(rule.check(TemplateView.of(template))) for template, _ in EVERYTHING.values())


def test_variables_are_there_before_they_are_used() -> None:
    known: set[str] = set()
    for name, expression in VARIABLES.items():
        assert set(re.findall(r"variables\.(\w+)", expression)) <= known
        known.add(name)
    for rule in POD_RULES:
        assert set(re.findall(r"variables\.(\w+)", rule.cel)) <= known


def test_what_is_stored_is_not_judged_again_by_what_may_change() -> None:
    for policy in (admission.everywhere(), admission.restricted()):
        (condition,) = policy["spec"]["matchConditions"]
        assert "suspend" not in condition["expression"]
        assert "object.spec != oldObject.spec" not in condition["expression"]
        assert condition["expression"].startswith("oldObject == null || ")


@pytest.mark.adversary
def test_the_manifests_hold_each_policy_with_its_binding() -> None:
    for path, text in admission.files():
        assert path.read_text() == text
        policies = [each for each in yaml.safe_load_all(text) if each["kind"] == "ValidatingAdmissionPolicy"]
        bindings = [each for each in yaml.safe_load_all(text) if each["kind"].endswith("Binding")]
        assert [each["metadata"]["name"] for each in policies] == [each["spec"]["policyName"] for each in bindings]
        # One that looks at other objects refuses nothing where these can't be read: the operator refuses it then.
        assert {each["spec"]["failurePolicy"] for each in policies if "paramKind" not in each["spec"]} == {"Fail"}
        assert {*bindings[0]["spec"]["validationActions"]} == {"Deny"}


def said_of(url: str, options: dict[str, Any]) -> list[str]:
    mounted = worker(volumeMounts=[{"name": "v", "mountPath": "/data"}])
    changes = {"spec.storage.url": url, "spec.storage.options": options, "spec.workers.podTemplate": mounted}
    try:
        parse(manifest(changes))
    except SpecError as error:
        return error.problems
    return []


@pytest.mark.adversary
@pytest.mark.parametrize(("url", "said"), BAD_URLS.values(), ids=BAD_URLS)
def test_urls_that_are_refused(url: str, said: str) -> None:
    found = said_of(url, {})
    assert any(said in each for each in found), found
    assert SECRET not in "".join(found)


@pytest.mark.adversary
@pytest.mark.parametrize(("url", "options", "said"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_that_are_refused(url: str, options: dict[str, Any], said: str) -> None:
    (found,) = said_of(url, options)
    assert said in found
    assert SECRET not in found


@pytest.mark.parametrize("url", GOOD_URLS)
def test_urls_that_are_taken(url: str) -> None:
    assert said_of(url, {}) == []


@pytest.mark.parametrize(("url", "options"), GOOD_OPTIONS.values(), ids=GOOD_OPTIONS)
def test_options_that_are_taken(url: str, options: dict[str, Any]) -> None:
    assert said_of(url, options) == []
