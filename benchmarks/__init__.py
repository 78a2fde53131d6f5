"""Side-by-side runs whose results are kept with the hardware they were measured on."""
