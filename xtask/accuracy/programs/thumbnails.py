"""Pictures decoded, resized and encoded by Pillow, with a gallery of results."""

import io
import random
from collections import deque

from PIL import Image, ImageDraw, ImageFilter

from moments import Pace, moment

random.seed(6)


def picture(width, height):
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y = random.randrange(width), random.randrange(height)
        colour = tuple(random.choices(range(256), k=3))
        draw.ellipse((x, y, x + width // 6, y + height // 6), fill=colour)
    file = io.BytesIO()
    image.save(file, random.choice(("JPEG", "PNG")), compress_level=1)
    return file.getvalue()


SIZES = [(320, 240), (640, 480), (800, 600), (1280, 720), (1600, 1200)]
SOURCES = [picture(*random.choice(SIZES)) for _ in range(12)]
gallery = deque()


def handle(keep):
    image = Image.open(io.BytesIO(random.choice(SOURCES)))
    image.load()
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR)
    if random.random() < 0.3:
        small = small.filter(ImageFilter.BoxBlur(2))
    file = io.BytesIO()
    small.save(file, "JPEG")
    gallery.append((small if random.random() < 0.5 else None, file.getvalue()))
    while len(gallery) > keep:
        gallery.popleft()


pace = Pace(0.4)
moment("sources")
for _ in range(8):
    for _ in range(7):
        handle(60)
    pace.wait()
moment("full")
for _ in range(5):
    for _ in range(7):
        handle(60)
    pace.wait()
moment("turned")
gallery.clear()
moment("cleared")
for _ in range(5):
    for _ in range(2):
        handle(4)
    pace.wait()
moment("final")
