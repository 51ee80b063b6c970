"""Readers: every layout gives the same arrays, and what is broken is refused by name."""

import gzip
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import (
    camvid_files,
    cifar_arrays,
    make_camvid_folders,
    make_camvid_zips,
    make_cifar_bin,
    make_cifar_pickles,
    make_cifar_zips,
    png,
)

from training.data import BrokenData, camvid, cifar, idx
from training.data.pixels import decode

Make = Callable[[Path], Path]


@pytest.mark.parametrize("make", [make_cifar_zips, make_cifar_pickles, make_cifar_bin])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_layout_of_cifar_gives_the_same_pictures(make: Make, split: cifar.Split, tmp_path: Path) -> None:
    images, labels = cifar.arrays(make(tmp_path), split)
    expected, classes = cifar_arrays(split)
    assert images.shape == expected.shape
    assert images.dtype == np.uint8
    found = {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}
    assert found == {(image.tobytes(), int(label)) for image, label in zip(expected, classes, strict=True)}


@pytest.mark.parametrize("make", [make_cifar_zips, make_cifar_pickles, make_cifar_bin])
def test_files_of_cifar_decode_to_its_arrays_in_order(make: Make, tmp_path: Path) -> None:
    folder = make(tmp_path)
    images, labels = cifar.arrays(folder, "test")
    files, classes = zip(*cifar.pictures(folder, "test"), strict=True)
    np.testing.assert_array_equal(np.stack([decode(file, "file") for file in files]), images)
    assert list(classes) == labels.tolist()


@pytest.mark.parametrize("make", [make_camvid_zips, make_camvid_folders])
def test_every_layout_of_camvid_gives_pictures_with_their_label_maps(make: Make, tmp_path: Path) -> None:
    folder = make(tmp_path)
    images, labels = camvid.arrays(folder, "val")
    assert images.shape == (2, 360, 480, 3)
    assert labels.shape == (2, 360, 480)
    assert np.unique(labels).tolist() == [0, 3, camvid.VOID]
    assert images[1, 0, 0].tolist() == [201, 201, 201]
    assert [map_.shape for _, map_ in camvid.pictures(folder, "val")] == [(360, 480)] * 2


def test_data_are_found_in_the_parent_folder_too(data: Path) -> None:
    assert len(cifar.arrays(data, "test")[0]) == 20
    assert len(camvid.arrays(data, "test")[0]) == 2


@pytest.mark.parametrize("reader", [cifar, camvid])
def test_an_empty_folder_is_refused_with_what_was_looked_for(reader: object, tmp_path: Path) -> None:
    with pytest.raises(BrokenData, match=f"{tmp_path.name}: holds no"):
        reader.arrays(tmp_path, "train")


def test_a_missing_part_of_the_training_split_is_named(tmp_path: Path) -> None:
    make_cifar_zips(tmp_path)
    (tmp_path / "train-0.zip").unlink()
    with pytest.raises(BrokenData, match=r"train-0\.zip: is missing"):
        cifar.arrays(tmp_path, "train")


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    archive = make_cifar_zips(tmp_path) / "test.zip"
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(BrokenData, match=r"test\.zip: no readable zip archive"):
        cifar.arrays(tmp_path, "test")


def test_a_damaged_picture_in_an_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "test.zip", "w") as archive:
        archive.writestr("test/cat/0001.png", png(np.zeros((32, 32, 3), np.uint8))[:60])
    with pytest.raises(BrokenData, match=r"test/cat/0001\.png"):
        cifar.arrays(tmp_path, "test")


def test_a_picture_whose_compression_is_damaged_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "test.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("test/cat/0001.png", bytes(999))
    content = bytearray((tmp_path / "test.zip").read_bytes())
    content[30 + len("test/cat/0001.png")] = 0xFF  # a kind of block that DEFLATE does not have
    (tmp_path / "test.zip").write_bytes(content)
    with pytest.raises(BrokenData, match=r"test/cat/0001\.png in it is damaged"):
        cifar.arrays(tmp_path, "test")


@pytest.mark.parametrize("reader", [cifar, camvid])
def test_what_systems_leave_behind_is_no_picture(reader: object, tmp_path: Path) -> None:
    make_cifar_zips(tmp_path) if reader is cifar else make_camvid_zips(tmp_path)
    before = reader.arrays(tmp_path, "test")
    with zipfile.ZipFile(tmp_path / "test.zip", "a") as archive:
        archive.writestr("test/.DS_Store", b"\0\0\0\1Bud1")
        archive.writestr("__MACOSX/test/._scene0.png", b"\0\5\26\7")
    np.testing.assert_array_equal(reader.arrays(tmp_path, "test")[0], before[0])


def test_hidden_files_beside_the_pictures_of_camvid_are_left_out(tmp_path: Path) -> None:
    make_camvid_folders(tmp_path)
    (tmp_path / "test" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "test" / "._scene0.png").write_bytes(b"\0\5\26\7")
    assert len(camvid.arrays(tmp_path, "test")[0]) == 2


def write_idx(folder: Path, split: str, labels: list[int]) -> None:
    """Black pictures with these labels, in MNIST's own form."""
    count = len(labels).to_bytes(4, "big")
    side = (28).to_bytes(4, "big")
    (folder / f"{split}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + count + 2 * side + bytes(784 * len(labels)))
    (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01" + count + bytes(labels)))


def test_idx_files_are_read_gzipped_or_not(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", [3, 1, 4])
    images, labels = idx.arrays(tmp_path, "train")
    assert (images.shape, labels.tolist()) == ((3, 28, 28, 1), [3, 1, 4])


def test_labels_that_are_no_digits_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", [3, 26, 4])  # EMNIST's letters come in files of the same names
    with pytest.raises(BrokenData, match="train: label 26 is out of range; MNIST has 0 to 9"):
        idx.arrays(tmp_path, "train")


def test_a_folder_that_is_no_class_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "test.zip", "w") as archive:
        archive.writestr("test/unicorn/0001.png", png(np.zeros((32, 32, 3), np.uint8)))
    with pytest.raises(BrokenData, match="'unicorn' is no class"):
        cifar.arrays(tmp_path, "test")


def test_a_picture_of_another_size_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "test.zip", "w") as archive:
        archive.writestr("test/cat/0001.png", png(np.zeros((16, 32, 3), np.uint8)))
    with pytest.raises(BrokenData, match=r"0001\.png: is 32x16 pixels"):
        cifar.arrays(tmp_path, "test")


def test_a_missing_official_batch_is_named(tmp_path: Path) -> None:
    (make_cifar_pickles(tmp_path) / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(BrokenData, match="data_batch_3: is missing"):
        cifar.arrays(tmp_path, "train")


def test_a_cut_binary_batch_is_named(tmp_path: Path) -> None:
    batch = make_cifar_bin(tmp_path) / "cifar-10-batches-bin" / "test_batch.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(BrokenData, match=r"test_batch\.bin: .* no whole number"):
        cifar.arrays(tmp_path, "test")


class Harmful:
    """What a pickle must not be able to do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_cifar_pickles(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps({b"data": Harmful()}, protocol=2))
    with pytest.raises(BrokenData, match="is not allowed in a data set"):
        cifar.arrays(tmp_path, "test")
    assert not Path("harm").exists()


def test_a_picture_without_its_label_map_is_named(tmp_path: Path) -> None:
    (make_camvid_folders(tmp_path) / "valannot" / "scene1.png").unlink()
    with pytest.raises(BrokenData, match=r"valannot/scene1\.png: is missing"):
        camvid.arrays(tmp_path, "val")


def test_a_label_beyond_void_is_named(tmp_path: Path) -> None:
    path = make_camvid_folders(tmp_path) / "valannot" / "scene0.png"
    path.write_bytes(png(np.full((360, 480), 12, np.uint8)))
    with pytest.raises(BrokenData, match=r"scene0\.png: holds label 12"):
        camvid.arrays(tmp_path, "val")


def test_a_colour_picture_is_no_label_map(tmp_path: Path) -> None:
    path = make_camvid_folders(tmp_path) / "valannot" / "scene0.png"
    path.write_bytes(camvid_files("val")["val/scene0.png"])
    with pytest.raises(BrokenData, match=r"scene0\.png: has pixels of type RGB"):
        camvid.arrays(tmp_path, "val")
