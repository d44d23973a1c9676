"""XML-RPC by hand agrees with the standard library in both directions, and refuses what is none."""

from __future__ import annotations

import xmlrpc.client

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmctl.hosts.xmlrpc import Fault, answer, request

texts = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Cn"]), max_size=20)
values = st.recursive(
    st.booleans() | st.integers(-(2**31), 2**31 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_answers_are_read_as_the_standard_library_writes_them(value: object):
    assert answer(xmlrpc.client.dumps((value,), methodresponse=True).encode()) == value


@given(st.lists(values, max_size=3))
def test_calls_are_written_as_the_standard_library_reads_them(params: list[object]):
    assert xmlrpc.client.loads(request("system.x", params)) == (tuple(params), "system.x")


def test_a_value_without_a_type_is_a_string():
    assert answer(b"<methodResponse><params><param><value>abc</value></param></params></methodResponse>") == "abc"


def test_a_fault_is_raised():
    with pytest.raises(Fault) as raised:
        answer(xmlrpc.client.dumps(xmlrpc.client.Fault(10, "BAD_NAME")).encode())
    assert (raised.value.faultCode, raised.value.faultString) == (10, "BAD_NAME")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not xml",
        b"<a><b></a>",
        b"<methodResponse></methodResponse>",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]>"
        b"<methodResponse><params><param><value>&a;</value></param></params></methodResponse>",
        b"<methodResponse><params><param><value><int>x</int></value></param></params></methodResponse>",
        b"<methodResponse><fault><value>text</value></fault></methodResponse>",
        b"<methodResponse><params><param><value><struct><member><name>a</name></member></struct></value></param></params>"
        b"</methodResponse>",
    ],
)
def test_F69_what_is_no_answer_is_refused(body: bytes):
    with pytest.raises(ValueError):
        answer(body)


def test_only_known_kinds_are_sent():
    with pytest.raises(TypeError):
        request("x", [object()])
