"""Draws the pictures again from their sources, the SVG files beside this script.

pip install cairosvg pillow && python img/redraw.py

The architecture's lettering needs the DejaVu Sans fonts.
"""

from io import BytesIO
from pathlib import Path

import cairosvg
from PIL import Image

HERE = Path(__file__).parent
PICTURES = {
    "palma.svg": "palma.py.jpg",
    "architecture.svg": "palma.py_architecture.jpg",
    "continuous.svg": "palma.py_continuous.jpg",
}

for source, target in PICTURES.items():
    png = cairosvg.svg2png(url=str(HERE / source))
    picture = Image.open(BytesIO(png)).convert("RGB")
    picture.save(HERE / target, quality=90, optimize=True)
