"""Status and metadata as JSON: proto3's, with the fields' own names and every default."""

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from headrace_protos import GetModelMetadataResponse, GetModelStatusResponse, SignatureDefMap
from headrace_server.services.tf_serving.prediction import SIGNATURE_DEF


def write_status(response: GetModelStatusResponse) -> bytes:
    """The body that answers a request for a model's status."""
    return f"{_json(response)}\n".encode()


def write_metadata(response: GetModelMetadataResponse) -> bytes:
    """The body that answers a request for a model's metadata.

    TF Serving's http_rest_api_util.cc writes the map of signatures without its Any, so that `signature_def` occurs
    twice.
    """
    signatures = SignatureDefMap()
    response.metadata[SIGNATURE_DEF].Unpack(signatures)
    spec = f'"model_spec":{_json(response.model_spec)}'
    return f'{{\n{spec},\n"metadata": {{"{SIGNATURE_DEF}": {_json(signatures)}}}\n}}\n'.encode()


def _json(message: Message) -> str:
    return MessageToJson(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1)
