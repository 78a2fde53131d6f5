"""How much was gained, and how much was lost."""

from .calibrate import best_path, calibrate, gap_costs
from .cells import Sweep, is_sweep
from .chart import Spot, chart
from .compare import compare
from .doctor import doctor
from .edit import edit, edit_once
from .edit_inputs import MODES, check_edit, read_mask, usual_size
from .edit_result import Cover, Edit, EditComparison
from .edit_session import EditEvent, EditSession
from .environment import environment, hardware
from .fit import best_steps, fit_cache, fitted, record
from .grammar import expand, numbers
from .inputs import check_inputs
from .magnitudes import calibrate_magnitudes, magnitude_ratios
from .metrics import DEFINITIONS, METRICS, detail, difference, frechet, ms_ssim, psnr, ssim
from .picture_files import MOST_BYTES, decode_picture, mask_picture, open_picture
from .picture_files import fitted as fitted_picture
from .points import Point, SweepCell
from .report import html_report, strip_kind, text_table
from .result import SCHEMA, Cell, Comparison, Lane, to_image, writable
from .runner import Event, Watch
from .score import Scorer
from .snippet import load_code, snippet
from .static_explorer import static_explorer
from .sweep import Progress, sweep
from .tune import tune
from .tuned import Tuned

__all__ = [
    "DEFINITIONS",
    "METRICS",
    "MODES",
    "MOST_BYTES",
    "SCHEMA",
    "Cell",
    "Comparison",
    "Cover",
    "Edit",
    "EditComparison",
    "EditEvent",
    "EditSession",
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
    "check_edit",
    "check_inputs",
    "compare",
    "decode_picture",
    "detail",
    "difference",
    "doctor",
    "edit",
    "edit_once",
    "environment",
    "expand",
    "fit_cache",
    "fitted",
    "fitted_picture",
    "frechet",
    "gap_costs",
    "hardware",
    "html_report",
    "is_sweep",
    "load_code",
    "magnitude_ratios",
    "mask_picture",
    "ms_ssim",
    "numbers",
    "open_picture",
    "psnr",
    "read_mask",
    "record",
    "snippet",
    "ssim",
    "static_explorer",
    "strip_kind",
    "sweep",
    "text_table",
    "to_image",
    "tune",
    "usual_size",
    "writable",
]
