"""The site: Sphinx with the book theme. tools/build_site.py stages the sources and builds them; nothing runs."""

from importlib.metadata import version as version_of

project = html_title = "ntkbook"
author = "the ntkbook developers"
copyright = "the ntkbook developers"  # noqa: A001 - Sphinx's word
version = release = version_of("ntkbook")
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

# notebooks stand here with their outputs; the panels in them are baked
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]

default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
add_module_names = False

mathjax_path = "mathjax/tex-chtml.js"  # vendored: a page asks no other host

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
html_js_files = [(name, {"defer": "defer"}) for name in ("site.js", "five_points.js")]
html_show_sourcelink = False
html_copy_source = False
html_last_updated_fmt = None
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_navbar_depth": 1,
}
html_context = {"default_mode": "auto"}


def setup(app):
    """Docstrings are written for a terminal: |x| in them is an absolute value, not a substitution of Sphinx."""
    bars = lambda app, what, name, obj, options, lines: lines.__setitem__(
        slice(None), [line.replace("|", "\\|") for line in lines]
    )
    app.connect("autodoc-process-docstring", bars, priority=900)
