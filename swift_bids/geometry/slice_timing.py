"""The time series of a slice -> the series as if it had been acquired at another time."""

from __future__ import annotations

import numpy as np

#: Shifts smaller than this, in volumes, are left out, as AFNI does.
SMALLEST_SHIFT = 0.001


def shift_series(series: np.ndarray, shift: float) -> np.ndarray:
    """Interpolate time series at later times, as AFNI's 3dTshift does by default.

    The linear trend is removed, the rest is shifted by the phases of its Fourier transform and
    limited to its own range, and the trend is added again. The result is limited to the range of
    the series.

    Parameters
    ----------
    series
        (volume, voxel).
    shift
        How much later, in volumes; negative for earlier.

    Returns
    -------
    numpy.ndarray
        float64 (volume, voxel).
    """
    series = np.asarray(series, dtype=np.float64)
    n_volumes = len(series)
    times = np.arange(n_volumes) - (n_volumes - 1) / 2
    mean = series.mean(axis=0)
    slope = times @ series / (times @ times)
    trend = mean + times[:, None] * slope
    rest = series - trend
    n_fourier = _fourier_length(n_volumes + 4)  # padded with zeros
    spectrum = np.fft.rfft(rest, n=n_fourier, axis=0)
    phases = np.exp(2j * np.pi * shift / n_fourier * np.arange(len(spectrum)))
    spectrum *= phases[:, None]
    spectrum[-1] = spectrum[-1].real  # the highest frequency has no sine
    shifted = np.fft.irfft(spectrum, n=n_fourier, axis=0)[:n_volumes]
    shifted = np.clip(shifted, rest.min(axis=0), rest.max(axis=0))
    return np.clip(shifted + trend, series.min(axis=0), series.max(axis=0))


def _fourier_length(least: int) -> int:
    """The smallest even number that is a power of 2, times 3 or not, times 5 or not."""
    candidates = []
    for odd in (1, 3, 5, 15):
        length = 2 * odd
        while length < least:
            length *= 2
        candidates.append(length)
    return min(candidates)
