"""The codec and its tables against kio, which read Kafka's schemas by itself: bytes and values must agree both ways."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.examples import examples
from tests.support.messages import Kio, all_versions, each, messages, reference, served_versions

from penstock.protocol.api import SERVED
from penstock.protocol.codec import decode_request, decode_response, encode_request, encode_response
from penstock.protocol.schema import load_schema

NOT_SERVED = [(key, version) for key, version in all_versions() if key not in SERVED]
QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def check(data: st.DataObject, api_key: int, version: int, *, request: bool) -> None:
    schema = load_schema(api_key, version, request=request)
    message = data.draw(messages(schema))
    encode, decode = (encode_request, decode_request) if request else (encode_response, decode_response)
    ours = encode(api_key, version, message)
    assert ours == reference(schema, message).data
    kio = Kio(api_key, version, request=request)
    entity = kio.read(ours)
    assert kio.message(entity) == message
    theirs = kio.write(entity)
    assert theirs == ours
    assert decode(api_key, version, memoryview(theirs)) == message


@each(served_versions())
@settings(QUICK, max_examples=examples(15))
@given(data=st.data())
def test_served_request_is_what_kio_writes_and_reads(api_key: int, version: int, data: st.DataObject) -> None:
    check(data, api_key, version, request=True)


@each(served_versions())
@settings(QUICK, max_examples=examples(15))
@given(data=st.data())
def test_served_response_is_what_kio_writes_and_reads(
    api_key: int, version: int, data: st.DataObject
) -> None:
    check(data, api_key, version, request=False)


@each(NOT_SERVED)
@settings(QUICK, max_examples=examples(4))
@given(data=st.data())
def test_message_for_later_is_what_kio_writes_and_reads(
    api_key: int, version: int, data: st.DataObject
) -> None:
    check(data, api_key, version, request=True)
    check(data, api_key, version, request=False)
