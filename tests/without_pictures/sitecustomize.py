"""First on the path of the processes that tests start: to them matplotlib is not installed.

Importing it and drawing the curves takes twice as long as the small trainings themselves.
"""

import sys

sys.modules["matplotlib"] = None
