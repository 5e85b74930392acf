"""Take the README's picture of a page with chromium.

python describe.py --out FOLDER && python docs/page.py FOLDER
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


def take_picture(folder: Path, unit: str = "layer4:99") -> Image.Image:
    """Return a screenshot of a run's page, scrolled to ``unit``."""
    address = (folder / "page" / "index.html").resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        page.goto(f"{address}#{unit}")
        page.wait_for_timeout(1000)
        page.keyboard.press("Escape")
        page.wait_for_timeout(1000)
        shot = page.screenshot()
        browser.close()
    return Image.open(BytesIO(shot)).convert("RGB")


if __name__ == "__main__":
    file = Path(__file__).parent / "pictures" / "page.jpg"
    take_picture(Path(sys.argv[1])).save(file, quality=88, subsampling=0, optimize=True)
    print(file)
