"""How much was gained, and how much was lost."""

from .calibrate import best_path, calibrate, gap_costs
from .compare import Event, Watch, compare
from .edit import EditEvent, EditSession, edit
from .edit_inputs import MODES, check_edit, read_mask, usual_size
from .edit_result import Cover, Edit, EditComparison
from .environment import environment, hardware
from .fit import best_steps, fit_cache, fitted, record
from .inputs import check_inputs
from .magnitudes import calibrate_magnitudes, magnitude_ratios
from .metrics import DEFINITIONS, METRICS, difference, psnr, ssim
from .picture_files import MOST_BYTES, decode_picture, mask_picture, open_picture
from .picture_files import fitted as fitted_picture
from .report import html_report, strip_kind, text_table
from .result import SCHEMA, Cell, Comparison, Lane, to_image, writable

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
    "Watch",
    "best_path",
    "best_steps",
    "calibrate",
    "calibrate_magnitudes",
    "check_edit",
    "check_inputs",
    "compare",
    "decode_picture",
    "difference",
    "edit",
    "environment",
    "fit_cache",
    "fitted",
    "fitted_picture",
    "gap_costs",
    "hardware",
    "html_report",
    "magnitude_ratios",
    "mask_picture",
    "open_picture",
    "psnr",
    "read_mask",
    "record",
    "ssim",
    "strip_kind",
    "text_table",
    "to_image",
    "usual_size",
    "writable",
]
