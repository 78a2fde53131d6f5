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
from .metrics import DEFINITIONS, METRICS, difference, psnr, ssim
from .points import Point, SweepCell
from .report import html_report, strip_kind, text_table
from .result import SCHEMA, Cell, Comparison, Lane, to_image, writable
from .static_explorer import static_explorer
from .sweep import Progress, sweep

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
    "Spot",
    "Sweep",
    "SweepCell",
    "Watch",
    "best_path",
    "best_steps",
    "calibrate",
    "calibrate_magnitudes",
    "chart",
    "check_inputs",
    "compare",
    "difference",
    "environment",
    "expand",
    "fit_cache",
    "fitted",
    "gap_costs",
    "hardware",
    "html_report",
    "is_sweep",
    "magnitude_ratios",
    "numbers",
    "psnr",
    "record",
    "ssim",
    "static_explorer",
    "strip_kind",
    "sweep",
    "text_table",
    "to_image",
    "writable",
]
