"""How much was gained, and how much was lost."""

from .calibrate import best_path, calibrate, gap_costs
from .compare import Event, Watch, compare
from .environment import environment, hardware
from .fit import best_steps, fit_cache, fitted, record
from .inputs import check_inputs
from .magnitudes import calibrate_magnitudes, magnitude_ratios
from .metrics import DEFINITIONS, METRICS, detail, difference, frechet, ms_ssim, psnr, ssim
from .report import html_report, strip_kind, text_table
from .result import SCHEMA, Cell, Comparison, Lane, to_image, writable
from .score import Scorer
from .snippet import snippet
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
    "Scorer",
    "Tuned",
    "Watch",
    "best_path",
    "best_steps",
    "calibrate",
    "calibrate_magnitudes",
    "check_inputs",
    "compare",
    "detail",
    "difference",
    "environment",
    "fit_cache",
    "fitted",
    "frechet",
    "gap_costs",
    "hardware",
    "html_report",
    "magnitude_ratios",
    "ms_ssim",
    "psnr",
    "record",
    "snippet",
    "ssim",
    "strip_kind",
    "text_table",
    "to_image",
    "tune",
    "writable",
]
