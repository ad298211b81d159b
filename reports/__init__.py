"""The report generator: reads the CSV files of a run and writes a comparison as HTML, PNG, SVG and LaTeX.

It reads CSV files and nothing else, so it runs on a machine that has neither torch nor a GPU.
"""
