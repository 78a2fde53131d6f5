"""The browser app: what stands on the page, and how a run is fed to it. Together with app.py all that knows gradio."""
