"""Arrays by handle: what is read back is what was put, wherever it was kept."""

import numpy as np
import pytest

from alignment.engine.judging.echo import Echo, EchoStore
from alignment.engine.records.store import RECENT, Budget, Store

BIG = np.arange(RECENT // 16, dtype="float64")  # two of them fill what stays of the file
ARRAYS = [BIG * factor for factor in (1.0, 2.0, 3.0)]


@pytest.mark.parametrize("memory", [0, BIG.nbytes, 4 * BIG.nbytes])
def test_arrays_come_back_in_any_order_and_a_copy_may_be_written(memory):
    store = Store(Budget(memory))
    refs = [store.put(array) for array in ARRAYS]
    for number in (0, 1, 2, 0, 2, 2, 1):
        store.copy(refs[number])[:] = -1
        assert np.array_equal(store.get(refs[number]), ARRAYS[number])


def test_what_is_read_from_the_file_may_not_be_written():
    store = Store(Budget(0))
    with pytest.raises(ValueError):
        store.get(store.put(ARRAYS[0]))[0] = 1


def test_an_echo_is_the_first_runs_array_and_its_copy_is_not():
    first = Store(Budget(BIG.nbytes))
    again, ref = EchoStore(first), first.put(BIG)
    echo = again.put(BIG, ref)
    assert isinstance(echo, Echo)
    again.copy(echo)[:] = -1
    assert np.array_equal(again.get(echo), BIG)
