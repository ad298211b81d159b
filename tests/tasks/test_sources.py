"""Reading tables: what is refused and in which words, and that the hub and a folder come to the same."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

from tasks import sources
from tasks.base import MissingData
from tasks.data import cache_root
from tasks.image import CIFAR10
from tasks.retrieval import AAN, CITATIONS
from tasks.sources import Source, SourceSplit
from tasks.text import IMDB, Text
from tests.tasks import folders


@pytest.fixture
def imdb(tmp_path: Path) -> Path:
    folders.imdb(tmp_path / "imdb", train=40, test=20)
    return tmp_path / "imdb"


def small(data_dir: Path | str | None, **changes: Any) -> Text:
    folder = None if data_dir is None else str(data_dir)
    return Text(**{"seq_len": 64, "seed": 0, "data_dir": folder, "dev_examples": 8} | changes)


def read(split: SourceSplit, column: str) -> list[Any]:
    return [value for batch in split.batches() for value in batch.columns[column]]


def labels(*values: Any) -> dict[str, list[Any]]:
    return {"text": [f"text {n}" for n in range(len(values))], "label": list(values)}


def test_the_folder_itself_or_the_one_above(imdb: Path) -> None:
    own, above = (IMDB.open("train", str(folder)) for folder in (imdb, imdb.parent))
    assert read(own, "text") == read(above, "text")
    assert own.identity == above.identity


def test_the_hub_s_layout_is_found_and_its_parts_are_joined(imdb: Path) -> None:
    whole = datasets.Dataset.from_parquet(str(imdb / "train.parquet"), cache_dir=str(imdb.parent / "hf"))
    clone = imdb.parent / "clone" / "plain_text"
    clone.mkdir(parents=True)
    for i, rows in enumerate((range(15), range(15, 40))):
        whole.select(rows).to_parquet(clone / f"train-0000{i}-of-00002.parquet")
    shutil.copy(imdb / "test.parquet", clone / "test-00000-of-00001.parquet")
    assert read(IMDB.open("train", str(clone.parent)), "text") == whole["text"][:]
    assert small(clone.parent).why_missing() is None


def test_a_download_of_the_hub_s_tsv_files_is_found(tmp_path: Path) -> None:
    where = tmp_path / "aan" / "data" / "aan"
    folders.aan(where, rows=10)
    assert AAN.why_missing(str(tmp_path)) is None
    assert AAN.local_files("eval", str(tmp_path)) == [where / "new_aan_pairs.eval.tsv"]


def test_a_folder_s_name_is_no_pattern(imdb: Path) -> None:
    odd = imdb.rename(imdb.with_name("im[d]b *?"))
    assert len(read(IMDB.open("train", str(odd)), "text")) == 40


def test_reading_leaves_no_copy_behind(imdb: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    read(IMDB.open("train", str(imdb)), "text")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("source", "data_dir", "message"),
    [
        (
            IMDB,
            "nowhere",
            r"^task\.data_dir=.*nowhere: no such folder; with a network, stanfordnlp/imdb is fetched",
        ),
        (IMDB, "", r"^task\.data_dir=.*: no train\.parquet of imdb; .* without, say task\.data_dir=FOLDER, with "),
        (CITATIONS, "", r"no train\.parquet of aan_citations; aan_citations is not on the Hugging Face hub: say"),
        (CITATIONS, None, r"^task\.data_dir: not given; .*validation\.parquet, .*\(label: class, id1: string"),
        (AAN, "", r"no new_aan_pairs\.train\.tsv of aan; with a network, OpenNLPLab/lra is fetched"),
    ],
)
def test_what_is_not_there(tmp_path: Path, source: Source, data_dir: str | None, message: str) -> None:
    folder = None if data_dir is None else str(tmp_path / data_dir)
    missing = source.why_missing(folder)
    assert missing
    assert re.search(message, missing)
    assert "\n" not in missing
    with pytest.raises(MissingData, match=message):
        source.open("train", folder)


def test_a_file_less_is_missing(imdb: Path) -> None:
    (imdb / "test.parquet").unlink()
    assert "no test.parquet of imdb" in str(small(imdb).why_missing())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"review": ["a"], "label": [0]},
            "columns review: string, label: int64; expected text: string, label: class",
        ),
        ({"text": [1], "label": [0]}, "columns text: int64, label: int64; expected text: string, label: class"),
        ({"text": ["a"], "label": ["pos"]}, "columns text: string, label: string; expected"),
        (labels(0, 2), r"label 2 in row 1; expected 0\.\.1"),
        (labels(0, -1), r"label -1 in row 1; expected 0\.\.1"),
        (labels(0, None), r"label None in row 1; expected 0\.\.1"),
        ({"text": ["a", ""], "label": [0, 1]}, "text is empty in row 1; expected at least one byte"),
        ({"text": ["a", None], "label": [0, 1]}, "text is empty in row 1; expected at least one byte"),
    ],
)
def test_wrong_content_names_the_file(imdb: Path, columns: dict[str, list[Any]], message: str) -> None:
    folders.write(imdb / "train.parquet", columns)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(imdb / 'train.parquet'))}: {message}"):
        small(imdb).examples("train")


def test_an_empty_split(imdb: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict({"text": [], "label": []}, features=features).to_parquet(imdb / "test.parquet")
    with pytest.raises(ValueError, match=r"test\.parquet: no rows; a split needs at least one$"):
        small(imdb).examples("test")


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.98])
def test_a_truncated_file(imdb: Path, keep: float) -> None:
    file = imdb / "train.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(ValueError, match=r"train\.parquet: cannot be read as parquet \(\w+: ") as caught:
        small(imdb).examples("train")
    assert "\n" not in str(caught.value)


def test_a_damaged_page_inside_an_intact_frame(imdb: Path) -> None:
    file = imdb / "train.parquet"
    content = bytearray(file.read_bytes())
    content[8:200] = bytes(192)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.parquet: cannot be read as parquet"):
        small(imdb).examples("train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.0\tP\tQ\ta", r"4 tab-separated columns; expected label: class, input1_id: string"),
        ("1.0\tP\tQ\ta\tb\tc", r"6 tab-separated columns; expected"),
        ("yes\tP\tQ\ta\tb", r"cannot be read as tsv \(ValueError: .*yes"),
        ("3.0\tP\tQ\ta\tb", r"label 3\.0 in row 0; expected 0\.\.1"),
        ("0.5\tP\tQ\ta\tb", r"label 0\.5 in row 0; expected 0\.\.1"),
        ("1.0\tP\tQ\t\tb", r"text1 is empty in row 0; expected at least one byte"),
        ("", r"no rows|tab-separated"),
    ],
)
def test_wrong_lines_of_a_tsv(tmp_path: Path, line: str, message: str) -> None:
    from tasks.retrieval import Retrieval

    folders.aan(tmp_path, rows=10)
    (tmp_path / "new_aan_pairs.test.tsv").write_text(line and line + "\n")
    with pytest.raises(ValueError, match=rf"new_aan_pairs\.test\.tsv: ({message})"):
        Retrieval(seq_len=16, seed=0, data_dir=str(tmp_path)).examples("test")


def test_changed_data_never_return_old_tokens(imdb: Path) -> None:
    before = small(imdb).examples("test")
    stat = (imdb / "test.parquet").stat()
    columns = datasets.Dataset.from_parquet(str(imdb / "test.parquet"), cache_dir=str(imdb.parent / "hf"))[:]
    columns["text"] = [text.swapcase() for text in columns["text"]]
    folders.write(imdb / "test.parquet", columns)
    os.utime(imdb / "test.parquet", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = small(imdb).examples("test")
    assert not (before.tokens == after.tokens).all()
    assert (before.lengths == after.lengths).all()


def test_the_second_time_no_row_is_read(imdb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = small(imdb)
    first.examples("train")
    assert [path.name for path in cache_root().iterdir()] == ["text"]
    monkeypatch.setattr(Source, "_from_file", lambda *_: pytest.fail("read again"))
    moved = imdb.rename(imdb.with_name("moved"))  # where it is does not matter
    assert (small(moved).examples("train").tokens == first.examples("train").tokens).all()
    with pytest.raises(pytest.fail.Exception):
        small(moved, seq_len=32).examples("train")


class Hub:
    """Stands for `datasets.load_dataset` with a network: whole splits, as the hub gives them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, path: str, name: str | None = None, **options: Any) -> datasets.Dataset:
        self.calls.append((path, name, options))
        file = self.folder / f"{options['split']}.parquet"
        return datasets.Dataset.from_parquet(str(file), cache_dir=str(self.folder.parent / "hf"))


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_reachable", lambda: True)


@pytest.mark.usefixtures("online")
def test_the_hub_gives_what_a_folder_gives(imdb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = small(imdb)
    expected = {split: local.examples(split).tokens for split in ("train", "dev", "test")}
    hub = Hub(imdb)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    task = small(None)
    assert task.why_missing() is None  # nothing is asked of the network before
    assert not hub.calls
    for split, tokens in expected.items():
        assert (task.examples(split).tokens == tokens).all()
    assert hub.calls[0] == ("stanfordnlp/imdb", "plain_text", {"split": "test"})


@pytest.mark.usefixtures("online")
def test_the_hub_s_rows_are_checked_alike(imdb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.write(imdb / "train.parquet", labels(0, 7))
    monkeypatch.setattr(datasets, "load_dataset", Hub(imdb))
    with pytest.raises(ValueError, match=r"^stanfordnlp/imdb \(train\): label 7 in row 1"):
        small(None).examples("train")
    folders.write(imdb / "train.parquet", {"img": [1]})
    with pytest.raises(ValueError, match=r"^stanfordnlp/imdb \(train\): columns img: int64; expected"):
        small(None).examples("train")


@pytest.mark.usefixtures("online")
def test_aan_is_asked_for_as_tab_separated_text(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def load(path: str, **options: Any) -> datasets.Dataset:
        asked.append((path, options))
        rows = {name: ["1.0" if name == "label" else "x"] for name in AAN.columns}
        return datasets.Dataset.from_dict(rows).cast(options["features"])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read(AAN.open("eval", None), "label") == [1.0]
    ((path, options),) = asked
    assert path == "csv"
    assert options["data_files"] == "hf://datasets/OpenNLPLab/lra/data/aan/new_aan_pairs.eval.tsv"


@pytest.mark.parametrize("reachable", [True, False])
def test_a_hub_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch, reachable: bool) -> None:
    monkeypatch.setattr(sources, "_reachable", lambda: reachable)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'uoft-cs/cifar10'\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(MissingData) as caught:
        CIFAR10.open("train", None)
    assert str(caught.value) == (
        "task.data_dir: not given, and uoft-cs/cifar10 (train) cannot be fetched (ConnectionError: Couldn't reach "
        "'uoft-cs/cifar10' on the Hub); with a network, uoft-cs/cifar10 is fetched from the Hugging Face hub; "
        "without, say task.data_dir=FOLDER, with train.parquet, test.parquet (img: image, label: class) "
        "in FOLDER/cifar10 or FOLDER"
    )
    assert os.environ.get("HF_HUB_OFFLINE") == (None if reachable else "1")


def test_whether_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> None:
        asked.append(address)
        raise OSError("no route")

    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example:8080")
    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    assert not sources._reachable()
    assert asked == [("mirror.example", 8080)]
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy"})
    assert sources._reachable()
