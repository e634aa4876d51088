"""`tandem report`: what a bench or a run has shown, as one page that needs nothing else.

    results    a bench's results.json, or the same made from a run's folder
    verdict    who won, and whether that is resolved
    figures    matplotlib drawings as SVG that follows the page's colours
    views      what each section shows, in words and places
    page       the HTML and its JSON twin
    compare    two reports side by side

No torch, and nothing on the page is loaded from anywhere.
"""

from tandem.report.difference import write_comparison
from tandem.report.page import write_report
from tandem.report.results_file import Results, read_results

__all__ = ["Results", "read_results", "write_report", "write_comparison"]
