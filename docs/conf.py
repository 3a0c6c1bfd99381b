"""The docs as a site: `sphinx-build -W docs site`."""

from importlib.metadata import version as version_of

from sphinx.ext.napoleon.docstring import GoogleDocstring

project = "t2x"
version = release = version_of("t2x")
copyright = "the authors of t2x, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["images"]
html_theme = "furo"
html_title = f"t2x {version}"
html_static_path: list[str] = []

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": True}
autodoc_preserve_defaults = True
default_role = "code"  # docstrings are written with single backquotes

# The docstrings of attributes are sentences. Napoleon takes what stands before a colon in them for a type.
GoogleDocstring._parse_attribute_docstring = lambda self: self._consume_to_end()
