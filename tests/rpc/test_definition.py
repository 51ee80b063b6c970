"""The compiled definition is what the text says, and what clients of the protocol were compiled from."""

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from tritonclient.grpc import model_config_pb2, service_pb2

import app.rpc
from app.rpc.messages import SERVICE
from app.rpc.service import SCOPES

FOLDER = Path(app.rpc.__file__).parent
TEXT = "grpc_predict_v2.proto"


def test_the_compiled_definition_is_that_of_the_text(tmp_path: Path) -> None:
    compiled = tmp_path / "compiled"
    arguments = ["protoc", f"-I{FOLDER}", "--include_imports", f"--descriptor_set_out={compiled}", TEXT]
    assert protoc.main(arguments) == 0
    committed = (FOLDER / TEXT).with_suffix(".binpb").read_bytes()
    assert descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()) == (
        descriptor_pb2.FileDescriptorSet.FromString(committed)
    )


@pytest.mark.parametrize("name", SERVICE.file.message_types_by_name)
def test_messages_have_the_fields_that_clients_know(name: str) -> None:
    known = (
        service_pb2.DESCRIPTOR.message_types_by_name.get(name)
        or model_config_pb2.DESCRIPTOR.message_types_by_name[name]
    )
    for field in SERVICE.file.message_types_by_name[name].fields:
        other = known.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)


def test_every_method_has_a_scope() -> None:
    assert {method.name for method in SERVICE.methods} == set(SCOPES)
