from __future__ import annotations

import json
import pickle
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from models_registry.formats import Format, FormatError, recognize, require_format

TREES = "tree\nversion=v4\n\nTree=0\nnum_leaves=1\n\nend of trees\n"


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def onnx_model(*, domain: str = "", external: bool = False) -> bytes:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    if external:
        weight.data_location = TensorProto.EXTERNAL
        weight.ClearField("float_data")
        for key, value in (("location", "../../../etc/passwd"), ("offset", "0"), ("length", "4")):
            weight.external_data.add(key=key, value=value)
    node = helper.make_node("Mul", ["x", "w"], ["y"], domain=domain)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "doubling", values[:1], values[1:], [weight])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (onnx_model(), Format.ONNX),
        (TREES.encode(), Format.LIGHTGBM),
        (b'{"weights": {}}', Format.JSON),
        (b"the\nwords\n", Format.TEXT),
    ],
)
def test_it_recognizes_what_is_allowed(tmp_path: Path, content: bytes, wanted: Format) -> None:
    assert recognize(written(tmp_path, content)) == wanted


def test_it_recognizes_safetensors(tmp_path: Path) -> None:
    save_file({"w": np.ones((3, 2), dtype=np.float32)}, tmp_path / "model")
    assert recognize(tmp_path / "model") == Format.SAFETENSORS


def archive_of(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "torch.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))
    return (folder / "torch.pt").read_bytes()


def test_it_refuses_pickles_of_every_protocol_and_wrapping(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    contents = [pickle.dumps({"w": [1.0, 2.0]}, protocol=protocol) for protocol in range(6)]
    for content in [*contents, archive_of(tmp_path), (tmp_path / "objects.npy").read_bytes()]:
        with pytest.raises(FormatError):
            require_format(written(tmp_path, content), "model", "anything")
    with pytest.raises(FormatError, match="could run code"):
        recognize(written(tmp_path, pickle.dumps({"w": 1})))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (TREES[:30].encode(), "not whole"),
        (b'{"weights": ', "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"\xff\xfe\x00\x01", "none of ONNX"),
        (onnx_model(external=True), "in other files"),
        (onnx_model(domain="evil.example"), "not part of ONNX: evil.example"),
        (struct.pack("<Q", 40) + json.dumps({"w": {"dtype": "F32"}}).encode().ljust(40), "safetensors file is damaged"),
    ],
)
def test_it_says_what_is_wrong_with_a_file(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        recognize(written(tmp_path, content))


def test_external_tensors_hide_nowhere_in_an_onnx_model(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(onnx_model())
    inner = onnx.load_model_from_string(onnx_model(external=True)).graph
    model.graph.node[0].attribute.append(helper.make_attribute("then_branch", inner))
    with pytest.raises(FormatError, match="in other files"):
        recognize(written(tmp_path, model.SerializeToString()))


@pytest.mark.parametrize(
    ("provider", "content"),
    [("lightgbm", onnx_model()), ("onnxruntime", TREES.encode()), ("linear", TREES.encode()), ("other", b"words")],
)
def test_a_model_file_must_be_what_its_provider_reads(tmp_path: Path, provider: str, content: bytes) -> None:
    path = written(tmp_path, content)
    with pytest.raises(FormatError, match="must be"):
        require_format(path, "model", provider)
    require_format(path, "vocabulary", provider)


@given(content=st.binary(max_size=200))
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=200
)
def test_any_bytes_are_recognized_or_refused(tmp_path: Path, content: bytes) -> None:
    with suppress(FormatError):
        assert recognize(written(tmp_path, content)) in Format
