import gc

import pytest

from components.shared.loading import loading


def test_collection_pauses_while_loading_and_goes_on_after_an_error() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError), loading():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_inner_blocks_leave_it_paused() -> None:
    with loading():
        with loading():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
