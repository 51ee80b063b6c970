"""KServe's Python client against a server: run by `test_kserve.py` with an interpreter that has `kserve`.

Arguments: the base URL of the server, and where its gRPC listens. Prints `all well` at its end.
"""

import asyncio
import sys

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def asked(binary: bool, model: str = "tiny-classifier") -> InferRequest:
    """Two rows for a tiny classifier."""
    rows = np.zeros((2, 8, 8, 3), np.uint8)
    rows[0, ..., 2] = rows[1, ..., 1] = 200
    tensor = InferInput("image", list(rows.shape), "UINT8")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    output = RequestedOutput("probabilities", {"binary_data": binary})
    return InferRequest(model, [tensor], request_outputs=[output])


async def rest(url: str) -> None:
    """Health, readiness, inference in both forms, errors."""
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "tiny-classifier")
        assert not await client.is_model_ready(url, "unknown")
        for binary in (False, True):
            answer = await client.infer(url, asked(binary), model_name="tiny-classifier")
            assert answer.model_name == "tiny-classifier"
            assert answer.outputs[0].as_numpy().argmax(1).tolist() == [2, 1], binary
        told = ""
        try:
            await client.infer(url, asked(True), model_name="unknown")
        except httpx.HTTPStatusError as error:
            told = str(error)
        assert "not served here" in told, told


async def rpc(address: str) -> None:
    """The same over gRPC, with tensors as typed contents and as bytes."""
    async with InferenceGRPCClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("tiny-classifier")
        assert not await client.is_model_ready("unknown")
        for binary in (False, True):
            answer = await client.infer(asked(binary))
            assert (answer.model_name, answer.model_version) == ("tiny-classifier", "1")
            assert answer.outputs[0].as_numpy().argmax(1).tolist() == [2, 1], binary
        code = None
        try:
            await client.infer(asked(True, "unknown"))
        except grpc.RpcError as error:
            code = error.code()
        assert code is grpc.StatusCode.NOT_FOUND, code


if __name__ == "__main__":
    asyncio.run(rest(sys.argv[1]))
    asyncio.run(rpc(sys.argv[2]))
    sys.stdout.write("all well\n")
