"""The file of results, in three forms."""

import csv
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from app.batch.outputs import check_output, flattened, write_output
from app.batch.parquet import fields_of
from app.batch.records import answered, failed
from app.errors import CorruptImage, InvalidBatch
from app.tasks import TASKS, Classify, Segment

LABELS = [{"label": "cat", "index": 3, "probability": 0.75}, {"label": "dog", "index": 5, "probability": 0.25}]
LINES = [
    answered("a.jpg", "tiny", 1, {"labels": LABELS, "energy": -4.5}).line,
    failed("b.jpg", CorruptImage('It is "damaged", or\nnot.')).line,
    answered("c.jpg", "tiny", 2, {"labels": LABELS[:1], "set": {"coverage": 0.9, "labels": LABELS}}).line,
]


def write(path: Path, lines: list[bytes] = LINES, shape: type[BaseModel] = Classify.Answer) -> Path:
    write_output(path, lambda: iter(lines), shape)
    return path


def test_json_lines_are_the_records_as_they_are(tmp_path: Path) -> None:
    lines = [line + b"\n" for line in LINES]
    assert write(tmp_path / "out.jsonl", lines).read_bytes() == b"".join(lines)


def test_csv_has_a_column_for_each_part_of_any_result(tmp_path: Path) -> None:
    with write(tmp_path / "out.csv").open(newline="") as file:
        first, second, third = csv.DictReader(file)
    assert (first["file"], first["labels.1.label"], first["labels.1.probability"]) == ("a.jpg", "dog", "0.25")
    assert (second["error"], second["detail"]) == ("corrupt-image", 'It is "damaged", or\nnot.')
    assert (third["version"], third["labels.1.label"], third["set.labels.1.index"]) == ("2", "", "5")
    assert first.keys() == third.keys()


def test_lists_that_hold_no_objects_stay_in_one_cell() -> None:
    line = answered("a", "tiny", 1, {"mask": {"encoding": "rle", "data": [[0, 3], [1, 2]]}, "none": []}).line
    assert flattened(line) == {
        "file": "a", "model": "tiny", "version": 1, "mask.encoding": "rle", "mask.data": "[[0,3],[1,2]]", "none": "[]",
    }  # fmt: skip


def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "out.parquet"))
    rows = table.to_pylist()
    assert [row["file"] for row in rows] == ["a.jpg", "b.jpg", "c.jpg"]
    assert rows[0]["labels"] == LABELS
    assert (rows[1]["labels"], rows[1]["error"]) == (None, "corrupt-image")
    assert rows[2]["set"] == {"coverage": 0.9, "labels": LABELS}
    assert str(table.schema.field("energy").type) == "double"
    assert str(table.schema.field("version").type) == "int64"


def test_the_columns_of_parquet_do_not_depend_on_what_the_pictures_showed(tmp_path: Path) -> None:
    some = pq.read_schema(write(tmp_path / "some.parquet", LINES[:1]))
    others = pq.read_schema(write(tmp_path / "others.parquet", LINES[1:]))
    assert some == others


def test_a_part_that_may_be_one_thing_or_another_is_json_text(tmp_path: Path) -> None:
    masks: list[object] = ["iVBO", [[0, 4]]]
    result = {"width": 2, "height": 2, "classes": [{"label": "a", "index": 0, "share": 1.0}]}
    lines = [
        answered(str(place), "tiny", 1, {**result, "mask": {"encoding": "png", "data": data}}).line
        for place, data in enumerate(masks)
    ]
    rows = pq.read_table(write(tmp_path / "out.parquet", lines, Segment.Answer)).to_pylist()
    assert [row["mask"]["data"] for row in rows] == ["iVBO", "[[0,4]]"]


@pytest.mark.parametrize("kind", TASKS)
def test_the_results_of_every_task_have_columns(kind: str) -> None:
    fields = fields_of(TASKS[kind].Answer)
    assert set(fields) == {info.alias or name for name, info in TASKS[kind].Answer.model_fields.items()}


def test_many_rows_are_written_in_groups(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    write_output(path, lambda: iter([LINES[0]] * 10_001), Classify.Answer)
    assert pq.ParquetFile(path).num_row_groups == 2
    assert pq.read_metadata(path).num_rows == 10_001


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_what_cannot_be_written_to_its_end_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    def cut_short() -> Iterator[bytes]:
        yield LINES[0]
        raise OSError("the disk is gone")

    (tmp_path / name).write_text("before")
    with pytest.raises(OSError, match="the disk is gone"):
        write_output(tmp_path / name, cut_short, Classify.Answer)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "before")]


def test_what_could_not_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidBatch, match=r"\.jsonl, \.csv, \.parquet"):
        check_output(tmp_path / "out.xlsx")
    with pytest.raises(InvalidBatch, match="make it first"):
        check_output(tmp_path / "none" / "out.csv")
    for name in ("out.jsonl", "out.csv", "out.parquet"):
        check_output(tmp_path / name)


def test_lines_are_json(tmp_path: Path) -> None:
    assert [orjson.loads(line)["file"] for line in LINES] == ["a.jpg", "b.jpg", "c.jpg"]
