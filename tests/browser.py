"""Debian's chromium, without a window: what a page measures when it is drawn."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
)
HEIGHT = 800  # of the window
# Written at the end of the page: what sticks out, before and after everything is opened. Half a pixel is what
# coordinates are rounded by; a bar of the table that is scrolled within itself counts as cut off, too.
SCRIPT = """
<script>
function seen(element) { const r = element.getBoundingClientRect(); return r.width > 0 && r.height > 0 }
function name(element) {
  return element.tagName + '.' + (element.getAttribute('class') || '') + ' ' + element.textContent.trim().slice(0, 40)
}
function outside(inner, outer) {
  return inner.left < outer.left - .5 || inner.right > outer.right + .5
}
function measured() {
  const page = {left: 0, right: document.documentElement.clientWidth}
  const elements = [...document.body.querySelectorAll('*')].filter(e => e.tagName != 'SCRIPT' && seen(e))
  const wide = elements.filter(e => outside(e.getBoundingClientRect(), page))
  const cut = elements.filter(e => !e.closest('svg') && !['SUMMARY', 'INPUT'].includes(e.tagName)
                                   && getComputedStyle(e).display != 'inline' && e.scrollWidth > e.clientWidth + 1)
  const texts = elements.filter(e => e.tagName == 'text')
  const clipped = texts.filter(e => {
    const r = e.getBoundingClientRect(), s = e.ownerSVGElement.getBoundingClientRect()
    return outside(r, s) || r.top < s.top - 2 || r.bottom > s.bottom + 2  // the line's leading, not its letters
  })
  const overlapping = texts.filter(e => texts.some(o => {
    if (o == e || o.ownerSVGElement != e.ownerSVGElement) return false
    const a = e.getBoundingClientRect(), b = o.getBoundingClientRect()
    return a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom
  }))
  const box = document.querySelector('.verdict, .overview').getBoundingClientRect()
  return {
    width: innerWidth, page: document.documentElement.scrollWidth, elements: elements.length,
    verdict: [box.top, box.bottom], wide: wide.map(name), cut: cut.map(name), clipped: clipped.map(name),
    overlapping: overlapping.map(name)
  }
}
const closed = measured()
document.querySelectorAll('details').forEach(e => e.open = true)
document.querySelectorAll('input').forEach(e => e.checked = false)
const result = document.createElement('pre')
result.id = 'measured'
result.textContent = JSON.stringify([closed, measured()])
document.body.replaceChildren(result)
</script>
"""


def executable() -> str | None:
    """Where chromium is, if it is."""
    return shutil.which("chromium")


def measure(page: Path, width: int) -> list[dict[str, Any]]:
    """What the page measures in a window of this width, as it comes and with everything opened."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{SCRIPT}</body>"), encoding="utf-8")
        options = [*FLAGS.split(), f"--user-data-dir={folder}/profile", f"--window-size={width},{HEIGHT}"]
        command = [executable(), *options, "--dump-dom", f"file://{copy}"]
        drawn = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return json.loads(unescape(re.search(r'<pre id="measured">(.*?)</pre>', drawn, re.DOTALL)[1]))
