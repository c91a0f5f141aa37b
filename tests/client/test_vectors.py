import array
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nla_client import InvalidArgumentError, InvalidVectorError
from nla_client.vectors import as_vectors
from nla_client.wire import decode_vector


def decoded(vectors: Any, start: Any = 0, stop: Any = None) -> Any:
    return [decode_vector(data, vectors.dtype).tolist() for data in vectors.encode(start, stop or vectors.count)]


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, ">f4", np.longdouble, ml_dtypes.bfloat16, np.int64, np.uint8]
)
def test_numpy_dtypes(dtype: Any) -> None:
    one = as_vectors(np.array([1, 2, 3], dtype), "bfloat16")
    assert (one.single, one.count, decoded(one)) == (True, 1, [[1, 2, 3]])
    many = as_vectors(np.array([[1, 2], [3, 4]], dtype), "float32")
    assert (many.single, many.count, decoded(many)) == (False, 2, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("value", "single", "rows"),
    [
        ([1, 2.5], True, [[1, 2.5]]),
        ((1, 2), True, [[1, 2]]),
        (range(3), True, [[0, 1, 2]]),
        ([[1], [2]], False, [[1], [2]]),
        ([np.array([1.0]), np.array([2.0], np.float16)], False, [[1], [2]]),
        ([np.float32(1), np.float32(2)], True, [[1, 2]]),
        (np.arange(12.0).reshape(3, 4)[::2, ::2], False, [[0, 2], [8, 10]]),
    ],
)
def test_sequences_and_views(value: Any, single: Any, rows: Any) -> None:
    vectors = as_vectors(value, "float32")
    assert (vectors.single, decoded(vectors)) == (single, rows)


ROWS = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
BITS = (ROWS.view(np.uint32) >> 16).astype(np.uint16)


def of_objects(rows: Any) -> Any:
    array = np.empty(len(rows), object)
    for index, row in enumerate(rows):
        array[index] = row
    return array


FLAT = pa.array(ROWS.reshape(-1))
IN_HAND = {
    "object array of arrays": of_objects(ROWS),
    "object array of lists": of_objects(ROWS.tolist()),
    "object array of both": of_objects([ROWS[0], ROWS[1].tolist()]),
    "object array of numbers": ROWS.astype(object),
    "object rows": [row.astype(object) for row in ROWS],
    "a column of pandas": pd.Series(list(ROWS)),
    "a frame of pandas": pd.DataFrame(ROWS),
    "a frame of several types": pd.DataFrame(ROWS).astype({0: "int64", 1: object}),
    "fixed-size lists": pa.FixedSizeListArray.from_arrays(FLAT, 4),
    "lists": pa.array(ROWS.tolist()),
    "large lists": pa.array(ROWS.tolist(), pa.large_list(pa.float32())),
    "views of lists": pa.array(ROWS.tolist(), pa.list_view(pa.float32())),
    "a column of a table": pa.table({"v": list(ROWS)})["v"],
    "tensors of Arrow": pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS),
    "rows of Arrow": list(pa.array(ROWS.tolist())),
    "lists of float16": pa.array(list(ROWS.astype(np.float16))),
    "lists of bits of bfloat16": pa.array(BITS.tolist(), pa.list_(pa.uint16())),
    "rows of bits of bfloat16": list(pa.array(BITS.tolist(), pa.list_(pa.uint16()))),
    "rows of several types": [ROWS[0].astype(np.float16), BITS[1]],
    "array.array": [array.array("f", row) for row in ROWS],
    "bfloat16 that numpy has saved": ROWS.astype(ml_dtypes.bfloat16).view("V2"),
    "bits of bfloat16": BITS,
    "big-endian bits of bfloat16": BITS.astype(">u2"),
    "a masked array without a mask": np.ma.masked_array(ROWS),
    "a masked array of which nothing is masked": np.ma.masked_array(ROWS, mask=ROWS < 0),
}


@pytest.mark.parametrize("name", IN_HAND)
def test_what_users_have_in_hand(name: str) -> None:
    vectors = as_vectors(IN_HAND[name], "float32")
    assert (vectors.single, decoded(vectors)) == (False, ROWS.tolist())
    one = as_vectors(IN_HAND[name].iloc[0] if hasattr(IN_HAND[name], "iloc") else IN_HAND[name][0], "float32")
    assert (one.single, decoded(one)) == (True, ROWS[:1].tolist())


@pytest.mark.parametrize("empty", [pa.array([], pa.list_(pa.float32())), pd.Series([], dtype=object), of_objects([])])
def test_an_empty_column_is_a_batch_of_none(empty: Any) -> None:
    assert as_vectors(empty, "float32").count == 0


MASKED = np.ma.masked_array(ROWS, mask=ROWS > 7)


@pytest.mark.parametrize(
    "value", [MASKED, list(MASKED), of_objects(list(MASKED)), pd.Series([ROWS[0], MASKED[1]]), [ROWS[0], MASKED[1]]]
)
def test_what_is_masked_is_never_sent(value: Any) -> None:
    with pytest.raises(InvalidVectorError, match=r"vectors\[1\] has 1 masked elements, the first at 3") as caught:
        as_vectors(value, "float32")
    assert caught.value.param == "vectors[1]"


def test_one_masked_vector() -> None:
    with pytest.raises(InvalidVectorError, match="the vector has 1 masked"):
        as_vectors(MASKED[1], "float32")
    assert decoded(as_vectors(MASKED[0], "float32")) == [ROWS[0].tolist()]


@pytest.mark.parametrize(
    "column", [pa.array([ROWS[0].tolist(), None]), pd.Series([ROWS[0], None]), pd.Series([ROWS[0], np.nan])]
)
def test_a_missing_row_is_named(column: Any) -> None:
    with pytest.raises(InvalidVectorError, match=r"vectors\[1\] is (None|nan), not a row"):
        as_vectors(column, "float32")


def test_a_missing_element_is_no_number() -> None:
    for column in (pa.array([[1.0, None]]), pa.array([[1, None]], pa.list_(pa.uint16()))):
        with pytest.raises(InvalidVectorError, match=r"vectors\[0\] has 1 elements that are NaN"):
            as_vectors(column, "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zero_is_refused_where_a_direction_is_needed(dtype: Any) -> None:
    batch = np.ones((200, 3))
    batch[150] = 0
    assert as_vectors(batch, dtype).count == 200
    with pytest.raises(InvalidVectorError, match=r"vectors\[150\] is all zero"):
        as_vectors(batch, dtype, nonzero=True)


@pytest.mark.parametrize("value", [[], (), np.empty((0, 4))])
def test_a_batch_of_none(value: Any) -> None:
    vectors = as_vectors(value, "bfloat16")
    assert (vectors.single, vectors.count) == (False, 0)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (1.0, r"\[d\] or \[N, d\], not 0-d"),
        (np.zeros((2, 3, 4)), r"not 3-d \[2, 3, 4\]"),
        ([np.zeros((1, 4))] * 2, r"not 3-d \[2, 1, 4\]"),
        (np.zeros(0), "must have elements"),
        (np.zeros((3, 0)), "must have elements"),
        ([[]], "must have elements"),
        ([[1.0], [1.0, 2.0]], "cannot read a list"),
        ([np.zeros(2), np.zeros(3)], r"differ in shape: \(2,\) at 0, \(3,\) at 1"),
        (np.array([None, 1.0]), "real numbers, not a ndarray of object"),
        ([None, 1.0], "of object"),
        ("text", "of <U4"),
        ([1j], "of complex128"),
        (np.array([True]), "of bool"),
        ({1.0}, "not a set of object"),
        ([2**70], "of object"),
    ],
)
def test_wrong_kinds_are_named(value: Any, match: str) -> None:
    with pytest.raises(InvalidVectorError, match=match):
        as_vectors(value, "bfloat16")


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "bfloat16"), (np.inf, "float32"), (1e39, "float32"), (3.4e38, "bfloat16")]
)
def test_elements_that_cannot_be_sent_are_located(value: Any, dtype: Any) -> None:
    batch = np.zeros((1500, 3))
    batch[1300, 2] = value
    with pytest.raises(InvalidVectorError, match=r"vectors\[1300\] has 1 elements .*first at 2; .*float16"):
        as_vectors(batch, dtype)
    with pytest.raises(InvalidVectorError, match="the vector has 1"):
        as_vectors(batch[1300], dtype)


def test_unknown_dtype_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="dtype must be one of bfloat16, float32, not 'float16'"):
        as_vectors([1.0], "float16")


def test_encoding_reads_only_its_rows() -> None:
    class Row:
        shape = (2,)

        def __init__(self, number: Any) -> None:
            self.number, self.reads = number, 0

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            self.reads += 1
            return np.array([self.number, 0.0], dtype)

    rows = [Row(number) for number in range(5)]
    vectors = as_vectors(rows, "float32")
    checked = [row.reads for row in rows]
    assert decoded(vectors, 1, 3) == [[1, 0], [2, 0]]
    assert [row.reads - before for row, before in zip(rows, checked, strict=True)] == [0, 1, 1, 0, 0]


class TestTorch:
    @pytest.fixture(autouse=True)
    def torch(self) -> Any:
        return pytest.importorskip("torch")

    def test_dtypes_and_autograd(self, torch: Any) -> None:
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int32):
            tensor = torch.tensor([[1, 2], [3, 4]], dtype=dtype)
            assert decoded(as_vectors(tensor, "bfloat16")) == [[1, 2], [3, 4]]
            assert as_vectors(tensor[0], "bfloat16").single
        wanted = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        assert decoded(as_vectors(wanted * 2, "float32")) == [[2, 2, 2, 2]]

    def test_uint16_is_the_bits_of_bfloat16(self, torch: Any) -> None:
        for tensor in (torch.from_numpy(BITS), list(torch.from_numpy(BITS)), of_objects(list(torch.from_numpy(BITS)))):
            assert decoded(as_vectors(tensor, "bfloat16")) == ROWS.tolist()

    def test_lists_and_views_of_tensors(self, torch: Any) -> None:
        tensor = torch.arange(6.0, requires_grad=True).reshape(2, 3)
        assert decoded(as_vectors(list(tensor), "float32")) == [[0, 1, 2], [3, 4, 5]]
        assert decoded(as_vectors(tensor.T, "float32")) == [[0, 3], [1, 4], [2, 5]]
        assert decoded(as_vectors([tensor[0].bfloat16(), np.ones(3)], "float32")) == [[0, 1, 2], [1, 1, 1]]

    @pytest.mark.filterwarnings("ignore:The PyTorch API of:UserWarning")
    def test_what_cannot_be_sent(self, torch: Any) -> None:
        for tensor, match in (
            (torch.tensor(1.0), "not 0-d"),
            (torch.zeros(2, 3, 4), "not 3-d"),
            (torch.zeros(2, 0), "must have elements"),
            (torch.tensor([1j]), "not a tensor of torch.complex64"),
            (torch.tensor([True]), "not a tensor of torch.bool"),
            (torch.tensor([1.0, torch.nan]), "has 1 elements"),
            (torch.eye(2).to_sparse(), "dense real numbers"),
            (torch.zeros(2, device="meta"), "cannot read the tensor"),
            (torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False])), "not a masked tensor"),
            (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "dense real numbers"),
        ):
            with pytest.raises(InvalidVectorError, match=match):
                as_vectors(tensor, "bfloat16")
