"""How much was gained, and how much was lost."""

from .calibrate import best_path, calibrate, gap_costs
from .cells import Sweep, is_sweep
from .chart import Spot, chart
from .compare import Event, Watch, compare
from .environment import environment, hardware
from .fit import best_steps, fit_cache, fitted, record
from .grammar import expand, numbers
from .inputs import check_inputs
from .magnitudes import calibrate_magnitudes, magnitude_ratios
from .metrics import DEFINITIONS, METRICS, detail, difference, frechet, ms_ssim, psnr, ssim
from .points import Point, SweepCell
from .report import html_report, strip_kind, text_table
from .result import SCHEMA, Cell, Comparison, Lane, to_image, writable
from .score import Scorer
from .snippet import snippet
from .sweep import Progress, sweep
from .tune import tune
from .tuned import Tuned

__all__ = [
    "DEFINITIONS",
    "METRICS",
    "SCHEMA",
    "Cell",
    "Comparison",
    "Event",
    "Lane",
    "Point",
    "Progress",
    "Scorer",
    "Spot",
    "Sweep",
    "SweepCell",
    "Tuned",
    "Watch",
    "best_path",
    "best_steps",
    "calibrate",
    "calibrate_magnitudes",
    "chart",
    "check_inputs",
    "compare",
    "detail",
    "difference",
    "environment",
    "expand",
    "fit_cache",
    "fitted",
    "frechet",
    "gap_costs",
    "hardware",
    "html_report",
    "is_sweep",
    "magnitude_ratios",
    "ms_ssim",
    "numbers",
    "psnr",
    "record",
    "snippet",
    "ssim",
    "strip_kind",
    "sweep",
    "text_table",
    "to_image",
    "tune",
    "writable",
]
