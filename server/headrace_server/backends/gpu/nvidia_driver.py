"""Asks the NVIDIA driver for its GPUs, using only the driver's own library."""

import ctypes

_DRIVER = "libcuda.so.1"


class NoDriverError(Exception):
    """There is no driver, or it reports an error; the text says which."""


def device_count() -> int:
    """The number of GPUs that this process may use.

    Raises:
        NoDriverError: There is no driver, or it finds no GPU.
    """
    driver = _driver()
    count = ctypes.c_int()
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)))
    return count.value


def device_memory(device: int) -> int:
    """The size of a GPU's memory in bytes, including memory in use.

    Args:
        device: The GPU's number, from 0.

    Raises:
        NoDriverError: There is no driver, or no such GPU.
    """
    driver = _driver()
    handle, size = ctypes.c_int(), ctypes.c_size_t()
    _check(driver, driver.cuDeviceGet(ctypes.byref(handle), device))
    _check(driver, driver.cuDeviceTotalMem_v2(ctypes.byref(size), handle))
    return size.value


def _driver() -> ctypes.CDLL:
    """The initialised library; repeated calls initialise it only once."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise NoDriverError(f"there is no NVIDIA driver ({error})") from error
    _check(driver, driver.cuInit(0))
    return driver


def _check(driver: ctypes.CDLL, status: int) -> None:
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        reason = (text.value or b"unknown").decode()
        raise NoDriverError(f"the NVIDIA driver reports an error: {reason} (CUDA error {status})")
